//! `release`: ends leases and queue entries, and grants the freed permits.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, texts},
    object::Kind,
    script::{self, Script},
};

pub(crate) struct Release<'a> {
    pub(crate) kind: Kind,
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
        let (how, why) = match self.how {
            Ending::Owner => ("owner", ""),
            Ending::Dropped => ("dropped", ""),
            Ending::Reclaimed(why) => ("reclaimed", why),
        };
        let mut arguments = vec![self.kind.as_str().into(), how.into(), why.into()];
        arguments.extend(self.tokens.iter().map(|token| (*token).into()));
        arguments
    }

    fn read(reply: &Value) -> Option<Vec<Released>> {
        let released = |state: &String| match state.as_str() {
            "released" => Some(Released::Held),
            "left" => Some(Released::Waited),
            "gone" => Some(Released::Neither),
            _ => None,
        };
        texts(reply)?.iter().map(released).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        for (how, words) in [
            (Ending::Owner, ["owner", ""]),
            (Ending::Dropped, ["dropped", ""]),
            (
                Ending::Reclaimed("its pod has ended"),
                ["reclaimed", "its pod has ended"],
            ),
        ] {
            let release = Release {
                kind: Kind::Lock,
                how,
                tokens: vec!["a", "b"],
            };
            assert_eq!(release.arguments(), [&["lock"], &words[..], &["a", "b"]].concat());
        }
    }

    #[test]
    fn each_reply_is_read() {
        let read = Release::read(&reply(&["released", "left", "gone"]));
        assert_eq!(
            read,
            Some(vec![Released::Held, Released::Waited, Released::Neither])
        );
        assert_eq!(Release::read(&reply(&["maybe"])), None);
    }
}
