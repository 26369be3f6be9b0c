//! The command as a child process, in a process group of its own.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    process::Command,
    time::Duration,
};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process, kill_process_group, test_kill_process_group,
    wait,
};

use crate::{
    exec::{
        guardian::Guardian,
        launcher::{self, give_terminal},
        signals,
    },
    exit, report,
};

#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    status: Option<WaitStatus>,
    guardian: Option<Guardian>,
    has_terminal: bool,
}

impl Child {
    /// Starts the command. `tied`: it ends with `tenure`, and after that time at the latest unless [`Child::guard_until`] moves the end.
    pub(crate) fn start(
        command: &[OsString],
        variables: Vec<(String, String)>,
        tied: Option<Duration>,
    ) -> io::Result<Self> {
        // Orphans of the command become children of this process, which has to wait for them.
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut guardian = tied.map(|_| Guardian::start()).transpose()?;
        if let (Some(guardian), Some(remaining)) = (&mut guardian, tied) {
            guardian.until(remaining);
        }
        let has_terminal = is_in_foreground();
        let flag = |set: bool, name: &'static str| if set { name } else { "-" };
        let child = Command::new(super::this_program()?)
            .arg(launcher::NAME)
            .arg(std::process::id().to_string())
            .arg(flag(has_terminal, launcher::TERMINAL))
            .arg(flag(tied.is_some(), launcher::TIED))
            .args(command)
            .envs(variables)
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        if let Some(guardian) = &mut guardian {
            guardian.watch(pid);
        }
        Ok(Self {
            pid,
            status: None,
            guardian,
            has_terminal,
        })
    }

    /// Waits for all children that have ended, orphans included. Returns whether the command has ended.
    pub(crate) fn reap(&mut self) -> bool {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            if status.stopped() {
                self.stopped(pid, status);
            } else if pid == self.pid {
                self.status = Some(status);
            }
        }
        self.status.is_some()
    }

    /// Continues a command that was stopped on its terminal: the shell could not take the terminal back, and others would wait
    /// for a command that does nothing.
    fn stopped(&self, pid: Pid, status: WaitStatus) {
        let from_terminal = status.stopping_signal() == Some(Signal::TSTP.as_raw());
        if pid == self.pid && self.has_terminal && from_terminal {
            report("the command holds a lease, and is continued");
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
    }

    /// Its exit code, as a shell reports it.
    pub(crate) fn code(&self) -> Option<u8> {
        let status = self.status?;
        let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
        Some(code.unwrap_or_else(|| exit::of_signal(status.terminating_signal().unwrap_or(0))))
    }

    pub(crate) fn guard_until(&mut self, remaining: Duration) {
        if let Some(guardian) = &mut self.guardian {
            guardian.until(remaining);
        }
    }

    /// Passes a signal on: one that ends programs to the whole group, another to the command alone.
    pub(crate) fn forward(&self, signal: Signal) {
        if signals::ends(signal) {
            self.signal_group(signal);
        } else if self.status.is_none() {
            // An error means that it has ended.
            let _ = kill_process(self.pid, signal);
        }
    }

    pub(crate) fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(self.pid, signal);
        // A stopped process ends when it is continued.
        if signals::ends(signal) {
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
    }

    /// Has the command left processes of its group behind?
    pub(crate) fn left_some(&self) -> bool {
        test_kill_process_group(self.pid).is_ok()
    }

    /// Takes the terminal back and ends the guardian.
    pub(crate) fn finish(self) {
        if self.has_terminal {
            // The terminal may be gone.
            let _ = give_terminal(getpgrp());
        }
        if let Some(guardian) = self.guardian {
            guardian.end();
        }
    }
}

/// Does this process read from a terminal, and has no other process the use of it?
fn is_in_foreground() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp())
}
