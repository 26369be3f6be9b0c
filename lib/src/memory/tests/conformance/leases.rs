//! Scenarios of semaphores and read-write locks, renewals and adoptions.

use crate::memory::tests::conformance::{
    locks::{PAST_MS, short},
    plan::{HOLDER, Plan, Topics, acquire, declaration, declared, lock, object, queue, semaphore},
};
use crate::protocol::{
    calls::{Acquire, Adopt, Declare, Downgrade},
    object::Kind,
    secret::Secret,
};

const SECRET: &str = "0000000000000000000000000000000a";
/// The first 32 digits of the SHA-1 of the secret.
const TOKEN: &str = "6fc6e02fa5b4880facefc163ee8857de";
/// The permits of a read-write lock: a writer takes all.
const ALL: u64 = 1 << 30;

pub(super) fn topics() -> Topics {
    vec![
        (
            "semaphore",
            "Semaphores, declared and made by their first users.",
            semaphores(),
        ),
        (
            "rwlock",
            "Read-write locks, and the way from writing to reading.",
            rw_locks(),
        ),
        (
            "renew",
            "Renewals of several leases and queue entries in one call.",
            renewals(),
        ),
        ("adopt", "Adoptions of a detached lease.", adoptions()),
    ]
}

fn semaphores() -> Vec<Plan> {
    let gpus = semaphore();
    vec![
        Plan::new(
            "the first user decides the number of permits",
            "acq-limit acq-permits acq-busy",
        )
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                first_limit: 3,
                ..acquire("a1")
            },
        )
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                first_limit: 5,
                ..acquire("b1")
            },
        )
        .call(
            &gpus,
            &Acquire {
                first_limit: 5,
                ..acquire("b2")
            },
        )
        .observe(&gpus),
        Plan::new(
            "a large request at the head is not overtaken",
            "queue-1 push-granted",
        )
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                first_limit: 3,
                ..acquire("a1")
            },
        )
        .call(
            &gpus,
            &Acquire {
                permits: 3,
                first_limit: 3,
                ..queue("b1")
            },
        )
        .call(
            &gpus,
            &Acquire {
                first_limit: 3,
                client: "c",
                ..queue("c1")
            },
        )
        .release(&gpus, "a1")
        .release(&gpus, "b1"),
        Plan::new(
            "an object that must be there is not made, and the controller is notified",
            "acq-limit acq-errors error-1 event-missing",
        )
        .call(&gpus, &declared("a1"))
        .call(
            &gpus,
            &Acquire {
                seen: 5,
                ..acquire("a1")
            },
        ),
        Plan::new(
            "a declared object decides lease and longest hold",
            "acq-lease acq-newest dec-1 dec-floor fence-1 acq-maxhold",
        )
        .call(
            &gpus,
            &Declare {
                max_hold_ms: 50_000,
                ..declaration(2)
            },
        )
        .call(&gpus, &declared("a1"))
        .call(
            &gpus,
            &Acquire {
                lease_ms: 40_000,
                max_hold_ms: 60_000,
                first_limit: 0,
                ..acquire("b1")
            },
        )
        .call(&gpus, &declared("c1"))
        .call(
            &gpus,
            &Acquire {
                entry_ms: 10_000,
                ..declared("c1")
            },
        )
        .renew(&gpus, "a1"),
        Plan::new("a smaller limit drains", "dec-1 dec-repeated")
            .call(&gpus, &declaration(2))
            .call(&gpus, &declared("a1"))
            .call(&gpus, &declared("b1"))
            .call(&gpus, &declaration(1))
            .call(&gpus, &declaration(1))
            .renew_all(&[(&gpus, 0, &["a1", "b1"])])
            .release(&gpus, "a1")
            .call(&gpus, &declared("c1"))
            .observe(&gpus),
        Plan::new("a larger limit grants to waiters", "dec-1 scripts-1 push-granted")
            .call(&gpus, &declaration(0))
            .call(
                &gpus,
                &Acquire {
                    entry_ms: 10_000,
                    client: "b",
                    ..declared("b1")
                },
            )
            .call(&gpus, &declaration(2)),
        Plan::new(
            "a renewal applies a declared lease that was shortened",
            "renew-short deadline-1",
        )
        .call(&gpus, &declaration(2))
        .call(&gpus, &declared("a1"))
        .call(
            &gpus,
            &Declare {
                lease_ms: 5000,
                digest: "digest-2".to_owned(),
                ..declaration(2)
            },
        )
        .renew(&gpus, "a1"),
        Plan::new(
            "more permits than there are can never be granted",
            "acq-errors error-1 push-gone",
        )
        .call(&gpus, &declaration(2))
        .call(
            &gpus,
            &Acquire {
                permits: 3,
                ..declared("a1")
            },
        )
        .call(&gpus, &declared("a2"))
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                entry_ms: 10_000,
                client: "b",
                ..declared("b1")
            },
        )
        .call(&gpus, &declaration(1))
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                entry_ms: 10_000,
                client: "b",
                ..declared("b1")
            },
        ),
        Plan::new(
            "a call that does not wait overtakes no waiter",
            "queue-1 acq-busy",
        )
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
                permits: 2,
                first_limit: 2,
                ..queue("b1")
            },
        )
        .call(
            &gpus,
            &Acquire {
                first_limit: 2,
                client: "c",
                ..acquire("c1")
            },
        ),
    ]
}

fn rw_locks() -> Vec<Plan> {
    let file = object(Kind::RwLock, "file");
    let read = |token| Acquire {
        first_limit: ALL,
        ..acquire(token)
    };
    let write = |token| Acquire {
        permits: ALL,
        client: "b",
        ..read(token)
    };
    vec![
        Plan::new("readers share, and a writer is alone", "rw-1")
            .call(&file, &read("r1"))
            .call(&file, &read("r2"))
            .call(
                &file,
                &Acquire {
                    entry_ms: 10_000,
                    ..write("w1")
                },
            )
            .call(&file, &read("r3"))
            .release(&file, "r1")
            .release(&file, "r2"),
        Plan::new(
            "a writer becomes a reader, and lets readers in",
            "down-1 down-repeated rw-1 push-granted",
        )
        .call(&file, &write("w1"))
        .call(
            &file,
            &Acquire {
                entry_ms: 10_000,
                client: "c",
                ..read("r1")
            },
        )
        .call(
            &file,
            &Downgrade {
                token: "w1",
                permits: 1,
            },
        )
        .call(
            &file,
            &Downgrade {
                token: "w1",
                permits: 1,
            },
        )
        .call(
            &file,
            &Downgrade {
                token: "other",
                permits: 1,
            },
        )
        .observe(&file),
    ]
}

fn renewals() -> Vec<Plan> {
    let (x, y, z, gpus) = (
        lock(),
        object(Kind::Lock, "y"),
        object(Kind::Lock, "z"),
        semaphore(),
    );
    vec![
        Plan::new(
            "one call renews over many objects",
            "renew-1 renew-keys renew-number renew-missing renew-gone renew-waiting",
        )
        .call(&x, &acquire("a1"))
        .call(
            &gpus,
            &Acquire {
                first_limit: 2,
                ..acquire("a2")
            },
        )
        .call(
            &gpus,
            &Acquire {
                first_limit: 2,
                ..acquire("a3")
            },
        )
        .call(
            &y,
            &Acquire {
                client: "c",
                ..acquire("c1")
            },
        )
        .call(&y, &queue("b1"))
        .wait(20)
        .renew_all(&[
            (&x, 0, &["a1"]),
            (&gpus, 0, &["a2", "other", "a3"]),
            (&z, 0, &["a4"]),
            (&y, 0, &["b1"]),
        ]),
        Plan::new(
            "a renewal of a declared object has four values",
            "renew-held acq-newest",
        )
        .call(&gpus, &declaration(2))
        .call(&gpus, &declared("a1"))
        .renew_all(&[(&gpus, 1001, &["a1"])]),
        Plan::new(
            "data without the newest fencing token that a client has seen recovers",
            "renew-seen acq-seen renew-recovering event-missing",
        )
        .call(&gpus, &declaration(2))
        .call(&gpus, &declared("a1"))
        .renew_all(&[(&gpus, 1002, &["a1", "a2"])])
        .call(
            &gpus,
            &Acquire {
                seen: 1001,
                ..declared("b1")
            },
        ),
        Plan::new(
            "an error of one object fails its tokens alone",
            "renew-failed error-damaged",
        )
        .call(&x, &acquire("a1"))
        .overwrite(&y, "no lease")
        .renew_all(&[(&y, 0, &["b1", "b2"]), (&x, 0, &["a1"])]),
        Plan::new(
            "a renewal of what can never be granted is refused",
            "renew-gone push-gone",
        )
        .call(&gpus, &declaration(2))
        .call(&gpus, &declared("a1"))
        .call(
            &gpus,
            &Acquire {
                permits: 2,
                entry_ms: 10_000,
                client: "b",
                ..declared("b1")
            },
        )
        .call(&gpus, &declared("a2"))
        .call(&gpus, &declaration(1))
        .renew(&gpus, "b1"),
    ]
}

fn adoptions() -> Vec<Plan> {
    let x = lock();
    assert_eq!(&*Secret::read(SECRET).unwrap().token(), TOKEN);
    let adopt = |secret| Adopt {
        secret,
        token: "b1",
        client: "b",
        holder: HOLDER,
        why: "handed on",
    };
    vec![
        Plan::new(
            "who knows the secret adopts the lease under its fencing token",
            "token-1 adopt-1 adopt-granted adopt-repeated push-lost",
        )
        .call(
            &x,
            &Acquire {
                grace_ms: 1000,
                max_hold_ms: 600_000,
                ..acquire(TOKEN)
            },
        )
        .call(&x, &adopt(SECRET))
        .call(&x, &adopt(SECRET))
        .renew_all(&[(&x, 0, &[TOKEN, "b1"])]),
        Plan::new("a token is no secret", "token-4 adopt-gone")
            .call(&x, &acquire(TOKEN))
            .call(&x, &adopt(TOKEN)),
        Plan::new("an expired lease cannot be adopted", "adopt-gone")
            .call(&x, &short(TOKEN))
            .wait(PAST_MS)
            .call(&x, &adopt(SECRET)),
        Plan::new("no lease is adopted in a recovery", "adopt-gone run-1")
            .call(&semaphore(), &declaration(1))
            .call(&semaphore(), &declared(TOKEN))
            .in_another_life()
            .call(&semaphore(), &adopt(SECRET)),
    ]
}
