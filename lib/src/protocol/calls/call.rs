//! A call of a script, and the reading of its reply.

use std::borrow::Cow;

use redis::Value;

use crate::{Error, protocol::script::Script};

/// The arguments of a script, behind the version and the run id.
pub(crate) type Arguments<'a> = Vec<Cow<'a, str>>;

/// The messages that may follow a call, for which its client has to be subscribed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hears {
    Nothing,
    /// Pushes about a lease or a queue entry.
    Pushes,
    /// Events of the object, if the client listens to events.
    Events,
}

/// A call of a script.
pub(crate) trait Call: Sync {
    /// The reply.
    type Reply: Send;

    fn script() -> &'static Script;

    fn arguments(&self) -> Arguments<'_>;

    /// The same in a cluster, where the name of the client has an ending.
    fn arguments_in(&self, _ending: Option<&str>) -> Arguments<'_> {
        self.arguments()
    }

    fn hears(&self) -> Hears {
        Hears::Nothing
    }

    /// The number of objects of the call, whose first keys begin its list of keys. A script finds the other keys by these.
    fn objects(&self) -> usize {
        1
    }

    /// Reads a reply. `None`: it is not one of the script's.
    fn read(&self, reply: &Value) -> Option<Self::Reply>;
}

/// Reads a reply.
///
/// # Errors
/// [`Error::Protocol`] for a reply that is not one of the script's.
pub(crate) fn read<C: Call>(call: &C, reply: &Value) -> Result<C::Reply, Error> {
    call.read(reply).ok_or_else(|| Error::protocol(reply))
}

/// The name of a client as an argument: in a cluster with an ending, by which its channel lies in the slot of the object.
pub(super) fn client_name<'a>(client: &'a str, ending: Option<&str>) -> Cow<'a, str> {
    match ending {
        None => Cow::Borrowed(client),
        Some(ending) => Cow::Owned(format!("{client}/{ending}")),
    }
}

/// A number as an argument.
pub(super) fn number(number: impl ToString + Copy) -> Cow<'static, str> {
    Cow::Owned(number.to_string())
}

/// A switch as an argument.
pub(super) fn flag(on: bool) -> Cow<'static, str> {
    Cow::Borrowed(if on { "1" } else { "0" })
}

/// The elements of a reply as texts, in any form that a server may give them.
pub(super) fn texts(reply: &Value) -> Option<Vec<String>> {
    redis::from_redis_value_ref(reply).ok()
}

/// A reply of one text.
pub(super) fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(text) => std::str::from_utf8(text).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// An element of a reply, as a type of the driver.
pub(super) fn value<T: redis::FromRedisValue>(value: &Value) -> Option<T> {
    redis::from_redis_value_ref(value).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use redis::Value;

    /// A reply of texts.
    pub(in crate::protocol::calls) fn reply(fields: &[&str]) -> Value {
        Value::Array(fields.iter().map(|field| text(field)).collect())
    }

    pub(in crate::protocol::calls) fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }
}
