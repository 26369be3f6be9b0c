//! `register`: reads, writes or deletes one value, if a condition holds.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, flag, number, texts},
    script::{self, Script},
};

pub(crate) struct Register<'a> {
    pub(crate) token: &'a str,
    /// The time for which an applied write is remembered.
    pub(crate) memory_ms: u128,
    pub(crate) action: Action,
    pub(crate) condition: Condition,
    /// The condition also holds if no value is stored.
    pub(crate) or_missing: bool,
    pub(crate) argument: &'a str,
    pub(crate) value: &'a str,
    pub(crate) expiry: TimeToLive,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Get,
    Set,
    Delete,
}

/// The comparison of the argument with the stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    Missing,
    Gt,
    Lt,
    Ge,
    Le,
    Eq,
    Ne,
}

/// The time to live of a written value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TimeToLive {
    Keep,
    Never,
    AfterMs(u128),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Applied,
    /// The stored value, and its milliseconds to live; negative: for ever.
    Kept(Option<(String, i64)>),
}

impl Call for Register<'_> {
    type Reply = Written;

    fn script() -> &'static Script {
        &script::REGISTER
    }

    fn arguments(&self) -> Arguments<'_> {
        let action = match self.action {
            Action::Get => "get",
            Action::Set => "set",
            Action::Delete => "delete",
        };
        let condition = match self.condition {
            Condition::Always => "always",
            Condition::Missing => "missing",
            Condition::Gt => "gt",
            Condition::Lt => "lt",
            Condition::Ge => "ge",
            Condition::Le => "le",
            Condition::Eq => "eq",
            Condition::Ne => "ne",
        };
        let expiry = match self.expiry {
            TimeToLive::Keep => "keep".into(),
            TimeToLive::Never => "never".into(),
            TimeToLive::AfterMs(ms) => number(ms),
        };
        vec![
            self.token.into(),
            number(self.memory_ms),
            action.into(),
            condition.into(),
            flag(self.or_missing),
            self.argument.into(),
            self.value.into(),
            expiry,
        ]
    }

    fn read(&self, reply: &Value) -> Option<Written> {
        let fields = texts(reply)?;
        match &fields.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["applied"] => Some(Written::Applied),
            ["kept"] => Some(Written::Kept(None)),
            ["kept", value, left] => Some(Written::Kept(Some(((*value).to_owned(), left.parse().ok()?)))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    fn register() -> Register<'static> {
        Register {
            token: "token",
            memory_ms: 1,
            action: Action::Set,
            condition: Condition::Gt,
            or_missing: true,
            argument: "int 2",
            value: "int 3",
            expiry: TimeToLive::Keep,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let register = register();
        let expected = ["token", "1", "set", "gt", "1", "int 2", "int 3", "keep"];
        assert_eq!(register.arguments(), expected);
        let expiring = Register {
            expiry: TimeToLive::AfterMs(7),
            or_missing: false,
            ..register
        };
        let expected = ["token", "1", "set", "gt", "0", "int 2", "int 3", "7"];
        assert_eq!(expiring.arguments(), expected);
    }

    #[test]
    fn each_reply_is_read() {
        let kept = Written::Kept(Some(("int 5".to_owned(), -1)));
        for (fields, expected) in [
            (&["applied"][..], Some(Written::Applied)),
            (&["kept"], Some(Written::Kept(None))),
            (&["kept", "int 5", "-1"], Some(kept)),
            (&["kept", "int 5"], None),
            (&["maybe"], None),
        ] {
            assert_eq!(register().read(&reply(fields)), expected, "{fields:?}");
        }
    }
}
