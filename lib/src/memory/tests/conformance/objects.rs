//! Scenarios of declarations, losses of data, withdrawals, damaged data, and versions.

use crate::memory::tests::conformance::{
    plan::{
        HOLDER, Plan, Topics, acquire, declaration, declared, fence, lock, object, pool, queue, semaphore,
    },
    pools::three,
};
use crate::protocol::{
    calls::{Acquire, Call, Declare, Ending, Inspect, Observe, Readmit, Release, Removal, Withdraw},
    object::Kind,
    script::{self, PROTOCOL},
};

pub(super) fn topics() -> Topics {
    vec![
        (
            "declared-recovery",
            "Declared objects over a loss of data or a restart of the server.",
            recoveries(),
        ),
        ("withdraw", "Withdrawals of declared objects.", withdrawals()),
        ("observe", "Reading an object.", observations()),
        ("errors", "Data that no script has written.", errors()),
        (
            "versions",
            "Calls and data of another version of the protocol.",
            versions(),
        ),
    ]
}

fn readmit(token: &str, fence: u64) -> Readmit<'_> {
    Readmit {
        token,
        fence,
        permits: 1,
        lease_ms: 30_000,
        max_hold_ms: 0,
        since_ms: 1_763_717_000_000,
        client: "a",
        resources: Vec::new(),
        holder: HOLDER,
        grace_ms: 0,
    }
}

fn recoveries() -> Vec<Plan> {
    let (gpus, seats_of) = (semaphore(), pool());
    let again = || Declare {
        floor: 2000,
        recovery_ms: 1,
        ..declaration(2)
    };
    let seated = |resource| Readmit {
        resources: vec![resource],
        ..readmit("a1", 1001)
    };
    vec![
        Plan::new("after a loss of all data, known holders come back and nothing new is granted", "run-1 run-2 dec-recovery dec-floor readmit-1 readmit-reply readmit-repeated renew-missing renew-recovering event-missing")
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .lose(&gpus)
            .renew(&gpus, "a1")
            .call(&gpus, &again())
            .renew(&gpus, "a1")
            .call(&gpus, &readmit("a1", 1001))
            .call(&gpus, &readmit("a1", 1001))
            .renew(&gpus, "a1")
            .call(&gpus, &declared("b1"))
            .call(&gpus, &Acquire { entry_ms: 10_000, client: "b", ..declared("b1") }),
        Plan::new("the recovery ends after one lease", "run-1 dec-recovery dec-floor")
            .in_virtual_time()
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .lose(&gpus)
            .call(&gpus, &again())
            .wait(29_900)
            .call(&gpus, &declared("b1"))
            .wait(200)
            .call(&gpus, &declared("b1")),
        Plan::new("in another life of the server a declared object recovers", "run-1 run-2 dec-recovery")
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .in_another_life()
            .call(&gpus, &declared("b1"))
            .renew_all(&[(&gpus, 0, &["a1", "a2"])])
            .call(&gpus, &Declare { recovery_ms: 1, ..declaration(2) })
            .call(&gpus, &declared("b1"))
            .observe(&gpus),
        Plan::new("an undeclared object does not recover", "run-1")
            .call(&lock(), &acquire("a1"))
            .in_another_life()
            .renew(&lock(), "a1")
            .release(&lock(), "a1")
            .call(&lock(), &acquire("b1")),
        Plan::new("without a recovery nothing is readmitted", "readmit-reply")
            .call(&gpus, &declaration(2))
            .call(&gpus, &readmit("a1", 900)),
        Plan::new("a lease with the same fencing token makes room", "readmit-same")
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .in_another_life()
            .call(&gpus, &Declare { recovery_ms: 1, ..declaration(2) })
            .call(&gpus, &readmit("b1", 1001))
            .observe(&gpus),
        Plan::new("a holder that does not fit beside first users is refused", "readmit-beside")
            .call(&gpus, &declaration(1))
            .call(&gpus, &declared("a1"))
            .lose(&gpus)
            .call(&gpus, &Acquire { client: "b", ..acquire("b1") })
            .call(&gpus, &Declare { floor: 2_000_000_000_000_000, recovery_ms: 1, ..declaration(1) })
            .call(&gpus, &readmit("a1", 1001)),
        Plan::new("a resource of a pool goes to the larger fencing token", "readmit-1 push-lost")
            .call(&seats_of, &three())
            .call(&seats_of, &declared("b1"))
            .in_another_life()
            .call(&seats_of, &Declare { recovery_ms: 1, ..three() })
            .call(&seats_of, &Readmit { fence: 900, ..seated("seat-a") })
            .call(&seats_of, &Readmit { fence: 1100, ..seated("seat-a") })
            .call(&seats_of, &Readmit { token: "a2", fence: 1101, ..seated("seat-b") }),
        Plan::new("a declaration that was planned for another life changes nothing", "dec-life dec-errors error-1")
            .call(&gpus, &declaration(2))
            .call(&gpus, &Declare { life: Some(("another", 1000)), ..declaration(3) })
            .call(&gpus, &Declare { life: Some(("${RUN}", 1001)), ..declaration(3) })
            .call(&gpus, &Declare { life: Some(("${RUN}", 1000)), ..declaration(3) })
            .observe(&gpus),
    ]
}

fn withdrawals() -> Vec<Plan> {
    let gpus = semaphore();
    let waiter = || Acquire {
        entry_ms: 10_000,
        client: "b",
        ..declared("b1")
    };
    let withdraw = |how| Withdraw { how };
    vec![
        Plan::new(
            "draining refuses waiters and ends with the last lease",
            "withdraw-how withdraw-reply withdraw-repeated push-gone event-changed",
        )
        .call(&gpus, &declaration(1))
        .call(&gpus, &declared("a1"))
        .call(&gpus, &waiter())
        .call(&gpus, &withdraw(Removal::Drain))
        .call(&gpus, &withdraw(Removal::Drain))
        .call(&gpus, &declared("c1"))
        .renew(&gpus, "a1")
        .release(&gpus, "a1")
        .call(&gpus, &Inspect { count: 10, floor: 0 })
        .call(&gpus, &withdraw(Removal::Drain)),
        Plan::new(
            "deleting notifies holders and waiters",
            "withdraw-how withdraw-reply push-lost push-gone",
        )
        .call(&gpus, &declaration(1))
        .call(&gpus, &declared("a1"))
        .call(&gpus, &waiter())
        .call(&gpus, &withdraw(Removal::Delete))
        .renew(&gpus, "a1"),
        Plan::new("retaining changes nothing", "withdraw-how withdraw-reply")
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .call(&gpus, &withdraw(Removal::Retain { keep_ms: 60_000 }))
            .renew(&gpus, "a1")
            .call(&gpus, &declared("c1")),
        Plan::new("what is retained goes after its time", "withdraw-how")
            .in_virtual_time()
            .call(&gpus, &declaration(2))
            .call(&gpus, &withdraw(Removal::Retain { keep_ms: 3_600_000 }))
            .wait(3_500_000)
            .observe(&gpus)
            .wait(101_000)
            .observe(&gpus),
    ]
}

fn observations() -> Vec<Plan> {
    let (x, gpus) = (lock(), semaphore());
    let watch = |skip| Observe {
        count: 1,
        watch: true,
        skip,
    };
    vec![
        Plan::new(
            "the state of an object, its holders and its waiters",
            "observe-1 observe-reply observe-current",
        )
        .observe(&x)
        .call(&x, &acquire("a1"))
        .call(&x, &queue("b1"))
        .observe(&x)
        .call(&gpus, &declaration(2))
        .observe(&gpus)
        .in_another_life()
        .observe(&gpus),
        Plan::new("the holders behind the first ones", "observe-skip")
            .call(
                &gpus,
                &Acquire {
                    first_limit: 2,
                    ..acquire("a1")
                },
            )
            .call(
                &gpus,
                &Acquire {
                    first_limit: 2,
                    ..acquire("a2")
                },
            )
            .call(
                &gpus,
                &Observe {
                    count: 1,
                    watch: false,
                    skip: 0,
                },
            )
            .call(
                &gpus,
                &Observe {
                    count: 1,
                    watch: false,
                    skip: 1,
                },
            )
            .call(
                &gpus,
                &Observe {
                    count: 1,
                    watch: false,
                    skip: 2,
                },
            ),
        Plan::new(
            "a watched object publishes its next change, once",
            "observe-watch event-changed",
        )
        .call(&gpus, &declaration(2))
        .call(&gpus, &watch(0))
        .call(&gpus, &declared("a1"))
        .release(&gpus, "a1"),
        Plan::new("before a declaration", "observe-floor event-missing")
            .call(
                &gpus,
                &Inspect {
                    count: 10,
                    floor: 1000,
                },
            )
            .call(&gpus, &declaration(2))
            .call(
                &gpus,
                &Inspect {
                    count: 10,
                    floor: 1000,
                },
            )
            .call(
                &gpus,
                &Inspect {
                    count: 10,
                    floor: 1001,
                },
            ),
    ]
}

fn errors() -> Vec<Plan> {
    let x = lock();
    vec![
        Plan::new(
            "a first key that holds something else",
            "error-damaged error-repair",
        )
        .overwrite(&x, "no lease")
        .call(&x, &acquire("a1"))
        .observe(&x)
        .renew(&x, "a1")
        .release(&x, "a1")
        .lose(&x)
        .call(&x, &acquire("a1")),
        Plan::new("keys that are lost end all leases", "error-repair renew-missing")
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .lose(&x)
            .renew_all(&[(&x, 0, &["a1", "b1"])])
            .release(&x, "a1")
            .call(
                &x,
                &Acquire {
                    seen: 0,
                    ..acquire("c1")
                },
            )
            .renew_all(&[(&x, 0, &["a1", "c1"])]),
    ]
}

fn versions() -> Vec<Plan> {
    let (x, y) = (lock(), object(Kind::Lock, "y"));
    let old = |call: &Acquire<'_>| {
        call.arguments()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let (older, newer) = (
        format!("{} ${{RUN}}", PROTOCOL - 1),
        format!("{} ${{RUN}}", PROTOCOL + 1),
    );
    let mut lock_calls = Plan::new(
        "a call of another version names both, and changes nothing",
        "version-call error-version",
    );
    for version in [&older, &newer] {
        lock_calls = lock_calls.raw(&script::ACQUIRE, &[&x], version, &old(&acquire("a1")));
        lock_calls = lock_calls.raw(&script::RENEW, &[&x], version, &["a1".to_owned()]);
    }
    vec![
        lock_calls.observe(&x),
        Plan::new(
            "data of a newer version is neither read nor changed",
            "error-version version-newer renew-failed",
        )
        .overwrite(&x, &format!("v{} of a version to come", PROTOCOL + 97))
        .call(&x, &acquire("a1"))
        .call(
            &x,
            &Release {
                how: Ending::Owner,
                tokens: vec!["a1"],
            },
        )
        .observe(&x)
        .call(&y, &acquire("a2"))
        .renew_all(&[(&x, 0, &["a1"]), (&y, 0, &["a2"])]),
    ]
}

#[test]
fn a_placeholder_stands_for_each_fencing_token() {
    let plan = Plan::new("", "").call(&lock(), &readmit("a1", fence(2)));
    assert_eq!(plan.steps[0].args[2], "${fence-2}");
    assert_eq!(plan.steps[0].keys, ["tenure:{${NS}/lock/x}:obj"]);
}
