//! The names of channels. Each belongs to a namespace, so that one pattern gives a tenant its channels and its keys.

use std::sync::Arc;

/// The channel of a client's pushes about the objects of a namespace.
pub(crate) fn of_client(prefix: &str, namespace: &str, client: &str) -> Arc<str> {
    format!("{prefix}:{{{namespace}/client/{client}}}").into()
}

/// The channel on which the scripts of a namespace publish events to the controller.
pub(crate) fn of_event(prefix: &str, namespace: &str) -> Arc<str> {
    format!("{prefix}:{{{namespace}/events}}").into()
}

/// The pattern of the channels on which the namespaces publish events to the controller.
pub(crate) fn of_events(prefix: &str) -> Arc<str> {
    format!("{prefix}:{{*/events}}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_its_namespace_where_keys_have_it() {
        assert_eq!(&*of_client("tenure", "ml", "1"), "tenure:{ml/client/1}");
        assert_eq!(&*of_event("tenure", "ml"), "tenure:{ml/events}");
        assert_eq!(&*of_events("tenure"), "tenure:{*/events}");
    }
}
