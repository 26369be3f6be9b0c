//! Files that other programs read: each is written in one step, or through what is no regular file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, fcntl_getfl, fstat};

/// The mode of a file with a secret.
pub(crate) const PRIVATE: u32 = 0o600;
/// The mode of any other file, which the process's mask restricts.
pub(crate) const SHARED: u32 = 0o666;

/// Writes a line to a file. A reader of a regular file finds the old text or the new one; a symbolic link stays, and its
/// target is written. A pipe or device gets the line, and is not replaced.
pub(crate) fn write_line(path: &Path, line: &str, mode: u32) -> io::Result<()> {
    let target = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() || is_descriptor(path) => return write_through(path, line),
        Ok(found) => {
            if found.permissions().readonly() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            // Only the folder's rights decide about a rename.
            OpenOptions::new().write(true).open(path)?;
            fs::canonicalize(path)?
        }
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            return Err(io::Error::other("the symbolic link leads to no file"));
        }
        Err(_) => path.to_owned(),
    };
    replace(&target, line, mode)
}

/// Returns whether standard output is closed: at the start of a program, Rust opens the null device in its place, and in a way
/// in which a shell does not.
pub(crate) fn stdout_is_closed() -> bool {
    let stdout = io::stdout();
    let stdout = stdout.as_fd();
    let is_null = fstat(stdout)
        .is_ok_and(|found| fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == found.st_rdev));
    is_null && fcntl_getfl(stdout).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Returns whether the path names an open file of this process, which has a position.
fn is_descriptor(path: &Path) -> bool {
    let in_proc = |folder: &Path| fs::canonicalize(folder).is_ok_and(|folder| folder.starts_with("/proc"));
    let target = fs::read_link(path).ok();
    [Some(path), target.as_deref()]
        .into_iter()
        .flatten()
        .any(|path| path.is_absolute() && path.parent().is_some_and(in_proc))
}

fn write_through(path: &Path, line: &str) -> io::Result<()> {
    // Without a reader, the opening of a pipe would wait, and the lease would not be renewed.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut opened = OpenOptions::new().append(true).custom_flags(flags).open(path)?;
    opened.write_all(format!("{line}\n").as_bytes())
}

fn replace(target: &Path, line: &str, mode: u32) -> io::Result<()> {
    let mut next = target.as_os_str().to_owned();
    next.push(format!(".{}", std::process::id()));
    let next = PathBuf::from(next);
    let mut written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&next)?;
    let replaced = writeln!(written, "{line}").and_then(|()| fs::rename(&next, target));
    if replaced.is_err() {
        // The error is that of the file; a secret must not stay behind.
        let _ = fs::remove_file(&next);
    }
    replaced
}
