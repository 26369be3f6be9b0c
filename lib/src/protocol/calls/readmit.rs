//! `readmit`: readmits a holder while its object recovers from a loss of data.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, Hears, client_name, number, texts},
    script::{self, Script},
};

pub(crate) struct Readmit<'a> {
    pub(crate) token: &'a str,
    pub(crate) fence: u64,
    pub(crate) permits: u64,
    pub(crate) lease_ms: u64,
    pub(crate) max_hold_ms: u64,
    /// The time of the grant, by the server's clock.
    pub(crate) since_ms: u64,
    pub(crate) client: &'a str,
    /// The names of its resources.
    pub(crate) resources: Vec<&'a str>,
    /// JSON.
    pub(crate) holder: &'a str,
    pub(crate) grace_ms: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Readmitted {
    pub(crate) now: u64,
    /// The end of the lease; `None`: it has ended.
    pub(crate) expires: Option<u64>,
}

impl Call for Readmit<'_> {
    type Reply = Readmitted;

    fn script() -> &'static Script {
        &script::READMIT
    }

    fn arguments(&self) -> Arguments<'_> {
        self.arguments_in(None)
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn arguments_in(&self, ending: Option<&str>) -> Arguments<'_> {
        let resources = if self.resources.is_empty() {
            "-".to_owned()
        } else {
            self.resources.join(",")
        };
        vec![
            self.token.into(),
            number(self.fence),
            number(self.permits),
            number(self.lease_ms),
            number(self.max_hold_ms),
            number(self.since_ms),
            client_name(self.client, ending),
            resources.into(),
            self.holder.into(),
            number(self.grace_ms),
        ]
    }

    fn read(&self, reply: &Value) -> Option<Readmitted> {
        let fields = texts(reply)?;
        let [state, now, expires] = &fields[..] else {
            return None;
        };
        let expires = match state.as_str() {
            "held" => Some(expires.parse().ok()?),
            "gone" => None,
            _ => return None,
        };
        Some(Readmitted {
            now: now.parse().ok()?,
            expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    fn readmit() -> Readmit<'static> {
        Readmit {
            token: "token",
            fence: 1,
            permits: 2,
            lease_ms: 3,
            max_hold_ms: 4,
            since_ms: 5,
            client: "client",
            resources: vec!["a", "b"],
            holder: "{}",
            grace_ms: 6,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let mut readmit = readmit();
        let expected = |resources| ["token", "1", "2", "3", "4", "5", "client", resources, "{}", "6"];
        assert_eq!(readmit.arguments(), expected("a,b"));
        readmit.resources.clear();
        assert_eq!(readmit.arguments(), expected("-"));
    }

    #[test]
    fn each_reply_is_read() {
        for (fields, expected) in [
            (&["held", "1", "2"][..], Some((1, Some(2)))),
            (&["gone", "1", "0"], Some((1, None))),
            (&["held", "1"], None),
            (&["maybe", "1", "2"], None),
        ] {
            let expected = expected.map(|(now, expires)| Readmitted { now, expires });
            assert_eq!(readmit().read(&reply(fields)), expected, "{fields:?}");
        }
    }
}
