//! Waits for the next change of objects, by the events that the library receives.

use std::time::Duration;

use tenure::{
    Client, Error, ObjectRef,
    control::{Event, Events, Snapshot},
};

/// Changes that follow one another within this time are shown as one.
const TOGETHER: Duration = Duration::from_millis(100);
/// For objects that no resource declares: Redis publishes no changes of them.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The changes of objects that are observed before each wait.
pub(crate) struct Changes {
    events: Events,
}

impl Changes {
    /// Of a client that was built with events.
    pub(crate) fn of(client: &Client) -> Result<Self, Error> {
        let events = client.control().events()?;
        Ok(Self { events })
    }

    /// Waits until one of the objects may have changed since it was observed.
    pub(crate) async fn next<'a>(
        &mut self,
        objects: impl IntoIterator<Item = &'a ObjectRef>,
        seen: impl IntoIterator<Item = Option<&'a Snapshot>>,
    ) -> Result<(), Error> {
        let objects: Vec<_> = objects.into_iter().collect();
        let until = seen.into_iter().filter_map(next_look).min();
        let event = async {
            loop {
                match self.events.next().await {
                    Some(Event::Changed(object) | Event::Missing(object)) if !objects.contains(&&object) => {}
                    Some(_) => return Ok(()),
                    None => return Err(Error::Closed),
                }
            }
        };
        match until {
            // The time alone may have changed it.
            Some(until) => tokio::time::timeout(until, event).await.unwrap_or(Ok(())),
            None => event.await,
        }?;
        tokio::time::sleep(TOGETHER).await;
        Ok(())
    }
}

/// The time after which an object is looked at without an event.
fn next_look(seen: Option<&Snapshot>) -> Option<Duration> {
    let Some(seen) = seen.filter(|seen| seen.digest.is_some()) else {
        return Some(LOOK_AGAIN);
    };
    let next = seen.next_change?;
    Some(next.duration_since(seen.now).unwrap_or_default().max(TOGETHER))
}
