//! The command, as `tenure` sees it: a guardian that runs it, with a pipe to it.

use std::{
    ffi::OsString,
    fmt,
    io::{self, IsTerminal, PipeWriter, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, WaitOptions, WaitStatus, getpgrp, wait},
};

use crate::exec::{
    children,
    guardian::{self, Settings, now},
};

#[derive(Debug)]
pub(crate) struct Child {
    guardian: Pid,
    pipe: PipeWriter,
    sent: Option<Duration>,
    status: Option<WaitStatus>,
}

/// The limits of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The command ends with `tenure`, and after this time at the latest unless [`Child::guard_until`] moves the end.
    pub(crate) tied: Option<Duration>,
    /// The longest time from SIGTERM to SIGKILL for processes that the command leaves behind.
    pub(crate) kill_after: Duration,
    /// The longest time for which a command may be stopped.
    pub(crate) stopped: Duration,
}

impl Child {
    pub(crate) fn start(
        command: &[OsString],
        variables: Vec<(String, String)>,
        limits: Limits,
    ) -> io::Result<Self> {
        // A killed guardian leaves its children to this process.
        children::adopt_orphans()?;
        let (read, pipe) = io::pipe()?;
        fcntl_setfd(&read, FdFlags::empty())?;
        let settings = Settings {
            pipe: read.as_raw_fd(),
            terminal: is_in_foreground(),
            tied: limits.tied.is_some(),
            kill_after: limits.kill_after,
            stopped: limits.stopped,
        };
        let guardian = Command::new(super::this_program()?)
            // For people who list processes.
            .arg0("tenure")
            .arg(guardian::NAME)
            .arg(settings.to_argument()?)
            .args(command)
            .envs(variables)
            // Ctrl-C is for the command.
            .process_group(0)
            .spawn()?;
        let mut child = Self {
            guardian: Pid::from_child(&guardian),
            pipe,
            sent: None,
            status: None,
        };
        if let Some(remaining) = limits.tied {
            child.guard_until(remaining);
        }
        Ok(child)
    }

    /// Waits for all children that have ended: as the first process of a container, this one gets the orphans of all others.
    /// Returns whether the command, and all that it has left behind, have ended.
    pub(crate) fn reap(&mut self) -> bool {
        let more = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.guardian => self.status = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        match self.status {
            // Nothing guards them any more.
            Some(status) if more && status.terminating_signal().is_some() => {
                children::kill_all();
                false
            }
            status => status.is_some(),
        }
    }

    /// The exit code of the command, as a shell reports it.
    pub(crate) fn code(&self) -> Option<u8> {
        Some(code(self.status?))
    }

    /// Passes the deadline on if it has moved.
    pub(crate) fn guard_until(&mut self, remaining: Duration) {
        let deadline = now() + remaining;
        // The same deadline is computed with the error of two clocks.
        let moved = self
            .sent
            .is_none_or(|sent| deadline.abs_diff(sent) > Duration::from_millis(50));
        if moved {
            self.sent = Some(deadline);
            self.send(format_args!("until {}", deadline.as_millis()));
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.send(format_args!("signal {}", signal.as_raw()));
    }

    /// A guardian that has ended reads nothing: [`Child::reap`] notices its end.
    fn send(&mut self, message: fmt::Arguments<'_>) {
        let _ = self.pipe.write_all(format!("{message}\n").as_bytes());
    }
}

/// The exit code of a process, as a shell reports it.
pub(crate) fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or_else(|| crate::exit::of_signal(status.terminating_signal().unwrap_or(0)))
}

/// Does this process read from a terminal, and has no other process the use of it?
fn is_in_foreground() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp())
}
