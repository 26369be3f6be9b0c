//! Declare: what Redis must be told of an object, and when.
//!
//! Fencing tokens must grow even if Redis loses everything that it knows, so an object counts on from a floor that lies
//! in its status, hence in etcd. Redis hears of a floor only after etcd has it. Whatever is declared anew gets a floor
//! beyond every token that may have been granted: status shows the last ones only as of its last write, hence margins.
//!
//! For the same reason the longest lease that may be running lies in the status: an object that was lost has to recover
//! for as long, and neither Redis nor the spec knows of a lease that was longer before.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tenure::control::{Capacity, Order, Snapshot};
use tenure_crds::LeasePolicy;
use uuid::Uuid;

use crate::kinds::Report;

/// More tokens than an object grants between two writes of its floor: a month at 1,600 grants a second.
const MARGIN_AFTER_LOSS: u64 = 1 << 32;
/// More tokens than an object grants between being read and being declared, even if Redis restarts in between.
const MARGIN_OF_CHANGE: u64 = 1 << 24;
/// The floor in etcd may lag behind the newest token by this; must be well below [`MARGIN_AFTER_LOSS`].
const REFRESH_AFTER: u64 = 1 << 30;

/// That an object must be declared, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    /// The floor to write to etcd and then to declare.
    pub(crate) floor: u64,
    /// The longest lease that may be running, in seconds: also for etcd first.
    pub(crate) longest_lease: u32,
    /// Whether Redis has had this object before, so that leases of which it does not know may be running.
    pub(crate) declared_before: bool,
}

/// What Redis shows of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) snapshot: Option<&'a Snapshot>,
    /// Redis' clock in microseconds.
    pub(crate) now_micros: u64,
}

/// Whether the object must be declared: nothing if Redis has it as `digest` says, told to this very server process.
pub(crate) fn plan(report: &Report, lease: &LeasePolicy, digest: &str, seen: Seen<'_>) -> Option<Plan> {
    let snapshot = seen.snapshot;
    let newest = newest_fence(report, snapshot);
    let longest_lease = longest_lease(report.common.lease_duration_seconds, lease, Duration::ZERO);
    let Some(floor) = report.common.fencing_floor else {
        // The clock is ahead of any token of an object of the same name that was deleted before.
        return Some(Plan {
            floor: seen.now_micros.max(newest),
            longest_lease,
            declared_before: false,
        });
    };
    let same_life = snapshot.is_some_and(|s| s.current);
    let same_spec = snapshot.is_some_and(|s| s.digest.as_deref() == Some(digest) && !s.withdrawing);
    let margin = match (same_life, same_spec) {
        (true, true) => return None,
        (true, false) => MARGIN_OF_CHANGE,
        (false, _) => MARGIN_AFTER_LOSS,
    };
    Some(Plan {
        floor: floor.max(newest).saturating_add(margin),
        longest_lease,
        declared_before: true,
    })
}

/// The longest lease that may be running, in seconds: the spec's, or one that was `known` before, until the spec has been
/// in force for as long as that.
pub(crate) fn longest_lease(known: Option<u32>, lease: &LeasePolicy, in_force_for: Duration) -> u32 {
    let running = known.filter(|known| in_force_for < Duration::from_secs((*known).into()));
    running.unwrap_or_default().max(lease.lease_duration_seconds)
}

/// The floor that etcd should have while nothing needs declaring.
pub(crate) fn refreshed_floor(floor: Option<u64>, last_fence: u64) -> Option<u64> {
    floor.map(|floor| {
        if last_fence > floor.saturating_add(REFRESH_AFTER) {
            last_fence
        } else {
            floor
        }
    })
}

fn newest_fence(report: &Report, snapshot: Option<&Snapshot>) -> u64 {
    let shown = report
        .holds
        .iter()
        .map(|hold| hold.holder.fencing_token)
        .max()
        .unwrap_or(0);
    shown.max(snapshot.map_or(0, |s| s.last_fence))
}

/// A name for the part of a spec that Redis has to know: equal parts have equal names, over any number of restarts and
/// versions of this program.
pub(crate) fn digest(lease: &LeasePolicy, capacity: &Capacity) -> String {
    /// Whether it is disabled, and its properties.
    type Member<'a> = (bool, &'a BTreeMap<String, String>);

    #[derive(Serialize)]
    struct Canonical<'a> {
        lease_seconds: u32,
        max_hold_seconds: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        permits: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        order: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        generated: Option<(&'a str, u64)>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<BTreeMap<&'a str, Member<'a>>>,
    }
    let mut canonical = Canonical {
        lease_seconds: lease.lease_duration_seconds,
        max_hold_seconds: lease.max_hold_seconds,
        permits: None,
        order: None,
        generated: None,
        resources: None,
    };
    match capacity {
        Capacity::Permits(permits) => canonical.permits = Some(*permits),
        Capacity::Generated { order, prefix, count } => {
            canonical.order = Some(order_name(*order));
            canonical.generated = Some((prefix, *count));
        }
        Capacity::Resources { order, resources } => {
            canonical.order = Some(order_name(*order));
            canonical.resources = Some(
                resources
                    .iter()
                    .map(|r| (r.name.as_str(), (r.disabled, &r.properties)))
                    .collect(),
            );
        }
    }
    let text = serde_json::to_vec(&canonical).unwrap_or_default();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &text).simple().to_string()
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::LeastRecentlyUsed => "LeastRecentlyUsed",
        Order::MostRecentlyUsed => "MostRecentlyUsed",
        Order::Random => "Random",
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use jiff::Timestamp;
    use tenure::control::Resource;
    use tenure_crds::{Holder, whole_seconds};

    use super::*;
    use crate::kinds::Hold;

    const NOW: u64 = 1_700_000_000_000_000;
    const FLOOR: u64 = NOW + 5;

    fn snapshot(digest: &str, current: bool, last_fence: u64) -> Snapshot {
        Snapshot {
            now: SystemTime::UNIX_EPOCH,
            digest: Some(digest.to_owned()).filter(|digest| !digest.is_empty()),
            current,
            limit: 1,
            held: 0,
            free: 1,
            waiting: 0,
            last_fence,
            recovering_until: None,
            withdrawing: false,
            next_change: None,
            holders: Vec::new(),
            waiters: Vec::new(),
        }
    }

    fn report(floor: Option<u64>, fences: &[u64]) -> Report {
        let mut report = Report::default();
        report.common.fencing_floor = floor;
        report.holds = fences
            .iter()
            .map(|fence| Hold {
                resource: None,
                permits: 1,
                holder: Holder {
                    token: fence.to_string(),
                    pod: "p".to_owned(),
                    namespace: None,
                    reason: String::new(),
                    fencing_token: *fence,
                    acquired_at: whole_seconds(Timestamp::UNIX_EPOCH),
                    expires_at: whole_seconds(Timestamp::UNIX_EPOCH),
                },
            })
            .collect();
        report
    }

    fn planned(report: &Report, snapshot: Option<&Snapshot>) -> Option<Plan> {
        plan(
            report,
            &LeasePolicy::default(),
            "spec-2",
            Seen {
                snapshot,
                now_micros: NOW,
            },
        )
    }

    #[test]
    fn a_new_object_counts_from_the_clock_and_does_not_recover() {
        let first = planned(&report(None, &[]), None);
        assert_eq!(
            first,
            Some(Plan {
                floor: NOW,
                longest_lease: 30,
                declared_before: false
            })
        );
    }

    #[test]
    fn a_new_object_of_which_redis_has_a_retained_one_counts_on_from_that() {
        let retained = snapshot("spec-2", true, NOW + 77);
        let again = planned(&report(None, &[]), Some(&retained));
        assert_eq!(
            again,
            Some(Plan {
                floor: NOW + 77,
                longest_lease: 30,
                declared_before: false
            })
        );
    }

    #[test]
    fn nothing_is_declared_while_redis_has_it_as_it_should_be() {
        assert_eq!(
            planned(
                &report(Some(FLOOR), &[]),
                Some(&snapshot("spec-2", true, FLOOR + 9))
            ),
            None
        );
    }

    #[test]
    fn whatever_redis_has_lost_the_floor_jumps_beyond_every_token_that_may_have_been_granted() {
        for (case, lost) in [
            ("emptied", None),
            ("restarted", Some(snapshot("spec-2", false, FLOOR + 9))),
            (
                "restarted with another spec",
                Some(snapshot("spec-1", false, FLOOR + 9)),
            ),
            (
                "emptied, then made by its first user",
                Some(snapshot("", false, 3)),
            ),
        ] {
            let plan = planned(&report(Some(FLOOR), &[FLOOR + 20]), lost.as_ref());
            let expected = Plan {
                floor: FLOOR + 20 + MARGIN_AFTER_LOSS,
                longest_lease: 30,
                declared_before: true,
            };
            assert_eq!(plan, Some(expected), "{case}");
        }
    }

    #[test]
    fn the_floor_is_beyond_the_newest_of_floor_shown_tokens_and_redis() {
        let redis_knows_more = snapshot("spec-2", false, FLOOR + 99);
        let plan = planned(&report(Some(FLOOR), &[FLOOR + 20]), Some(&redis_knows_more)).unwrap();
        assert_eq!(plan.floor, FLOOR + 99 + MARGIN_AFTER_LOSS);
        let old_snapshot = snapshot("spec-2", false, 4);
        let plan = planned(&report(Some(FLOOR), &[7]), Some(&old_snapshot)).unwrap();
        assert_eq!(plan.floor, FLOOR + MARGIN_AFTER_LOSS);
    }

    #[test]
    fn a_changed_spec_is_declared_with_room_for_a_restart_just_now() {
        let plan = planned(
            &report(Some(FLOOR), &[]),
            Some(&snapshot("spec-1", true, FLOOR + 9)),
        );
        assert_eq!(
            plan,
            Some(Plan {
                floor: FLOOR + 9 + MARGIN_OF_CHANGE,
                longest_lease: 30,
                declared_before: true
            })
        );
    }

    #[test]
    fn an_object_that_was_being_withdrawn_is_declared_again() {
        let mut withdrawing = snapshot("spec-2", true, FLOOR);
        withdrawing.withdrawing = true;
        assert!(planned(&report(Some(FLOOR), &[]), Some(&withdrawing)).is_some());
    }

    #[test]
    fn planning_again_after_a_declaration_that_failed_only_raises_the_floor() {
        let first = planned(&report(Some(FLOOR), &[]), None).unwrap();
        let second = planned(&report(Some(first.floor), &[]), None).unwrap();
        assert!(second.floor > first.floor && second.declared_before);
    }

    #[test]
    fn a_lease_that_was_longer_counts_until_the_shorter_one_has_been_in_force_for_as_long() {
        let lease = |seconds| LeasePolicy {
            lease_duration_seconds: seconds,
            ..LeasePolicy::default()
        };
        let cases = [
            ("never declared", None, 30, 0, 30),
            ("as before", Some(30), 30, 0, 30),
            ("longer now", Some(30), 60, 0, 60),
            ("shorter since a moment ago", Some(60), 30, 0, 60),
            ("shorter, and old leases may be running", Some(60), 30, 59, 60),
            (
                "shorter for so long that old leases have ended",
                Some(60),
                30,
                60,
                30,
            ),
        ];
        for (case, known, seconds, in_force_for, expected) in cases {
            let longest = longest_lease(known, &lease(seconds), Duration::from_secs(in_force_for));
            assert_eq!(longest, expected, "{case}");
        }
    }

    #[test]
    fn an_object_that_was_lost_when_its_lease_was_shortened_recovers_for_the_longer_one() {
        let mut report = report(Some(FLOOR), &[]);
        report.common.lease_duration_seconds = Some(86_400);
        assert_eq!(planned(&report, None).unwrap().longest_lease, 86_400);
    }

    #[test]
    fn the_floor_in_etcd_follows_rarely_and_never_goes_back() {
        assert_eq!(refreshed_floor(None, 5), None, "a floor comes from a plan alone");
        assert_eq!(refreshed_floor(Some(FLOOR), FLOOR + REFRESH_AFTER), Some(FLOOR));
        assert_eq!(
            refreshed_floor(Some(FLOOR), FLOOR + REFRESH_AFTER + 1),
            Some(FLOOR + REFRESH_AFTER + 1)
        );
        assert_eq!(refreshed_floor(Some(FLOOR), 0), Some(FLOOR));
        const { assert!(REFRESH_AFTER < MARGIN_AFTER_LOSS / 2) }
    }

    fn resources(names: &[(&str, bool)]) -> Capacity {
        let resources = names
            .iter()
            .map(|(name, disabled)| Resource {
                name: (*name).to_owned(),
                properties: BTreeMap::new(),
                disabled: *disabled,
            })
            .collect();
        Capacity::Resources {
            order: Order::Random,
            resources,
        }
    }

    #[test]
    fn the_digest_is_the_same_in_every_version_of_this_program() {
        let lease = LeasePolicy::default();
        assert_eq!(
            digest(&lease, &Capacity::Permits(3)),
            "394e882911d557349dd662c065d9bc5d"
        );
    }

    #[test]
    fn the_digest_differs_with_each_thing_that_redis_has_to_know() {
        let lease = LeasePolicy::default();
        let longer = LeasePolicy {
            lease_duration_seconds: 31,
            ..lease.clone()
        };
        let capped = LeasePolicy {
            max_hold_seconds: Some(60),
            ..lease.clone()
        };
        let generated = |prefix: &str, count| Capacity::Generated {
            order: Order::Random,
            prefix: prefix.to_owned(),
            count,
        };
        let mut digests = vec![
            digest(&lease, &Capacity::Permits(3)),
            digest(&longer, &Capacity::Permits(3)),
            digest(&capped, &Capacity::Permits(3)),
            digest(&lease, &Capacity::Permits(4)),
            digest(&lease, &resources(&[("a", false)])),
            digest(&lease, &resources(&[("a", true)])),
            digest(&lease, &resources(&[("b", false)])),
            digest(&lease, &generated("a", 1)),
            digest(&lease, &generated("b", 1)),
            digest(&lease, &generated("a", 2)),
        ];
        let all = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }

    #[test]
    fn the_digest_does_not_mind_the_order_of_resources_nor_what_redis_need_not_know() {
        let lease = LeasePolicy::default();
        let retained = LeasePolicy {
            deletion_policy: tenure_crds::DeletionPolicy::Retain,
            reclaim_policy: tenure_crds::ReclaimPolicy::OnExpiry,
            ..lease.clone()
        };
        let (ab, ba) = (
            resources(&[("a", false), ("b", false)]),
            resources(&[("b", false), ("a", false)]),
        );
        assert_eq!(digest(&lease, &ab), digest(&lease, &ba));
        assert_eq!(digest(&lease, &ab), digest(&retained, &ab));
    }
}
