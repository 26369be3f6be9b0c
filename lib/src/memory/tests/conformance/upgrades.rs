//! Both versions at once, during a rolling upgrade: the scripts of protocol 1 and those of today on the same objects.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

use crate::memory::tests::conformance::plan::{
    HOLDER, Plan, Topics, acquire, declaration, declared, lock, object, pool, queue, semaphore,
};
use crate::{
    protocol::{
        calls::{Acquire, Ending, Notify, Release},
        object::{Kind, ObjectRef},
        script::Script,
    },
    transport,
};

/// The bundles of the last release with protocol 1.
const TEXTS: [(&str, &str); 9] = [
    (
        "protocol-1/acquire",
        include_str!("../../../../testdata/protocol-1/acquire.lua"),
    ),
    (
        "protocol-1/declare",
        include_str!("../../../../testdata/protocol-1/declare.lua"),
    ),
    (
        "protocol-1/notify",
        include_str!("../../../../testdata/protocol-1/notify.lua"),
    ),
    (
        "protocol-1/observe",
        include_str!("../../../../testdata/protocol-1/observe.lua"),
    ),
    (
        "protocol-1/readmit",
        include_str!("../../../../testdata/protocol-1/readmit.lua"),
    ),
    (
        "protocol-1/release",
        include_str!("../../../../testdata/protocol-1/release.lua"),
    ),
    (
        "protocol-1/renew",
        include_str!("../../../../testdata/protocol-1/renew.lua"),
    ),
    (
        "protocol-1/wait",
        include_str!("../../../../testdata/protocol-1/wait.lua"),
    ),
    (
        "protocol-1/withdraw",
        include_str!("../../../../testdata/protocol-1/withdraw.lua"),
    ),
];

static SCRIPTS: LazyLock<Mutex<HashMap<&'static str, &'static Script>>> = LazyLock::new(Mutex::default);

/// A script of protocol 1.
pub(super) fn script(name: &str) -> Option<&'static Script> {
    let (name, text) = TEXTS.iter().find(|(known, _)| *known == name)?;
    let mut scripts = transport::lock(&SCRIPTS);
    Some(
        *scripts
            .entry(name)
            .or_insert_with(|| Box::leak(Box::new(Script::new(name, *text)))),
    )
}

/// A call of a client of protocol 1: it gives all keys, the name of the channel of the controller, and mostly the kind.
fn old(plan: Plan, name: &str, object: &ObjectRef, arguments: &[&str]) -> Plan {
    let kind = match name {
        "wait" | "notify" => None,
        _ => Some(object.kind().to_string()),
    };
    let arguments: Vec<_> = std::iter::once("1@tenure:events".to_owned())
        .chain(kind)
        .chain(arguments.iter().map(ToString::to_string))
        .collect();
    let script = script(&format!("protocol-1/{name}")).unwrap();
    plan.raw_of_all_keys(script, object, "${RUN}", &arguments)
}

fn old_acquire(plan: Plan, object: &ObjectRef, token: &str, entry_ms: &str) -> Plan {
    let arguments = [
        token,
        "1",
        "30000",
        "0",
        "1",
        entry_ms,
        "tenure:client:${NS}-old",
        HOLDER,
    ];
    old(plan, "acquire", object, &arguments)
}

fn old_declared(plan: Plan, object: &ObjectRef, token: &str) -> Plan {
    let arguments = [token, "1", "0", "0", "0", "0", "tenure:client:${NS}-old", HOLDER];
    old(plan, "acquire", object, &arguments)
}

fn old_renew(plan: Plan, object: &ObjectRef, token: &str) -> Plan {
    old(plan, "renew", object, &["1", token])
}

fn old_release(plan: Plan, object: &ObjectRef, token: &str) -> Plan {
    old(plan, "release", object, &["owner", "", token])
}

pub(super) fn topics() -> Topics {
    vec![(
        "upgrade",
        "Both versions at once: scripts of protocol 1, and those of today.",
        upgrades(),
    )]
}

fn upgrades() -> Vec<Plan> {
    let (x, gpus, seats) = (lock(), semaphore(), pool());

    let lone = Plan::new(
        "a lease that lies alone",
        "change-migrate change-old change-untouched",
    );
    let lone = old_acquire(lone, &x, "a1", "0");
    let lone = old_acquire(lone, &object(Kind::Lock, "y"), "a2", "0");
    let lone = old_renew(lone, &x, "a1").call(&x, &queue("b1")).renew(&x, "a1");
    let lone = old_renew(lone, &x, "a1");
    let lone = old_release(lone, &x, "a1");
    let lone = old_renew(lone, &object(Kind::Lock, "y"), "a2");
    let lone = old_release(lone, &object(Kind::Lock, "y"), "a2")
        .release(&x, "a1")
        .renew(&x, "b1");

    let renewed = Plan::new(
        "a client that was upgraded renews and releases its old lease",
        "change-migrate",
    );
    let renewed = old_acquire(renewed, &x, "a1", "0")
        .renew(&x, "a1")
        .release(&x, "a1")
        .call(&x, &acquire("b1"));

    let ended = Plan::new(
        "an old client hears on its own channel that its lease has ended",
        "change-push",
    );
    let ended = old_acquire(ended, &x, "a1", "0").call(
        &x,
        &Release {
            how: Ending::Reclaimed("its pod has ended"),
            tokens: vec!["a1"],
        },
    );

    let newer = Plan::new("an old client does not read a new lease", "change-old").call(&x, &acquire("a1"));
    let newer = old_acquire(newer, &x, "b1", "0");
    let newer = old_release(newer, &x, "a1").renew(&x, "a1");

    let declare = ["digest-1", "1000", "0", "30000", "0", "2", "", "0"];
    let semaphores = Plan::new("a declared semaphore", "change-migrate change-old");
    let semaphores = old(semaphores, "declare", &gpus, &declare);
    let semaphores = old_declared(semaphores, &gpus, "a1")
        .renew(&gpus, "a1")
        .call(&gpus, &declared("b1"));
    let semaphores = old_declared(semaphores, &gpus, "c1").call(&gpus, &declaration(2));
    let semaphores = old(semaphores, "declare", &gpus, &declare)
        .release(&gpus, "a1")
        .observe(&gpus);

    let resources = ["LeastRecentlyUsed", "", "0", "seat-a", "1", "seat-b", "1"];
    let pools = Plan::new("a declared pool", "change-migrate change-old");
    let pools = old(pools, "declare", &seats, &[&declare[..], &resources].concat());
    let pools = old_declared(pools, &seats, "a1");
    let selected = Acquire {
        selector: "=seat-a",
        client: "b",
        entry_ms: 10_000,
        ..declared("b1")
    };
    let pools = pools.call(&seats, &selected).call(&seats, &declared("c1"));
    let pools = old_renew(pools, &seats, "a1").release(&seats, "a1");

    let mut plans = vec![lone, renewed, ended, newer, semaphores, pools];
    plans.extend(heard());
    plans
}

/// Clients of protocol 1 wait, and hear on their own channels.
fn heard() -> Vec<Plan> {
    let x = lock();
    let waiters = Plan::new(
        "waiters of both versions stand in one queue, and hear on their own channels",
        "change-migrate change-old change-push",
    );
    let waiters = old_acquire(waiters, &x, "a1", "0");
    let waiters = old_acquire(waiters, &x, "b1", "10000").call(&x, &queue("c1"));
    let waiters = old_renew(waiters, &x, "b1").release(&x, "a1").release(&x, "b1");

    let conditions = Plan::new("a waiter for a condition", "change-migrate change-push");
    let conditions = old_acquire(conditions, &x, "a1", "0");
    let channel = "tenure:client:${NS}-old";
    let wait = [
        "a1", "w1", "@full", "30000", "0", "10000", channel, HOLDER, "0", "0",
    ];
    let conditions = old(conditions, "wait", &x, &wait).call(&x, &acquire("b1"));
    let notify = Notify {
        token: "b1",
        condition: "@full",
        count: 1,
        request: "n1",
    };
    let conditions = conditions
        .call(&x, &notify)
        .release(&x, "b1")
        .renew(&x, "w1")
        .release(&x, "w1");

    vec![waiters, conditions]
}
