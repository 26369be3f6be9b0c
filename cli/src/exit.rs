//! The exit codes of `tenure` itself, and the decision which one an error gets.

use std::fmt;

use tenure::{Error, Kind, ObjectRef};

use crate::object::{kind_name, shown};

/// An exit code of `tenure`. A command that runs under a lease has its own codes, which are passed on; these lie where few
/// programs have theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// An error that has no code of its own.
    Failed = 70,
    /// The object is held, and the caller does not wait.
    Busy = 71,
    /// The object was not granted within the timeout.
    Timeout = 72,
    /// The lease was lost while the command ran.
    Lost = 73,
    /// Redis cannot be reached.
    Unreachable = 74,
    /// No resource declares the object, or it has not what was asked for.
    NotDeclared = 75,
    /// Redis refuses the credentials or the operation.
    Refused = 76,
    /// The arguments, or the settings in the environment, cannot be used.
    Usage = 77,
    /// `once`: an earlier run has failed, and is not repeated.
    FailedBefore = 78,
}

/// The format of durations and the table of codes in `--help`.
pub(crate) const TABLE: &str = "Durations are numbers with units, such as 500ms, 30s, 10m, 1h30m or 2d; or 0.

Exit codes:
  70  error that has no code of its own
  71  busy: the object is held, and --timeout 0 does not wait
  72  timeout: the object was not granted within --timeout
  73  lost: the lease was lost, or its time ran out
  74  unreachable: Redis did not answer
  75  not declared: there is no such object, or it has less than was asked for
  76  refused: Redis refuses the credentials or the operation
  77  usage: arguments or settings cannot be used
  78  failed before: an earlier run of `tenure once --on-failure stop` has failed
 126  the command cannot be executed
 127  the command was not found
 128+n  the command, or tenure while it waited, was ended by the signal n
Any other code is that of the command.";

/// The end of a `tenure` that has not succeeded.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// For standard error; `None`: the command has reported its own failure.
    pub(crate) message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code: code as u8,
            message: Some(message.to_string()),
        }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The same, with another code where the object was not granted.
    pub(crate) fn on_conflict(self, code: Option<u8>) -> Self {
        let is_conflict = [Code::Busy as u8, Code::Timeout as u8].contains(&self.code);
        Self {
            code: code.filter(|_| is_conflict).unwrap_or(self.code),
            ..self
        }
    }

    /// Ended by a signal, as a shell reports it.
    pub(crate) fn signal(number: i32) -> Self {
        Self {
            code: of_signal(number),
            message: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(of_error(&error), text(&error))
    }
}

/// The text of an error, with the names of the command line in place of those of the library.
fn text(error: &Error) -> String {
    match error {
        Error::InvalidInput { field: "secret", .. } => {
            "--lease is no secret of a lease: use `lease` in the JSON of `tenure acquire`".to_owned()
        }
        Error::InvalidInput { field, problem, fix } => {
            let flag = match *field {
                "lease" => "--ttl",
                "max_hold" => "--max-hold",
                "reason" => "--reason",
                "connect_timeout" => "--connect-timeout",
                "tls_ca" => "the certificate authority of Redis (--redis-ca-file, TENURE_REDIS_CA)",
                other => other,
            };
            format!("{flag} {problem}: {fix}")
        }
        Error::NotDeclared { object } => not_declared(object),
        Error::TooLarge { object, .. }
        | Error::NoSuchResource { object, .. }
        | Error::Damaged { object, .. }
        // Their texts name the object first. Keys of Redis that follow contain its name, too, and stay.
        | Error::Lost { object, .. } => error.to_string().replacen(&object.to_string(), &shown(object), 1),
        other => other.to_string(),
    }
}

fn not_declared(object: &ObjectRef) -> String {
    let (resource, other) = match object.kind() {
        Kind::Pool => ("LockPool", ""),
        Kind::Semaphore => ("Semaphore", "; without Kubernetes, give --or-permits"),
        kind => {
            return format!(
                "the {} {} is gone: ask for it again",
                kind_name(kind),
                object.name()
            );
        }
    };
    format!(
        "{} is not declared: apply a {resource} named {} in the namespace {}, and check that the controller runs{other}",
        shown(object),
        object.name(),
        object.namespace(),
    )
}

/// 128 and the number of the signal.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
}

fn of_error(error: &Error) -> Code {
    match error {
        Error::InvalidInput { .. } => Code::Usage,
        Error::Unreachable { .. } => Code::Unreachable,
        Error::Lost { .. } | Error::Fenced { .. } => Code::Lost,
        Error::NotDeclared { .. } | Error::NoSuchResource { .. } | Error::TooLarge { .. } => {
            Code::NotDeclared
        }
        Error::Authentication { .. } | Error::Refused { .. } | Error::UnsupportedServer { .. } => {
            Code::Refused
        }
        _ => Code::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_that_a_script_may_handle_has_a_code_of_its_own() {
        let object = tenure::ObjectRef::new(tenure::Kind::Lock, "ml", "x").unwrap();
        let reason = String::new;
        for (error, code) in [
            (Error::Unreachable { reason: reason() }, 74),
            (
                Error::NotDeclared {
                    object: object.clone(),
                },
                75,
            ),
            (
                Error::Lost {
                    object: object.clone(),
                    cause: reason(),
                },
                73,
            ),
            (Error::Refused { reason: reason() }, 76),
            (Error::Closed, 70),
        ] {
            assert_eq!(Failure::from(error.clone()).code, code, "{error}");
            assert!(TABLE.contains(&format!("  {code}  ")), "{code}");
        }
    }

    #[test]
    fn an_error_names_the_flag_and_the_object_as_they_are_typed() {
        let object = tenure::ObjectRef::new(tenure::Kind::Pool, "ml", "seats").unwrap();
        let reason = format!("to mend it: {}", object.removal_command("tenure"));
        let damaged = Error::Damaged {
            object: object.clone(),
            reason: reason.clone(),
        };
        assert_eq!(
            text(&damaged),
            format!("lockpool/seats is damaged in Redis: {reason}")
        );
        for (error, begin) in [
            (
                Error::NotDeclared {
                    object: object.clone(),
                },
                "lockpool/seats is not declared",
            ),
            (
                Error::InvalidInput {
                    field: "max_hold",
                    problem: "is 0ns".to_owned(),
                    fix: "use more".to_owned(),
                },
                "--max-hold is 0ns",
            ),
            (
                Error::Lost {
                    object,
                    cause: "gone".to_owned(),
                },
                "the lease of lockpool/seats is lost",
            ),
        ] {
            let text = text(&error);
            assert!(text.starts_with(begin) && !text.contains("LockPool::"), "{text}");
        }
    }

    #[test]
    fn a_signal_has_the_code_of_a_shell() {
        assert_eq!((of_signal(15), of_signal(9), of_signal(-1)), (143, 137, 255));
    }
}
