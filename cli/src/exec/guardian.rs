//! The process between `tenure exec` and the command. It starts the command, waits for it and for all that it leaves behind,
//! and ends them: at its own decision where `tenure` cannot, because that was killed, stopped or is starved. It ends after
//! all of them, with the exit code of the command.
//!
//! It is the parent of the command, because only an ancestor gets the orphans of other process groups and sessions, and a
//! child of `tenure`, because a killed process has no more descendants.
//!
//! It reads from a pipe that only `tenure` writes to, a line for each message:
//!
//! | line | meaning |
//! |---|---|
//! | `until N` | the deadline in milliseconds, by the clock that counts suspends; each replaces the last |
//! | `signal N` | for the command: a signal that ends programs goes to its group, another one to it alone |
//!
//! The end of the pipe means that `tenure` has ended: everything is killed at once, unless the command
//! continues without the lease.

use std::{
    collections::HashSet,
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal as Shielded};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getppid, kill_process, kill_process_group,
    test_kill_process_group, wait,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
};

use crate::{
    exec::{
        child,
        children::{self, Killed},
        launcher, signals,
    },
    exit::Code,
    report,
};

/// The first argument of such a process.
pub(crate) const NAME: &str = "__guardian";

/// The folder of the own open files, where a number can be opened.
#[cfg(target_os = "linux")]
const OPEN_FILES: &str = "/proc/self/fd";
#[cfg(not(target_os = "linux"))]
const OPEN_FILES: &str = "/dev/fd";

/// Timers may not count a suspend, so that the clock is read again this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// A command that waits for its terminal is looked at this often.
const TERMINAL_POLL: Duration = Duration::from_millis(100);
/// Processes that are to end are looked at this often: a process whose parent lives is waited for by that parent.
const POLL: Duration = Duration::from_millis(10);

/// Signals that do not reach the guardian. A manager that ends all processes at once ends the command with them, and the
/// guardian after it. Writing to a terminal, and giving it away, would stop a process in the background.
const SHIELDED: [Shielded; 5] = [
    Shielded::SIGTERM,
    Shielded::SIGHUP,
    Shielded::SIGINT,
    Shielded::SIGQUIT,
    Shielded::SIGTTOU,
];

/// The settings of the guardian, its second argument. The command follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The number of the open pipe.
    pub(crate) pipe: i32,
    /// `tenure` has the terminal, and the command gets it.
    pub(crate) terminal: bool,
    /// The command ends with `tenure`, and at the deadline.
    pub(crate) tied: bool,
    /// The longest time from SIGTERM to SIGKILL.
    pub(crate) kill_after: Duration,
    /// The longest time for which the command may be stopped.
    pub(crate) stopped: Duration,
}

impl Settings {
    pub(crate) fn to_argument(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// The guardian's own process.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // The command is not started with them blocked: see `unshield`.
    let _ = shielded().thread_block();
    let settings = args.next().unwrap_or_default();
    let guarded = serde_json::from_str(&settings.to_string_lossy())
        .map_err(io::Error::from)
        .and_then(|settings| guard(settings, &args.collect::<Vec<_>>()));
    match guarded {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(format_args!("the command cannot be started: {error}"));
            ExitCode::from(Code::Failed as u8)
        }
    }
}

fn shielded() -> SigSet {
    SHIELDED.into_iter().collect()
}

/// Undoes the shield, in the process that becomes the command.
pub(crate) fn unshield() -> io::Result<()> {
    Ok(shielded().thread_unblock()?)
}

#[tokio::main(flavor = "current_thread")]
async fn guard(settings: Settings, command: &[OsString]) -> io::Result<u8> {
    let messages = pipe::OpenOptions::new().open_receiver(format!("{OPEN_FILES}/{}", settings.pipe))?;
    // It was inherited, and would be by the command.
    nix::unistd::close(settings.pipe)?;
    children::adopt_orphans()?;
    let mut ended = signal(SignalKind::child())?;
    let mut guarded = Guarded::start(settings, command)?;
    let mut buffer = [0; 512];
    while !guarded.reap() {
        let sleep = guarded.act(now());
        if guarded.given_up {
            break;
        }
        tokio::select! {
            _ = ended.recv() => {}
            ready = messages.readable(), if !guarded.alone => match ready.and_then(|()| messages.try_read(&mut buffer)) {
                Ok(0) if !guarded.settings.tied => return Ok(0),
                Ok(0) => {
                    guarded.alone = true;
                    guarded.kill("tenure has ended", now());
                }
                Ok(read) => guarded.read(&buffer[..read]),
                // It was not ready after all.
                Err(_) => {}
            },
            () = tokio::time::sleep(sleep) => {}
        }
    }
    guarded.give_terminal_back();
    Ok(guarded.code())
}

/// The command, and what becomes of it.
#[derive(Debug)]
struct Guarded {
    settings: Settings,
    group: Pid,
    tenure: Option<Pid>,
    status: Option<WaitStatus>,
    until: Option<Duration>,
    stopped: Option<Stopped>,
    /// All that is left is killed at this time.
    kill_at: Option<Duration>,
    /// The children that have been asked to end after the command's end.
    asked: HashSet<Pid>,
    /// An exit code in place of the command's.
    code: Option<Code>,
    /// All that is left belongs to other users, and cannot be killed.
    given_up: bool,
    /// `tenure` has ended.
    alone: bool,
    unread: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Stopped {
    since: Duration,
    /// It is stopped because it used a terminal that it does not have.
    by_terminal: bool,
}

impl Guarded {
    fn start(settings: Settings, command: &[OsString]) -> io::Result<Self> {
        let flag = |set: bool, name: &'static str| if set { name } else { "-" };
        let child = Command::new(super::this_program()?)
            .arg(launcher::NAME)
            .arg(std::process::id().to_string())
            .arg(flag(settings.terminal, launcher::TERMINAL))
            .arg(flag(settings.tied, launcher::TIED))
            .args(command)
            .process_group(0)
            .spawn()?;
        Ok(Self::of(settings, Pid::from_child(&child)))
    }

    fn of(settings: Settings, group: Pid) -> Self {
        Self {
            settings,
            group,
            tenure: getppid(),
            status: None,
            until: None,
            stopped: None,
            kill_at: None,
            asked: HashSet::new(),
            code: None,
            given_up: false,
            alone: false,
            unread: Vec::new(),
        }
    }

    fn code(&self) -> u8 {
        match (self.code, self.status) {
            (Some(code), _) => code as u8,
            (None, Some(status)) => child::code(status),
            (None, None) => Code::Failed as u8,
        }
    }

    /// Waits for all children that have ended or stopped. Returns whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED) {
                Ok(Some((pid, status))) if pid == self.group => self.changed(status),
                Ok(Some(_)) => {}
                Ok(None) => return false,
                // Elsewhere orphans do not become children of this process.
                Err(_) => return cfg!(target_os = "linux") || test_kill_process_group(self.group).is_err(),
            }
        }
    }

    fn changed(&mut self, status: WaitStatus) {
        if status.continued() {
            self.stopped = None;
        } else if let Some(signal) = status.stopping_signal() {
            self.stop(signal);
        } else {
            self.stopped = None;
            self.status = Some(status);
        }
    }

    /// Continues a command that was stopped on its terminal: the shell could not take the terminal back, and others would wait
    /// for a command that does nothing. Another stop may be on purpose, and has a limit.
    fn stop(&mut self, signal: i32) {
        let is = |one: Signal| signal == one.as_raw();
        if is(Signal::TSTP) && self.settings.terminal {
            report("the command holds a lease, and is continued");
            self.signal_group(Signal::CONT);
            return;
        }
        let by_terminal = is(Signal::TTIN) || is(Signal::TTOU);
        self.stopped = Some(Stopped {
            since: now(),
            by_terminal,
        });
        let cause = if by_terminal {
            "it uses the terminal and is in the background: bring it to the foreground, or redirect its input"
        } else {
            "a signal has stopped it"
        };
        let limit = if self.settings.tied {
            let limit = crate::duration::exact(self.settings.stopped);
            format!(", and is ended if it is not continued within {limit}")
        } else {
            String::new()
        };
        report(format_args!(
            "the command is stopped and holds a lease{limit}: {cause}"
        ));
    }

    /// Does what is due, and returns the time after which the next step may be due.
    fn act(&mut self, now: Duration) -> Duration {
        if self.settings.tied && self.kill_at.is_none_or(|at| at > now) {
            if self.until.is_some_and(|until| until <= now) {
                self.kill("tenure did not renew its lease, and its time has run out", now);
            } else if let Some(stopped) = self.stopped.filter(|_| self.kill_at.is_none()) {
                self.act_on_stopped(stopped, now);
            }
        }
        if self.status.is_some() && self.kill_at.is_none() {
            report("the command has ended and left processes behind, which are ended");
            let left = self
                .until
                .map_or(Duration::MAX, |until| until.saturating_sub(now));
            self.kill_at = Some(now + self.settings.kill_after.min(left / 2));
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_left();
        } else if self.status.is_some() {
            self.ask_left();
        }
        self.sleep(now)
    }

    fn sleep(&self, now: Duration) -> Duration {
        let until = self
            .until
            .filter(|_| self.settings.tied && self.kill_at.is_none());
        let deadline = until.map_or(LONGEST_SLEEP, |until| until.saturating_sub(now));
        let poll = match (self.kill_at, self.stopped) {
            (Some(_), _) => POLL,
            (None, Some(_)) => TERMINAL_POLL,
            (None, None) => LONGEST_SLEEP,
        };
        deadline.min(poll)
    }

    fn act_on_stopped(&mut self, stopped: Stopped, now: Duration) {
        if stopped.by_terminal && self.take_terminal() {
            self.settings.terminal = true;
            self.signal_group(Signal::CONT);
        } else if now >= stopped.since + self.settings.stopped {
            report("the command was stopped for too long, and is ended");
            self.code = Some(Code::Lost);
            self.signal_group(Signal::TERM);
            self.kill_at = Some(now + self.settings.kill_after);
        }
    }

    /// Gives the command the terminal if the shell has given it to `tenure`.
    fn take_terminal(&self) -> bool {
        let stdin = io::stdin();
        let of_tenure = self.tenure.and_then(|tenure| getpgid(Some(tenure)).ok());
        stdin.is_terminal()
            && of_tenure.is_some_and(|group| rustix::termios::tcgetpgrp(&stdin) == Ok(group))
            && launcher::give_terminal(self.group).is_ok()
    }

    /// Gives the terminal of the command back to `tenure`. It may be gone.
    fn give_terminal_back(&self) {
        if self.settings.terminal
            && getppid() == self.tenure
            && let Ok(group) = getpgid(self.tenure)
        {
            let _ = launcher::give_terminal(group);
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(' ') {
                Some(("until", number)) => self.until = number.parse().ok().map(Duration::from_millis),
                Some(("signal", number)) => {
                    if let Some(signal) = number.parse().ok().and_then(Signal::from_named_raw) {
                        self.pass_on(signal);
                    }
                }
                _ => {}
            }
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        match signal {
            Signal::KILL => self.kill_at = Some(now()),
            // A user who does not want to wait for the rest sends a signal.
            _ if self.status.is_some() && signals::ends(signal) => self.kill_at = Some(now()),
            _ if signals::ends(signal) => self.signal_group(signal),
            // An error means that it has ended.
            _ if self.status.is_none() => drop(kill_process(self.group, signal)),
            _ => {}
        }
    }

    fn kill(&mut self, cause: &str, now: Duration) {
        self.kill_at = Some(now);
        report(format_args!("the command is killed: {cause}"));
    }

    fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
        // A stopped process ends when it is continued.
        if signals::ends(signal) {
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Sends SIGTERM, once to each, to the command's group and to all children. The children of a child that has ended follow as
    /// children of this process.
    fn ask_left(&mut self) {
        let left = children::list();
        if self.has_group(&left) && self.asked.insert(self.group) {
            self.signal_group(Signal::TERM);
        }
        for child in left {
            if !self.is_in_group(child) && self.asked.insert(child) {
                let _ = kill_process(child, Signal::TERM);
                let _ = kill_process(child, Signal::CONT);
            }
        }
    }

    /// Kills the command's group and all children, as [`Guarded::ask_left`] asks them.
    fn kill_left(&mut self) {
        let left = children::list();
        if self.has_group(&left) {
            self.signal_group(Signal::KILL);
        }
        if children::kill(&left) == Killed::OnlyForeign {
            self.given_up = true;
            self.code = Some(Code::Lost);
        }
    }

    /// The number of a group without a child of this process may be that of another one.
    fn has_group(&self, left: &[Pid]) -> bool {
        cfg!(not(target_os = "linux")) || left.iter().any(|child| self.is_in_group(*child))
    }

    fn is_in_group(&self, child: Pid) -> bool {
        getpgid(Some(child)).is_ok_and(|group| group == self.group)
    }
}

/// The clock that counts suspends, where there is one.
pub(crate) fn now() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    clock.now().map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> Guarded {
        let settings = Settings {
            pipe: 3,
            terminal: false,
            tied: true,
            kill_after: Duration::from_secs(5),
            stopped: Duration::from_secs(30),
        };
        // No process has so large a number.
        Guarded::of(settings, Pid::from_raw(i32::MAX).unwrap())
    }

    #[test]
    fn messages_may_arrive_in_pieces() {
        let mut guarded = guarded();
        guarded.read(b"until 1000\nunt");
        assert_eq!(guarded.until, Some(Duration::from_secs(1)));
        guarded.read(b"il 5000\n");
        assert_eq!(guarded.until, Some(Duration::from_secs(5)));
        guarded.read(b"until 7000\nsignal 9\n");
        assert!(guarded.kill_at.is_some());
        assert_eq!(guarded.until, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_deadline_ends_the_sleep() {
        let seconds = Duration::from_secs;
        let mut guarded = guarded();
        assert_eq!(guarded.act(seconds(9)), LONGEST_SLEEP);
        guarded.until = Some(seconds(10));
        assert_eq!(guarded.act(seconds(2)), LONGEST_SLEEP);
        assert_eq!(
            guarded.act(Duration::from_millis(9400)),
            Duration::from_millis(600)
        );
        assert_eq!(
            (guarded.act(seconds(10)), guarded.kill_at.is_some()),
            (POLL, true)
        );
    }

    #[test]
    fn a_command_that_is_stopped_for_too_long_is_ended() {
        let mut guarded = guarded();
        guarded.stopped = Some(Stopped {
            since: Duration::from_secs(100),
            by_terminal: false,
        });
        guarded.act(Duration::from_secs(129));
        assert!(guarded.kill_at.is_none());
        guarded.act(Duration::from_secs(130));
        assert_eq!(guarded.kill_at, Some(Duration::from_secs(135)));
        assert_eq!(guarded.code(), 73);
    }
}
