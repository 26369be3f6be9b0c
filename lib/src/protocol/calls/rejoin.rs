//! `rejoin`: moves a waiter for a condition into the queue of the lock.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, value},
    script::{self, Script},
};

pub(crate) struct Rejoin<'a> {
    pub(crate) token: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejoined {
    /// It has joined the queue of the lock.
    Queued,
    /// A notification was faster.
    Notified,
    /// The waiter is not known any more.
    Gone,
}

impl Call for Rejoin<'_> {
    type Reply = Rejoined;

    fn script() -> &'static Script {
        &script::REJOIN
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![self.token.into()]
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn read(&self, reply: &Value) -> Option<Rejoined> {
        match value::<String>(reply)?.as_str() {
            "rejoined" => Some(Rejoined::Queued),
            "notified" => Some(Rejoined::Notified),
            "gone" => Some(Rejoined::Gone),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::text;

    const REJOIN: Rejoin<'_> = Rejoin { token: "token" };

    #[test]
    fn the_arguments_and_each_reply() {
        assert_eq!(REJOIN.arguments(), ["token"]);
        assert_eq!(REJOIN.read(&text("rejoined")), Some(Rejoined::Queued));
        assert_eq!(REJOIN.read(&text("notified")), Some(Rejoined::Notified));
        assert_eq!(REJOIN.read(&text("gone")), Some(Rejoined::Gone));
        assert_eq!(REJOIN.read(&text("maybe")), None);
    }
}
