//! The names of channels. Each belongs to a namespace, so that one pattern gives a tenant its channels and its keys.
//!
//! With a single server a client has one channel for the objects of a namespace, and the controller one pattern for the events of
//! all objects. In a cluster the channels are sharded: a client has one in the slot of each of its objects, and an object has one
//! for its events, because a sharded subscription has no patterns.

use std::sync::Arc;

use crate::protocol::{object::ObjectRef, slot};

/// The channels of a client's pushes about the objects of a namespace.
#[derive(Debug, Clone)]
pub(crate) struct ClientChannels {
    prefix: Arc<str>,
    /// The hash tag without an ending: `<namespace>/client/<client>`.
    tag: Arc<str>,
}

impl ClientChannels {
    pub(crate) fn new(prefix: &str, namespace: &str, client: &str) -> Self {
        Self {
            prefix: prefix.into(),
            tag: format!("{namespace}/client/{client}").into(),
        }
    }

    /// Returns the channel. In a cluster it lies in a slot.
    pub(crate) fn channel(&self, slot: Option<u16>) -> Arc<str> {
        let Self { prefix, tag, .. } = self;
        match slot {
            None => format!("{prefix}:{{{tag}}}").into(),
            Some(slot) => format!("{prefix}:{{{tag}/{}}}", self.ending(slot)).into(),
        }
    }

    /// Returns whether this is one of the channels.
    pub(crate) fn has(&self, channel: &str) -> bool {
        let rest = channel
            .strip_prefix(&*self.prefix)
            .and_then(|rest| rest.strip_prefix(":{"))
            .and_then(|rest| rest.strip_prefix(&*self.tag));
        rest.is_some_and(|rest| rest.starts_with(['}', '/']))
    }

    /// Returns the ending that the name of the client has in requests for objects in a slot of a cluster. Scripts know by it, too,
    /// that the channel is a sharded one.
    pub(crate) fn ending(&self, slot: u16) -> &'static str {
        slot::ending(&format!("{}/", self.tag), slot)
    }
}

/// The channel on which the scripts of a namespace publish events to the controller, with a single server.
pub(crate) fn of_event(prefix: &str, namespace: &str) -> Arc<str> {
    format!("{prefix}:{{{namespace}/events}}").into()
}

/// The pattern of the channels on which the namespaces publish events to the controller.
pub(crate) fn of_events(prefix: &str) -> Arc<str> {
    format!("{prefix}:{{*/events}}").into()
}

/// The channel on which scripts publish the events of an object to the controller, in a cluster. It lies in the object's slot.
pub(crate) fn of_object(prefix: &str, object: &ObjectRef) -> Arc<str> {
    format!("{prefix}:{{{object}}}:events").into()
}

/// The same, by the first key of the object.
pub(crate) fn of_key(key: &str) -> Option<Arc<str>> {
    let (stem, _) = key.rsplit_once("}:")?;
    Some(format!("{stem}}}:events").into())
}

/// The object whose events come on a channel of a cluster.
pub(crate) fn object(channel: &str) -> Option<ObjectRef> {
    let (_, tag) = channel.strip_suffix("}:events")?.split_once('{')?;
    ObjectRef::parse(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_channel_has_its_namespace_where_keys_have_it() {
        let own = ClientChannels::new("tenure", "ml", "1");
        assert_eq!(&*own.channel(None), "tenure:{ml/client/1}");
        assert_eq!(&*of_event("tenure", "ml"), "tenure:{ml/events}");
        assert_eq!(&*of_events("tenure"), "tenure:{*/events}");
    }

    #[test]
    fn the_sharded_channels_of_an_object_lie_in_its_slot() {
        let own = ClientChannels::new("tenure", "ml", "1");
        for name in ["x", "client/1", "z:obj"] {
            let object = ObjectRef::new(Kind::Pool, "ml", name).unwrap();
            let key = &object.keys("tenure")[0];
            let here = slot::of(key);
            let channel = own.channel(Some(here));
            assert_eq!(slot::of(&channel), here, "{channel}");
            let ending = own.ending(here);
            assert_eq!(*channel, *format!("tenure:{{ml/client/1/{ending}}}"));
            let events = of_object("tenure", &object);
            assert_eq!(slot::of(&events), here, "{events}");
            assert_eq!(of_key(key).as_ref(), Some(&events));
            assert_eq!(super::object(&events), Some(object));
        }
    }

    #[test]
    fn a_client_knows_its_channels() {
        let own = ClientChannels::new("tenure", "ml", "1");
        for slot in [None, Some(0), Some(16383)] {
            assert!(own.has(&own.channel(slot)));
        }
        for other in [
            "tenure:{ml/client/12}",
            "tenure:{ml/client/2/abc}",
            "other:{ml/client/1}",
            "tenure:{ml/events}",
            "tenure:{ml/pool/x}:events",
        ] {
            assert!(!own.has(other), "{other}");
        }
    }
}
