//! A process beside `tenure exec` that kills the command at the lease's deadline when `tenure` itself cannot: because it
//! was killed, stopped or is starved. The kernel kills the command with its parent, but not what the command has started.
//!
//! It reads from a pipe that only `tenure` writes to, a line for each message:
//!
//! | line | meaning |
//! |---|---|
//! | `group N` | the process group of the command |
//! | `until N` | the deadline in milliseconds, by the clock that counts suspends; each replaces the last |
//! | `end` | the command has ended, or goes on without the lease |
//!
//! The end of the pipe without `end` means that `tenure` has ended: the group is killed at once.

use std::{
    fmt,
    io::{self, Read, Write},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, kill_process_group},
};

use crate::report;

/// The first argument of such a process.
pub(crate) const NAME: &str = "__guardian";

/// Timers may not count a suspend, so that the clock is read again this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The side of `tenure exec`.
#[derive(Debug)]
pub(crate) struct Guardian {
    pipe: ChildStdin,
    sent: Option<Duration>,
}

impl Guardian {
    pub(crate) fn start() -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut child: Child = Command::new(super::this_program()?)
            .arg(NAME)
            // Ctrl-C is for the command.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe, sent: None })
    }

    pub(crate) fn watch(&mut self, group: Pid) {
        self.send(format_args!("group {}", group.as_raw_nonzero()));
    }

    /// Passes the deadline on if it has moved.
    pub(crate) fn until(&mut self, remaining: Duration) {
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

    pub(crate) fn end(mut self) {
        self.send(format_args!("end"));
    }

    /// A guardian that has been killed guards nothing any more, and the command goes on: `tenure` itself is there.
    fn send(&mut self, message: fmt::Arguments<'_>) {
        let _ = self.pipe.write_all(format!("{message}\n").as_bytes());
    }
}

/// The state of the guardian's process.
#[derive(Debug, Default)]
struct Watch {
    group: Option<i32>,
    until: Option<Duration>,
    ended: bool,
    unread: Vec<u8>,
}

impl Watch {
    fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(' ') {
                Some(("group", number)) => self.group = number.parse().ok(),
                Some(("until", number)) => self.until = number.parse().ok().map(Duration::from_millis),
                _ => self.ended |= line.trim_end() == "end",
            }
        }
    }

    /// The time to sleep; `None`: the deadline has passed.
    fn sleep(&self, now: Duration) -> Option<Duration> {
        match self.until {
            Some(until) => until
                .checked_sub(now)
                .filter(|left| !left.is_zero())
                .map(|left| left.min(LONGEST_SLEEP)),
            None => Some(LONGEST_SLEEP),
        }
    }

    fn kill(&self, cause: &str) {
        if let Some(group) = self.group.and_then(Pid::from_raw)
            && kill_process_group(group, rustix::process::Signal::KILL).is_ok()
        {
            report(format_args!("killed the command: {cause}"));
        }
    }
}

/// The guardian's own process.
pub(crate) fn run() -> ExitCode {
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        blocked.add(signal);
    }
    // A manager that ends all processes at once ends the command with them, and tenure after it.
    let _ = blocked.thread_block();
    let mut watch = Watch::default();
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 512];
    while !watch.ended {
        let Some(sleep) = watch.sleep(now()) else {
            watch.kill("tenure did not renew its lease, and its time has run out");
            return ExitCode::SUCCESS;
        };
        let timeout = Timespec {
            tv_sec: sleep.as_secs().try_into().unwrap_or(1),
            tv_nsec: sleep.subsec_nanos().into(),
        };
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout));
        if !matches!(ready, Ok(1..)) {
            continue;
        }
        match stdin.read(&mut buffer) {
            Ok(0) => {
                watch.kill("tenure has ended");
                return ExitCode::SUCCESS;
            }
            Ok(read) => watch.read(&buffer[..read]),
            Err(_) => {}
        }
    }
    ExitCode::SUCCESS
}

/// The clock that counts suspends, where there is one.
fn now() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    clock.now().map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_may_arrive_in_pieces() {
        let mut watch = Watch::default();
        watch.read(b"group 17\nunt");
        assert_eq!((watch.group, watch.until), (Some(17), None));
        watch.read(b"il 5000\n");
        assert_eq!(watch.until, Some(Duration::from_secs(5)));
        watch.read(b"until 7000\nend\n");
        assert!(watch.ended);
        assert_eq!(watch.until, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_deadline_ends_the_sleep() {
        let seconds = Duration::from_secs;
        let mut watch = Watch::default();
        assert_eq!(watch.sleep(seconds(9)), Some(LONGEST_SLEEP));
        watch.until = Some(seconds(10));
        assert_eq!(watch.sleep(seconds(2)), Some(LONGEST_SLEEP));
        assert_eq!(
            watch.sleep(Duration::from_millis(9400)),
            Some(Duration::from_millis(600))
        );
        assert_eq!(watch.sleep(seconds(10)), None);
        assert_eq!(watch.sleep(seconds(11)), None);
    }
}
