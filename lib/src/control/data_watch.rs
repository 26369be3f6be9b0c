//! Data watch: notices that a server has lost its data, or has other data, while its connections stay.
//!
//! A restart ends the connections, and a client that asks for a lost object is an event. `FLUSHALL`, and data that is loaded in
//! place, do neither. So each master has a *marker*: a key with a random number and a time that the controllers move on. A marker that
//! is gone, that has another number, or whose time is set back means that all objects of the server are to be observed. The cost
//! is one command a master and check.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{Control, Error, ObjectRef, protocol::slot, transport::routing_table::Shard};

/// The time in a marker is moved on this often.
const MOVED_EVERY: u64 = 5_000;
/// A time that is behind by no more was moved by another controller, whose call was under way.
const BEHIND: u64 = 4_000;
/// Two controllers may make a marker at the same time, and one number stays.
const MADE_TOGETHER: Duration = Duration::from_secs(3);

/// Watches the data of the servers. Made by [`Control::data_watch`].
///
/// ```no_run
/// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
/// let mut watch = control.data_watch();
/// loop {
///     for loss in watch.check().await? {
///         println!("{} has other data; has it {object}? {}", loss.server(), loss.concerns(&object));
///     }
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
/// }
/// # }
/// ```
pub struct DataWatch {
    control: Control,
    /// The markers by their keys.
    known: HashMap<String, Marker>,
}

/// A server that has lost its data, or has other data than before. Made by [`DataWatch::check`].
///
/// ```no_run
/// # fn run(loss: tenure::control::DataLoss) {
/// println!("{} has lost data", loss.server());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DataLoss {
    server: String,
    /// The slots of the server, where it is one of a cluster.
    slots: Option<Vec<u16>>,
}

/// A marker as it was seen or written last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    number: String,
    /// Milliseconds since 1970.
    moved: u64,
    /// When this process made it, if it did.
    made: Option<Instant>,
}

/// The decision about a marker.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is as it was, or has moved on.
    Same,
    /// It is there, and was not known.
    New,
    /// It has to be made, and nothing is known of an earlier one.
    Absent,
    /// The server has lost its data, or has other data.
    Lost,
}

impl fmt::Debug for DataWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataWatch").finish_non_exhaustive()
    }
}

impl DataLoss {
    /// Returns host and port of the server; behind Sentinels, the name of their service.
    ///
    /// ```no_run
    /// # fn run(loss: tenure::control::DataLoss) {
    /// println!("{}", loss.server());
    /// # }
    /// ```
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns whether the server has this object.
    ///
    /// ```no_run
    /// # fn run(loss: tenure::control::DataLoss, object: tenure::ObjectRef) {
    /// println!("{}", loss.concerns(&object));
    /// # }
    /// ```
    #[must_use]
    pub fn concerns(&self, object: &ObjectRef) -> bool {
        let slot = || object.keys("").first().map(|key| slot::of(key));
        match &self.slots {
            None => true,
            Some(slots) => slot().is_some_and(|slot| slots.binary_search(&slot).is_ok()),
        }
    }
}

impl Control {
    /// Watches the data of the servers.
    ///
    /// ```no_run
    /// # fn run(control: tenure::Control) {
    /// let watch = control.data_watch();
    /// # }
    /// ```
    #[must_use]
    pub fn data_watch(&self) -> DataWatch {
        DataWatch {
            control: self.clone(),
            known: HashMap::new(),
        }
    }
}

impl DataWatch {
    /// Checks each master that answers, and returns those that have lost data, or have other data, since the last check. One command a
    /// master, and one more each five seconds. The in-memory twin has no marker.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the servers are not known; else the error of a master that has refused a command, when the
    /// others have been checked and none of them has lost data.
    ///
    /// # Cancel safety
    /// Dropping the future may miss a loss that was just noticed.
    ///
    /// ```no_run
    /// # async fn run(mut watch: tenure::control::DataWatch) -> Result<(), tenure::Error> {
    /// let losses = watch.check().await?;
    /// # Ok(()) }
    /// ```
    pub async fn check(&mut self) -> Result<Vec<DataLoss>, Error> {
        let shards = self.control.session.link.shards()?;
        let (mut losses, mut failed) = (Vec::new(), None);
        for shard in shards {
            match self.check_shard(&shard).await {
                Ok(true) => losses.push(DataLoss {
                    slots: self.control.session.link.slots_of(&shard),
                    server: shard.address().to_owned(),
                }),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if losses.is_empty() => Err(error),
            _ => Ok(losses),
        }
    }

    /// Returns whether the server has lost its data.
    async fn check_shard(&mut self, shard: &Shard) -> Result<bool, Error> {
        let key = key(&self.control.session.prefix, shard.first_slot);
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg("number").arg("moved");
        let Some(found) = shard.ask(&command).await? else {
            return Ok(false);
        };
        let found: (Option<String>, Option<u64>) = redis::from_redis_value(found).map_err(Error::protocol)?;
        let found = found.0.map(|number| (number, found.1.unwrap_or(0)));
        // One whose write fails is not known.
        let (now, known) = (millis(), self.known.remove(&key));
        let finding = compare(known.as_ref(), found.as_ref(), Instant::now());
        let mut marker = match found {
            Some((number, moved)) => Marker {
                made: known
                    .filter(|known| known.number == number)
                    .and_then(|known| known.made),
                number,
                moved,
            },
            None => Marker {
                number: self.control.session.link.draw().simple().to_string(),
                moved: 0,
                made: Some(Instant::now()),
            },
        };
        if now >= marker.moved.saturating_add(MOVED_EVERY) {
            marker.moved = now;
            let mut command = redis::cmd("HSET");
            command
                .arg(&key)
                .arg("number")
                .arg(&marker.number)
                .arg("moved")
                .arg(now);
            match shard.ask(&command).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(finding == Finding::Lost),
                Err(_) if finding == Finding::Lost => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.known.insert(key, marker);
        Ok(finding == Finding::Lost)
    }
}

/// Compares a marker with the one that was known.
fn compare(known: Option<&Marker>, found: Option<&(String, u64)>, now: Instant) -> Finding {
    match (known, found) {
        (None, None) => Finding::Absent,
        (None, Some(_)) => Finding::New,
        (Some(_), None) => Finding::Lost,
        (Some(known), Some((number, moved))) => {
            let made_together = known
                .made
                .is_some_and(|made| now.saturating_duration_since(made) < MADE_TOGETHER);
            if known.number != *number && !made_together || moved.saturating_add(BEHIND) < known.moved {
                Finding::Lost
            } else {
                Finding::Same
            }
        }
    }
}

/// The key of the marker of a server; in a cluster, of the server that has the slot. No namespace has such a name, so that no user of
/// a namespace has a right to the key.
fn key(prefix: &str, slot: Option<u16>) -> String {
    match slot {
        None => format!("{prefix}:{{_data}}"),
        Some(slot) => format!("{prefix}:{{_data/{}}}", slot::ending("_data/", slot)),
    }
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn found(number: &str, moved: u64) -> (String, u64) {
        (number.to_owned(), moved)
    }

    #[test]
    fn a_marker_that_is_gone_other_or_set_back_is_a_loss() {
        let now = Instant::now();
        let known = Marker {
            number: "a".to_owned(),
            moved: 100_000,
            made: None,
        };
        let cases = [
            ("as it was", Some(found("a", 100_000)), Finding::Same),
            ("moved on", Some(found("a", 105_000)), Finding::Same),
            ("moved by two at once", Some(found("a", 99_000)), Finding::Same),
            ("set back", Some(found("a", 90_000)), Finding::Lost),
            ("another one", Some(found("b", 105_000)), Finding::Lost),
            ("gone", None, Finding::Lost),
        ];
        for (case, found, expected) in cases {
            assert_eq!(compare(Some(&known), found.as_ref(), now), expected, "{case}");
        }
        assert_eq!(compare(None, None, now), Finding::Absent);
        assert_eq!(compare(None, Some(&found("a", 1)), now), Finding::New);
    }

    #[test]
    fn one_number_of_two_that_were_made_together_stays() {
        let made = Instant::now();
        let known = Marker {
            number: "a".to_owned(),
            moved: 100_000,
            made: Some(made),
        };
        let other = found("b", 100_001);
        assert_eq!(compare(Some(&known), Some(&other), made), Finding::Same);
        assert_eq!(compare(Some(&known), None, made), Finding::Lost);
        assert_eq!(
            compare(Some(&known), Some(&other), made + MADE_TOGETHER),
            Finding::Lost
        );
    }

    #[test]
    fn the_marker_of_a_server_of_a_cluster_is_in_its_first_slot() {
        for slot in [0, 5_461, 16_383] {
            assert_eq!(slot::of(&key("tenure", Some(slot))), slot);
        }
        assert_eq!(key("tenure", None), "tenure:{_data}");
    }

    #[test]
    fn a_loss_concerns_the_objects_in_the_slots_of_its_server() {
        let object = ObjectRef::new(Kind::Pool, "ml", "seats").unwrap();
        let slot = slot::of(&object.keys("tenure")[0]);
        let loss = |slots| DataLoss {
            server: "h:1".to_owned(),
            slots,
        };
        assert!(loss(None).concerns(&object));
        assert!(loss(Some(vec![slot])).concerns(&object));
        assert!(!loss(Some(vec![slot ^ 1])).concerns(&object));
    }
}
