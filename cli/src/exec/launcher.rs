//! The process that becomes the command. It is this program, so that it can prepare itself between fork and exec without
//! unsafe code: the kernel kills it when the guardian ends, and it takes the terminal.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::process::{getpgrp, getppid};

use crate::{exec::guardian, report};

/// The first argument of such a process.
pub(crate) const NAME: &str = "__command";
/// Its second argument where the command gets the terminal.
pub(crate) const TERMINAL: &str = "terminal";
/// Its third argument where the command ends with the guardian.
pub(crate) const TIED: &str = "tied";

/// Arguments: the process id of the guardian, `terminal` or `-`, `tied` or `-`, and the command.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut next = || args.next().unwrap_or_default();
    let (parent, terminal, tied, program) = (next(), next(), next(), next());
    if tied == TIED
        && let Err(error) = die_with(&parent)
    {
        report(format_args!("cannot tie the command to its guardian: {error}"));
        return ExitCode::FAILURE;
    }
    if terminal == TERMINAL
        && let Err(error) = take_terminal()
    {
        report(format_args!("cannot give the terminal to the command: {error}"));
    }
    if let Err(error) = guardian::unshield() {
        report(format_args!("cannot receive signals: {error}"));
    }
    let error = Command::new(&program).args(args).exec();
    report(format_args!("{}: {error}", program.to_string_lossy()));
    ExitCode::from(code(error.kind()))
}

/// As shells have it.
fn code(kind: io::ErrorKind) -> u8 {
    if kind == io::ErrorKind::NotFound { 127 } else { 126 }
}

#[cfg(target_os = "linux")]
fn die_with(parent: &OsString) -> io::Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    let alive = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if alive.map(OsString::from).as_ref() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("it has ended"))
    }
}

/// Elsewhere the guardian alone ends the command.
#[cfg(not(target_os = "linux"))]
fn die_with(_parent: &OsString) -> io::Result<()> {
    Ok(())
}

fn take_terminal() -> io::Result<()> {
    give_terminal(getpgrp())
}

/// Makes a process group the one that reads from the terminal. A process in the background is stopped by the kernel for
/// that, unless it blocks the signal.
pub(crate) fn give_terminal(group: rustix::process::Pid) -> io::Result<()> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(());
    }
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    // The caller may block it, too.
    let before = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let given = rustix::termios::tcsetpgrp(&stdin, group);
    before.thread_set_mask()?;
    Ok(given?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_started_has_the_code_of_a_shell() {
        assert_eq!(code(io::ErrorKind::NotFound), 127);
        assert_eq!(code(io::ErrorKind::PermissionDenied), 126);
    }
}
