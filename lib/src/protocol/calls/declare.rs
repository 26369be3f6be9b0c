//! `declare`: makes a declared object, or changes it.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number},
    script::{self, Script},
};

pub(crate) struct Declare<'a> {
    pub(crate) digest: String,
    /// Later fencing tokens are larger.
    pub(crate) floor: u64,
    /// 0: the object has never been declared before; else the longest lease that may be running.
    pub(crate) recovery_ms: u128,
    pub(crate) lease_ms: u128,
    /// 0: none.
    pub(crate) max_hold_ms: u128,
    /// Permits, or resources in service.
    pub(crate) limit: u64,
    /// The run id and the newest fencing token of the observation that it was planned for.
    pub(crate) life: Option<(&'a str, u64)>,
    /// Only of a pool.
    pub(crate) pool: Option<Pool<'a>>,
}

pub(crate) struct Pool<'a> {
    pub(crate) order: &'a str,
    /// The prefix and the number of generated names; empty and 0 with named resources.
    pub(crate) generated: (&'a str, u64),
    /// Names and entries of the named resources.
    pub(crate) named: Vec<(&'a str, String)>,
}

impl Call for Declare<'_> {
    /// `true`: the object recovers.
    type Reply = bool;

    fn script() -> &'static Script {
        &script::DECLARE
    }

    fn arguments(&self) -> Arguments<'_> {
        let (run, newest) = self.life.unwrap_or_default();
        let mut arguments = vec![
            (&*self.digest).into(),
            number(self.floor),
            number(self.recovery_ms),
            number(self.lease_ms),
            number(self.max_hold_ms),
            number(self.limit),
            run.into(),
            number(newest),
        ];
        if let Some(Pool {
            order,
            generated: (prefix, count),
            named,
        }) = &self.pool
        {
            arguments.extend([(*order).into(), (*prefix).into(), number(count)]);
            for (name, entry) in named {
                arguments.extend([(*name).into(), entry.into()]);
            }
        }
        arguments
    }

    fn read(&self, reply: &Value) -> Option<bool> {
        match reply {
            Value::Int(recovers) => Some(*recovers == 1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare() -> Declare<'static> {
        Declare {
            digest: "digest".to_owned(),
            floor: 1,
            recovery_ms: 2,
            lease_ms: 3,
            max_hold_ms: 4,
            limit: 5,
            life: None,
            pool: None,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let mut declare = declare();
        assert_eq!(declare.arguments(), ["digest", "1", "2", "3", "4", "5", "", "0"]);
        declare.life = Some(("run", 6));
        declare.pool = Some(Pool {
            order: "Random",
            generated: ("", 0),
            named: vec![("a", "1".to_owned()), ("b", "0{}".to_owned())],
        });
        let expected = [
            "digest", "1", "2", "3", "4", "5", "run", "6", "Random", "", "0", "a", "1", "b", "0{}",
        ];
        assert_eq!(declare.arguments(), expected);
    }

    #[test]
    fn each_reply_is_read() {
        assert_eq!(declare().read(&Value::Int(1)), Some(true));
        assert_eq!(declare().read(&Value::Int(0)), Some(false));
        assert_eq!(declare().read(&Value::Nil), None);
    }
}
