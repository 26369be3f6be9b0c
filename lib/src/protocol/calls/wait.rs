//! `wait`: gives the lock back and waits for a condition.

use redis::Value;

use crate::protocol::{
    calls::{
        acquire::Acquired,
        acquire::acquired,
        call::{Arguments, Call, Hears, client_name, number},
    },
    script::{self, Script},
};

pub(crate) struct Wait<'a> {
    /// The token that holds the lock.
    pub(crate) lease: &'a str,
    /// The token of the waiter.
    pub(crate) token: &'a str,
    /// `@` and the name.
    pub(crate) condition: &'a str,
    pub(crate) lease_ms: u64,
    pub(crate) max_hold_ms: u64,
    /// The life of the waiter without a renewal.
    pub(crate) entry_ms: u64,
    pub(crate) client: &'a str,
    /// JSON.
    pub(crate) holder: &'a str,
    pub(crate) grace_ms: u64,
    pub(crate) priority: i8,
}

impl Call for Wait<'_> {
    /// Granted or queued.
    type Reply = Acquired;

    fn script() -> &'static Script {
        &script::WAIT
    }

    fn arguments(&self) -> Arguments<'_> {
        self.arguments_in(None)
    }

    fn hears(&self) -> Hears {
        Hears::Pushes
    }

    fn arguments_in(&self, ending: Option<&str>) -> Arguments<'_> {
        vec![
            self.lease.into(),
            self.token.into(),
            self.condition.into(),
            number(self.lease_ms),
            number(self.max_hold_ms),
            number(self.entry_ms),
            client_name(self.client, ending),
            self.holder.into(),
            number(self.grace_ms),
            number(self.priority),
        ]
    }

    fn read(&self, reply: &Value) -> Option<Acquired> {
        acquired(reply).filter(|reply| matches!(reply, Acquired::Granted(_) | Acquired::Queued { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    fn wait() -> Wait<'static> {
        Wait {
            lease: "lease",
            token: "token",
            condition: "@ready",
            lease_ms: 1,
            max_hold_ms: 2,
            entry_ms: 3,
            client: "client",
            holder: "{}",
            grace_ms: 4,
            priority: -5,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let wait = wait();
        let expected = [
            "lease", "token", "@ready", "1", "2", "3", "client", "{}", "4", "-5",
        ];
        assert_eq!(wait.arguments(), expected);
    }

    #[test]
    fn each_reply_is_read() {
        let queued = wait().read(&reply(&["queued", "1", "2", "3"]));
        assert!(
            matches!(queued, Some(Acquired::Queued { expires: 2, .. })),
            "{queued:?}"
        );
        assert_eq!(wait().read(&reply(&["busy", "1", "0"])), None);
    }
}
