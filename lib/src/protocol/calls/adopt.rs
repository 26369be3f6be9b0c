//! `adopt`: moves a detached lease to the adopter's own token, and renews it.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, client_name, texts},
    message::Grant,
    script::{self, Script},
};

pub(crate) struct Adopt<'a> {
    /// The secret of the lease's present token.
    pub(crate) secret: &'a str,
    /// The adopter's own token.
    pub(crate) token: &'a str,
    pub(crate) client: &'a str,
    /// JSON.
    pub(crate) holder: &'a str,
    /// A text for the client of the old token.
    pub(crate) why: &'a str,
}

/// A lease that was adopted, and the terms that only a readmission needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Adopted {
    pub(crate) max_hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) grant: Grant,
}

impl Call for Adopt<'_> {
    /// `None`: there is no such lease.
    type Reply = Option<Adopted>;

    fn script() -> &'static Script {
        &script::ADOPT
    }

    fn arguments(&self) -> Arguments<'_> {
        self.arguments_in(None)
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn arguments_in(&self, ending: Option<&str>) -> Arguments<'_> {
        vec![
            self.secret.into(),
            self.token.into(),
            client_name(self.client, ending),
            self.holder.into(),
            self.why.into(),
        ]
    }

    fn read(&self, reply: &Value) -> Option<Self::Reply> {
        let fields = texts(reply)?;
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        match fields[..] {
            ["adopted", max_hold, grace, ref rest @ ..] => Some(Some(Adopted {
                max_hold_ms: max_hold.parse().ok()?,
                grace_ms: grace.parse().ok()?,
                grant: Grant::read(rest.iter().copied())?,
            })),
            ["gone", _] => Some(None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    const ADOPT: Adopt<'_> = Adopt {
        secret: "secret",
        token: "token",
        client: "client",
        holder: "{}",
        why: "why",
    };

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        assert_eq!(ADOPT.arguments(), ["secret", "token", "client", "{}", "why"]);
    }

    #[test]
    fn each_reply_is_read() {
        let adopted = reply(&["adopted", "1", "2", "7", "10", "40", "30", "10", "1", "2"]);
        let read = ADOPT.read(&adopted).flatten().unwrap();
        assert_eq!((read.max_hold_ms, read.grace_ms, read.grant.fence), (1, 2, 7));
        assert_eq!(ADOPT.read(&reply(&["gone", "1"])), Some(None));
        for fields in [&["adopted", "1", "2"][..], &["gone"], &["busy", "1"], &[]] {
            assert_eq!(ADOPT.read(&reply(fields)), None, "{fields:?}");
        }
    }
}
