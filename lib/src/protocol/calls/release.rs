//! `release`: ends leases and queue entries, and grants the freed permits.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, text},
    script::{self, Script},
};

pub(crate) struct Release<'a> {
    pub(crate) how: Ending<'a>,
    pub(crate) tokens: Vec<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending<'a> {
    /// By the owner.
    Owner,
    /// By its client, because no caller has taken it up.
    Dropped,
    /// By another client; the owner is notified of the reason.
    Reclaimed(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// The token held.
    Held,
    /// The token waited.
    Waited,
    Neither,
}

impl Call for Release<'_> {
    /// The outcome for each token.
    type Reply = Vec<Released>;

    fn script() -> &'static Script {
        &script::RELEASE
    }

    fn arguments(&self) -> Arguments<'_> {
        let tokens = match self.tokens[..] {
            [token] => token.into(),
            _ => self.tokens.join(" ").into(),
        };
        match self.how {
            Ending::Owner => vec![tokens],
            Ending::Dropped => vec![tokens, "dropped".into()],
            Ending::Reclaimed(why) => vec![tokens, "reclaimed".into(), why.into()],
        }
    }

    fn read(&self, reply: &Value) -> Option<Vec<Released>> {
        let released = |state: &str| match state {
            "released" => Some(Released::Held),
            "left" => Some(Released::Waited),
            "gone" => Some(Released::Neither),
            _ => None,
        };
        text(reply)?.split_whitespace().map(released).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::text as reply;

    fn release(how: Ending<'_>) -> Release<'_> {
        Release {
            how,
            tokens: vec!["a", "b"],
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        for (how, expected) in [
            (Ending::Owner, &["a b"][..]),
            (Ending::Dropped, &["a b", "dropped"]),
            (
                Ending::Reclaimed("its pod has ended"),
                &["a b", "reclaimed", "its pod has ended"],
            ),
        ] {
            assert_eq!(release(how).arguments(), expected);
        }
    }

    #[test]
    fn each_reply_is_read() {
        let read = release(Ending::Owner).read(&reply("released left gone"));
        assert_eq!(
            read,
            Some(vec![Released::Held, Released::Waited, Released::Neither])
        );
        assert_eq!(release(Ending::Owner).read(&reply("maybe")), None);
    }
}
