//! `renew`: renews many leases and queue entries of one client, over many objects.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, value},
    script::{self, Script},
};

pub(crate) struct Renew<'a> {
    pub(crate) objects: Vec<Object<'a>>,
}

/// The tokens of one object of the call.
pub(crate) struct Object<'a> {
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

impl<'a> Call for Renew<'a> {
    type Reply = Renewals;

    fn script() -> &'static Script {
        &script::RENEW
    }

    fn arguments(&self) -> Arguments<'_> {
        let argument = |object: &Object<'a>| match (object.seen, &object.tokens[..]) {
            (0, [token]) => (*token).into(),
            (0, tokens) => tokens.join(" ").into(),
            (seen, tokens) => format!("{seen}>{}", tokens.join(" ")).into(),
        };
        self.objects.iter().map(argument).collect()
    }

    fn objects(&self) -> usize {
        self.objects.len()
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn read(&self, reply: &Value) -> Option<Renewals> {
        // A hundred times in each reply: nothing is copied.
        let (now, rest) = reply.as_sequence()?.split_first()?;
        let mut tokens = Vec::with_capacity(rest.len());
        for outcome in rest {
            let outcome = match outcome {
                Value::Array(outcome) => &outcome[..],
                expires => {
                    tokens.push(Renewed::Held {
                        expires: value(expires)?,
                        is_last: false,
                        newest: 0,
                    });
                    continue;
                }
            };
            let [Value::BulkString(state), expires, wake, newest] = outcome else {
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
                    seen: 0,
                    tokens: vec!["a"],
                },
                Object {
                    seen: 9,
                    tokens: vec!["b", "c"],
                },
            ],
        };
        assert_eq!(renew.arguments(), ["a", "9>b c"]);
    }

    #[test]
    fn each_reply_is_read() {
        let part = |state: &str, numbers: [i64; 3]| {
            Value::Array([vec![text(state)], numbers.map(Value::Int).to_vec()].concat())
        };
        let reply = |parts: &[Value]| Value::Array([&[Value::Int(1)], parts].concat());
        let failed = Value::Array(vec![
            text("failed"),
            text("DAMAGED"),
            Value::Int(0),
            Value::Int(0),
        ]);
        let whole = reply(&[
            Value::Int(9),
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
                expires: 9,
                is_last: false,
                newest: 0,
            },
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
        let read = |reply: &Value| Renew { objects: Vec::new() }.read(reply);
        assert_eq!(read(&whole), Some(Renewals { now: 1, tokens }));
        assert_eq!(read(&reply(&[part("maybe", [0; 3])])), None);
        assert_eq!(
            read(&reply(&[Value::Array(vec![text("held"), Value::Int(2)])])),
            None
        );
    }
}
