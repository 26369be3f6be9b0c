//! `tenure install`: copies this program into a folder, for the containers of a pod.

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::{
    exec::this_program,
    exit::{Code, Failure},
};

/// Copies this program into a folder, for containers that share it: an init container of its image needs no shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An existing folder, such as the mount of an emptyDir
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let target = args.folder.join("tenure");
    let next = args.folder.join(format!(".tenure.{}", std::process::id()));
    let copied = || -> io::Result<()> {
        fs::copy(this_program()?, &next)?;
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755))?;
        // A container that runs it already keeps the old file.
        fs::rename(&next, &target)
    };
    copied().map_err(|error| Failure::new(Code::Failed, format!("{}: {error}", target.display())))?;
    Ok(0)
}
