//! `notify`: wakes waiters for a condition.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, value},
    script::{self, Script},
};

pub(crate) struct Notify<'a> {
    /// The token that holds the lock.
    pub(crate) token: &'a str,
    /// `@` and the name.
    pub(crate) condition: &'a str,
    pub(crate) count: u64,
    /// Names the request, so that a repeated one notifies no other waiter.
    pub(crate) request: &'a str,
}

impl Call for Notify<'_> {
    /// The number of notified waiters, and whether more wait.
    type Reply = (u64, bool);

    fn script() -> &'static Script {
        &script::NOTIFY
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![
            self.token.into(),
            self.condition.into(),
            number(self.count),
            self.request.into(),
        ]
    }

    fn read(&self, reply: &Value) -> Option<(u64, bool)> {
        value(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFY: Notify<'_> = Notify {
        token: "token",
        condition: "@ready",
        count: 3,
        request: "request",
    };

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        assert_eq!(NOTIFY.arguments(), ["token", "@ready", "3", "request"]);
    }

    #[test]
    fn each_reply_is_read() {
        let reply = |more| Value::Array(vec![Value::Int(2), Value::Int(more)]);
        assert_eq!(NOTIFY.read(&reply(1)), Some((2, true)));
        assert_eq!(NOTIFY.read(&reply(0)), Some((2, false)));
        assert_eq!(NOTIFY.read(&Value::Int(2)), None);
    }
}
