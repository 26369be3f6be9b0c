//! Scenarios of pools and registers.

use crate::memory::tests::conformance::plan::{Plan, Topics, declaration, declared, object, pool};
use crate::protocol::{
    calls::{Acquire, Action, Change, Condition, Declare, List, Members, Pool, Register, TimeToLive},
    object::Kind,
};

pub(super) fn topics() -> Topics {
    vec![
        (
            "pool",
            "Pools, declared with named or generated resources.",
            pools(),
        ),
        ("pool-kept", "Pools that programs keep.", kept_pools()),
        (
            "register",
            "Registers: conditional writes of one value.",
            registers(),
        ),
    ]
}

fn seats<'a>(limit: u64, named: &[(&'a str, &str)]) -> Declare<'a> {
    Declare {
        pool: Some(Pool {
            order: "LeastRecentlyUsed",
            generated: ("", 0),
            named: named
                .iter()
                .map(|(name, entry)| (*name, (*entry).to_owned()))
                .collect(),
        }),
        ..declaration(limit)
    }
}

pub(super) fn three() -> Declare<'static> {
    seats(
        3,
        &[
            ("seat-a", r#"1{"zone":"b"}"#),
            ("seat-b", "1"),
            ("seat-c", r#"1{"zone":"b"}"#),
        ],
    )
}

fn generated(count: u64) -> Declare<'static> {
    Declare {
        pool: Some(Pool {
            order: "LeastRecentlyUsed",
            generated: ("seat-", count),
            named: Vec::new(),
        }),
        ..declaration(count)
    }
}

fn select<'a>(token: &'a str, selector: &'a str) -> Acquire<'a> {
    Acquire {
        selector,
        ..declared(token)
    }
}

fn pools() -> Vec<Plan> {
    let seats_of = pool();
    let list = List {
        cursor: "0",
        count: 100,
    };
    vec![
        Plan::new(
            "a lease has resources with their properties",
            "acq-permits acq-granted selector-any list-1 list-reply dec-resources",
        )
        .call(&seats_of, &three())
        .call(
            &seats_of,
            &Acquire {
                permits: 2,
                ..declared("a1")
            },
        )
        .call(&seats_of, &list)
        .call(
            &seats_of,
            &List {
                cursor: "=seat-c",
                ..list
            },
        )
        .call(
            &seats_of,
            &List {
                cursor: "=seat-d",
                ..list
            },
        ),
        Plan::new("certain resources", "selector-named acq-errors error-1")
            .call(&seats_of, &three())
            .call(
                &seats_of,
                &Acquire {
                    permits: 2,
                    ..select("a1", "=seat-b,seat-c")
                },
            )
            .call(&seats_of, &select("b1", "=seat-b"))
            .call(&seats_of, &select("c1", "=seat-d")),
        Plan::new("resources by their properties", "selector-properties")
            .call(&seats_of, &three())
            .call(
                &seats_of,
                &Acquire {
                    permits: 2,
                    ..select("a1", "?zone=b")
                },
            )
            .call(&seats_of, &select("b1", "?zone=b"))
            .call(&seats_of, &declared("c1")),
        Plan::new("a preferred resource", "selector-preferred")
            .call(&seats_of, &three())
            .call(&seats_of, &select("a1", "~seat-c"))
            .call(&seats_of, &select("b1", "~seat-c")),
        Plan::new(
            "a waiter for certain resources lets others pass to the rest",
            "queue-2 selector-named push-granted",
        )
        .call(&seats_of, &three())
        .call(&seats_of, &select("a1", "=seat-b"))
        .call(
            &seats_of,
            &Acquire {
                entry_ms: 10_000,
                client: "b",
                ..select("b1", "=seat-b")
            },
        )
        .call(&seats_of, &declared("c1"))
        .release(&seats_of, "a1"),
        Plan::new("the least recently used resource comes first", "dec-order")
            .call(&seats_of, &three())
            .call(
                &seats_of,
                &Acquire {
                    permits: 3,
                    ..declared("a1")
                },
            )
            .release(&seats_of, "a1")
            .call(&seats_of, &declared("b1"))
            .release(&seats_of, "b1")
            .call(&seats_of, &declared("c1")),
        Plan::new("resources out of service", "dec-resources list-reply acq-errors")
            .call(&seats_of, &seats(1, &[("seat-a", "0"), ("seat-b", "1")]))
            .call(&seats_of, &list)
            .call(&seats_of, &select("a1", "=seat-a"))
            .call(&seats_of, &declared("b1"))
            .call(&seats_of, &declared("c1")),
        Plan::new(
            "generated resources have names and no properties",
            "dec-generated acq-errors error-1",
        )
        .call(&seats_of, &generated(2))
        .call(&seats_of, &declared("a1"))
        .call(&seats_of, &declared("b1"))
        .call(&seats_of, &select("c1", "?zone=b"))
        .call(&seats_of, &declared("c2")),
    ]
}

fn members<'a>(change: Change, count: usize, staged: &'a str, names: &'a [String]) -> Members<'a> {
    Members {
        change,
        order: "LeastRecentlyUsed",
        count,
        staged,
        names,
    }
}

fn kept_pools() -> Vec<Plan> {
    let seats_of = pool();
    let text = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    let (two, one, staged) = (
        text(&["seat-a", "1", "seat-b", "1"]),
        text(&["seat-a"]),
        text(&["seat-c", "1"]),
    );
    vec![
        Plan::new(
            "resources are added and taken away",
            "members-1 members-reply members-repeated acq-lease",
        )
        .call(&seats_of, &members(Change::Extend, 2, "", &two))
        .call(&seats_of, &members(Change::Extend, 2, "", &two))
        .call(&seats_of, &declared("a1"))
        .call(&seats_of, &members(Change::Shrink, 1, "", &one))
        .call(&seats_of, &declared("b1"))
        .call(&seats_of, &members(Change::Clear, 0, "", &[])),
        Plan::new(
            "staged resources replace all others",
            "members-1 members-reply members-repeated",
        )
        .call(&seats_of, &members(Change::Extend, 2, "", &two))
        .call(&seats_of, &members(Change::Stage, 1, "s1", &staged))
        .call(&seats_of, &members(Change::Commit, 1, "s1", &[]))
        .call(&seats_of, &members(Change::Commit, 1, "s1", &[]))
        .call(
            &seats_of,
            &List {
                cursor: "0",
                count: 100,
            },
        ),
        Plan::new(
            "the staged resources are not those that are expected",
            "members-errors error-1",
        )
        .call(&seats_of, &members(Change::Stage, 1, "s1", &staged))
        .call(&seats_of, &members(Change::Commit, 2, "s1", &[])),
        Plan::new(
            "a declared pool is not changed by programs",
            "members-errors error-1",
        )
        .call(&seats_of, &three())
        .call(&seats_of, &members(Change::Extend, 1, "", &staged)),
    ]
}

fn write<'a>(token: &'a str, condition: Condition, argument: &'a str, value: &'a str) -> Register<'a> {
    Register {
        token,
        memory_ms: 60_000,
        action: Action::Set,
        condition,
        or_missing: false,
        argument,
        value,
        expiry: TimeToLive::Keep,
    }
}

fn registers() -> Vec<Plan> {
    let count = object(Kind::Register, "count");
    let get = |token| Register {
        action: Action::Get,
        ..write(token, Condition::Always, "", "")
    };
    vec![
        Plan::new(
            "a value is written, read and deleted",
            "call-2 reg-1 reg-reply reg-expiry",
        )
        .call(&count, &get("t0"))
        .call(&count, &write("t1", Condition::Always, "", "int 5"))
        .call(&count, &get("t2"))
        .call(
            &count,
            &Register {
                expiry: TimeToLive::AfterMs(60_000),
                ..write("t3", Condition::Always, "", "text hello world")
            },
        )
        .wait(20)
        .call(&count, &get("t4"))
        .call(&count, &write("t5", Condition::Always, "", "int 7"))
        .call(&count, &get("t6"))
        .call(
            &count,
            &Register {
                expiry: TimeToLive::Never,
                ..write("t7", Condition::Always, "", "int 7")
            },
        )
        .call(&count, &get("t8"))
        .call(
            &count,
            &Register {
                action: Action::Delete,
                ..write("t9", Condition::Always, "", "")
            },
        )
        .call(
            &count,
            &Register {
                action: Action::Delete,
                ..write("t10", Condition::Always, "", "")
            },
        ),
        Plan::new(
            "a condition compares the argument with the stored value",
            "reg-condition reg-reply",
        )
        .call(&count, &write("t1", Condition::Missing, "", "int 5"))
        .call(&count, &write("t2", Condition::Missing, "", "int 6"))
        .call(&count, &write("t3", Condition::Gt, "int 5", "int 6"))
        .call(&count, &write("t4", Condition::Gt, "float 5.5", "int 6"))
        .call(&count, &write("t5", Condition::Ge, "int 6", "int 7"))
        .call(&count, &write("t6", Condition::Lt, "int 7", "int 8"))
        .call(&count, &write("t7", Condition::Le, "float 7", "text x"))
        .call(&count, &write("t8", Condition::Eq, "text x", "text y"))
        .call(&count, &write("t9", Condition::Ne, "text y", "text z"))
        .call(&count, &write("t10", Condition::Ne, "int 1", "float inf")),
        Plan::new("a condition about a value that is not there", "reg-condition")
            .call(&count, &write("t1", Condition::Gt, "int 5", "int 5"))
            .call(
                &count,
                &Register {
                    or_missing: true,
                    ..write("t2", Condition::Gt, "int 5", "int 5")
                },
            ),
        Plan::new("a repeated write changes nothing", "reg-repeated")
            .call(&count, &write("t1", Condition::Missing, "", "int 5"))
            .call(&count, &write("t2", Condition::Always, "", "int 6"))
            .call(&count, &write("t1", Condition::Missing, "", "int 5"))
            .call(&count, &get("t3")),
        Plan::new("a value expires", "reg-expiry")
            .call(
                &count,
                &Register {
                    expiry: TimeToLive::AfterMs(50),
                    ..write("t1", Condition::Always, "", "int 5")
                },
            )
            .wait(80)
            .call(&count, &get("t2")),
    ]
}
