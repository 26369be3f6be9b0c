//! `tenure exec`: runs a command under a lease.
//!
//! | module | contents |
//! |---|---|
//! | [`signals`] | the signals that are passed on |
//! | [`child`] | the command as this process sees it: a guardian, and a pipe to it |
//! | [`guardian`] | the process that runs the command and ends it, with all that it leaves behind |
//! | [`launcher`] | the process that becomes the command |
//! | [`children`] | the children of a process |
//! | [`loss`] | the decision when the command is ended |
//! | [`supervise`] | the loop that watches command and lease |
//! | [`environment`] | the variables that the command gets |

use std::{convert::Infallible, ffi::OsString, io, path::PathBuf, process::ExitCode, time::Duration};

use tenure::{Client, Error};
use tokio::time::Instant;

use crate::{
    acquire::{self, Amount, Held, Request},
    connect::Connection,
    duration,
    exit::{Code, Failure},
    file,
    object::Object,
    report,
};

mod child;
mod children;
mod environment;
mod guardian;
mod launcher;
mod loss;
mod signals;
mod supervise;

use child::{Child, Limits};
use loss::{OnLoss, Policy};
use signals::Signals;
use supervise::{Ended, supervise};

/// The time to wait for the answer to a release: the lease runs out without it.
const PATIENCE: Duration = Duration::from_secs(3);
/// A wait that takes longer is reported.
const ANNOUNCED_AFTER: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "Examples:
  # One run of the migration at a time; the lock needs no declaration
  tenure exec lock/migration -- ./migrate.sh

  # A seat of a pool in zone a, or give up after ten minutes
  tenure exec lockpool/gpu-seats --matching zone=a --timeout 10m -- \\
    sh -c 'train --host \"$TENURE_PROPERTY_HOST\"'

  # Nothing to do if another run is under way
  tenure exec lock/backup --timeout 0 --conflict-exit-code 0 -- backup";

/// Runs a command under a lease: waits for the object, runs the command, renews the lease, and releases it at the end.
///
/// The command runs in a process group of its own. SIGTERM, SIGINT, SIGHUP and SIGQUIT are passed on to the group, SIGUSR1 and
/// SIGUSR2 to the command. While it waits in the queue, tenure leaves the queue at SIGTERM or SIGINT. At a second signal it ends
/// at once, without the answer of Redis.
///
/// Processes that the command leaves behind are ended before the lease is released: on Linux all descendants, also those that
/// have made a session or process group of their own, as daemons do; elsewhere those of its group. Processes that
/// another program starts for the command, such as a daemon of containers or systemd, are not among them. A process that has
/// become one of another user, as `sudo` and setuid programs do, cannot be killed: it is reported, and the code is 73.
///
/// When the lease is lost, or cannot be renewed, the command gets SIGTERM, and SIGKILL before the lease's deadline
/// (--on-loss). When tenure itself is killed or stopped, all of them are killed by the lease's deadline at the latest. When
/// tenure and its child process, which guards the command, are killed together, only the command is: what it has started may go on.
///
/// Ctrl-Z does not stop the command, for others wait. A command that is stopped in another way, or by its use of the terminal while it is in the
/// background, is ended after --max-stop with the code 73; `fg` gives it the terminal.
///
/// The exit code is that of the command, 128+n if the signal n has ended it. `tenure --help` has those of tenure.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{}\n\n{EXAMPLES}", environment::TABLE))]
pub(crate) struct Args {
    /// The object, as KIND/NAME: lockpool/x, semaphore/x or lock/x; also lp/x and sem/x
    object: Object,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    request: Request,
    #[command(flatten)]
    running: Running,
    /// Exit code when the object is not granted within --timeout, in place of 71 and 72
    #[arg(long, value_name = "CODE")]
    conflict_exit_code: Option<u8>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The settings of the command's run.
#[derive(Debug, clap::Args)]
pub(crate) struct Running {
    /// Action when the lease is lost, or cannot be renewed
    #[arg(long, value_enum, default_value = "term")]
    on_loss: OnLoss,
    /// The command goes on without the lease when it is lost: the same as --on-loss keep
    #[arg(long, conflicts_with = "on_loss")]
    keep_on_loss: bool,
    /// Longest time from SIGTERM to SIGKILL; at most a third of the lease
    #[arg(long, default_value = "5s", allow_hyphen_values = true, value_parser = duration::parse, value_name = "DURATION")]
    kill_after: Duration,
    /// Longest time for which the command may be stopped, as by SIGSTOP, before it is ended: others wait for it
    #[arg(long, default_value = "30s", allow_hyphen_values = true, value_parser = duration::parse, value_name = "DURATION")]
    max_stop: Duration,
    /// File to which the fencing token is written before the command starts
    #[arg(long, value_name = "FILE")]
    fence_file: Option<PathBuf>,
}

/// Runs what `tenure` has started itself with internal arguments; `None`: it was started by a user.
pub(crate) fn internal() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    match args.next()?.to_str()? {
        launcher::NAME => Some(launcher::run(args)),
        guardian::NAME => Some(guardian::run(args)),
        _ => None,
    }
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let mut signals = listen()?;
    let (client, spent) = connect(connection, args.request.timeout, &mut signals).await?;
    let acquired = args.request.acquire(&client, &args.object, &args.amount, spent);
    let held = until_signal(&client, &args.object, &args.amount, acquired, &mut signals).await;
    let held = held.map_err(|failure| failure.on_conflict(args.conflict_exit_code))?;
    let ended = run_command(&held, &args.object, &args.command, &args.running, &mut signals).await;
    finish(held, args.running.on_loss(), ended).await
}

pub(crate) fn listen() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| Failure::new(Code::Failed, format!("cannot receive signals: {error}")))
}

/// Connects, unless a signal arrives, and returns the time that it took.
pub(crate) async fn connect(
    connection: &Connection,
    at_most: Option<Duration>,
    signals: &mut Signals,
) -> Result<(Client, Duration), Failure> {
    let started = Instant::now();
    tokio::select! {
        biased;
        client = connection.connect(at_most) => Ok((client?, started.elapsed())),
        signal = signals.ending() => Err(Failure::signal(signal.as_raw())),
    }
}

/// Waits for a future, unless a signal arrives: then the queue is left. A second signal does not wait for the answer of Redis.
pub(crate) async fn until_signal<T>(
    client: &Client,
    object: &Object,
    amount: &Amount,
    waiting: impl Future<Output = Result<T, Failure>>,
    signals: &mut Signals,
) -> Result<T, Failure> {
    let signal = tokio::select! {
        biased;
        signal = signals.ending() => signal,
        done = waiting => return done,
        never = announce(client, object, amount) => match never {},
    };
    tokio::select! {
        () = client.clone().close() => {}
        _ = signals.ending() => {}
    }
    Err(Failure::signal(signal.as_raw()))
}

/// Reports once why the object is not granted, if the wait takes a while. Never completes.
async fn announce(client: &Client, object: &Object, amount: &Amount) -> Infallible {
    tokio::time::sleep(ANNOUNCED_AFTER).await;
    if let Some(line) = acquire::wait(client, object, amount).await {
        report(format_args!("{object}: {line}"));
    }
    std::future::pending().await
}

/// Runs the command while the lease is held, and does not release it.
pub(crate) async fn run_command(
    held: &Held,
    object: &Object,
    command: &[OsString],
    running: &Running,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Code::Failed, format!("{what}: {error}"));
    if let Some(path) = &running.fence_file {
        file::write_line(path, &held.lease.fencing_token().to_string(), file::SHARED)
            .map_err(|error| failed(&format!("--fence-file {}", path.display()), error))?;
    }
    let policy = Policy {
        on_loss: running.on_loss(),
        kill_after: running.kill_after,
    };
    let tied = (policy.on_loss != OnLoss::Keep).then(|| {
        let remaining = held.lease.remaining();
        loss::kill_in(remaining, remaining)
    });
    let limits = Limits {
        tied,
        kill_after: running.kill_after,
        stopped: running.max_stop,
    };
    let mut child = Child::start(command, environment::of(object, held), limits)
        .map_err(|error| failed("the command cannot be started", error))?;
    let ended = supervise(&mut child, &held.lease, policy, signals).await;
    Ok(ended)
}

/// Releases the lease, and returns the exit code.
pub(crate) async fn finish(
    held: Held,
    on_loss: OnLoss,
    ended: Result<Ended, Failure>,
) -> Result<u8, Failure> {
    let object = held.lease.object().clone();
    let released = tokio::time::timeout(PATIENCE, held.lease.release()).await;
    let Ended { code, lost, .. } = ended?;
    let lost = match (lost, released) {
        // It was reported when it was lost.
        (Some(_), _) => Some(None),
        (None, Ok(Err(Error::Lost { cause, .. }))) => Some(Some(cause)),
        (None, Ok(Ok(()))) => None,
        (None, Ok(Err(error))) => {
            report(format_args!("{object} is not released, and runs out: {error}"));
            None
        }
        (None, Err(_)) => {
            report(format_args!(
                "{object} is not released, and runs out: Redis does not answer"
            ));
            None
        }
    };
    match lost {
        Some(cause) if on_loss != OnLoss::Keep => Err(Failure {
            code: Code::Lost as u8,
            message: cause.map(|cause| format!("the lease of {object} was lost: {cause}")),
        }),
        _ => Ok(code),
    }
}

/// Releases the lease. One that has no answer runs out.
pub(crate) async fn give_back(held: Held) {
    let _ = tokio::time::timeout(PATIENCE, held.lease.release()).await;
}

impl Running {
    pub(crate) fn on_loss(&self) -> OnLoss {
        if self.keep_on_loss {
            OnLoss::Keep
        } else {
            self.on_loss
        }
    }
}

/// The program that runs, also after its file was replaced.
pub(crate) fn this_program() -> io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        Ok(link)
    } else {
        std::env::current_exe()
    }
}
