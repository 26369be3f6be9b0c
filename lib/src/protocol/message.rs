//! Grants, which are in replies and pushes, and the pushes of the server.

use std::fmt;

use crate::protocol::object::ObjectRef;

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

impl Grant {
    pub(super) fn read<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut number = || fields.next()?.parse().ok();
        let (fence, now, expires, lease, since) = (number()?, number()?, number()?, number()?, number()?);
        let (declared, permits) = (number()? == 1, number()?);
        let mut resources = Vec::new();
        while let Some(name) = fields.next() {
            resources.push((name.to_owned(), fields.next()?.to_owned()));
        }
        Some(Self {
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
}

/// A message on the controller's channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// A watched object has changed.
    Changed(ObjectRef),
    /// A client requests an object that does not exist.
    Missing(ObjectRef),
}

impl Announcement {
    /// Reads a message; `None`: it is of a newer version, or not one of Tenure.
    pub(crate) fn read(payload: &str) -> Option<Self> {
        match payload.split_once('\n')? {
            ("changed", object) => ObjectRef::parse(object).map(Self::Changed),
            ("missing", object) => ObjectRef::parse(object).map(Self::Missing),
            _ => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Granted(Grant),
    /// A call has left work to be done: the queue entry of the token should be renewed at once, which continues it.
    Again,
    /// A held lease was ended by the server.
    Lost(End),
    /// A queue entry was removed by the server.
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
        "granted" => Push::Granted(Grant::read(rest.split('\n'))?),
        "lost" => Push::Lost(End::read(rest)),
        "gone" => Push::Gone(End::read(rest)),
        _ => return None,
    };
    Some((token, push))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_has_the_grant_of_a_reply() {
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
        assert_eq!(Grant::read(fields.into_iter()), Some(expected.clone()));
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
    fn an_announcement_names_its_object() {
        let seats = ObjectRef::parse("ml/pool/seats").unwrap();
        let read = Announcement::read;
        assert_eq!(
            read("changed\nml/pool/seats"),
            Some(Announcement::Changed(seats.clone()))
        );
        assert_eq!(read("missing\nml/pool/seats"), Some(Announcement::Missing(seats)));
        assert_eq!(read("missing\nno object"), None);
        assert_eq!(read("moved\nml/pool/seats"), None);
    }

    #[test]
    fn an_unknown_push_is_none() {
        assert_eq!(push("granted\ntoken\n1\n2"), None);
        assert_eq!(push("hello"), None);
    }
}
