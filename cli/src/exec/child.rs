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
    process::{Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process, wait, waitpid},
};

use crate::exec::{
    children::{self, Killed},
    guardian::{self, Settings, now},
};

#[derive(Debug)]
pub(crate) struct Child {
    guardian: Pid,
    pipe: PipeWriter,
    sent: Option<Duration>,
    status: Option<WaitStatus>,
    /// Children of the program that this process was before, such as a shell.
    inherited: Vec<Pid>,
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
        let inherited = children::list();
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
            inherited,
        };
        if let Some(remaining) = limits.tied {
            child.guard_until(remaining);
        }
        Ok(child)
    }

    /// Waits for the guardian if it has ended. Returns whether the command, and all that it has left behind, have ended.
    pub(crate) fn reap(&mut self) -> bool {
        if self.status.is_none() {
            // Other children, such as programs that a kubeconfig names, are waited for by those who have started them.
            let ended = waitpid(Some(self.guardian), WaitOptions::NOHANG);
            self.status = ended.ok().flatten().map(|(_, status)| status);
        }
        if std::process::id() == 1 {
            self.reap_orphans();
        }
        match self.status {
            // Nothing guards them any more.
            Some(status) if status.terminating_signal().is_some() => self.kill_left() != Killed::Some,
            status => status.is_some(),
        }
    }

    /// The first process of a container gets the orphans of all others.
    fn reap_orphans(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.guardian {
                self.status = Some(status);
            }
        }
    }

    /// Kills the children that a killed guardian has left to this process.
    fn kill_left(&self) -> Killed {
        let mut left = children::list();
        left.retain(|child| {
            let ended = || matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(Some(_)));
            !self.inherited.contains(child) && !ended()
        });
        children::kill(&left)
    }

    /// Kills a guardian that does not do its work, because it is stopped. [`Child::reap`] then ends the command in its place.
    pub(crate) fn kill_guardian(&self) {
        if self.status.is_none() {
            let _ = kill_process(self.guardian, Signal::KILL);
        }
    }

    /// Continues a guardian that is stopped: it would pass no signal on.
    pub(crate) fn continue_guardian(&self) {
        if self.status.is_none() {
            let _ = kill_process(self.guardian, Signal::CONT);
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

/// Returns whether this process reads from a terminal, and its process group has the use of it.
fn is_in_foreground() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn children_that_others_have_started_are_left_to_them() {
        let mut guardian = Command::new("sleep").arg("600").spawn().unwrap();
        let mut child = Child {
            guardian: Pid::from_child(&guardian),
            pipe: io::pipe().unwrap().1,
            sent: None,
            status: None,
            inherited: Vec::new(),
        };
        let mut other = Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", other.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(!child.reap());
        assert!(other.wait().unwrap().success());
        guardian.kill().unwrap();
        guardian.wait().unwrap();
    }
}
