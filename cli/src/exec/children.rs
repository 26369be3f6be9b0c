//! The children of this process: the command, and the orphans that it has left behind.

use std::io;

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use crate::report;

/// Makes orphans of the command, also those of other groups and sessions, children of this process, which has to wait for them.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// The children that are left after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killed {
    None,
    /// Some have yet to end, and to be waited for.
    Some,
    /// Only processes that have become those of other users, and that this one may not kill. They are reported.
    OnlyForeign,
}

/// Kills children. Their own children become those of this process, so that the caller repeats it until there is none.
pub(crate) fn kill(children: &[Pid]) -> Killed {
    // No other process waits for them, so that their numbers are not those of others.
    let foreign = |child: &&Pid| kill_process(**child, Signal::KILL) == Err(Errno::PERM);
    let foreign: Vec<_> = children.iter().filter(foreign).collect();
    if children.is_empty() {
        Killed::None
    } else if foreign.len() < children.len() {
        Killed::Some
    } else {
        for child in foreign {
            report(format_args!(
                "process {} of another user cannot be ended, and goes on without the lease",
                child.as_raw_nonzero()
            ));
        }
        Killed::OnlyForeign
    }
}

/// The children of this process. Not all kernels have a list of them, so that it is made from the parents of all processes.
#[cfg(target_os = "linux")]
pub(crate) fn list() -> Vec<Pid> {
    let parent = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| parent_in(&stat) == Some(&parent))
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// Elsewhere no orphan becomes a child of this process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn list() -> Vec<Pid> {
    Vec::new()
}

/// The parent, in `/proc/N/stat`. The name of the program before it may contain anything.
#[cfg(target_os = "linux")]
fn parent_in(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_hide_its_parent() {
        assert_eq!(parent_in("17 (a) S 4 (x) R 5 17 17 0"), Some("5"));
        assert_eq!(parent_in("17 (sleep) S 4 17 17 0"), Some("4"));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn a_child_is_listed_until_it_has_been_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(list().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!list().contains(&pid));
    }
}
