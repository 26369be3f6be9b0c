//! One object of which a key was overwritten, or a lease's entry: the others of the same client continue.

use std::time::Duration;

use tenure::{Error, Kind, LeaseState, Memory, Options, ResourceState, control::Capacity, control::Order};
use tokio::time::{Instant, sleep};

use crate::{Result, client, declare_semaphore, object, semaphore, settle};

const LEASE: Duration = Duration::from_secs(3);

/// Leases that lie in all keys of their objects: one that asks for nothing special would lie in one of them.
async fn holding(memory: &Memory, count: usize) -> Result<(tenure::Client, Vec<tenure::Lease>)> {
    let client = client(memory, "a").await?;
    let mut leases = Vec::new();
    for number in 0..count {
        let lock = client
            .lock(format!("x{number}"))?
            .with(Options::new().lease(LEASE).priority(1));
        leases.push(lock.acquire().await?);
    }
    Ok((client, leases))
}

#[tokio::test(start_paused = true)]
async fn an_overwritten_key_costs_the_lease_of_its_object_alone() -> Result {
    for key in ["obj", "holders", "queue", "expiry", "waits"] {
        for overwrite in ["SET", "HSET", "ZADD"] {
            let memory = Memory::new();
            let (client, leases) = holding(&memory, 20).await?;
            sleep(LEASE / 2).await;
            let name = format!("tenure:{{test/lock/x7}}:{key}");
            memory.command(&["UNLINK", &name])?;
            match overwrite {
                "SET" => memory.command(&["SET", &name, "5"])?,
                "HSET" => memory.command(&["HSET", &name, "state", "many"])?,
                _ => memory.command(&["ZADD", &name, "5", "somebody"])?,
            };
            let what = format!("{key} by {overwrite}");
            let deadline = leases[7].deadline();
            sleep(LEASE + LEASE / 2).await;
            for (number, lease) in leases.iter().enumerate() {
                // A single holder needs no queue; and what fits in its type is not damaged for all.
                let spared = key == "queue" || key == "waits" || key != "obj" && overwrite == "ZADD";
                match lease.state() {
                    LeaseState::Held if number != 7 || spared => {}
                    LeaseState::Lost { .. } if number == 7 && spared => {}
                    LeaseState::Lost { cause } if number == 7 => {
                        assert!(
                            cause.contains(&format!("damaged in Redis: {name}"))
                                && cause.contains("redis-cli"),
                            "{what}: {cause}"
                        );
                        assert!(Instant::now() >= deadline, "{what}");
                    }
                    state => panic!("{what}: lease {number} is {state:?}"),
                }
            }
            if key == "waits" || key != "obj" && overwrite == "ZADD" {
                continue;
            }
            let refused = client.lock("x7")?.try_acquire().await;
            assert!(
                matches!(&refused, Err(Error::Damaged { object, reason })
                    if object.name() == "x7" && reason.contains(&name) && reason.contains("redis-cli")),
                "{what}: {refused:?}"
            );
            // As the message recommends.
            for key in memory
                .keys()
                .iter()
                .filter(|key| key.starts_with("tenure:{test/lock/x7}:"))
            {
                memory.command(&["UNLINK", key])?;
            }
            assert!(client.lock("x7")?.try_acquire().await?.is_some(), "{what}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_damaged_object_is_in_doubt_until_its_deadline() -> Result {
    let memory = Memory::new();
    let (_client, leases) = holding(&memory, 2).await?;
    sleep(LEASE / 2).await;
    memory.command(&["SET", "tenure:{test/lock/x0}:holders", "5"])?;
    let deadline = leases[0].deadline();
    sleep(LEASE / 2).await;
    assert!(
        matches!(leases[0].state(), LeaseState::Unsure { reason } if reason.contains("damaged")),
        "{leases:?}"
    );
    let asked = leases[0].renew().await;
    assert!(matches!(asked, Err(Error::Damaged { .. })), "{asked:?}");
    let cause = leases[0].lost().await;
    assert!(cause.contains("damaged") && Instant::now() >= deadline, "{cause}");
    assert!(matches!(leases[1].state(), LeaseState::Held), "{leases:?}");
    Ok(())
}

/// docs/protocol.md#error-entry: it is removed.
#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_read_costs_its_lease_alone_and_goes_with_it() -> Result {
    for value in [
        "",
        "garbage",
        "1 2 3",
        "x 30000 0 0 0 0 c - {}",
        "1 30000 0 0 0 0 c -",
    ] {
        let memory = Memory::new();
        let client = client(&memory, "a").await?;
        declare_semaphore(&client, "s", 3).await?;
        let s = client.semaphore("s")?.with(Options::new().lease(LEASE));
        let (first, second, third) = (s.acquire().await?, s.acquire().await?, s.acquire().await?);
        let key = "tenure:{test/semaphore/s}:obj";
        let holders = memory.command(&["ZRANGE", "tenure:{test/semaphore/s}:holders", "0", "-1"])?;
        memory.command(&["HSET", key, &format!("t:{}", holders[0]), value])?;
        let seen = client.control().look(s.object(), 10).await?.ok_or("gone")?;
        assert_eq!((seen.held, seen.holders.len()), (3, 3), "{value:?}: {seen:?}");
        // While it may run, no other client has its permit.
        assert!(s.try_acquire().await?.is_none(), "{value:?}");
        let cause = first.lost().await;
        assert!(cause.contains("cannot be read"), "{value:?}: {cause}");
        sleep(LEASE).await;
        assert_eq!(
            (second.state(), third.state()),
            (LeaseState::Held, LeaseState::Held)
        );
        assert!(s.try_acquire().await?.is_some(), "{value:?}");
        settle().await;
        // A release of several tokens, one of which cannot be read, releases the others.
        let holders = memory.command(&["ZRANGE", "tenure:{test/semaphore/s}:holders", "0", "-1"])?;
        memory.command(&["HSET", key, &format!("t:{}", holders[0]), value])?;
        let taken = client
            .control()
            .reclaim(s.object(), &holders, "its pod has ended")
            .await?;
        assert_eq!(taken, 2, "{value:?}");
        assert!(s.acquire_many_timeout(3, LEASE).await?.is_some(), "{value:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_is_no_number_is_named_and_never_counts_as_nothing() -> Result {
    let fields = [
        "limit", "held", "last", "ticket", "ttl", "next", "marks", "lease", "max_hold", "recover",
    ];
    for (at, field) in fields.iter().enumerate().filter(|(_, field)| **field != "marks") {
        for value in ["", "-1", "nan", "many", "1e3", "99999999999999999999"] {
            let memory = Memory::new();
            let client = client(&memory, "a").await?;
            let object = declare_semaphore(&client, "s", 1).await?;
            let s = client.semaphore("s")?;
            let held = s.acquire().await?;
            let key = "tenure:{test/semaphore/s}:obj";
            let state = memory.command(&["HGET", key, "state"])?.concat();
            let mut parts: Vec<&str> = state.split(' ').collect();
            parts[at + 1] = value;
            memory.command(&["HSET", key, "state", &parts.join(" ")])?;
            for error in [
                s.try_acquire().await.err().map(|error| error.to_string()),
                client
                    .control()
                    .observe(&object, 1)
                    .await
                    .err()
                    .map(|error| error.to_string()),
                client
                    .control()
                    .declare(&object, &semaphore(2))
                    .await
                    .err()
                    .map(|error| error.to_string()),
            ] {
                let error = error.ok_or_else(|| format!("{field} {value:?} is taken"))?;
                assert!(
                    error.contains("test/semaphore/s is damaged") && error.contains("field state"),
                    "{field} {value:?}: {error}"
                );
            }
            drop(held);
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_resource_blocks_no_other_resource() -> Result {
    for entry in ["1{", "1[1]", r#"1{"zone":5}"#, "1null", "garbage", r#"1"zone""#] {
        for order in [Order::LeastRecentlyUsed, Order::MostRecentlyUsed, Order::Random] {
            let memory = Memory::new();
            let client = client(&memory, "a").await?;
            let pool = object(Kind::Pool, "p")?;
            let resource = |name: &str| tenure::control::Resource::new(name).property("zone", "b");
            let declaration = tenure::control::Declaration {
                capacity: Capacity::Resources {
                    order,
                    resources: vec![resource("a"), resource("b"), resource("c")],
                },
                ..semaphore(0)
            };
            client.control().declare(&pool, &declaration).await?;
            memory.command(&["HSET", "tenure:{test/pool/p}:resources", "b", entry])?;
            let p = client.lock_pool("p")?;
            let (one, other) = (
                p.acquire().await?,
                p.clone().matching([("zone", "b")])?.acquire().await?,
            );
            let mut names = [one.resource().to_owned(), other.resource().to_owned()];
            names.sort_unstable();
            assert_eq!(names, ["a", "c"], "{entry}");
            assert!(p.try_acquire().await?.is_none(), "{entry}");
            let asked = p.clone().named(["b"])?.try_acquire().await;
            assert!(
                matches!(&asked, Err(Error::Damaged { reason, .. }) if reason.contains(" b ")),
                "{asked:?}"
            );
            let listed = p.list().await?;
            let states: Vec<_> = listed.iter().map(|member| member.state).collect();
            assert_eq!(
                states,
                [ResourceState::Held, ResourceState::Damaged, ResourceState::Held]
            );
            one.release().await?;
            other.release().await?;
            let whole = p.clone().many(3).try_acquire().await;
            assert!(
                matches!(&whole, Err(Error::Damaged { reason, .. }) if reason.contains("of b that")),
                "{whole:?}"
            );
            assert!(
                p.clone().preferring("b")?.try_acquire().await?.is_some(),
                "{entry}"
            );
            // Declared again, it is whole.
            client.control().declare(&pool, &declaration).await?;
            let all = p.clone().many(2).try_acquire().await?;
            assert!(all.is_some(), "{entry}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn resources_of_an_unreadable_lease_are_not_granted_when_the_pool_changes() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let named = |names: &[&str]| Capacity::Resources {
        order: Order::LeastRecentlyUsed,
        resources: names
            .iter()
            .map(|name| tenure::control::Resource::new(*name))
            .collect(),
    };
    let declare = async |names: &[&str]| {
        let declaration = tenure::control::Declaration {
            capacity: named(names),
            ..semaphore(0)
        };
        a.control()
            .declare(&object(Kind::Pool, "p")?, &declaration)
            .await?;
        Result::Ok(())
    };
    declare(&["x"]).await?;
    let held = a.lock_pool("p")?.acquire().await?;
    let token = memory.command(&["ZRANGE", "tenure:{test/pool/p}:holders", "0", "-1"])?;
    let entry = format!("t:{}", token[0]);
    memory.command(&["HSET", "tenure:{test/pool/p}:obj", &entry, "garbage"])?;
    declare(&["x", "y"]).await?;
    let free = b.lock_pool("p")?.try_acquire().await?.unwrap();
    assert_eq!(free.resource(), "y");
    assert!(
        b.lock_pool("p")?.try_acquire().await?.is_none(),
        "x is held still"
    );
    assert_eq!(held.state(), LeaseState::Held);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_wait_leaves_no_permit_held_without_a_holder() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lock = a.lock("x")?.with(Options::new().lease(Duration::from_secs(3)));
    let waiter = lock.condvar("go")?;
    let held = lock.acquire().await?;
    let waits = tokio::spawn(async move { waiter.wait(held).await });
    settle().await;
    crate::silence(&memory, "a");
    let held = b.lock("x")?.acquire().await?;
    b.lock("x")?.condvar("go")?.notify(&held, 1).await?;
    held.release().await?;
    memory.command(&["SET", "tenure:{test/lock/x}:waits", "5"])?;
    sleep(Duration::from_secs(20)).await;
    // The first call meets what cannot be read; once that is gone, the lock is free.
    let _ = b.lock("x")?.try_acquire().await;
    memory.command(&["UNLINK", "tenure:{test/lock/x}:waits"])?;
    assert!(
        b.lock("x")?
            .acquire_timeout(Duration::from_secs(30))
            .await?
            .is_some()
    );
    waits.abort();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_needs_an_unreadable_resource_is_refused_and_the_queue_moves_on() -> Result {
    let memory = Memory::new();
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let resources = ["r0", "r1", "r2"].map(|name| tenure::control::Resource::new(name).property("zone", "b"));
    let declaration = tenure::control::Declaration {
        capacity: Capacity::Resources {
            order: Order::LeastRecentlyUsed,
            resources: resources.into(),
        },
        ..semaphore(0)
    };
    a.control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    let pool = b.lock_pool("p")?;
    for needs in [pool.clone().many(3), pool.clone().named(["r1"])?.many(1)] {
        a.control()
            .declare(&object(Kind::Pool, "p")?, &declaration)
            .await?;
        let held = a.lock_pool("p")?.many(3).acquire().await?;
        let all = tokio::spawn(async move { needs.acquire().await.map(drop) });
        settle().await;
        let behind = pool.clone();
        let behind = tokio::spawn(async move { behind.acquire().await });
        settle().await;
        memory.command(&["HSET", "tenure:{test/pool/p}:resources", "r1", "1{"])?;
        held.release().await?;
        let soon = Duration::from_secs(1);
        let refused = tokio::time::timeout(soon, all).await??;
        assert!(
            matches!(&refused, Err(Error::Damaged { object, reason })
                if object.name() == "p" && reason.contains("r1") && reason.contains("redis-cli")),
            "{refused:?}"
        );
        tokio::time::timeout(soon, behind).await???.release().await?;
    }
    Ok(())
}
