//! The replies and pushes of the server, read into types.

use std::fmt;

use redis::Value;

use crate::Error;

/// A lease, as a grant's reply or push describes it. Times are the server's, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) fence: u64,
    pub(crate) now: u64,
    pub(crate) expires: u64,
    pub(crate) lease: u64,
    pub(crate) since: u64,
    pub(crate) declared: bool,
    pub(crate) permits: u64,
    /// Names and properties (JSON) of a pool's resources.
    pub(crate) resources: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acquired {
    Granted(Grant),
    Queued {
        now: u64,
        expires: u64,
        wake: u64,
        /// As of [`Acquired::Busy`].
        newest: u64,
        parts: u64,
    },
    Busy {
        now: u64,
        /// The newest fencing token of a declared object, or 0.
        newest: u64,
        /// In how many calls all free resources are looked at.
        parts: u64,
    },
    /// Some of what has run out is left to be ended: there may be room after that.
    Again,
}

/// A lease that was adopted, and the terms that only a readmission needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Adopted {
    pub(crate) max_hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) grant: Grant,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Granted(Grant),
    /// A call has left work to be done: its place should be renewed at once, which goes on with it.
    Again,
    /// A held lease was ended by the server.
    Lost(End),
    /// A place in the queue was ended by the server.
    Gone(End),
}

/// The way in which a lease or a queue entry was ended, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) how: How,
    /// The text that the other client has given, if any. Only for people.
    pub(crate) why: String,
}

/// The ways that the protocol names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    Expired,
    Withdrawn,
    Superseded,
    Reclaimed,
    Taken,
    Adopted,
    /// It can never be granted any more: `why` is the error that a new request would get.
    Refused,
    /// One that this version does not know.
    Other(String),
}

impl End {
    fn read(lines: &str) -> Self {
        let (how, why) = lines.split_once('\n').unwrap_or((lines, ""));
        let how = match how {
            "expired" => How::Expired,
            "withdrawn" => How::Withdrawn,
            "superseded" => How::Superseded,
            "reclaimed" => How::Reclaimed,
            "taken" => How::Taken,
            "adopted" => How::Adopted,
            "refused" => How::Refused,
            other => How::Other(other.to_owned()),
        };
        Self {
            how,
            why: why.to_owned(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.why.is_empty() {
            return f.write_str(&self.why);
        }
        f.write_str(match &self.how {
            How::Expired => "expired",
            How::Withdrawn => "withdrawn",
            How::Superseded => "superseded",
            How::Reclaimed => "reclaimed",
            How::Taken => "taken over",
            How::Adopted => "adopted",
            How::Refused => "refused",
            How::Other(other) => other,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Renewed {
    Held {
        expires: u64,
        /// As of [`Acquired::Busy`].
        newest: u64,
    },
    Waiting {
        expires: u64,
        wake: u64,
        newest: u64,
    },
    Recovering,
    Missing,
    Gone,
    /// Nothing can be done with the object: the script's error.
    Failed {
        error: String,
    },
}

/// A reply's elements as text, whatever the server made of them.
pub(crate) fn texts(reply: &Value) -> Result<Vec<String>, Error> {
    redis::from_redis_value_ref(reply).map_err(|_| Error::protocol(reply))
}

fn grant<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Grant> {
    let mut number = || fields.next()?.parse().ok();
    let (fence, now, expires, lease, since) = (number()?, number()?, number()?, number()?, number()?);
    let (declared, permits) = (number()? == 1, number()?);
    let mut resources = Vec::new();
    while let Some(name) = fields.next() {
        resources.push((name.to_owned(), fields.next()?.to_owned()));
    }
    Some(Grant {
        fence,
        now,
        expires,
        lease,
        since,
        declared,
        permits,
        resources,
    })
}

pub(crate) fn acquired(reply: &Value) -> Result<Acquired, Error> {
    let fields = texts(reply)?;
    let mut rest = fields.iter().skip(1).map(String::as_str);
    let mut number = || rest.next().and_then(|text| text.parse().ok());
    let read = match fields.first().map(String::as_str) {
        Some("granted") => grant(fields.iter().skip(1).map(String::as_str)).map(Acquired::Granted),
        Some("queued") => number()
            .zip(number())
            .zip(number())
            .map(|((now, expires), wake)| {
                let _position = number();
                let newest = number().unwrap_or_default();
                let parts = number().unwrap_or(1);
                Acquired::Queued {
                    now,
                    expires,
                    wake,
                    newest,
                    parts,
                }
            }),
        Some("again") => Some(Acquired::Again),
        Some("busy") => number().map(|now| Acquired::Busy {
            now,
            newest: number().unwrap_or_default(),
            parts: number().unwrap_or(1),
        }),
        _ => None,
    };
    read.ok_or_else(|| Error::protocol(reply))
}

/// None: there is no such lease.
pub(crate) fn adopted(reply: &Value) -> Result<Option<Adopted>, Error> {
    let fields = texts(reply)?;
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let adopted = |max_hold: &str, grace: &str, rest: &[&str]| {
        Some(Adopted {
            max_hold_ms: max_hold.parse().ok()?,
            grace_ms: grace.parse().ok()?,
            grant: grant(rest.iter().copied())?,
        })
    };
    match fields[..] {
        ["adopted", max_hold, grace, ref rest @ ..] => adopted(max_hold, grace, rest).map(Some),
        ["gone", _] => Some(None),
        _ => None,
    }
    .ok_or_else(|| Error::protocol(reply))
}

/// The server's time, and what became of each token, in the order in which they were sent.
pub(crate) fn renewed(reply: &Value) -> Result<(u64, Vec<Renewed>), Error> {
    // A hundred times in each reply: nothing is copied.
    let read = || {
        let (now, rest) = reply.as_sequence()?.split_first()?;
        let mut states = Vec::with_capacity(rest.len() / 4);
        for part in rest.chunks(4) {
            let [Value::BulkString(state), expires, wake, newest] = part else {
                return None;
            };
            states.push(match &state[..] {
                b"held" => Renewed::Held {
                    expires: number(expires)?,
                    newest: number(newest)?,
                },
                b"waiting" => Renewed::Waiting {
                    expires: number(expires)?,
                    wake: number(wake)?,
                    newest: number(newest)?,
                },
                b"recovering" => Renewed::Recovering,
                b"missing" => Renewed::Missing,
                b"gone" => Renewed::Gone,
                b"failed" => Renewed::Failed {
                    error: redis::from_redis_value_ref(expires).ok()?,
                },
                _ => return None,
            });
        }
        Some((number(now)?, states))
    };
    read().ok_or_else(|| Error::protocol(reply))
}

fn number(value: &Value) -> Option<u64> {
    redis::from_redis_value_ref(value).ok()
}

/// Returns the token and the content of a push: lines, the first of which names its kind.
pub(crate) fn push(payload: &str) -> Option<(&str, Push)> {
    // Free text comes last, and may have several lines.
    let mut lines = payload.splitn(3, '\n');
    let (what, token) = (lines.next()?, lines.next()?);
    if what == "again" {
        return Some((token, Push::Again));
    }
    let rest = lines.next()?;
    let push = match what {
        "granted" => Push::Granted(grant(rest.split('\n'))?),
        "lost" => Push::Lost(End::read(rest)),
        "gone" => Push::Gone(End::read(rest)),
        _ => return None,
    };
    Some((token, push))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[&str]) -> Value {
        Value::Array(
            fields
                .iter()
                .map(|f| Value::BulkString(f.as_bytes().to_vec()))
                .collect(),
        )
    }

    #[test]
    fn a_push_says_what_the_reply_would_have_said() {
        let expected = Grant {
            fence: 7,
            now: 10,
            expires: 40,
            lease: 30,
            since: 10,
            declared: true,
            permits: 2,
            resources: vec![
                ("seat-a".into(), r#"{"host":"x"}"#.into()),
                ("seat-b".into(), String::new()),
            ],
        };
        let fields = [
            "7",
            "10",
            "40",
            "30",
            "10",
            "1",
            "2",
            "seat-a",
            r#"{"host":"x"}"#,
            "seat-b",
            "",
        ];
        let replied = acquired(&reply(&[&["granted"][..], &fields].concat())).unwrap();
        assert_eq!(replied, Acquired::Granted(expected.clone()));
        let pushed = format!("granted\ntoken\n{}", fields.join("\n"));
        assert_eq!(push(&pushed), Some(("token", Push::Granted(expected))));
    }

    #[test]
    fn a_text_that_looks_like_a_word_of_the_protocol_is_a_text() {
        for why in ["", "expired", "dropped", "its pod\nhas ended", "\n"] {
            let pushed = format!("gone\ntoken\nreclaimed\n{why}");
            let end = End {
                how: How::Reclaimed,
                why: why.to_owned(),
            };
            assert_eq!(push(&pushed), Some(("token", Push::Gone(end))));
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_not_a_guess() {
        for fields in [&["granted", "1"][..], &["queued", "1", "x", "2"], &["maybe"], &[]] {
            assert!(acquired(&reply(fields)).is_err(), "{fields:?}");
        }
        for fields in [&["adopted", "1", "2"][..], &["gone"], &["busy", "1"], &[]] {
            assert!(adopted(&reply(fields)).is_err(), "{fields:?}");
        }
        assert!(renewed(&reply(&["1", "held", "2", "0"])).is_err());
        assert_eq!(push("granted\ntoken\n1\n2"), None);
        assert_eq!(push("hello"), None);
    }
}
