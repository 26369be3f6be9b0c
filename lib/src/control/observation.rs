//! An object as it was observed, and the life of the server's data in which that was.

use crate::{control::snapshot::Snapshot, protocol::calls::Inspected};

/// The state that a controller needs before it declares an object. Made by
/// [`Control::inspect`](super::Control::inspect).
///
/// ```no_run
/// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
/// let seen = control.inspect(&object, 10, 0).await?;
/// println!("{:?} at {}", seen.snapshot, seen.now_micros);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The object; `None`: there is none.
    pub snapshot: Option<Snapshot>,
    /// The object does not exist because it was withdrawn, and its last lease has ended. Reported for a day.
    pub drained: bool,
    /// The server's time, in microseconds since 1970.
    pub now_micros: u64,
    /// The life of the server's data.
    pub life: Life,
}

/// Names the life of a server's data in which an object was observed, for
/// [`Control::declare_in`](super::Control::declare_in): the server process, and the newest fencing token that it had.
///
/// ```no_run
/// # async fn run(control: tenure::Control, object: tenure::ObjectRef) -> Result<(), tenure::Error> {
/// let before = control.inspect(&object, 0, 0).await?.life;
/// let after = control.inspect(&object, 0, 0).await?.life;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub(super) run: String,
    pub(super) newest: u64,
}

impl Observation {
    pub(super) fn of(inspected: Inspected) -> Self {
        let snapshot = inspected.object.map(Snapshot::of);
        Self {
            drained: inspected.drained,
            now_micros: inspected.now,
            life: Life {
                run: inspected.run,
                newest: snapshot.as_ref().map_or(0, |snapshot| snapshot.last_fence),
            },
            snapshot,
        }
    }
}
