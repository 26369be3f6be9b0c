//! Scenarios of locks, of the options of an acquisition, and of conditions.

use crate::memory::tests::conformance::plan::{HOLDER, Plan, Topics, acquire, lock, queue};
use crate::protocol::calls::{Acquire, Ending, Notify, Rejoin, Release, Wait};

pub(super) fn topics() -> Topics {
    vec![
        (
            "lock",
            "Locks, and what all objects have in common: leases, queue entries, pushes.",
            locks(),
        ),
        (
            "options",
            "Options of an acquisition: grace, priority, takeover, longest hold.",
            options(),
        ),
        (
            "condition",
            "Conditions of a lock: wait, notify, rejoin.",
            conditions(),
        ),
    ]
}

/// A lease, or a queue entry, that is over before the next step but one of a real server.
pub(super) const SHORT_MS: u64 = 400;

pub(super) const PAST_MS: u64 = 500;

pub(super) fn short(token: &str) -> Acquire<'_> {
    Acquire {
        lease_ms: SHORT_MS,
        ..acquire(token)
    }
}

fn locks() -> Vec<Plan> {
    let x = lock();
    vec![
        Plan::new("a lock has one holder", "keys-2 call-2 version-1 num-1 acq-1 acq-limit acq-entry acq-short acq-busy rel-1 rel-gone fence-1")
            .call(&x, &acquire("a1"))
            .call(&x, &acquire("b1"))
            .release(&x, "a1")
            .release(&x, "a1")
            .call(&x, &acquire("b1")),
        Plan::new("a repeated call of the same token gets the same lease or queue entry", "token-2 acq-repeated")
            .call(&x, &acquire("a1"))
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .wait(20)
            .call(&x, &queue("b1"))
            .release(&x, "a1")
            .call(&x, &queue("b1")),
        Plan::new("a release grants to the waiter, by push", "scripts-1 acq-queued acq-wake push-granted push-run renew-1 rel-2")
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .renew(&x, "b1")
            .release(&x, "a1")
            .renew(&x, "b1")
            .release(&x, "b1"),
        Plan::new("waiters are granted in the order in which they came", "acq-wake queue-1")
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .call(&x, &Acquire { client: "c", ..queue("c1") })
            .call(&x, &acquire("a2"))
            .release(&x, "a1")
            .release(&x, "b1")
            .observe(&x),
        Plan::new("an entry that is released leaves the queue", "rel-1")
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .release(&x, "b1")
            .release(&x, "a1"),
        Plan::new("any call ends an expired lease and grants to the next", "scripts-1 push-lost push-granted")
            .call(&x, &short("a1"))
            .call(&x, &queue("b1"))
            .wait(PAST_MS)
            .observe(&x),
        Plan::new("an expired lease can be neither renewed nor released, and its token starts anew", "renew-expired rel-gone fence-1")
            .call(&x, &short("a1"))
            .wait(PAST_MS)
            .renew(&x, "a1")
            .release(&x, "a1")
            .call(&x, &acquire("a1")),
        Plan::new("a queue entry that is not renewed is removed", "push-gone acq-entry")
            .call(&x, &acquire("a1"))
            .call(&x, &Acquire { entry_ms: SHORT_MS, ..queue("b1") })
            .wait(PAST_MS)
            .observe(&x)
            .release(&x, "a1"),
        Plan::new("an hour later", "renew-1 renew-expired")
            .in_virtual_time()
            .call(&x, &Acquire { lease_ms: 3_600_000, ..acquire("a1") })
            .wait(3_500_000)
            .renew(&x, "a1")
            .wait(3_500_000)
            .call(&x, &queue("b1"))
            .renew(&x, "a1"),
        Plan::new("a queue entry lives no longer than the lease that it asks for", "acq-entry")
            .call(&x, &acquire("a1"))
            .call(&x, &Acquire { lease_ms: 5000, ..queue("b1") }),
        Plan::new("another client ends a lease, and its owner is notified", "token-3 rel-how push-lost push-why")
            .call(&x, &acquire("a1"))
            .call(&x, &queue("b1"))
            .call(&x, &Release { how: Ending::Reclaimed("its pod\nhas ended"), tokens: vec!["a1"] })
            .call(&x, &Release { how: Ending::Reclaimed(""), tokens: vec!["b1", "a1"] }),
        Plan::new("a holder may be any text", "holder-1")
            .call(&x, &Acquire { holder: "no JSON, and spaces", ..acquire("a1") })
            .call(&x, &Acquire { holder: "", ..queue("b1") })
            .release(&x, "a1")
            .observe(&x),
    ]
}

fn options() -> Vec<Plan> {
    let x = lock();
    vec![
        Plan::new(
            "a grace period keeps the object taken after an expiry",
            "acq-grace",
        )
        .call(
            &x,
            &Acquire {
                grace_ms: 60_000,
                ..short("a1")
            },
        )
        .call(&x, &queue("b1"))
        .wait(PAST_MS)
        .call(&x, &queue("b1"))
        .renew(&x, "a1"),
        Plan::new("a release ends a lease without its grace period", "acq-grace")
            .call(
                &x,
                &Acquire {
                    grace_ms: 60_000,
                    ..acquire("a1")
                },
            )
            .release(&x, "a1")
            .call(&x, &acquire("b1")),
        Plan::new("a grace period ends", "acq-grace")
            .in_virtual_time()
            .call(
                &x,
                &Acquire {
                    grace_ms: 60_000,
                    ..acquire("a1")
                },
            )
            .wait(31_000)
            .call(&x, &acquire("b1"))
            .wait(60_000)
            .call(&x, &acquire("b1")),
        Plan::new(
            "a larger priority stands before a smaller one",
            "acq-priority queue-1",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &queue("b1"))
        .call(
            &x,
            &Acquire {
                client: "c",
                priority: 127,
                ..queue("c1")
            },
        )
        .call(
            &x,
            &Acquire {
                client: "d",
                priority: -128,
                ..queue("d1")
            },
        )
        .release(&x, "a1")
        .release(&x, "c1")
        .release(&x, "b1"),
        Plan::new(
            "a takeover ends the leases of all holders and passes the queue",
            "acq-takeover acq-why push-lost",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &queue("b1"))
        .call(
            &x,
            &Acquire {
                client: "c",
                takeover: Some("urgent"),
                ..acquire("c1")
            },
        )
        .renew(&x, "a1"),
        Plan::new("a takeover keeps a grace period", "acq-takeover")
            .call(
                &x,
                &Acquire {
                    grace_ms: 60_000,
                    ..short("a1")
                },
            )
            .wait(PAST_MS)
            .call(
                &x,
                &Acquire {
                    client: "c",
                    takeover: Some("urgent"),
                    ..acquire("c1")
                },
            ),
        Plan::new(
            "a longest hold bounds the lease and each renewal",
            "acq-maxhold renew-held deadline-1",
        )
        .call(
            &x,
            &Acquire {
                max_hold_ms: 20_000,
                ..acquire("a1")
            },
        )
        .renew(&x, "a1")
        .call(
            &x,
            &Acquire {
                max_hold_ms: 20_000,
                ..acquire("a1")
            },
        ),
    ]
}

fn wait<'a>(lease: &'a str, token: &'a str, client: &'a str) -> Wait<'a> {
    Wait {
        lease,
        token,
        condition: "@full",
        lease_ms: 30_000,
        max_hold_ms: 0,
        entry_ms: 10_000,
        client,
        holder: HOLDER,
        grace_ms: 0,
        priority: 0,
    }
}

fn notify<'a>(token: &'a str, count: u64, request: &'a str) -> Notify<'a> {
    Notify {
        token,
        condition: "@full",
        count,
        request,
    }
}

fn conditions() -> Vec<Plan> {
    let x = lock();
    vec![
        Plan::new(
            "a notified waiter has the lock after its holder, by push",
            "wait-1 wait-queued wait-repeated notify-1 push-granted",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &wait("a1", "a2", "a"))
        .call(&x, &wait("a1", "a2", "a"))
        .renew(&x, "a2")
        .call(
            &x,
            &Acquire {
                client: "b",
                ..acquire("b1")
            },
        )
        .call(&x, &notify("b1", 1, "n1"))
        .renew(&x, "a2")
        .release(&x, "b1")
        .renew(&x, "a2"),
        Plan::new(
            "the longest waiters are notified first, and a repeated request notifies no other one",
            "notify-1 notify-repeated notify-reply",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &wait("a1", "a2", "a"))
        .call(
            &x,
            &Acquire {
                client: "b",
                ..acquire("b1")
            },
        )
        .call(&x, &wait("b1", "b2", "b"))
        .call(
            &x,
            &Acquire {
                client: "c",
                ..acquire("c1")
            },
        )
        .call(&x, &notify("c1", 1, "n1"))
        .call(&x, &notify("c1", 1, "n1"))
        .release(&x, "c1")
        .call(&x, &notify("a2", 5, "n2"))
        .release(&x, "a2"),
        Plan::new(
            "only the holder waits and notifies",
            "wait-errors notify-errors error-1",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &wait("b1", "b2", "b"))
        .call(&x, &notify("b1", 1, "n1")),
        Plan::new("a wait ends without a notification", "rejoin-1 rejoin-reply")
            .call(&x, &acquire("a1"))
            .call(&x, &wait("a1", "a2", "a"))
            .call(
                &x,
                &Acquire {
                    client: "b",
                    ..acquire("b1")
                },
            )
            .call(&x, &Rejoin { token: "a2" })
            .call(&x, &Rejoin { token: "a2" })
            .call(&x, &Rejoin { token: "other" })
            .release(&x, "b1"),
        Plan::new("a notification is faster than the end of a wait", "rejoin-reply")
            .call(&x, &acquire("a1"))
            .call(&x, &wait("a1", "a2", "a"))
            .call(
                &x,
                &Acquire {
                    client: "b",
                    ..acquire("b1")
                },
            )
            .call(&x, &notify("b1", 1, "n1"))
            .call(&x, &Rejoin { token: "a2" }),
        Plan::new(
            "the notification of a lease that is dropped goes to the next waiter",
            "rel-how notify-1",
        )
        .call(&x, &acquire("a1"))
        .call(&x, &wait("a1", "a2", "a"))
        .call(
            &x,
            &Acquire {
                client: "b",
                ..acquire("b1")
            },
        )
        .call(&x, &wait("b1", "b2", "b"))
        .call(
            &x,
            &Acquire {
                client: "c",
                ..acquire("c1")
            },
        )
        .call(&x, &notify("c1", 1, "n1"))
        .release(&x, "c1")
        .call(
            &x,
            &Release {
                how: Ending::Dropped,
                tokens: vec!["a2"],
            },
        ),
        Plan::new("a waiter enters the queue with its priority", "wait-priority")
            .call(&x, &acquire("a1"))
            .call(
                &x,
                &Wait {
                    priority: 5,
                    ..wait("a1", "a2", "a")
                },
            )
            .call(
                &x,
                &Acquire {
                    client: "c",
                    ..acquire("c1")
                },
            )
            .call(&x, &queue("b1"))
            .call(&x, &notify("c1", 1, "n1"))
            .release(&x, "c1"),
    ]
}
