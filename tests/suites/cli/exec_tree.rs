//! `tenure exec`: all that the command starts ends before the lease does, and a command that is stopped does not keep it.

use std::{fs, process::Command};

use rustix::process::Signal;
use tenure_tests::{Result, ensure, eventually};

use super::{
    Bench, SOON, code, gone, on_terminal, output, parent, printed, runs, signal,
    stopped_until_the_next_holds, text,
};

/// Starts processes outside of the command's group: of another session, of another group, and a daemon. Each is deaf to
/// SIGTERM but the last one, which leaves a zombie in the group of the command.
const SCATTER: &str = "
    deaf() { trap '' TERM; echo $$ > $1; while :; do sleep 600; done; }
    case $1 in deaf) deaf $2;; esac
    setsid sh $0 deaf session &
    timeout 600 sh $0 deaf group &
    (setsid sh -c 'sh $0 deaf daemon & exit' $0 &)
    sh -c 'true & echo $$ > zombie; exec setsid sleep 600' &
    for file in session group daemon zombie; do while ! [ -s $file ]; do sleep 0.01; done; done
    echo $$ > command
    echo ready
    case $1 in stay) read -r _ < pipe;; esac
";
const SCATTERED: [&str; 4] = ["session", "group", "daemon", "zombie"];

fn scatter(bench: &Bench, args: &str, stay: bool) -> Result<Command> {
    fs::write(bench.folder.join("scatter"), SCATTER)?;
    let mut command = bench.tenure(args)?;
    command.args(["--", "sh", "scatter"]);
    if stay {
        bench.pipe("pipe")?;
        command.arg("stay");
    }
    Ok(command)
}

fn none_runs(bench: &Bench) -> Result {
    for file in SCATTERED {
        ensure!(!runs(&bench.pid(file)?), "{file} was left running");
    }
    Ok(())
}

#[tokio::test]
async fn descendants_in_other_groups_and_sessions_are_ended_before_the_release() -> Result {
    let bench = Bench::shared().await?;
    let ended = output(scatter(&bench, "exec lock/tree --kill-after 500ms", false)?).await?;
    none_runs(&bench)?;
    ensure!(
        code(&ended)? == 0 && text(&ended.stderr).contains("left processes behind"),
        "{ended:?}"
    );
    Ok(())
}

#[tokio::test]
async fn descendants_end_with_a_lease_that_is_lost() -> Result {
    let bench = Bench::shared().await?;
    let command = scatter(&bench, "exec lock/tree --kill-after 500ms", true)?;
    let mut process = bench.start("tree", &command)?;
    printed(&mut process, "ready").await?;
    bench.reclaim("tree").await?;
    let status = process.wait(SOON).await?;
    none_runs(&bench)?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    Ok(())
}

#[tokio::test]
async fn descendants_end_when_tenure_is_killed() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("tree", &scatter(&bench, "exec lock/tree", true)?)?;
    printed(&mut process, "ready").await?;
    process.signal(Signal::KILL)?;
    for file in SCATTERED {
        gone(&bench.pid(file)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn descendants_end_at_the_deadline_of_a_stopped_tenure() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("tree", &scatter(&bench, "exec lock/tree --ttl 2s", true)?)?;
    printed(&mut process, "ready").await?;
    stopped_until_the_next_holds(&bench, &mut process, "tree", || none_runs(&bench)).await
}

/// Without its guardian, the command would outlive a `tenure` that is killed.
#[tokio::test]
async fn all_ends_when_the_guardian_is_killed() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("tree", &scatter(&bench, "exec lock/tree", true)?)?;
    printed(&mut process, "ready").await?;
    signal(&parent(&bench.pid("command")?)?, Signal::KILL)?;
    let status = process.wait(SOON).await?;
    none_runs(&bench)?;
    ensure!(!runs(&bench.pid("command")?), "the command was left running");
    ensure!(status.code() == Some(137), "{status}: {}", process.tail());
    Ok(())
}

/// A stopped guardian kills nothing.
#[tokio::test]
async fn a_lease_that_is_lost_ends_all_although_the_guardian_is_stopped() -> Result {
    let bench = Bench::shared().await?;
    let command = scatter(&bench, "exec lock/tree --kill-after 500ms", true)?;
    let mut process = bench.start("tree", &command)?;
    printed(&mut process, "ready").await?;
    signal(&parent(&bench.pid("command")?)?, Signal::STOP)?;
    bench.reclaim("tree").await?;
    let status = process.wait(SOON).await?;
    none_runs(&bench)?;
    ensure!(!runs(&bench.pid("command")?), "the command was left running");
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    Ok(())
}

#[tokio::test]
async fn a_stopped_guardian_passes_a_signal_on() -> Result {
    let bench = Bench::shared().await?;
    let script =
        "trap 'echo asked; exit 5' TERM; echo $$ > command; echo ready; while :; do sleep 0.01; done";
    let mut process = bench.start("stopped", &bench.script("exec lock/stopped", script)?)?;
    printed(&mut process, "ready").await?;
    signal(&parent(&bench.pid("command")?)?, Signal::STOP)?;
    process.signal(Signal::TERM)?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(5), "{status}: {}", process.tail());
    ensure!(process.output()?.contains("asked"), "{}", process.tail());
    Ok(())
}

/// A shell that starts a background process, and becomes `tenure`, leaves it that child.
#[tokio::test]
async fn a_child_from_before_is_left_alone_when_the_guardian_is_killed() -> Result {
    let bench = Bench::shared().await?;
    bench.pipe("pipe")?;
    let mut command = bench.program("sh")?;
    command.arg("-c").arg(
        "sleep 600 & echo $! > before; exec $TENURE exec lock/x -- sh -c 'echo $$ > command; echo ready; read -r _ < pipe'",
    );
    let mut process = bench.start("before", &command)?;
    printed(&mut process, "ready").await?;
    signal(&parent(&bench.pid("command")?)?, Signal::KILL)?;
    let status = process.wait(SOON).await?;
    let before = bench.pid("before")?;
    let left = runs(&before);
    // An error means that it has ended.
    let _ = signal(&before, Signal::KILL);
    ensure!(left, "it was ended");
    ensure!(status.code() == Some(137), "{status}: {}", process.tail());
    Ok(())
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_what_is_left() -> Result {
    let bench = Bench::shared().await?;
    let mut process = bench.start("tree", &scatter(&bench, "exec lock/tree --kill-after 9s", false)?)?;
    eventually("the notice", SOON, async || {
        let log = process.log()?;
        ensure!(log.contains("left processes behind"), "{log}");
        Ok(())
    })
    .await?;
    let sent = std::time::Instant::now();
    process.signal(Signal::TERM)?;
    let status = process.wait(SOON).await?;
    none_runs(&bench)?;
    ensure!(status.success(), "{status}: {}", process.tail());
    ensure!(sent.elapsed().as_secs() < 5, "{:?}", sent.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_stopped_for_too_long_is_ended() -> Result {
    let bench = Bench::shared().await?;
    let script =
        "trap 'echo asked; exit 5' TERM; echo $$ > command; echo ready; while :; do sleep 0.01; done";
    let command = bench.script("exec lock/stopped --max-stop 500ms", script)?;
    let mut process = bench.start("stopped", &command)?;
    printed(&mut process, "ready").await?;
    signal(&bench.pid("command")?, Signal::STOP)?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(73), "{status}: {}", process.tail());
    ensure!(process.output()?.contains("asked"), "{}", process.tail());
    let log = process.log()?;
    ensure!(
        log.contains("a signal has stopped it") && log.contains("within 500ms"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_continued_in_time_goes_on() -> Result {
    let bench = Bench::shared().await?;
    bench.pipe("pipe")?;
    let script = "echo $$ > command; echo ready; read -r line < pipe; sleep 2; echo $line; exit 4";
    let mut process = bench.start(
        "stopped",
        &bench.script("exec lock/stopped --max-stop 1s", script)?,
    )?;
    printed(&mut process, "ready").await?;
    let command = bench.pid("command")?;
    for _ in 0..3 {
        signal(&command, Signal::STOP)?;
        eventually("the notice", SOON, async || {
            let stat = fs::read_to_string(format!("/proc/{command}/stat"))?;
            ensure!(stat.contains(") T "), "{stat}");
            Ok(())
        })
        .await?;
        signal(&command, Signal::CONT)?;
    }
    fs::write(bench.folder.join("pipe"), "hello\n")?;
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(4), "{status}: {}", process.tail());
    ensure!(process.output()?.contains("hello"), "{}", process.tail());
    Ok(())
}

/// Runs a script of bash with job control on a terminal of its own.
async fn with_jobs(bench: &Bench, script: &str) -> Result<String> {
    fs::write(bench.folder.join("jobs"), format!("set -m\n{script}"))?;
    on_terminal(bench, "bash jobs").await
}

#[tokio::test]
async fn a_command_that_reads_from_the_terminal_in_the_background_is_ended() -> Result {
    let bench = Bench::shared().await?;
    let script = "$TENURE exec lock/tty --max-stop 500ms -- sh -c 'read -r line; echo got $line' & wait $!; echo code $?";
    let shown = with_jobs(&bench, script).await?;
    ensure!(
        shown.contains("bring it to the foreground") && shown.contains("code 73"),
        "{shown}"
    );
    ensure!(!shown.contains("got hello"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_brought_to_the_foreground_gets_the_terminal() -> Result {
    let bench = Bench::shared().await?;
    let script = "
        $TENURE exec lock/tty -- sh -c 'echo $$ > command; read -r line; echo got $line' &
        until [ -s command ] && grep -q ') T ' /proc/$(cat command)/stat; do sleep 0.01; done
        fg; echo code $?; stty -a >/dev/null && echo back";
    let shown = with_jobs(&bench, script).await?;
    ensure!(
        shown.contains("got hello") && shown.contains("code 0") && shown.contains("back"),
        "{shown}"
    );
    Ok(())
}

/// The guardian writes its notice while the command has the terminal.
#[tokio::test]
async fn a_terminal_on_which_the_background_cannot_write_does_not_stop_the_guardian() -> Result {
    let bench = Bench::shared().await?;
    let script = "
        stty tostop
        $TENURE exec lock/tty --kill-after 100ms -- sh -c 'echo $$ > command; read -r line; setsid sleep 600 & echo got $line' &
        until [ -s command ] && grep -q ') T ' /proc/$(cat command)/stat; do sleep 0.01; done
        fg; echo code $?";
    let shown = with_jobs(&bench, script).await?;
    ensure!(
        shown.contains("left processes behind") && shown.contains("code 0"),
        "{shown}"
    );
    Ok(())
}
