//! The effect of a write on the value's time to live.

use std::time::Duration;

use crate::{Error, protocol::calls::TimeToLive};

const LONGEST_EXPIRY: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The effect of a write on the value's time to live. Deleting ends it; a new value has none.
///
/// ```
/// let expiry = tenure::Expiry::After(std::time::Duration::from_millis(1500));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// It stays as it is.
    #[default]
    Keep,
    /// The value is gone this long after the write: 1 ms to ten years, by the server's clock.
    After(Duration),
    /// The value stays.
    Never,
}

impl Expiry {
    pub(super) fn time_to_live(self) -> Result<TimeToLive, Error> {
        match self {
            Self::Keep => Ok(TimeToLive::Keep),
            Self::Never => Ok(TimeToLive::Never),
            Self::After(span) if span < Duration::from_millis(1) || span > LONGEST_EXPIRY => Err(
                Error::invalid("expiry", format!("is {span:?}"), "use 1 ms to ten years"),
            ),
            Self::After(span) => Ok(TimeToLive::AfterMs(span.as_millis())),
        }
    }
}
