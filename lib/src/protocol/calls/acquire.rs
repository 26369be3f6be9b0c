//! `acquire`: takes a lease, or a queue entry, or neither.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, client_name, flag, number, text, texts},
    message::Grant,
    script::{self, Script},
};

pub(crate) struct Acquire<'a> {
    pub(crate) token: &'a str,
    pub(crate) permits: u64,
    /// 0: the declared one.
    pub(crate) lease_ms: u64,
    /// 0: none.
    pub(crate) max_hold_ms: u64,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
    /// The life of the queue entry; 0: do not wait.
    pub(crate) entry_ms: u64,
    pub(crate) client: &'a str,
    /// JSON.
    pub(crate) holder: &'a str,
    pub(crate) grace_ms: u64,
    pub(crate) priority: i8,
    /// The selector of a pool's resources; `-`: any.
    pub(crate) selector: &'a str,
    /// Takes the lease from its holders, for this reason.
    pub(crate) takeover: Option<&'a str>,
    /// The newest fencing token that was seen of the declared object, or 0.
    pub(crate) seen: u64,
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
        /// The number of calls that look at all free resources.
        parts: u64,
    },
    /// Some expired leases are left to be ended: there may be room after that.
    Again,
}

impl Call for Acquire<'_> {
    type Reply = Acquired;

    fn script() -> &'static Script {
        &script::ACQUIRE
    }

    fn arguments(&self) -> Arguments<'_> {
        self.arguments_in(None)
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn arguments_in(&self, ending: Option<&str>) -> Arguments<'_> {
        let client = client_name(self.client, ending);
        // In one piece: `format!` costs the client as much as the SHA-1 of a token.
        let mut request = String::with_capacity(64 + client.len() + self.holder.len());
        for number in [self.lease_ms, self.permits, self.first_limit, self.entry_ms] {
            request.push_str(itoa::Buffer::new().format(number));
            request.push(' ');
        }
        request.push_str(&client);
        request.push(' ');
        request.push_str(self.holder);
        let mut arguments = vec![self.token.into(), request.into()];
        // An ordinary request goes without the rest, and is faster.
        let is_ordinary = self.max_hold_ms == 0
            && self.grace_ms == 0
            && self.priority == 0
            && self.selector == "-"
            && self.takeover.is_none();
        if !is_ordinary || self.seen > 0 {
            arguments.push(number(self.seen));
        }
        if !is_ordinary {
            arguments.extend([
                number(self.max_hold_ms),
                number(self.grace_ms),
                number(self.priority),
                self.selector.into(),
                flag(self.takeover.is_some()),
                self.takeover.unwrap_or_default().into(),
            ]);
        }
        arguments
    }

    fn read(&self, reply: &Value) -> Option<Acquired> {
        match text(reply) {
            Some(text) => self.granted(text),
            None => acquired(reply),
        }
    }
}

impl Acquire<'_> {
    /// Reads the short reply: `granted`, and the time of the grant.
    fn granted(&self, text: &str) -> Option<Acquired> {
        let (seconds, micros) = text.strip_prefix("granted ")?.split_once(' ')?;
        let fence = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
        let now = fence / 1000;
        Some(Acquired::Granted(Grant {
            fence,
            now,
            expires: now + self.lease_ms,
            lease: self.lease_ms,
            since: now,
            declared: false,
            permits: self.permits,
            resources: Vec::new(),
        }))
    }
}

pub(super) fn acquired(reply: &Value) -> Option<Acquired> {
    let fields = texts(reply)?;
    let (kind, rest) = fields.split_first()?;
    let mut numbers = rest.iter().map(|text| text.parse().ok());
    let mut number = || numbers.next().flatten();
    match kind.as_str() {
        "granted" => Grant::read(rest.iter().map(String::as_str)).map(Acquired::Granted),
        "queued" => Some(Acquired::Queued {
            now: number()?,
            expires: number()?,
            wake: number()?,
            newest: number().unwrap_or_default(),
            parts: number().unwrap_or(1),
        }),
        "busy" => Some(Acquired::Busy {
            now: number()?,
            newest: number().unwrap_or_default(),
            parts: number().unwrap_or(1),
        }),
        "again" => Some(Acquired::Again),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::{reply, text};

    fn ordinary() -> Acquire<'static> {
        Acquire {
            token: "token",
            permits: 2,
            lease_ms: 3,
            max_hold_ms: 0,
            first_limit: 5,
            entry_ms: 6,
            client: "client",
            holder: "{}",
            grace_ms: 0,
            priority: 0,
            selector: "-",
            takeover: None,
            seen: 0,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let short = ["token", "3 2 5 6 client {}"];
        assert_eq!(ordinary().arguments(), short);
        let special = Acquire {
            max_hold_ms: 4,
            grace_ms: 7,
            priority: -8,
            selector: "=a",
            takeover: Some("urgent"),
            seen: 9,
            ..ordinary()
        };
        let rest = ["9", "4", "7", "-8", "=a", "1", "urgent"];
        assert_eq!(special.arguments(), [&short[..], &rest].concat());
        let seen = Acquire {
            seen: 9,
            ..ordinary()
        };
        assert_eq!(seen.arguments(), [&short[..], &["9"]].concat());
        // In a cluster the name of the client has an ending.
        let in_cluster = ["token", "3 2 5 6 client/x {}"];
        assert_eq!(ordinary().arguments_in(Some("x")), in_cluster);
    }

    #[test]
    fn each_reply_is_read() {
        let queued = |newest, parts| Acquired::Queued {
            now: 1,
            expires: 2,
            wake: 3,
            newest,
            parts,
        };
        let busy = |newest, parts| Acquired::Busy {
            now: 1,
            newest,
            parts,
        };
        for (fields, expected) in [
            (&["queued", "1", "2", "3", "5"][..], Some(queued(5, 1))),
            (&["queued", "1", "2", "3", "5", "6"], Some(queued(5, 6))),
            (&["queued", "1", "2", "3"], Some(queued(0, 1))),
            (&["busy", "1", "2"], Some(busy(2, 1))),
            (&["busy", "1", "2", "3"], Some(busy(2, 3))),
            (&["again", "1"], Some(Acquired::Again)),
            (&["granted", "1"], None),
            (&["queued", "1", "x", "2"], None),
            (&["maybe"], None),
            (&[], None),
        ] {
            assert_eq!(acquired(&reply(fields)), expected, "{fields:?}");
        }
        let short = ordinary().read(&text("granted 12 345678"));
        let expected = Acquired::Granted(Grant {
            fence: 12_345_678,
            now: 12_345,
            expires: 12_348,
            lease: 3,
            since: 12_345,
            declared: false,
            permits: 2,
            resources: Vec::new(),
        });
        assert_eq!(short, Some(expected));
        assert_eq!(ordinary().read(&text("granted 12")), None);
    }
}
