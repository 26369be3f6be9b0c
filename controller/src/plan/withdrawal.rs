//! Withdraw: what becomes of an object's keys when its custom resource is deleted, bounded in time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tenure::{
    ObjectRef,
    control::{Snapshot, Withdrawal},
};
use tenure_crds::DeletionPolicy;

/// The time for which retained keys are kept.
const RETAIN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits of a deletion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The time for which holders may keep their leases.
    pub(crate) drain: Duration,
    /// The time for which Redis may be unreachable before its keys are left behind.
    pub(crate) cleanup: Duration,
}

/// Returns the way to withdraw an object that was deleted at `deleted_at`.
pub(crate) fn how(
    policy: DeletionPolicy,
    deleted_at: Timestamp,
    now: Timestamp,
    limits: Limits,
) -> Withdrawal {
    match policy {
        DeletionPolicy::Drain if now < drained_by(deleted_at, limits) => Withdrawal::Drain,
        DeletionPolicy::Drain | DeletionPolicy::Delete => Withdrawal::Delete,
        DeletionPolicy::Retain => Withdrawal::Retain { keep: RETAIN_FOR },
    }
}

/// Returns when draining ends, even if the object is still held.
pub(crate) fn drained_by(deleted_at: Timestamp, limits: Limits) -> Timestamp {
    later(deleted_at, limits.drain)
}

/// Returns whether to remove the finalizer although the keys are still there: the object was deleted, and each attempt
/// to reach Redis has failed, for as long as is allowed.
pub(crate) fn give_up(
    deleted_at: Timestamp,
    failing_since: Option<Timestamp>,
    now: Timestamp,
    limits: Limits,
) -> bool {
    failing_since.is_some_and(|since| now >= later(since.max(deleted_at), limits.cleanup))
}

/// The rest of an object that is being withdrawn.
#[derive(Debug)]
pub(crate) enum Left {
    Nothing,
    /// The snapshot of leases that are still held.
    Held(Box<Snapshot>),
    /// Redis has lost the object, and leases of which it does not know may be running for so long.
    Unknown(Duration),
}

/// For how long leases may be running of which Redis does not know, if any: none runs for longer than `longest`.
pub(crate) fn unknown_for(lost_for: Duration, longest: Duration) -> Option<Duration> {
    longest.checked_sub(lost_for).filter(|left| !left.is_zero())
}

/// The command by which a person removes the keys that were left behind.
pub(crate) fn command(key_prefix: &str, object: &ObjectRef) -> String {
    format!("redis-cli --scan --pattern '{key_prefix}:{{{object}}}:*' | xargs redis-cli unlink")
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use tenure::Kind;

    use super::*;

    const LIMITS: Limits = Limits {
        drain: Duration::from_secs(300),
        cleanup: Duration::from_secs(60),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn draining_holders_keep_what_they_have_until_the_time_is_over() {
        let drained = |second| how(DeletionPolicy::Drain, at(1000), at(second), LIMITS);
        assert_eq!(drained(1000), Withdrawal::Drain);
        assert_eq!(drained(1299), Withdrawal::Drain);
        assert_eq!(drained(1300), Withdrawal::Delete);
    }

    #[test]
    fn the_other_policies_do_not_wait() {
        assert_eq!(
            how(DeletionPolicy::Delete, at(1000), at(1000), LIMITS),
            Withdrawal::Delete
        );
        let Withdrawal::Retain { keep } = how(DeletionPolicy::Retain, at(1000), at(9999), LIMITS) else {
            panic!("retained keys must not be deleted")
        };
        assert_eq!(keep.as_secs(), 86_400);
    }

    #[test]
    fn it_gives_up_when_redis_was_away_for_the_whole_time_since_the_deletion() {
        let cases = [
            ("never failed", None, 9999, false),
            (
                "failing since the deletion, not long enough",
                Some(1000),
                1059,
                false,
            ),
            ("failing since the deletion, long enough", Some(1000), 1060, true),
            (
                "failing since long before, deleted just now",
                Some(10),
                1059,
                false,
            ),
            (
                "failing since long before, deleted a minute ago",
                Some(10),
                1060,
                true,
            ),
            (
                "deleted long ago, failing since a moment ago",
                Some(5000),
                5059,
                false,
            ),
            ("deleted long ago, failing for a minute", Some(5000), 5060, true),
        ];
        for (case, failing_since, now, expected) in cases {
            assert_eq!(
                give_up(at(1000), failing_since.map(at), at(now), LIMITS),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn what_redis_has_lost_may_be_held_for_the_longest_lease() {
        let second = Duration::from_secs;
        assert_eq!(unknown_for(Duration::ZERO, second(30)), Some(second(30)));
        assert_eq!(unknown_for(second(29), second(30)), Some(second(1)));
        assert_eq!(unknown_for(second(30), second(30)), None);
        assert_eq!(unknown_for(second(31), second(30)), None);
    }

    #[test]
    fn endless_limits_do_not_overflow() {
        let endless = Limits {
            drain: Duration::MAX,
            cleanup: Duration::MAX,
        };
        assert_eq!(
            how(DeletionPolicy::Drain, at(1000), at(9999), endless),
            Withdrawal::Drain
        );
        assert!(!give_up(at(1000), Some(at(1000)), at(9999), endless));
    }

    #[test]
    fn the_command_names_exactly_the_keys_of_the_object() {
        let object = ObjectRef::new(Kind::Pool, "ml", "seats").unwrap();
        assert_eq!(
            command("tenure", &object),
            "redis-cli --scan --pattern 'tenure:{ml/pool/seats}:*' | xargs redis-cli unlink"
        );
    }
}
