use std::time::Duration;

use crate::{
    Kind,
    control::{Observation, epoch::*, observation::Life, plan},
};

/// The clock of Redis, in microseconds, and of the controller.
const NOW: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;
const LEASE: Duration = Duration::from_secs(30);

fn at(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Semaphore, "ml", name).unwrap()
}

/// The status of an object that was declared under this floor when the clock showed it.
fn status(floor: u64) -> Kept {
    Kept {
        floor,
        current_at: Some(at(floor)),
        newest: 0,
        longest_lease: LEASE,
    }
}

/// Redis has nothing, and its clock shows this.
fn nothing(clock: u64) -> Observation {
    Observation {
        snapshot: None,
        drained: false,
        now_micros: clock,
        life: Life {
            run: "r".to_owned(),
            newest: 0,
        },
    }
}

/// Plans the declaration of a lost object, where both clocks show `clock`.
fn back(epochs: &Epochs, name: &str, status: Kept, clock: u64, others: &[Kept]) -> Backing {
    let (_, backing) = planned(epochs, name, status, clock, clock, others);
    backing
}

fn planned(
    epochs: &Epochs,
    name: &str,
    status: Kept,
    clock: u64,
    own_clock: u64,
    others: &[Kept],
) -> (Plan, Backing) {
    let (object, now) = (object(name), at(own_clock));
    let kept = epochs.kept(&object, Some(status), now).unwrap();
    let plan = plan(Some(&kept), &nothing(clock), "d", LEASE, now).unwrap();
    let backing = epochs.back(&kept, &plan, clock, others.iter().copied(), now);
    (plan, backing)
}

/// Declares a lost object, and returns its floor and whether the record was written.
fn declare(epochs: &mut Epochs, name: &str, status: Kept, clock: u64) -> (u64, bool) {
    let mut written = false;
    loop {
        let (plan, backing) = planned(epochs, name, status, clock, clock, &[status]);
        match backing {
            Backing::NewEpoch(epoch) => {
                assert!(!written, "one write is enough");
                epochs.opened(epoch);
                written = true;
            }
            Backing::Epoch(floor) => {
                epochs.declares(&object(name), &plan, floor, at(clock));
                return (floor, written);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An epoch that another process has left open at that time, with all that may follow of it.
fn left(from: u64) -> (Epochs, Epoch) {
    let epoch = Epoch {
        from,
        to: from + WINDOW,
        at: at(from),
        open: true,
    };
    let mut epochs = Epochs::default();
    epochs.found(Some(epoch));
    epochs.abandoned();
    (epochs, epoch)
}

#[test]
fn one_epoch_backs_all_objects_that_are_lost_in_a_minute() {
    let mut epochs = Epochs::default();
    let old = status(NOW - 100 * SECOND);
    for number in 0..10_000 {
        let clock = NOW + number * 6000;
        let (floor, written) = declare(&mut epochs, &format!("s{number}"), old, clock);
        assert_eq!((floor, written), (clock, number == 0), "the floor is the clock");
    }
    let later = NOW + WINDOW + 1;
    assert_eq!(declare(&mut epochs, "late", old, later), (later, true));
}

#[test]
fn an_object_is_declared_once_under_an_epoch() {
    let mut epochs = Epochs::default();
    let old = status(NOW - SECOND);
    assert_eq!(declare(&mut epochs, "a", old, NOW), (NOW, true));
    assert_eq!(declare(&mut epochs, "b", old, NOW + 1), (NOW + 1, false));
    assert_eq!(declare(&mut epochs, "a", old, NOW + SECOND), (NOW + SECOND, true));
    let from = epochs.own().unwrap().from;
    assert_eq!(from, NOW + SECOND, "data of the first loss is old");
    assert_eq!(
        declare(&mut epochs, "b", old, NOW + 2 * SECOND),
        (NOW + 2 * SECOND, false)
    );
}

#[test]
fn an_object_that_has_got_beyond_the_epoch_needs_another() {
    let mut epochs = Epochs::default();
    declare(&mut epochs, "a", status(NOW - SECOND), NOW);
    let new = status(NOW + SECOND);
    let (floor, written) = declare(&mut epochs, "new", new, NOW + 2 * SECOND);
    assert_eq!((floor, written), (NOW + 2 * SECOND, true));
    assert!(epochs.own().unwrap().from > new.floor);
}

#[test]
fn where_the_clock_of_redis_is_behind_an_epoch_is_above_all_objects_and_has_room() {
    let mut epochs = Epochs::default();
    let behind = NOW - 1000 * SECOND;
    let statuses = [status(NOW - 9 * SECOND), status(NOW - SECOND)];
    let (_, backing) = planned(&epochs, "a", statuses[0], behind, NOW, &statuses);
    let Backing::NewEpoch(epoch) = backing else {
        panic!("{backing:?}")
    };
    assert_eq!(epoch.from, statuses[1].bound(at(NOW)) + ROOM);
    epochs.opened(epoch);
    for (name, status) in [("a", statuses[0]), ("b", statuses[1])] {
        for seconds in [0, 1, 7] {
            let (plan, backing) = planned(
                &epochs,
                name,
                status,
                behind + seconds * SECOND,
                NOW + seconds * SECOND,
                &statuses,
            );
            assert_eq!(backing, Backing::Epoch(epoch.from), "{name} after {seconds} s");
            assert!(plan.beyond.unwrap() <= epoch.from);
        }
    }
}

#[test]
fn an_object_with_a_margin_does_not_raise_the_others() {
    let epochs = Epochs::default();
    let ahead = status(NOW + SECOND);
    let timeless = Kept {
        current_at: None,
        ..status(NOW - SECOND)
    };
    let others = [ahead, timeless];
    let backing = back(&epochs, "a", status(NOW - SECOND), NOW, &others);
    let Backing::NewEpoch(epoch) = backing else {
        panic!("{backing:?}")
    };
    assert_eq!(epoch.from, NOW);
    // If such a one is lost itself, it is above its own margin.
    let backing = back(&epochs, "b", ahead, NOW, &others);
    let Backing::NewEpoch(epoch) = backing else {
        panic!("{backing:?}")
    };
    assert!(epoch.from > ahead.floor + MARGIN_WITHOUT_ELAPSED);
    assert_eq!(back(&epochs, "c", timeless, NOW, &others), {
        let (plan, _) = planned(&epochs, "c", timeless, NOW, NOW, &others);
        Backing::Status(plan.floor)
    });
}

#[test]
fn a_status_with_a_shorter_lease_is_written_first() {
    let epochs = Epochs::default();
    let short = Kept {
        longest_lease: Duration::from_secs(29),
        ..status(NOW - SECOND)
    };
    assert_eq!(back(&epochs, "a", short, NOW, &[]), Backing::Status(NOW));
}

#[test]
fn what_is_counted_on_needs_no_epoch() {
    let epochs = Epochs::default();
    let kept = status(NOW);
    let plan = Plan {
        floor: NOW + 7,
        current_at: at(NOW),
        longest_lease: LEASE,
        declared_before: true,
        adopts: false,
        beyond: None,
    };
    let backing = epochs.back(&kept, &plan, NOW, [], at(NOW));
    assert_eq!(backing, Backing::Status(NOW + 7));
}

#[test]
fn the_own_process_plans_with_the_floor_that_the_status_does_not_have() {
    let mut epochs = Epochs::default();
    let old = status(NOW - SECOND);
    declare(&mut epochs, "a", old, NOW);
    let kept = epochs.kept(&object("a"), Some(old), at(NOW + 9)).unwrap();
    assert_eq!((kept.floor, kept.current_at), (NOW, Some(at(NOW))));
    assert_eq!(epochs.kept(&object("b"), Some(old), at(NOW)), Some(old));
    assert_eq!(epochs.kept(&object("a"), None, at(NOW)), None);
    epochs.written(&object("a"), NOW - 1);
    assert!(epochs.raised(&object("a")).is_some());
    epochs.written(&object("a"), NOW);
    assert_eq!(epochs.raised(&object("a")), None);
}

#[test]
fn a_refused_declaration_leaves_the_epoch_to_the_next_attempt() {
    let mut epochs = Epochs::default();
    let old = status(NOW - SECOND);
    declare(&mut epochs, "b", old, NOW);
    let (plan, backing) = planned(&epochs, "a", old, NOW, NOW, &[]);
    assert_eq!(backing, Backing::Epoch(NOW));
    let before = epochs.declares(&object("a"), &plan, NOW, at(NOW));
    epochs.undo(&object("a"), before);
    assert_eq!(epochs.raised(&object("a")), None);
    assert_eq!(declare(&mut epochs, "a", old, NOW + 5), (NOW + 5, false));

    // A second loss, of which the declaration is refused: the first one stays known.
    let (floor, written) = declare(&mut epochs, "b", old, NOW + SECOND);
    assert_eq!((floor, written), (NOW + SECOND, true));
    let (plan, backing) = planned(&epochs, "a", old, NOW + SECOND, NOW + SECOND, &[]);
    assert_eq!(backing, Backing::Epoch(NOW + SECOND));
    let before = epochs.declares(&object("a"), &plan, NOW + SECOND, at(NOW + SECOND));
    epochs.undo(&object("a"), before);
    assert_eq!(epochs.raised(&object("a")).unwrap().floor, NOW + 5);
}

#[test]
fn after_a_process_that_left_an_epoch_open_old_data_is_lost_and_the_bound_is_its_end() {
    let (epochs, epoch) = left(NOW);
    let now = NOW + 8 * SECOND;
    let old = status(NOW - SECOND);
    let kept = epochs.kept(&object("a"), Some(old), at(now)).unwrap();
    assert_eq!(kept.floor, epoch.from, "data below it is old");
    let bound = epoch.to + SECOND + 1;
    assert!(kept.bound(at(now)) > bound);
    // Its status shows that it was not declared under the epoch.
    let newer = status(NOW);
    assert_eq!(epochs.kept(&object("b"), Some(newer), at(now)), Some(newer));

    let backing = back(&epochs, "a", old, now, &[old]);
    let Backing::NewEpoch(next) = backing else {
        panic!("{backing:?}")
    };
    assert!(next.from > bound && next.from < bound + 2 * ROOM);
}

#[test]
fn while_another_process_has_the_epoch_this_one_waits_and_takes_nothing_for_lost() {
    let (mut epochs, epoch) = left(NOW);
    epochs.found(Some(epoch));
    assert!(epochs.waits_for_another());
    let old = status(NOW - SECOND);
    assert_eq!(epochs.kept(&object("a"), Some(old), at(NOW)), Some(old));
    assert_eq!(back(&epochs, "a", old, NOW, &[]), Backing::Wait);
    assert_eq!(epochs.close([], at(NOW)), None, "it is not its own");
    epochs.found(Some(Epoch { open: false, ..epoch }));
    assert!(!epochs.waits_for_another());
    assert!(matches!(back(&epochs, "a", old, NOW, &[]), Backing::NewEpoch(_)));
}

#[test]
fn an_epoch_that_was_replaced_backs_nothing() {
    let mut epochs = Epochs::default();
    let old = status(NOW - SECOND);
    declare(&mut epochs, "a", old, NOW);
    let (_, other) = left(NOW + SECOND);
    epochs.found(Some(other));
    assert_eq!(back(&epochs, "b", old, NOW + SECOND, &[]), Backing::Wait);
    let kept = epochs.kept(&object("a"), Some(old), at(NOW)).unwrap();
    assert_eq!(kept.floor, NOW, "it knows its own declarations");
}

#[test]
fn a_record_that_was_deleted_forgets_nothing() {
    let (mut epochs, epoch) = left(NOW);
    epochs.found(None);
    assert!(epochs.first_floor(at(NOW)) > epoch.to);
    let backing = back(&epochs, "a", status(NOW - SECOND), NOW, &[]);
    let Backing::NewEpoch(next) = backing else {
        panic!("{backing:?}")
    };
    assert!(next.from > epoch.to);
}

#[test]
fn a_clock_that_was_set_back_is_seen() {
    let (epochs, epoch) = left(NOW);
    let backing = back(&epochs, "a", status(NOW - 99 * SECOND), NOW - SECOND, &[]);
    let Backing::NewEpoch(next) = backing else {
        panic!("{backing:?}")
    };
    assert!(next.from > epoch.to + MARGIN_WITHOUT_ELAPSED);
}

#[test]
fn the_record_is_closed_when_no_status_lags() {
    let mut epochs = Epochs::default();
    let old = status(NOW - SECOND);
    declare(&mut epochs, "a", old, NOW);
    declare(&mut epochs, "b", old, NOW + 3);
    let floors = |a: Option<u64>, b| [(object("a"), a), (object("b"), Some(b)), (object("c"), Some(1))];
    let now = at(NOW + 8);
    assert_eq!(epochs.close(floors(None, NOW + 3), now), None);
    assert_eq!(epochs.close(floors(Some(NOW - 1), NOW + 3), now), None);
    let closed = epochs.close(floors(Some(NOW), NOW + 3), now).unwrap();
    assert!(!closed.open && closed.to >= NOW + 3 && closed.to < NOW + 8);
    epochs.closed();
    assert_eq!(epochs.own(), None);
    assert_eq!(epochs.close([], now), None);
}

#[test]
fn an_object_that_is_gone_keeps_no_record_open() {
    let mut epochs = Epochs::default();
    declare(&mut epochs, "a", status(NOW - SECOND), NOW);
    assert!(epochs.close([], at(NOW)).is_some());
    assert_eq!(epochs.raised(&object("a")), None);
}

#[test]
fn an_epoch_that_was_left_is_closed_when_each_status_has_its_begin() {
    let (mut epochs, epoch) = left(NOW);
    let floors = |floor| [(object("a"), Some(floor)), (object("new"), None)];
    assert_eq!(epochs.close(floors(NOW - 1), at(NOW)), None);
    // An own epoch does not change that.
    declare(&mut epochs, "b", status(NOW - SECOND), NOW + SECOND);
    epochs.written(&object("b"), u64::MAX);
    assert_eq!(epochs.close(floors(NOW - 1), at(NOW)), None);
    let closed = epochs.close(floors(NOW), at(NOW + SECOND)).unwrap();
    assert!(closed.to > epoch.to, "objects without a status start above it");
}

#[test]
fn a_new_object_starts_above_all_floors_that_are_known() {
    let mut epochs = Epochs::default();
    assert_eq!(epochs.first_floor(at(NOW)), 0);
    declare(&mut epochs, "a", status(NOW - SECOND), NOW);
    let first = epochs.first_floor(at(NOW));
    assert!(
        first > NOW && first < NOW + 3,
        "the clock passes it at once: {first}"
    );
    let (epochs, epoch) = left(NOW);
    assert_eq!(epochs.first_floor(at(NOW + 8 * SECOND)), epoch.to + SECOND + 1);
}

#[test]
fn controllers_that_die_again_and_again_do_not_run_ahead_of_the_clock() {
    let (mut record, mut clock) = (None, NOW);
    for life in 0..1000 {
        let mut epochs = Epochs::default();
        epochs.found(record);
        epochs.abandoned();
        declare(&mut epochs, "a", status(NOW - SECOND), clock);
        record = epochs.own();
        let to = record.unwrap().to;
        assert!(
            to <= clock + WINDOW + ROOM + SECOND / 4,
            "in life {life}: {}",
            to - clock
        );
        clock += 2 * SECOND;
    }
}
