use crate::control::{Life, plan::*};

/// The clock of Redis, in microseconds, and of the controller.
const NOW: u64 = 1_700_000_000_000_000;
const LEASE: Duration = Duration::from_secs(30);

fn at(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

fn snapshot(digest: &str, current: bool, last_fence: u64) -> Snapshot {
    Snapshot {
        now: at(NOW),
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
        longest_lease: LEASE,
        holders: Vec::new(),
        waiters: Vec::new(),
    }
}

fn seen(snapshot: Option<Snapshot>, now_micros: u64) -> Observation {
    Observation {
        life: Life {
            run: "r".to_owned(),
            newest: snapshot.as_ref().map_or(0, |s| s.last_fence),
        },
        snapshot,
        drained: false,
        now_micros,
    }
}

fn kept(floor: u64, current_at: u64, newest: u64) -> Kept {
    Kept {
        floor,
        current_at: Some(at(current_at)),
        newest,
        longest_lease: LEASE,
    }
}

fn planned(kept: Option<Kept>, snapshot: Option<Snapshot>) -> Option<Plan> {
    plan(kept.as_ref(), &seen(snapshot, NOW), "spec-2", LEASE, at(NOW))
}

#[test]
fn a_new_object_counts_from_the_clock_and_does_not_recover() {
    let first = Plan {
        floor: NOW,
        current_at: at(NOW),
        longest_lease: LEASE,
        declared_before: false,
        adopts: true,
        beyond: Some(0),
    };
    assert_eq!(planned(None, None), Some(first));
    let ahead = Plan {
        floor: NOW + 7,
        ..first
    };
    assert_eq!(planned(None, Some(snapshot("", false, NOW + 7))), Some(ahead));
}

#[test]
fn what_redis_has_as_declared_while_nothing_was_kept_was_declared_before() {
    for (case, found, floor) in [
        ("retained, in the same life", snapshot("spec-1", true, 77), 77),
        (
            "restored, and Redis restarted",
            snapshot("spec-2", false, 77),
            NOW,
        ),
        (
            "restored, Redis restarted, and its clock is behind",
            snapshot("spec-2", false, NOW + 77),
            NOW + 77 + MARGIN_WITHOUT_ELAPSED,
        ),
    ] {
        let plan = planned(None, Some(found)).unwrap();
        assert_eq!((plan.floor, plan.declared_before), (floor, true), "{case}");
    }
}

#[test]
fn nothing_is_declared_while_redis_has_it_as_it_should_be() {
    let kept = kept(500, NOW - 9, 600);
    assert_eq!(planned(Some(kept), Some(snapshot("spec-2", true, 600))), None);
}

#[test]
fn a_changed_spec_raises_no_floor() {
    let plan = planned(Some(kept(500, 0, 510)), Some(snapshot("spec-1", true, 520))).unwrap();
    assert_eq!(
        (plan.floor, plan.current_at, plan.declared_before),
        (520, at(NOW), true)
    );
    let mut withdrawing = snapshot("spec-2", true, 520);
    withdrawing.withdrawing = true;
    let plan = planned(Some(kept(500, 0, 510)), Some(withdrawing)).unwrap();
    assert_eq!(plan.floor, 520);
}

#[test]
fn after_a_loss_the_floor_is_the_clock_if_that_is_beyond_all_that_may_have_been_granted() {
    let second_ago = NOW - 1_000_000;
    for (case, found) in [
        ("emptied", None),
        ("restarted", Some(snapshot("spec-2", false, second_ago + 5))),
        (
            "with another spec",
            Some(snapshot("spec-1", false, second_ago + 5)),
        ),
        ("made by its first user", Some(snapshot("", false, NOW - 5))),
        (
            "failed back to a master that did not get the floor",
            Some(snapshot("spec-2", true, second_ago - 1)),
        ),
    ] {
        let plan = planned(Some(kept(second_ago, second_ago, second_ago + 9)), found).unwrap();
        assert_eq!((plan.floor, plan.declared_before), (NOW, true), "{case}");
    }
}

#[test]
fn where_the_clock_of_redis_is_behind_the_floor_is_beyond_what_was_granted_meanwhile() {
    let elapsed = 8_000_000;
    let known = NOW + 100;
    let plan = planned(Some(kept(NOW, NOW - elapsed, known)), None).unwrap();
    assert_eq!(plan.floor, known + elapsed / 8 + 1);
    let plan = planned(
        Some(kept(NOW, NOW - elapsed, 0)),
        Some(snapshot("spec-2", false, known)),
    )
    .unwrap();
    assert_eq!(plan.floor, known + elapsed / 8 + 1, "Redis knows the newest");
}

#[test]
fn where_the_own_clock_is_behind_the_floor_is_beyond_what_a_floor_may_lag() {
    let plan = planned(Some(kept(NOW + 5, NOW + 1_000_000, 0)), None).unwrap();
    assert_eq!(plan.floor, NOW + 5 + MARGIN_WITHOUT_ELAPSED);
    let unknown = Kept {
        current_at: None,
        ..kept(NOW + 5, 0, 0)
    };
    let plan = planned(Some(unknown), None).unwrap();
    assert_eq!(plan.floor, NOW + 5 + MARGIN_WITHOUT_TIME);
}

#[test]
fn losses_in_quick_succession_leave_the_floor_at_the_clock() {
    let mut known = kept(NOW, NOW, 0);
    for loss in 1..1000_u64 {
        let now = NOW + loss * 250_000;
        // As many tokens as there can be.
        known.newest = known.floor + 250_000 / 8;
        let plan = plan(Some(&known), &seen(None, now), "spec-2", LEASE, at(now)).unwrap();
        assert!(plan.floor > known.newest, "{loss}");
        assert_eq!(plan.floor, now, "{loss}");
        // A status keeps whole seconds.
        (known.floor, known.current_at) = (plan.floor, Some(at(now / 1_000_000 * 1_000_000)));
    }
}

#[test]
fn planning_again_after_a_declaration_that_failed_raises_the_floor() {
    let first = planned(Some(kept(NOW + 9, NOW, 0)), None).unwrap();
    let second = planned(Some(kept(first.floor, NOW, 0)), None).unwrap();
    assert!(second.floor > first.floor && second.declared_before);
}

#[test]
fn the_longest_lease_is_that_of_the_spec_or_kept_or_of_a_first_user() {
    let minute = Duration::from_secs(60);
    let long = |digest| {
        let mut found = snapshot(digest, false, 9);
        found.longest_lease = minute;
        Some(found)
    };
    let longest = |kept, found| planned(kept, found).unwrap().longest_lease;
    let day = Kept {
        longest_lease: Duration::from_secs(86_400),
        ..kept(5, NOW, 0)
    };
    for (case, found, expected) in [
        ("new", longest(None, None), LEASE),
        ("adopted", longest(None, long("")), minute),
        ("retained", longest(None, long("spec-1")), minute),
        (
            "a first user's after a loss",
            longest(Some(kept(5, NOW, 0)), long("")),
            minute,
        ),
        (
            "of a spec that was longer once",
            longest(Some(kept(5, NOW, 0)), long("spec-2")),
            LEASE,
        ),
        ("kept", longest(Some(day), None), day.longest_lease),
    ] {
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn the_kept_floor_follows_rarely() {
    let kept = kept(NOW, NOW, 0);
    assert_eq!(kept.refreshed(NOW + REFRESH_AFTER), None);
    assert_eq!(
        kept.refreshed(NOW + REFRESH_AFTER + 1),
        Some(NOW + REFRESH_AFTER + 1)
    );
    assert_eq!(kept.refreshed(0), None);
    let unknown = Kept {
        current_at: None,
        ..kept
    };
    assert_eq!(unknown.refreshed(NOW + 1), Some(NOW + 1), "once, to have a time");
    // All that is granted between two looks, and the lag.
    const { assert!(REFRESH_AFTER + 300_000_000 / 8 < MARGIN_WITHOUT_ELAPSED) }
}
