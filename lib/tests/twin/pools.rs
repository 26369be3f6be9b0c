//! Pools whose resources are named, marked and damaged: each free resource is granted, and none twice.

use std::time::Duration;

use tenure::{
    Error, Kind, LockPool, PoolLease,
    control::{Declaration, Order, Resource},
};
use tokio::time::sleep;

use super::{Memory, Result, client, generated, object, settle};

const ORDERS: [Order; 3] = [Order::LeastRecentlyUsed, Order::MostRecentlyUsed, Order::Random];

fn names(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|index| format!("r{index}")).collect()
}

fn held_twice(leases: &[PoolLease]) -> Vec<String> {
    let resources = leases.iter().flat_map(PoolLease::resources);
    let mut all: Vec<String> = resources.map(|(name, _)| name.clone()).collect();
    all.sort_unstable();
    let twice = all.windows(2).filter(|pair| pair[0] == pair[1]);
    twice.map(|pair| pair[0].clone()).collect()
}

async fn acquire(pool: &LockPool, count: usize) -> Result<Vec<PoolLease>> {
    let mut leases = Vec::new();
    for _ in 0..count {
        leases.push(
            pool.try_acquire()
                .await?
                .ok_or("a free resource is not granted")?,
        );
    }
    Ok(leases)
}

/// More resources are marked than one call skips: the call grants nothing, and the next ones go on behind them.
#[tokio::test(start_paused = true)]
async fn more_marked_resources_than_one_call_skips_are_not_granted_again() -> Result {
    for order in ORDERS {
        let memory = Memory::seeded(80);
        let client = client(&memory, "a").await?;
        client
            .control()
            .declare(&object(Kind::Pool, "p")?, &generated(order, "r", 2000))
            .await?;
        let pool = client.lock_pool("p")?;
        let mut leases = Vec::new();
        for from in (0..600).step_by(100) {
            leases.push(pool.clone().named(names(from..from + 100))?.acquire().await?);
        }
        leases.extend(acquire(&pool, 50).await?);
        assert_eq!(held_twice(&leases), Vec::<String>::new());
    }
    Ok(())
}

/// The same marks, made by holders that were readmitted after a loss of data.
#[tokio::test(start_paused = true)]
async fn readmitted_holders_of_a_large_pool_keep_their_resources() -> Result {
    let memory = Memory::seeded(81);
    let client = client(&memory, "a").await?;
    let (object, order) = (object(Kind::Pool, "p")?, Order::LeastRecentlyUsed);
    client
        .control()
        .declare(&object, &generated(order, "r", 1000))
        .await?;
    let pool = client.lock_pool("p")?;
    let mut leases = acquire(&pool, 520).await?;
    memory.flush_all();
    let again = Declaration {
        floor: 1_000_000,
        recovery: Some(Duration::from_secs(30)),
        ..generated(order, "r", 1000)
    };
    client.control().declare(&object, &again).await?;
    sleep(Duration::from_secs(60)).await;
    leases.extend(acquire(&pool, 10).await?);
    assert!(leases.iter().all(|lease| lease.check().is_ok()));
    assert_eq!(held_twice(&leases), Vec::<String>::new());
    Ok(())
}

/// The first grant of a call saves the counters, and the second one skips more marks.
#[tokio::test(start_paused = true)]
async fn two_grants_of_one_call_skip_marked_resources() -> Result {
    let memory = Memory::seeded(82);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let declaration = generated(Order::LeastRecentlyUsed, "r", 260);
    a.control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    let pool = a.lock_pool("p")?;
    let ends = [names(0..60), names(200..260)].concat();
    let first = pool.clone().named(ends)?.acquire().await?;
    let mut leases = vec![pool.clone().named(names(60..200))?.acquire().await?];
    let waits: Vec<_> = (0..2)
        .map(|_| {
            let pool = b.lock_pool("p").map(|pool| pool.many(60));
            tokio::spawn(async move { pool?.acquire().await })
        })
        .collect();
    settle().await;
    first.release().await?;
    for wait in waits {
        leases.push(wait.await??);
    }
    assert_eq!(held_twice(&leases), Vec::<String>::new());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_read_does_not_make_another_one_twice() -> Result {
    for order in ORDERS {
        let memory = Memory::seeded(83);
        let client = client(&memory, "a").await?;
        let declaration = generated(order, "r", 3);
        client
            .control()
            .declare(&object(Kind::Pool, "p")?, &declaration)
            .await?;
        let pool = client.lock_pool("p")?;
        let used = pool.acquire().await?;
        let name = used.resource().to_owned();
        used.release().await?;
        memory.command(&["HSET", "tenure:{test/pool/p}:resources", &name, "1{bad"])?;
        let mut leases = Vec::new();
        leases.extend(pool.clone().many(2).try_acquire().await?);
        for _ in 0..3 {
            leases.extend(pool.try_acquire().await?);
        }
        assert_eq!(held_twice(&leases), Vec::<String>::new());
    }
    Ok(())
}

/// One waiter for a named resource makes the call look at each free resource.
#[tokio::test(start_paused = true)]
async fn a_large_request_beside_a_named_waiter_is_granted() -> Result {
    let memory = Memory::seeded(84);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let declaration = generated(Order::LeastRecentlyUsed, "r", 3000);
    a.control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    let pool = a.lock_pool("p")?;
    pool.clone().many(3000).acquire().await?.release().await?;
    let _held = pool.clone().named(["r5"])?.acquire().await?;
    let named = b.lock_pool("p")?.named(["r5"])?;
    let _wait = tokio::spawn(async move { named.acquire().await });
    settle().await;
    let large = pool.clone().many(1200).try_acquire().await?;
    assert_eq!(
        large.ok_or("1200 of 2999 are not granted")?.resources().len(),
        1200
    );
    Ok(())
}

fn resource(name: &str, host: &str) -> Resource {
    Resource::new(name).property("host", host)
}

/// The call that replaces the resources has read the former ones, because it first ends what has expired.
#[tokio::test(start_paused = true)]
async fn an_assignment_grants_the_new_resources_at_once_and_no_former_one() -> Result {
    let memory = Memory::seeded(85);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pool = a.lock_pool("p")?;
    pool.assign([resource("x", "h"), resource("a", "h")]).await?;
    let _held = pool.clone().named(["x"])?.acquire().await?;
    let named = b.lock_pool("p")?.named(["x"])?;
    let _wait = tokio::spawn(async move { named.acquire().await });
    settle().await;
    let two = b.lock_pool("p")?.many(2);
    let wait = tokio::spawn(async move { two.acquire().await });
    settle().await;
    pool.assign([resource("x", "h"), resource("b", "h"), resource("c", "h")])
        .await?;
    settle().await;
    let got = wait.await??;
    let mut granted: Vec<_> = got.resources().iter().map(|(name, _)| name.as_str()).collect();
    granted.sort_unstable();
    assert_eq!(granted, ["b", "c"]);

    let other = a.lock_pool("q")?;
    other.assign([resource("a", "h1")]).await?;
    let matching = b.lock_pool("q")?.matching([("host", "h9")])?;
    let wait = tokio::spawn(async move { matching.acquire().await });
    settle().await;
    other.assign([resource("b", "h9")]).await?;
    settle().await;
    assert!(wait.is_finished(), "a matching resource is not granted at once");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_removed_resource_that_cannot_be_read_refuses_no_waiter() -> Result {
    let memory = Memory::seeded(86);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pool = a.lock_pool("p")?;
    pool.assign([resource("a", "h"), resource("z", "h")]).await?;
    let held = pool.clone().named(["a"])?.acquire().await?;
    memory.command(&["HSET", "tenure:{test/pool/p}:resources", "z", "1{bad"])?;
    let waiting = b.lock_pool("p")?;
    let wait = tokio::spawn(async move { waiting.acquire().await });
    settle().await;
    pool.assign([resource("a", "h")]).await?;
    settle().await;
    assert!(!wait.is_finished());
    held.release().await?;
    assert_eq!(wait.await??.resource(), "a");
    Ok(())
}

/// The names are the request: another number beside them would count resources that are not granted.
#[tokio::test(start_paused = true)]
async fn a_number_that_is_not_that_of_the_names_is_refused() -> Result {
    let memory = Memory::seeded(87);
    let client = client(&memory, "a").await?;
    let pool = client.lock_pool("p")?;
    pool.assign(["a", "b", "c"].map(|name| resource(name, "h")))
        .await?;
    let two = pool.clone().named(["a", "b"])?;
    for count in [0, 1, 3] {
        let error = two.clone().many(count).try_acquire().await.unwrap_err();
        assert!(error.to_string().starts_with("count is"), "{error}");
    }
    let error = pool.clone().many(0).try_acquire().await.unwrap_err();
    assert!(error.to_string().starts_with("count is 0"), "{error}");
    let error = pool.clone().named(["a b"]).unwrap_err();
    assert!(error.to_string().starts_with("names \"a b\""), "{error}");
    let both = two.many(2).try_acquire().await?.ok_or("not granted")?;
    assert_eq!(both.resources().len(), 2);
    assert_eq!(pool.many(7).named(["c"])?.acquire().await?.resource(), "c");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_a_kept_pool_cannot_have_is_named_and_nothing_is_changed() -> Result {
    let memory = Memory::seeded(1);
    let pool = client(&memory, "a").await?.lock_pool("p")?;
    pool.assign([Resource::new("r0")]).await?;
    let disabled = Resource {
        disabled: true,
        ..Resource::new("r1")
    };
    for (resource, field) in [
        (Resource::new("a b"), "resources.name"),
        (Resource::new("-"), "resources.name"),
        (Resource::new("r".repeat(254)), "resources.name"),
        (
            Resource::new("r1").property("k", "x".repeat(1 << 16)),
            "resources.properties",
        ),
        (disabled, "resources.disabled"),
    ] {
        for error in [
            pool.extend([Resource::new("r2"), resource.clone()]).await,
            pool.assign([Resource::new("r2"), resource.clone()]).await,
        ] {
            assert!(
                matches!(&error, Err(Error::InvalidInput { field: named, .. }) if *named == field),
                "{field}: {error:?}"
            );
        }
    }
    assert_eq!(pool.list().await?.len(), 1);
    Ok(())
}

/// Redis closes a connection with subscriptions when more than 32 MB wait for it.
#[tokio::test(start_paused = true)]
async fn resources_with_the_largest_properties_are_listed_and_granted() -> Result {
    const COUNT: usize = 450;
    let memory = Memory::seeded(1);
    let pool = client(&memory, "a").await?.lock_pool("p")?;
    let value = "x".repeat((1 << 16) - 8);
    pool.assign((0..COUNT).map(|number| Resource::new(format!("r{number}")).property("k", &*value)))
        .await?;
    let listed = pool.list().await?;
    assert!(listed.len() == COUNT && listed.iter().all(|one| one.properties["k"] == value));
    let lease = pool.many(2).acquire().await?;
    assert_eq!(lease.properties()["k"], value);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_capacity_that_the_object_cannot_have_is_refused_and_changes_nothing() -> Result {
    let memory = Memory::new();
    let client = client(&memory, "a").await?;
    let control = client.control();
    let (permits, resources) = (crate::semaphore(2), generated(Order::Random, "r", 2));
    for (kind, declaration) in [
        (Kind::Pool, &permits),
        (Kind::Lock, &permits),
        (Kind::Lock, &resources),
        (Kind::RwLock, &resources),
        (Kind::Semaphore, &resources),
    ] {
        let error = control
            .declare(&object(kind, "x")?, declaration)
            .await
            .unwrap_err();
        let Error::InvalidInput { field, .. } = &error else {
            return Err(error.into());
        };
        assert_eq!(*field, "capacity", "{kind}: {error}");
        assert!(memory.keys().is_empty(), "{kind}: {:?}", memory.keys());
    }
    Ok(())
}
