//! A release of envtest: `etcd`, `kube-apiserver` and `kubectl` in one archive, which the Kubernetes project publishes for tests
//! of controllers.
//!
//! A download takes seconds where a build takes minutes. After a failure the programs are built, so `curl` need not be
//! installed. It, `sha512sum` and `tar` do the work: crates for HTTPS, gzip and tar would be built on machines that never download.

use std::env::{self, consts};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::fetch::{succeeded, watch};
use crate::Result;
use crate::process::{Process, folder};

/// The version of Kubernetes in the release: the oldest that the chart supports. A build has a newer one.
///
/// The versions and their SHA-512 are in `envtest-releases.yaml` of `kubernetes-sigs/controller-tools`.
pub const VERSION: &str = "1.30.0";

/// The programs of a release.
pub const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// The folder of the archive that holds the programs.
pub const IN_ARCHIVE: &str = "controller-tools/envtest";

/// The architecture's name in Rust and in the release, and the SHA-512 of its archive.
const ARCHIVES: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "amd64",
        "d53870e1a6c9b3b50366489a9387f4e254c664955e932e3e25e2088bb437b270\
         bfab75d241b50849233f9a34bb1f08b41567ebb81ea29352104ae0f5b1cb9e88",
    ),
    (
        "aarch64",
        "arm64",
        "140748efaa394598f50175e809cd53896881ed046d93ebdfbd5442100f68b3d8\
         d51fd22f8cf1ae06a6e43473897b789df0db6e0ae6c45c8320b000d5ee900005",
    ),
];

/// Names the base URL of a mirror. Empty: releases are neither downloaded nor used.
pub const VARIABLE: &str = "TENURE_TEST_ENVTEST_URL";

const BASE: &str = "https://github.com/kubernetes-sigs/controller-tools/releases/download";

/// The base URL of the releases, if they may be used.
fn base() -> Option<String> {
    let base = env::var(VARIABLE).unwrap_or_else(|_| BASE.to_owned());
    (!base.is_empty()).then_some(base)
}

/// The folder of the cache for the programs of this release, if releases may be used. Builds have
/// other folders.
pub(super) fn target(cache: &Path) -> Option<PathBuf> {
    base().map(|_| cache.join(format!("bin-envtest-{VERSION}")))
}

/// The path of this machine's archive below the base URL, and the SHA-512 of the archive.
pub fn pinned() -> Result<(String, &'static str)> {
    let archive = ARCHIVES.iter().find(|(rust, ..)| *rust == consts::ARCH);
    let (_, arch, sha512) = archive
        .filter(|_| consts::OS == "linux")
        .with_context(|| format!("no archive for {} on {} is pinned", consts::OS, consts::ARCH))?;
    let path = format!("envtest-v{VERSION}/envtest-v{VERSION}-linux-{arch}.tar.gz");
    Ok((path, sha512))
}

/// Downloads the pinned release to `target`.
pub(super) fn get(target: &Path) -> Result {
    let (path, sha512) = pinned()?;
    let base = base().with_context(|| format!("{VARIABLE} is empty"))?;
    fetch(&format!("{}/{path}", base.trim_end_matches('/')), sha512, target)
}

/// Downloads an archive, checks its SHA-512, and puts its programs into the folder `target`, all or none of them.
///
/// It gives up after five seconds without a connection, and when less than 10 kB/s arrive for 30 s.
pub fn fetch(url: &str, sha512: &str, target: &Path) -> Result {
    let logs = folder("envtest")?;
    let archive = logs.join("archive.tar.gz");
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--location", "--silent", "--show-error"])
        .args(["--connect-timeout", "5"])
        .args(["--speed-limit", "10000", "--speed-time", "30"])
        .arg("--output")
        .arg(&archive)
        .arg(url);
    run("downloading", url, &logs, &curl)?;

    let output = run("checking", url, &logs, Command::new("sha512sum").arg(&archive))?;
    let actual = output.split_whitespace().next().unwrap_or_default();
    ensure!(
        actual == sha512,
        "{url} has the SHA-512 {actual}, and {sha512} is expected"
    );

    let mut name = target.file_name().context("no name")?.to_owned();
    name.push(".unfinished");
    let unfinished = target.with_file_name(name);
    remove(&unfinished)?;
    fs::create_dir_all(&unfinished)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--no-same-owner", "--strip-components=2"])
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&unfinished)
        .args(PROGRAMS.map(|name| format!("{IN_ARCHIVE}/{name}")));
    let unpacked = run("unpacking", url, &logs, &tar).and_then(|_| all_are_files(&unfinished, url));
    if unpacked.is_err() {
        remove(&unfinished)?;
        return unpacked;
    }
    remove(target)?;
    Ok(fs::rename(&unfinished, target)?)
}

/// Runs a step, prints the elapsed time, and returns the standard output.
fn run(step: &str, url: &str, logs: &Path, command: &Command) -> Result<String> {
    let log = logs.join(format!("{step}.err"));
    let mut process = Process::spawn(step, logs, command)?;
    watch(&format!("{step} envtest {VERSION}"), &log, || {
        let status = process.exited()?;
        status.map(|status| succeeded(status, &log)).transpose()
    })
    .with_context(|| format!("{step} {url} failed"))?;
    process.output()
}

fn all_are_files(unpacked: &Path, url: &str) -> Result {
    for name in PROGRAMS {
        let kind = fs::symlink_metadata(unpacked.join(name))?.file_type();
        ensure!(
            kind.is_file(),
            "{IN_ARCHIVE}/{name} in {url} is not a regular file"
        );
    }
    Ok(())
}

fn remove(folder: &Path) -> Result {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
