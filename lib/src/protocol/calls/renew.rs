//! `renew`: renews many leases and queue entries of one client, over many objects.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, value},
    object::Kind,
    script::{self, Script},
};

pub(crate) struct Renew<'a> {
    pub(crate) objects: Vec<Object<'a>>,
}

/// The tokens of one object of the call.
pub(crate) struct Object<'a> {
    pub(crate) kind: Kind,
    /// The newest fencing token that was seen of the declared object, or 0.
    pub(crate) seen: u64,
    pub(crate) tokens: Vec<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renewals {
    /// The server's time.
    pub(crate) now: u64,
    /// The outcome for each token, in the order of the call.
    pub(crate) tokens: Vec<Renewed>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    Held {
        expires: u64,
        /// The longest hold ends then, and no renewal extends the lease.
        is_last: bool,
        /// The newest fencing token of a declared object, or 0.
        newest: u64,
    },
    Waiting {
        expires: u64,
        wake: u64,
        /// As of [`Renewed::Held`].
        newest: u64,
    },
    Recovering,
    Missing,
    Gone,
    /// The script cannot use the object: its error.
    Failed {
        error: String,
    },
}

impl Call for Renew<'_> {
    type Reply = Renewals;

    fn script() -> &'static Script {
        &script::RENEW
    }

    fn arguments(&self) -> Arguments<'_> {
        let tokens: usize = self.objects.iter().map(|object| object.tokens.len()).sum();
        let mut arguments = Vec::with_capacity(2 * self.objects.len() + tokens);
        for object in &self.objects {
            let count = object.tokens.len();
            arguments.push(object.kind.as_str().into());
            arguments.push(match object.seen {
                0 => number(count),
                seen => format!("{count}>{seen}").into(),
            });
            arguments.extend(object.tokens.iter().map(|token| (*token).into()));
        }
        arguments
    }

    fn read(reply: &Value) -> Option<Renewals> {
        // A hundred times in each reply: nothing is copied.
        let (now, rest) = reply.as_sequence()?.split_first()?;
        let mut tokens = Vec::with_capacity(rest.len() / 4);
        for part in rest.chunks(4) {
            let [Value::BulkString(state), expires, wake, newest] = part else {
                return None;
            };
            tokens.push(match &state[..] {
                b"held" => Renewed::Held {
                    expires: value(expires)?,
                    is_last: value(wake)?,
                    newest: value(newest)?,
                },
                b"waiting" => Renewed::Waiting {
                    expires: value(expires)?,
                    wake: value(wake)?,
                    newest: value(newest)?,
                },
                b"recovering" => Renewed::Recovering,
                b"missing" => Renewed::Missing,
                b"gone" => Renewed::Gone,
                b"failed" => Renewed::Failed {
                    error: value(expires)?,
                },
                _ => return None,
            });
        }
        Some(Renewals {
            now: value(now)?,
            tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::text;

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let renew = Renew {
            objects: vec![
                Object {
                    kind: Kind::Lock,
                    seen: 0,
                    tokens: vec!["a"],
                },
                Object {
                    kind: Kind::Pool,
                    seen: 9,
                    tokens: vec!["b", "c"],
                },
            ],
        };
        assert_eq!(renew.arguments(), ["lock", "1", "a", "pool", "2>9", "b", "c"]);
    }

    #[test]
    fn each_reply_is_read() {
        let part =
            |state: &str, numbers: [i64; 3]| [vec![text(state)], numbers.map(Value::Int).to_vec()].concat();
        let reply = |parts: &[Vec<Value>]| Value::Array([vec![Value::Int(1)], parts.concat()].concat());
        let failed = vec![text("failed"), text("DAMAGED"), Value::Int(0), Value::Int(0)];
        let whole = reply(&[
            part("held", [2, 0, 3]),
            part("held", [2, 1, 3]),
            part("waiting", [2, 4, 3]),
            part("recovering", [0; 3]),
            part("missing", [0; 3]),
            part("gone", [0; 3]),
            failed,
        ]);
        let tokens = vec![
            Renewed::Held {
                expires: 2,
                is_last: false,
                newest: 3,
            },
            Renewed::Held {
                expires: 2,
                is_last: true,
                newest: 3,
            },
            Renewed::Waiting {
                expires: 2,
                wake: 4,
                newest: 3,
            },
            Renewed::Recovering,
            Renewed::Missing,
            Renewed::Gone,
            Renewed::Failed {
                error: "DAMAGED".to_owned(),
            },
        ];
        assert_eq!(Renew::read(&whole), Some(Renewals { now: 1, tokens }));
        assert_eq!(Renew::read(&reply(&[part("maybe", [0; 3])])), None);
        assert_eq!(Renew::read(&reply(&[vec![text("held"), Value::Int(2)]])), None);
    }
}
