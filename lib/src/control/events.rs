//! The events that a controller receives: objects that have changed, or are missing.

use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

use crate::{
    ObjectRef,
    lease::registry::LeaseRegistry,
    protocol::{
        channel::{self, ClientChannels},
        message::Announcement,
    },
    transport::{clock::Clock, connection::Receiver, lock},
};

/// Something a controller should look at.
///
/// ```no_run
/// # fn run(event: tenure::control::Event) {
/// use tenure::control::Event;
///
/// match event {
///     Event::Changed(object) | Event::Missing(object) => println!("look at {object}"),
///     Event::Reconnected => println!("look at everything"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A watched object has changed. It is published once; observing the object requests the next one.
    Changed(ObjectRef),
    /// A client requests an object that does not exist.
    Missing(ObjectRef),
    /// There is a new connection, or events were lost: anything may have changed.
    Reconnected,
}

/// The stream of events. Made by [`Control::events`](super::Control::events).
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let mut events = client.control().events()?;
/// while let Some(event) = events.next().await {
///     println!("{event:?}");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events {
    events: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the client is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    ///
    /// ```no_run
    /// # async fn run(mut events: tenure::control::Events) {
    /// let event = events.next().await;
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Event> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Reconnected),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Passes pushes on to the registry, and events to the receiver.
pub(crate) struct Mailbox {
    /// The prefix of all channels.
    prefix: String,
    /// The channels of the client's own pushes.
    own: ClientChannels,
    registry: Arc<LeaseRegistry>,
    /// Absent: none comes any more.
    events: Mutex<Option<broadcast::Sender<Event>>>,
}

impl Mailbox {
    pub(crate) fn new(prefix: &str, own: ClientChannels, registry: Arc<LeaseRegistry>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            own,
            registry,
            events: Mutex::new(Some(broadcast::channel(4096).0)),
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let events = match &*lock(&self.events) {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        };
        Events { events }
    }

    fn send(&self, event: Event) {
        if let Some(events) = &*lock(&self.events) {
            // An error means that there is no subscriber now.
            let _ = events.send(event);
        }
    }
}

impl Receiver for Mailbox {
    fn message(&self, clock: &Clock, on: &str, payload: &str) {
        if self.own.has(on) {
            return self.registry.message(clock, on, payload);
        }
        let event = match Announcement::read(payload) {
            Some(Announcement::Changed(object)) => Event::Changed(object),
            Some(Announcement::Missing(object)) => Event::Missing(object),
            None => return,
        };
        // A tenant can publish on the channels of its own namespace, and only about the objects of that.
        if let Event::Changed(object) | Event::Missing(object) = &event
            && (*on == *channel::of_event(&self.prefix, object.namespace())
                || *on == *channel::of_object(&self.prefix, object))
        {
            self.send(event);
        }
    }

    fn unsubscribed(&self, on: &str) {
        if self.own.has(on) {
            return self.registry.unsubscribed(on);
        }
        // Its object has moved, and its events are missed until it is looked at.
        if let Some(object) = channel::object(on) {
            self.send(Event::Changed(object));
        }
    }

    fn connected(&self) {
        self.registry.connected();
        self.send(Event::Reconnected);
    }

    fn closed(&self) {
        self.registry.closed();
        lock(&self.events).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, transport::uptime::Uptime};

    #[tokio::test]
    async fn an_event_comes_on_a_channel_of_its_object_or_of_its_namespace() {
        let uptime = Arc::new(Uptime::system());
        let own = ClientChannels::new("tenure", "ml", "1");
        let mailbox = Mailbox::new("tenure", own, Arc::new(LeaseRegistry::new(uptime.clone())));
        let clock = Clock::of_a_connection_begun_at(uptime.now());
        let mut events = mailbox.subscribe();
        let object = |name| ObjectRef::new(Kind::Pool, "ml", name).unwrap();
        for (channel, name) in [
            ("tenure:{ml/pool/y}:events", "x"),
            ("tenure:{other/events}", "x"),
            ("tenure:{ml/client/2}", "x"),
            ("tenure:{ml/pool/x}:events", "x"),
            ("tenure:{ml/events}", "y"),
        ] {
            mailbox.message(&clock, channel, &format!("changed\nml/pool/{name}"));
        }
        // The server of an object is another one, and its events would be missed.
        mailbox.unsubscribed("tenure:{ml/pool/z}:events");
        mailbox.unsubscribed("tenure:{ml/client/1/abc}");
        mailbox.closed();
        for name in ["x", "y", "z"] {
            assert_eq!(events.next().await, Some(Event::Changed(object(name))));
        }
        assert_eq!(events.next().await, None);
    }
}
