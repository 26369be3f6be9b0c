//! A register: one value that is written if a condition holds.
//!
//! Comparison and write are one script, hence one step. The value is a string that contains its type; an applied write
//! is remembered for a while by the request's token, in a second key, so that a request whose reply was lost on a
//! broken connection is repeated without being applied again, even if another client has written since.
//!
//! The behaviour of the conditional operations of `redis-allocator`, and the one of this register:
//!
//! | line | there | here | test |
//! |---|---|---|---|
//! | R9 | `set` and `del` if gt, lt, ge, le, eq, ne: argument to stored | [`Register::set_if`], [`Register::delete_if`] with a [`Compare`], the same direction | `r9_every_condition_…` |
//! | R9 | nothing stored: every condition holds, and `del` reports success | no condition holds, except with [`Compare::or_missing`]; there is nothing to delete | `r9_a_missing_value_…` |
//! | R9 | a stored text: every condition holds | a text equals the same text and differs from all else; nothing is greater or less | `r9_texts_…` |
//! | R9 | `set_value` writes something else than was compared, 0 too | condition and value are two arguments | `r9_every_condition_…` |
//! | R9 | returns 1 or `None` | [`Outcome`]: applied, or kept and what is stored | `r9_every_condition_…` |
//! | R10 | equal when closer than eps, 10⁻⁶ | equal when equal: a tolerance makes "equal" and "less" hold together | `r10_equality_is_exact` |
//! | R10 | NaN compares as false | [`Error::InvalidInput`], for every use of it; infinities are numbers | `r10_nan_…` |
//! | R11 | a write without `ex` makes the value permanent | a write keeps the time to live; [`Expiry`] sets or removes it, to the millisecond | `r11_a_write_keeps_…` |
//! | R11 | numbers pass through doubles: 2⁵³ + 1 is written as 2⁵³ | whole numbers are exact over `i64`, floating ones over `f64`, and against one another | `r11_numbers_are_exact` |
//! | R11 | a text as argument is an error of Lua | texts are values, up to 4096 bytes | `r9_texts_…` |

mod compare;
mod expiry;
mod value;

use std::{sync::Arc, time::Duration};

pub use self::{compare::Compare, expiry::Expiry, value::RegisterValue};
use crate::{
    Error, ObjectRef,
    lease::object_keys::ObjectKeys,
    lease::session::Session,
    protocol::calls::{self, Action, TimeToLive, Written},
    transport::later,
};

/// One value in Redis, read and written by many: set it, or set it only if it compares so with what is stored. Made by
/// its first write; needs no declaration.
///
/// Every operation is one command, and atomic. A register has no holder and no queue: for "one at a time" use a
/// [`Lock`](crate::Lock).
///
/// # Repeats
/// When the connection breaks before the reply has arrived, the request is sent again. A write that was applied is then
/// not applied again, even if another client has written meanwhile, and the answer is that of the first request:
///
/// | operation | a repeat |
/// |---|---|
/// | [`get`](Self::get), [`get_with_expiry`](Self::get_with_expiry) | reads again |
/// | [`set`](Self::set), [`delete`](Self::delete) | is done once |
/// | [`set_if`](Self::set_if), [`delete_if`](Self::delete_if) | if applied: the same answer; if not applied: compared again |
/// | [`advance`](Self::advance) | raised the fence once, it passes again; otherwise it looks again |
///
/// Redis remembers this for 10 s and twice the response timeout, which is longer than a request is repeated; a failover
/// to a replica that lags loses it, along with the write.
///
/// # When Redis is gone
/// Operations fail with [`Error::Unreachable`] after the response timeout; whether a write took place is then not known.
/// A register lives in Redis alone: what Redis loses, it loses.
///
/// # As a fence
/// A holder whose lease ran out without its knowledge may still write. The fence refuses it, once its successor has been
/// there:
///
/// ```no_run
/// # async fn append(line: &str) {}
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let lease = client.lock("ledger")?.acquire().await?;
/// let fence = client.register("ledger-fence")?;
///
/// fence.advance(lease.fencing_token()).await?; // Error::Fenced: a newer holder has been here
/// append("one more").await;
/// # Ok(()) }
/// ```
///
/// It closes all but the moment between the check and the following write. If the protected system can compare fencing
/// tokens in the write itself, use that; if the protected data fits in a register, the write can be the check:
/// [`Register::set_if`] is one step.
#[derive(Debug, Clone)]
pub struct Register {
    session: Arc<Session>,
    target: Arc<ObjectKeys>,
    expiry: Expiry,
}

/// The time for which a write is remembered after the last moment at which it can be repeated.
const MEMORY: Duration = Duration::from_secs(10);

impl Register {
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>) -> Self {
        Self {
            session,
            target,
            expiry: Expiry::Keep,
        }
    }

    /// The same register, whose writes do this with the value's time to live. Default: [`Expiry::Keep`].
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// use std::time::Duration;
    /// use tenure::Expiry;
    ///
    /// let leader = client.register("leader")?.with(Expiry::After(Duration::from_secs(30)));
    /// leader.set("pod-7").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// The register's full name.
    ///
    /// ```no_run
    /// # fn run(version: tenure::Register) {
    /// println!("{}", version.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.target.object
    }

    /// Returns the stored value; `None` when there is none, or it has expired. One command.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Refused`] has the error reply of Redis.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// if let Some(tenure::RegisterValue::Int(version)) = client.register("version")?.get().await? {
    ///     println!("version {version}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get(&self) -> Result<Option<RegisterValue>, Error> {
        Ok(self.get_with_expiry().await?.map(|(value, _)| value))
    }

    /// Returns the stored value, and its remaining time to live by the server's clock; `None` if it has none. One
    /// command.
    ///
    /// # Errors
    /// As [`Register::get`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    ///
    /// ```no_run
    /// # async fn run(version: tenure::Register) -> Result<(), tenure::Error> {
    /// if let Some((value, Some(left))) = version.get_with_expiry().await? {
    ///     println!("{value} for another {left:?}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get_with_expiry(&self) -> Result<Option<(RegisterValue, Option<Duration>)>, Error> {
        match self.call(Action::Get, &Compare::always(), None).await? {
            Reply::Kept(stored) => Ok(stored),
            Reply::Applied => Err(Error::protocol("applied, to a get")),
        }
    }

    /// Writes a value, whatever is stored. One command.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the value (NaN, or a text beyond 4096 bytes) or the expiry; else as [`Register::get`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave the write done or not done.
    ///
    /// ```no_run
    /// # async fn run(version: tenure::Register) -> Result<(), tenure::Error> {
    /// version.set(7).await
    /// # }
    /// ```
    pub async fn set(&self, value: impl Into<RegisterValue>) -> Result<(), Error> {
        let value = value.into();
        match self.call(Action::Set, &Compare::always(), Some(&value)).await? {
            Reply::Applied => Ok(()),
            Reply::Kept(_) => Err(Error::protocol("kept, to a set")),
        }
    }

    /// Writes a value if the condition holds for what is stored. One command.
    ///
    /// # Errors
    /// As [`Register::set`], and [`Error::InvalidInput`] on the condition's `argument`.
    ///
    /// # Cancel safety
    /// As [`Register::set`].
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// use tenure::{Compare, Outcome};
    ///
    /// // From one state to the next, unless another client was faster.
    /// match client.register("state")?.set_if(Compare::eq("ready"), "running").await? {
    ///     Outcome::Applied => println!("it is ours to run"),
    ///     Outcome::Kept { stored } => println!("too late: {stored:?}"),
    /// }
    ///
    /// // The largest ever seen.
    /// let largest = client.register("largest")?;
    /// let _ = largest.set_if(Compare::gt(17).or_missing(), 17).await?;
    /// # Ok(()) }
    /// ```
    pub async fn set_if(&self, compare: Compare, value: impl Into<RegisterValue>) -> Result<Outcome, Error> {
        let value = value.into();
        Ok(self.call(Action::Set, &compare, Some(&value)).await?.into())
    }

    /// Deletes what is stored. False: nothing was. One command.
    ///
    /// # Errors
    /// As [`Register::get`].
    ///
    /// # Cancel safety
    /// As [`Register::set`].
    ///
    /// ```no_run
    /// # async fn run(version: tenure::Register) -> Result<(), tenure::Error> {
    /// let was_there = version.delete().await?;
    /// # Ok(()) }
    /// ```
    pub async fn delete(&self) -> Result<bool, Error> {
        let reply = self.call(Action::Delete, &Compare::always(), None).await?;
        Ok(matches!(reply, Reply::Applied))
    }

    /// Deletes the stored value if the condition holds for it. If no value is stored, nothing is deleted, and the
    /// outcome is kept. One command.
    ///
    /// # Errors
    /// As [`Register::get`], and [`Error::InvalidInput`] on the condition's `argument`.
    ///
    /// # Cancel safety
    /// As [`Register::set`].
    ///
    /// ```no_run
    /// # async fn run(version: tenure::Register) -> Result<(), tenure::Error> {
    /// let outcome = version.delete_if(tenure::Compare::eq(7)).await?;
    /// println!("it was 7: {}", outcome.is_applied());
    /// # Ok(()) }
    /// ```
    pub async fn delete_if(&self, compare: Compare) -> Result<Outcome, Error> {
        Ok(self.call(Action::Delete, &compare, None).await?.into())
    }

    /// Lets a fencing token pass unless a newer one has passed before, and remembers the newest: see the type's head. A
    /// token may pass as often as it likes, until a newer one does. One command.
    ///
    /// Do not let a fence expire: it would have forgotten.
    ///
    /// # Errors
    /// [`Error::Fenced`] when a newer one has passed. [`Error::Refused`] when the register holds something else than
    /// tokens, [`Error::InvalidInput`] for a token beyond `i64`; else as [`Register::get`].
    ///
    /// # Cancel safety
    /// As [`Register::set`].
    ///
    /// ```no_run
    /// # async fn run(fence: tenure::Register, lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// fence.advance(lease.fencing_token()).await?; // before each write
    /// # Ok(()) }
    /// ```
    pub async fn advance(&self, fencing_token: u64) -> Result<(), Error> {
        let Ok(token) = i64::try_from(fencing_token) else {
            return Err(Error::invalid(
                "fencing_token",
                format!("is {fencing_token}"),
                format!("use one that a lease has, at most {}", i64::MAX),
            ));
        };
        let newer = Compare::ge(token).or_missing();
        match self
            .call(Action::Set, &newer, Some(&RegisterValue::Int(token)))
            .await?
        {
            Reply::Applied => Ok(()),
            Reply::Kept(Some((RegisterValue::Int(newest), _))) => Err(Error::Fenced {
                object: self.object().clone(),
                token: fencing_token,
                newest: newest.unsigned_abs(), // larger than the token, hence not negative
            }),
            Reply::Kept(stored) => Err(Error::Refused {
                reason: format!(
                    "{} holds {stored:?}, which is no fencing token: use a register for nothing but the fence",
                    self.object()
                ),
            }),
        }
    }

    async fn call(
        &self,
        action: Action,
        compare: &Compare,
        value: Option<&RegisterValue>,
    ) -> Result<Reply, Error> {
        let argument = match &compare.argument {
            Some(argument) => argument.encode("argument")?,
            None => String::new(),
        };
        let (value, expiry) = match value {
            Some(value) => (value.encode("value")?, self.expiry.time_to_live()?),
            None => (String::new(), TimeToLive::Keep),
        };
        let link = &self.session.link;
        let timeout = link.response_timeout();
        let memory = timeout.saturating_mul(2).saturating_add(MEMORY);
        let token = link.draw().simple().to_string();
        let call = calls::Register {
            token: &token,
            memory_ms: memory.as_millis(),
            action,
            condition: compare.condition,
            or_missing: compare.or_missing,
            argument: &argument,
            value: &value,
            expiry,
        };
        let reply = link.call(&call, &self.target.keys, later(timeout)).await?;
        match reply.value {
            Written::Applied => Ok(Reply::Applied),
            Written::Kept(None) => Ok(Reply::Kept(None)),
            Written::Kept(Some((value, left))) => RegisterValue::decode(&value)
                .map(|value| {
                    let left = u64::try_from(left).ok().map(Duration::from_millis);
                    Reply::Kept(Some((value, left)))
                })
                .ok_or_else(|| Error::Damaged {
                    object: self.object().clone(),
                    reason: format!(
                        "{} holds what is no value of a register; to mend it, write another value",
                        self.target.keys[0]
                    ),
                }),
        }
    }
}

enum Reply {
    Applied,
    Kept(Option<(RegisterValue, Option<Duration>)>),
}

/// The outcome of a conditional operation of a [`Register`].
///
/// ```
/// use tenure::{Outcome, RegisterValue};
///
/// let outcome = Outcome::Kept { stored: Some(RegisterValue::Int(9)) };
/// assert!(!outcome.is_applied());
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "the condition may not have held"]
pub enum Outcome {
    /// The condition held, and it is done.
    Applied,
    /// The condition did not hold, and nothing has changed.
    Kept {
        /// The stored value: `None` when there is none.
        stored: Option<RegisterValue>,
    },
}

impl Outcome {
    /// Returns whether the condition held.
    ///
    /// ```
    /// assert!(tenure::Outcome::Applied.is_applied());
    /// ```
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied)
    }
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Applied => Self::Applied,
            Reply::Kept(stored) => Self::Kept {
                stored: stored.map(|(value, _)| value),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r10_nan_and_r11_bad_durations_are_refused_with_the_field_and_the_fix() {
        for field in ["value", "argument"] {
            let error = RegisterValue::Float(f64::NAN)
                .encode(field)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(field) && error.contains("NaN"), "{error}");
            assert!(RegisterValue::from("x".repeat(4097)).encode(field).is_err());
        }
        assert!(RegisterValue::from("x".repeat(4096)).encode("value").is_ok());
        for bad in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
            let error = Expiry::After(bad).time_to_live().unwrap_err().to_string();
            assert!(
                error.starts_with("expiry ") && error.contains("use 1 ms"),
                "{error}"
            );
        }
        let exact = Expiry::After(Duration::from_millis(1500)).time_to_live();
        assert!(matches!(exact, Ok(TimeToLive::AfterMs(1500))), "{exact:?}");
    }

    #[test]
    fn r11_every_value_reads_back_as_it_was() {
        for value in [
            RegisterValue::Int(i64::MIN),
            RegisterValue::Int(i64::MAX),
            RegisterValue::Float(0.1 + 0.2),
            RegisterValue::Float(f64::MIN_POSITIVE / 3.0),
            RegisterValue::Float(f64::MAX),
            RegisterValue::Float(f64::NEG_INFINITY),
            RegisterValue::from(""),
            RegisterValue::from(" 5\n\0"),
        ] {
            let encoded = value.encode("value").unwrap();
            assert_eq!(RegisterValue::decode(&encoded), Some(value));
        }
        for foreign in ["", "5", "int", "int x", "bool 1"] {
            assert_eq!(RegisterValue::decode(foreign), None, "{foreign:?}");
        }
    }
}
