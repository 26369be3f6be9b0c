//! Times, as they are shown: exact in JSON, relative in tables.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::duration::age;

/// RFC 3339 in UTC, with seconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(
        |_| "unknown".to_owned(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// The time since then.
pub(crate) fn since(now: SystemTime, then: SystemTime) -> String {
    age(now.duration_since(then).unwrap_or_default())
}

/// The time until then.
pub(crate) fn until(now: SystemTime, then: SystemTime) -> String {
    age(then.duration_since(now).unwrap_or_default())
}
