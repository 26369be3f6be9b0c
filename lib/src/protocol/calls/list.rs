//! `list`: returns some of a pool's named resources, and the state of each.

use redis::Value;

use crate::protocol::{
    calls::call::{Arguments, Call, number, texts},
    object::ResourceState,
    script::{self, Script},
};

pub(crate) struct List<'a> {
    /// `0` at first, then that of the last reply; or `=` and one name.
    pub(crate) cursor: &'a str,
    /// The approximate number of resources.
    pub(crate) count: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// JSON, or empty.
    pub(crate) properties: String,
    pub(crate) state: ResourceState,
}

impl Call for List<'_> {
    /// The cursor of the rest, which is `0` at the end, and the resources.
    type Reply = (String, Vec<Entry>);

    fn script() -> &'static Script {
        &script::LIST
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![self.cursor.into(), number(self.count)]
    }

    fn read(&self, reply: &Value) -> Option<Self::Reply> {
        let fields = texts(reply)?;
        let (cursor, rest) = fields.split_first()?;
        let entry = |part: &[String]| {
            let [name, entry, state] = part else { return None };
            let state = match state.as_str() {
                "free" => ResourceState::Free,
                "held" => ResourceState::Held,
                "disabled" => ResourceState::Disabled,
                "damaged" => ResourceState::Damaged,
                _ => return None,
            };
            Some(Entry {
                name: name.clone(),
                properties: entry.get(1..).unwrap_or_default().to_owned(),
                state,
            })
        };
        Some((cursor.clone(), rest.chunks(3).map(entry).collect::<Option<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::calls::call::tests::reply;

    const LIST: List<'_> = List {
        cursor: "=a",
        count: 10,
    };

    #[test]
    fn the_arguments_stand_in_the_order_of_the_script() {
        assert_eq!(LIST.arguments(), ["=a", "10"]);
    }

    #[test]
    fn each_reply_is_read() {
        let entry = |name: &str, properties: &str, state| Entry {
            name: name.to_owned(),
            properties: properties.to_owned(),
            state,
        };
        let fields = [
            "7", "a", "1{}", "free", "b", "1", "held", "c", "0", "disabled", "d", "", "damaged",
        ];
        let expected = vec![
            entry("a", "{}", ResourceState::Free),
            entry("b", "", ResourceState::Held),
            entry("c", "", ResourceState::Disabled),
            entry("d", "", ResourceState::Damaged),
        ];
        assert_eq!(LIST.read(&reply(&fields)), Some(("7".to_owned(), expected)));
        for fields in [&[][..], &["0", "a"], &["0", "a", "1", "lost"]] {
            assert_eq!(LIST.read(&reply(fields)), None, "{fields:?}");
        }
    }
}
