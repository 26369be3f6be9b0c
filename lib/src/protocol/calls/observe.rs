//! `observe`: returns the state of an object, its holders and its waiters.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, flag, number, value},
    script::{self, Script},
};

/// Observes an object.
pub(crate) struct Observe {
    /// The most holders, and the most waiters, to list.
    pub(crate) count: usize,
    /// The next change is published to the controller.
    pub(crate) watch: bool,
    /// The number of holders and of waiters to skip.
    pub(crate) skip: usize,
}

/// Observes an object before it is declared.
pub(crate) struct Inspect {
    /// The most holders, and the most waiters, to list.
    pub(crate) count: usize,
    /// The floor of the fencing tokens that is kept outside of Redis.
    pub(crate) floor: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) now: u64,
    /// Empty: the object is not declared.
    pub(crate) digest: String,
    pub(crate) current: bool,
    pub(crate) limit: u64,
    pub(crate) held: u64,
    pub(crate) free: u64,
    pub(crate) waiting: u64,
    pub(crate) last: u64,
    /// The end of the recovery; it may be over.
    pub(crate) recover: u64,
    pub(crate) draining: bool,
    /// Milliseconds; 0: never.
    pub(crate) wake: u64,
    pub(crate) holders: Vec<Lease>,
    pub(crate) waiters: Vec<Waiter>,
    /// Milliseconds.
    pub(crate) longest: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) token: String,
    pub(crate) fence: u64,
    pub(crate) expires: u64,
    /// The value of the token.
    pub(crate) entry: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) token: String,
    /// The value of the token.
    pub(crate) entry: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Microseconds.
    pub(crate) now: u64,
    /// The run id of the server.
    pub(crate) run: String,
    pub(crate) drained: bool,
    pub(crate) object: Option<Observed>,
}

impl Call for Observe {
    /// `None`: there is no such object.
    type Reply = Option<Observed>;

    fn script() -> &'static Script {
        &script::OBSERVE
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![number(self.count), flag(self.watch), number(self.skip)]
    }

    fn hears(&self) -> Hears {
        if self.watch { Hears::Events } else { Hears::Nothing }
    }

    fn read(&self, reply: &Value) -> Option<Self::Reply> {
        match reply {
            Value::Nil => Some(None),
            reply => observed(reply).map(Some),
        }
    }
}

impl Call for Inspect {
    type Reply = Inspected;

    fn script() -> &'static Script {
        &script::OBSERVE
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![
            number(self.count),
            flag(true),
            number(0),
            flag(true),
            number(self.floor),
        ]
    }

    fn hears(&self) -> Hears {
        Hears::Events
    }

    fn read(&self, reply: &Value) -> Option<Inspected> {
        let Value::Array(fields) = reply else { return None };
        let [now, run, drained, object] = &fields[..] else {
            return None;
        };
        Some(Inspected {
            now: value(now)?,
            run: value(run)?,
            drained: value(drained)?,
            object: match object {
                Value::Nil => None,
                object => Some(observed(object)?),
            },
        })
    }
}

fn observed(reply: &Value) -> Option<Observed> {
    let Value::Array(fields) = reply else { return None };
    let [
        now,
        digest,
        current,
        limit,
        held,
        free,
        waiting,
        last,
        recover,
        draining,
        wake,
        holders,
        waiters,
        longest,
    ] = &fields[..]
    else {
        return None;
    };
    let (Value::Array(holders), Value::Array(waiters)) = (holders, waiters) else {
        return None;
    };
    Some(Observed {
        now: value(now)?,
        digest: value(digest)?,
        current: value(current)?,
        limit: value(limit)?,
        held: value(held)?,
        free: value(free)?,
        waiting: value(waiting)?,
        last: value(last)?,
        recover: value(recover)?,
        draining: value(draining)?,
        wake: value(wake)?,
        holders: holders.iter().map(lease).collect::<Option<_>>()?,
        waiters: waiters.iter().map(waiter).collect::<Option<_>>()?,
        longest: value(longest)?,
    })
}

fn lease(reply: &Value) -> Option<Lease> {
    let (token, fence, expires, entry) = value(reply)?;
    Some(Lease {
        token,
        fence,
        expires,
        entry,
    })
}

fn waiter(reply: &Value) -> Option<Waiter> {
    let (token, entry) = value(reply)?;
    Some(Waiter { token, entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::{reply, text};

    const OBSERVE: Observe = Observe {
        count: 1,
        watch: true,
        skip: 2,
    };
    const INSPECT: Inspect = Inspect { count: 1, floor: 2 };

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        assert_eq!(OBSERVE.arguments(), ["1", "1", "2"]);
        assert_eq!(INSPECT.arguments(), ["1", "1", "0", "1", "2"]);
    }

    #[test]
    fn each_reply_is_read() {
        let holders = Value::Array(vec![reply(&["a", "7", "40", "an entry"])]);
        let waiters = Value::Array(vec![reply(&["b", "another"])]);
        let mut fields: Vec<Value> = vec![Value::Int(1), text("digest")];
        fields.extend([1, 3, 4, 5, 6, 7, 8, 0, 9].map(Value::Int));
        fields.extend([holders, waiters, Value::Int(10)]);
        let expected = Observed {
            now: 1,
            digest: "digest".to_owned(),
            current: true,
            limit: 3,
            held: 4,
            free: 5,
            waiting: 6,
            last: 7,
            recover: 8,
            draining: false,
            wake: 9,
            holders: vec![Lease {
                token: "a".to_owned(),
                fence: 7,
                expires: 40,
                entry: "an entry".to_owned(),
            }],
            waiters: vec![Waiter {
                token: "b".to_owned(),
                entry: "another".to_owned(),
            }],
            longest: 10,
        };
        let whole = Value::Array(fields);
        let inspected = Value::Array(vec![Value::Int(11), text("run"), Value::Int(1), whole.clone()]);
        assert_eq!(OBSERVE.read(&whole), Some(Some(expected)));
        let read = INSPECT.read(&inspected).unwrap();
        assert_eq!((read.now, read.run.as_str(), read.drained), (11, "run", true));
        assert_eq!(read.object, OBSERVE.read(&whole).unwrap());
        assert_eq!(OBSERVE.read(&Value::Nil), Some(None));
        assert_eq!(OBSERVE.read(&Value::Array(vec![Value::Int(1)])), None);
        assert_eq!(INSPECT.read(&Value::Nil), None);
    }
}
