//! `downgrade`: reduces the permits of a lease.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, value},
    script::{self, Script},
};

pub(crate) struct Downgrade<'a> {
    pub(crate) token: &'a str,
    /// The permits that the lease keeps.
    pub(crate) permits: u64,
}

impl Call for Downgrade<'_> {
    /// `true`: the lease is held.
    type Reply = bool;

    fn script() -> &'static Script {
        &script::DOWNGRADE
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![self.token.into(), number(self.permits)]
    }

    fn read(&self, reply: &Value) -> Option<bool> {
        match value::<String>(reply)?.as_str() {
            "held" => Some(true),
            "gone" => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::text;

    const DOWNGRADE: Downgrade<'_> = Downgrade {
        token: "token",
        permits: 1,
    };

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        assert_eq!(DOWNGRADE.arguments(), ["token", "1"]);
    }

    #[test]
    fn each_reply_is_read() {
        assert_eq!(DOWNGRADE.read(&text("held")), Some(true));
        assert_eq!(DOWNGRADE.read(&text("gone")), Some(false));
        assert_eq!(DOWNGRADE.read(&text("maybe")), None);
    }
}
