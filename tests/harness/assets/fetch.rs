//! Getting a program: by apt-get, out of a Debian package, from a release of envtest, or built by Go. One at a time on this
//! machine. It prints the elapsed time.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Asset, Source, cache, envtest, parse_version};
use crate::Result;
use crate::process::{Process, folder, tail};

impl Asset {
    /// Gets it to where [`Asset::look`] finds it.
    pub(super) fn get(&self) -> Result {
        let _lock = lock(self.name)?;
        if self.look().is_ok() {
            return Ok(());
        }
        match self.source {
            Source::Apt { package } => install(package),
            Source::Backports { suite, packages } => {
                let target = writable_cache()?.join(format!("bin-{}-{suite}", self.name));
                unpack(suite, packages, &target).with_context(|| {
                    let name = self.name;
                    format!("put a {name} into PATH or TENURE_TEST_ASSETS: {suite} could not be had")
                })
            }
            Source::Go { .. } if self.download()? => Ok(()),
            Source::Go { .. } => self.build(),
        }
    }

    /// Downloads the release of envtest that has it, and returns false if that fails. This process tries it once.
    fn download(&self) -> Result<bool> {
        static FAILED: AtomicBool = AtomicBool::new(false);
        let Some(path) = self.downloaded() else {
            return Ok(false);
        };
        if FAILED.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let target = path.parent().context("no folder")?;
        // A release for another architecture or C library does not run here.
        if let Err(error) = envtest::get(target).and_then(|()| self.ask_version(&path)) {
            FAILED.store(true, Ordering::Relaxed);
            let error = format!("{error:#}").trim_end().replace('\n', " ");
            writeln!(io::stderr(), "{error}; {} is built instead", self.name)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn build(&self) -> Result {
        let Source::Go {
            folder: module,
            package,
            tags,
            ldflags,
            ..
        } = self.source
        else {
            return Ok(());
        };
        let version = self.source.go_version().context("its go.mod does not name it")?;
        let ((major, minor), _) = parse_version(version).context("its go.mod does not name a version")?;
        let target = self.cached().context("no place in the cache")?;
        let unfinished = target.with_extension("unfinished");
        let ldflags = ldflags
            .replace("VERSION", version)
            .replace("MAJOR", &major.to_string())
            .replace("MINOR", &minor.to_string());
        let logs = folder("build")?;
        fs::create_dir_all(target.parent().context("no folder")?)?;
        let mut command = Command::new(go()?);
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(module))
            .envs([("GOFLAGS", "-mod=readonly"), ("GOWORK", "off")])
            .env("GOTMPDIR", &logs)
            .args([
                "build",
                "-v",
                "-trimpath",
                "-tags",
                tags,
                "-ldflags",
                &format!("-s -w {ldflags}"),
                "-o",
            ])
            .arg(&unfinished)
            .arg(package);
        let mut process = Process::spawn("go", &logs, &command)?;
        watch(
            &format!("building {} {version}", self.name),
            &logs.join("go.err"),
            || {
                let status = process.exited()?;
                status
                    .map(|status| succeeded(status, &logs.join("go.err")))
                    .transpose()
            },
        )
        .with_context(|| {
            format!("it could not be built; the command was, in tests/assets/{module}: go build {package}")
        })?;
        fs::rename(unfinished, target)?;
        Ok(())
    }
}

fn writable_cache() -> Result<PathBuf> {
    let cache = cache().context("neither XDG_CACHE_HOME nor HOME is set: set one to an absolute path")?;
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    Ok(cache)
}

/// Waits until no other process gets programs. The lock is let go when it is dropped, and by the kernel when we are killed.
pub(super) fn lock(name: &str) -> Result<File> {
    let lock = File::create(writable_cache()?.join("lock"))?;
    watch(
        &format!("{name}: another process gets programs"),
        Path::new(""),
        || match lock.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        },
    )?;
    Ok(lock)
}

/// Go, also where its own installer puts it.
fn go() -> Result<PathBuf> {
    ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|go| {
            Command::new(go)
                .arg("version")
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
        .map(PathBuf::from)
        .context("Go 1.21 or newer is needed to build it: https://go.dev/dl, or `apt-get install golang-go`")
}

/// Not a [`Process`]: dpkg must not be killed in the middle.
fn install(package: &str) -> Result {
    let by_hand = format!("run `sudo apt-get update && sudo apt-get install {package}`");
    let mut prefix = vec!["env", "DEBIAN_FRONTEND=noninteractive"];
    if !rustix::process::geteuid().is_root() {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let may = sudo.status().is_ok_and(|status| status.success());
        ensure!(may, "it cannot be installed without root: {by_hand}");
        prefix.splice(0..0, ["sudo", "-n"]);
    }
    let log = folder("apt-get")?.join("log");
    let apt_get = |args: &[&str]| {
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg("apt-get").args(args);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = command.spawn()?;
        let status = watch(&format!("apt-get {}", args.join(" ")), &log, || {
            Ok(child.try_wait()?)
        })?;
        succeeded(status, &log)
    };
    let install = ["install", "--yes", "--no-install-recommends", package];
    apt_get(&install)
        .or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&install)))
        .context(by_hand)
}

/// Downloads packages, and unpacks them.
pub(super) fn unpack(suite: &str, packages: &[&str], target: &Path) -> Result {
    let apt = Apt::new(suite, "deb")?;
    apt.get(&[&["download"], packages].concat())?;
    for entry in fs::read_dir(&apt.folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            run(
                "dpkg-deb",
                &["-x".as_ref(), path.as_ref(), target.as_ref()],
                &apt.folder,
            )?;
        }
    }
    Ok(())
}

/// An apt of its own, which knows one suite of Debian alone, and downloads into a folder of this run.
pub(super) struct Apt {
    pub(super) folder: PathBuf,
    settings: [String; 6],
}

impl Apt {
    /// `types`: `deb` for packages, `deb-src` for their sources.
    pub(super) fn new(suite: &str, types: &str) -> Result<Self> {
        let folder = folder("apt-get")?;
        let state = folder.join("state");
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::write(
            folder.join("debian.sources"),
            format!(
                "Types: {types}\nURIs: http://deb.debian.org/debian\nSuites: {suite}\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            ),
        )?;
        let settings = [
            format!("Dir::Etc::SourceList={}", folder.join("debian.sources").display()),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={}", state.join("lists").display()),
            format!("Dir::Cache={}", state.display()),
            "APT::Sandbox::User=".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        let apt = Self { folder, settings };
        apt.get(&["update"])?;
        Ok(apt)
    }

    pub(super) fn get(&self, args: &[&str]) -> Result {
        let settings = self.settings.iter().flat_map(|setting| ["-o", setting]);
        let args: Vec<_> = settings.chain(args.iter().copied()).map(AsRef::as_ref).collect();
        run("apt-get", &args, &self.folder)
    }
}

/// Runs a program in that folder, and shows the last line of its output when it takes long, and its end when it fails.
pub(super) fn run(program: &str, args: &[&OsStr], folder: &Path) -> Result {
    let log = folder.join("log");
    let output = File::options().create(true).append(true).open(&log)?;
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    let mut child = command
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let status = watch(program, &log, || Ok(child.try_wait()?))?;
    succeeded(status, &log)
}

pub(super) fn succeeded(status: ExitStatus, log: &Path) -> Result {
    if !status.success() {
        bail!("{status}, after:\n{}", tail(log));
    }
    Ok(())
}

/// Waits until `done` returns something, and shows the elapsed time and the last line of `log` meanwhile.
pub(super) fn watch<T>(what: &str, log: &Path, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    // Not eprintln: what a test prints by it is held back until the test has failed.
    let mut screen = io::stderr();
    // A terminal shows one line that changes; a file gets a line now and then.
    let (start, end, every) = if screen.is_terminal() {
        ("\r\x1b[K", "", Duration::from_secs(1))
    } else {
        ("", "\n", Duration::from_secs(30))
    };
    let begun = Instant::now();
    let mut shown = Duration::ZERO;
    loop {
        let done = done().transpose();
        let elapsed = begun.elapsed();
        if elapsed < Duration::from_secs(1)
            && let Some(done) = done
        {
            return done;
        }
        if done.is_some() || elapsed >= shown + every {
            shown = elapsed;
            let text = tail(log);
            let last = match done {
                Some(Ok(_)) => "done",
                Some(Err(_)) => "failed",
                None => text.lines().last().unwrap_or_default(),
            };
            let last: String = last.chars().take(60).collect();
            write!(screen, "{start}{what}: {} s {last}{end}", elapsed.as_secs())?;
        }
        if let Some(done) = done {
            write!(screen, "{}", if end.is_empty() { "\n" } else { "" })?;
            return done;
        }
        sleep(Duration::from_millis(100));
    }
}
