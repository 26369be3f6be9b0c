//! `withdraw`: withdraws a declared object.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, value},
    script::{self, Script},
};

pub(crate) struct Withdraw {
    pub(crate) how: Removal,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Removal {
    Drain,
    Delete,
    Retain { keep_ms: u128 },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// The permits or resources that are still held.
    pub(crate) held: u64,
    /// The tokens that are left to be ended, by further calls.
    pub(crate) left: u64,
}

impl Call for Withdraw {
    type Reply = Withdrawn;

    fn script() -> &'static Script {
        &script::WITHDRAW
    }

    fn arguments(&self) -> Arguments<'_> {
        let (how, keep_ms) = match self.how {
            Removal::Drain => ("drain", 0),
            Removal::Delete => ("delete", 0),
            Removal::Retain { keep_ms } => ("retain", keep_ms),
        };
        vec![how.into(), number(keep_ms)]
    }

    fn read(&self, reply: &Value) -> Option<Withdrawn> {
        if *reply == Value::Nil {
            return Some(Withdrawn { held: 0, left: 0 });
        }
        let (held, left) = value(reply)?;
        Some(Withdrawn { held, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_and_each_reply() {
        for (how, words) in [
            (Removal::Drain, ["drain", "0"]),
            (Removal::Delete, ["delete", "0"]),
            (Removal::Retain { keep_ms: 7 }, ["retain", "7"]),
        ] {
            assert_eq!(Withdraw { how }.arguments(), words);
        }
        let read = |reply: &Value| Withdraw { how: Removal::Drain }.read(reply);
        let reply = Value::Array(vec![Value::Int(2), Value::Int(3)]);
        assert_eq!(read(&reply), Some(Withdrawn { held: 2, left: 3 }));
        assert_eq!(read(&Value::Nil), Some(Withdrawn { held: 0, left: 0 }));
        assert_eq!(read(&Value::Int(2)), None);
    }
}
