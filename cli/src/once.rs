//! `tenure once`: many start a command, and it runs once.
//!
//! A lock lets one of them run it at a time. A register remembers the outcome, for each version. The register is written
//! under the lock, and only if it is as it was read: a holder that has lost the lock without its knowledge
//! cannot replace the outcome of a later one. A process that is killed has written nothing, so that the next one runs the
//! command again.

use std::{ffi::OsString, time::Duration};

use tenure::{Client, Compare, Expiry, Kind, Outcome, Register, RegisterValue};

use crate::{
    acquire::{Amount, Request},
    connect::Connection,
    duration, exec,
    exit::{Code, Failure},
    object::Object,
    report,
};

const EXAMPLES: &str = "Examples:
  # In an initContainer of each replica: one migrates, the others wait for it
  tenure once migrate --version \"$IMAGE_TAG\" -- ./migrate.sh

  # A new run, although the command has succeeded
  tenure once migrate --version \"$IMAGE_TAG\" --reset";

/// Runs a command once, of all processes that start it with the same name and version.
///
/// One of them runs the command under the lock `once:NAME`, as `tenure exec` does. The others wait, and end with success once it
/// has succeeded. If it fails, its own process returns its exit code, and the next one tries. If its process is killed, the
/// next one tries when the lease has run out (--ttl). A run that a signal has interrupted is not remembered.
///
/// Redis remembers the success in the register `once:NAME@VERSION`. A Redis that loses its data forgets it: the command
/// should be idempotent.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the run, in the namespace
    #[arg(value_parser = part)]
    name: String,
    /// Version of the command, such as the tag of its image: each version runs once, and two never at the same time
    #[arg(long, default_value = "1", value_parser = part, value_name = "TEXT")]
    version: String,
    /// Effect of a failure on the others
    #[arg(long, value_enum, default_value = "retry")]
    on_failure: OnFailure,
    /// Runs the command also if an earlier run with `--on-failure stop` has failed
    #[arg(long)]
    retry_failed: bool,
    /// Forgets the outcome of this version, and runs nothing
    #[arg(long, conflicts_with = "command")]
    reset: bool,
    /// Time for which the outcome is remembered; without it, for ever
    #[arg(long, value_parser = memory, value_name = "DURATION")]
    remember: Option<Duration>,
    #[command(flatten)]
    request: Request,
    #[command(flatten)]
    running: exec::Running,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "reset", value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The effect of a failure on the processes that wait, and on those that come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnFailure {
    /// The next process runs the command
    Retry,
    /// The failure is remembered: no process runs this version again, and each returns 78
    Stop,
}

/// The decision of a process that has read the register.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Run,
    Succeeded,
    FailedBefore(String),
}

const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed with ";

fn decide(stored: Option<&RegisterValue>, retry_failed: bool) -> Decision {
    let Some(RegisterValue::Text(text)) = stored else {
        return Decision::Run;
    };
    match text.strip_prefix(FAILED) {
        Some(_) if retry_failed => Decision::Run,
        Some(code) => Decision::FailedBefore(code.to_owned()),
        None if text == SUCCEEDED => Decision::Succeeded,
        None => Decision::Run,
    }
}

/// The value to remember; `None`: the next process tries.
fn outcome(code: u8, on_failure: OnFailure) -> Option<String> {
    match (code, on_failure) {
        (0, _) => Some(SUCCEEDED.to_owned()),
        // The command was stopped for too long, or has lost a lease of its own.
        (code, _) if code == Code::Lost as u8 => None,
        (code, OnFailure::Stop) => Some(format!("{FAILED}{code}")),
        (_, OnFailure::Retry) => None,
    }
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let mut signals = exec::listen()?;
    let (client, spent) = exec::connect(connection, args.request.timeout, &mut signals).await?;
    let register = args.register(&client)?;
    if args.reset {
        register.delete().await?;
        report(format_args!("the outcome of {} is forgotten", args.named()));
        return Ok(0);
    }
    if let Some(code) = args.settled(register.get().await?.as_ref()) {
        return code;
    }
    let lock = Object {
        kind: Kind::Lock,
        name: format!("once:{}", args.name),
    };
    let amount = Amount::one();
    let acquired = args.request.acquire(&client, &lock, &amount, spent);
    let held = exec::until_signal(&client, &lock, &amount, acquired, &mut signals).await?;
    let on_loss = args.running.on_loss();
    let before = register.get().await?;
    if let Some(code) = args.settled(before.as_ref()) {
        // The next one need not wait for the end of this process.
        exec::give_back(held).await;
        return code;
    }
    let ended = exec::run_command(&held, &lock, &args.command, &args.running, &mut signals).await;
    let kept = match &ended {
        // A command that was asked to end may have done a part of its work, whatever its exit code.
        Ok(ended) if ended.lost.is_none() && !ended.interrupted => {
            args.remember(&register, before, ended.code).await
        }
        _ => Ok(()),
    };
    let code = exec::finish(held, on_loss, ended).await?;
    kept.map(|()| code)
}

impl Args {
    fn register(&self, client: &Client) -> Result<Register, Failure> {
        let register = client.register(format!("once:{}@{}", self.name, self.version))?;
        Ok(match self.remember {
            Some(time) => register.with(Expiry::After(time)),
            None => register.with(Expiry::Never),
        })
    }

    fn named(&self) -> String {
        format!("{} of version {}", self.name, self.version)
    }

    /// The end of a process that need not run the command.
    fn settled(&self, stored: Option<&RegisterValue>) -> Option<Result<u8, Failure>> {
        let named = self.named();
        match decide(stored, self.retry_failed) {
            Decision::Run => None,
            Decision::Succeeded => {
                report(format_args!("{named} has succeeded before, and is not run again"));
                Some(Ok(0))
            }
            Decision::FailedBefore(code) => Some(Err(Failure::new(
                Code::FailedBefore,
                format!(
                    "{named} has failed before with {code}: run it with --retry-failed, or forget that with --reset"
                ),
            ))),
        }
    }

    async fn remember(
        &self,
        register: &Register,
        before: Option<RegisterValue>,
        code: u8,
    ) -> Result<(), Failure> {
        let Some(value) = outcome(code, self.on_failure) else {
            return Ok(());
        };
        let unchanged = before.map_or_else(Compare::missing, Compare::eq);
        match register.set_if(unchanged, value).await {
            Ok(Outcome::Applied) => Ok(()),
            Ok(Outcome::Kept { stored }) => Err(Failure::new(
                Code::Lost,
                format!(
                    "{} was decided by another process meanwhile: {stored:?}",
                    self.name
                ),
            )),
            Err(error) => {
                let failure = Failure::from(error);
                let message = failure.message.unwrap_or_default();
                Err(Failure {
                    code: failure.code,
                    message: Some(format!(
                        "the command ended with {code}, which is not remembered: {message}"
                    )),
                })
            }
        }
    }
}

/// The time for which an outcome is remembered, checked before the command runs.
fn memory(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
    let time = duration::parse(text)?;
    if time < Duration::from_millis(1) || time > LONGEST {
        return Err("is out of range: use 1ms to 3650d, or leave it out to remember for ever".to_owned());
    }
    Ok(time)
}

/// A name or version: both are parts of one name, which @ separates.
fn part(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err("has an @, which separates name and version: leave it out".to_owned());
    }
    tenure::ObjectRef::new(Kind::Register, "default", text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reads_as_it_was_remembered() {
        let stored = |code, on_failure| outcome(code, on_failure).map(RegisterValue::Text);
        for (code, on_failure, retry_failed, decision) in [
            (0, OnFailure::Retry, false, Decision::Succeeded),
            (0, OnFailure::Stop, true, Decision::Succeeded),
            (3, OnFailure::Retry, false, Decision::Run),
            (3, OnFailure::Stop, false, Decision::FailedBefore("3".to_owned())),
            (3, OnFailure::Stop, true, Decision::Run),
            (73, OnFailure::Stop, false, Decision::Run),
        ] {
            assert_eq!(decide(stored(code, on_failure).as_ref(), retry_failed), decision);
        }
        // Written by another program.
        assert_eq!(decide(Some(&RegisterValue::Int(1)), false), Decision::Run);
    }

    #[test]
    fn the_time_to_remember_is_one_that_redis_takes() {
        assert_eq!(memory("1h").unwrap(), Duration::from_secs(3600));
        for bad in ["0", "3651d", "soon"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn name_and_version_make_one_name_in_one_way() {
        assert!(part("migrate").is_ok() && part("v1.2").is_ok());
        assert!(part("a@b").is_err() && part("").is_err() && part("a b").is_err());
    }
}
