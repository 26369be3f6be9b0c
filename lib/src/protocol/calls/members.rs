//! `members`: changes the resources of a pool that programs keep.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, value},
    script::{self, Script},
};

pub(crate) struct Members<'a> {
    pub(crate) change: Change,
    pub(crate) order: &'a str,
    /// The number of resources; of [`Change::Commit`], of all staged ones.
    pub(crate) count: usize,
    /// The id under which resources are staged.
    pub(crate) staged: &'a str,
    /// The names; of [`Change::Extend`] and [`Change::Stage`], each followed by its entry.
    pub(crate) names: &'a [String],
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Extend,
    Shrink,
    Clear,
    /// Stages resources for [`Change::Commit`].
    Stage,
    /// Replaces all resources by the staged ones.
    Commit,
}

impl Call for Members<'_> {
    /// The number of resources of the pool.
    type Reply = u64;

    fn script() -> &'static Script {
        &script::MEMBERS
    }

    fn arguments(&self) -> Arguments<'_> {
        let change = match self.change {
            Change::Extend => "extend",
            Change::Shrink => "shrink",
            Change::Clear => "clear",
            Change::Stage => "stage",
            Change::Commit => "commit",
        };
        let mut arguments = vec![
            change.into(),
            self.order.into(),
            number(self.count),
            self.staged.into(),
        ];
        arguments.extend(self.names.iter().map(Into::into));
        arguments
    }

    fn read(&self, reply: &Value) -> Option<u64> {
        value(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(change: Change, names: &[String]) -> Members<'_> {
        Members {
            change,
            order: "Random",
            count: 1,
            staged: "id",
            names,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        let pair = ["a".to_owned(), "1".to_owned()];
        for (members, expected) in [
            (
                members(Change::Extend, &pair),
                &["extend", "Random", "1", "id", "a", "1"][..],
            ),
            (
                members(Change::Shrink, &pair[..1]),
                &["shrink", "Random", "1", "id", "a"],
            ),
            (members(Change::Clear, &[]), &["clear", "Random", "1", "id"]),
            (
                members(Change::Stage, &pair),
                &["stage", "Random", "1", "id", "a", "1"],
            ),
            (members(Change::Commit, &[]), &["commit", "Random", "1", "id"]),
        ] {
            assert_eq!(members.arguments(), expected);
        }
    }

    #[test]
    fn each_reply_is_read() {
        assert_eq!(members(Change::Clear, &[]).read(&Value::Int(3)), Some(3));
        assert_eq!(members(Change::Clear, &[]).read(&Value::Nil), None);
    }
}
