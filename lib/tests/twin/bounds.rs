//! Requests that can never be served any more, and large ones: the queue moves on, nothing stays held without a holder, and
//! no call does an unbounded amount of work.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use tenure::{
    Client, Error, Kind, Memory, Options, PoolLease,
    control::{Capacity, Declaration, Order, Resource, Withdrawal},
    memory::{Fault, Message},
};
use tokio::{task::JoinHandle, time::Instant};

use super::{Result, client, declare_semaphore, generated, lock, object, semaphore, settle, silence};

const PLACE: Duration = Duration::from_secs(10);

async fn shrink(client: &Client, name: &str, permits: u64) -> Result {
    let object = object(Kind::Semaphore, name)?;
    client.control().declare(&object, &semaphore(permits)).await?;
    Ok(())
}

/// Loses every push of this kind.
fn lose(memory: &Memory, kind: &'static str) {
    memory.set_faults(move |_, message| match message {
        Message::Push { payload } if payload.starts_with(kind) => Fault::Drop,
        _ => Fault::Deliver,
    });
}

/// A waiter for 5 of 5, and one for 1 behind it; then there are 3.
async fn a_waiter_for_more_than_there_is(lost: bool) -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&a, "s", 5).await?;
    let held = a.semaphore("s")?.acquire_many(3).await?;
    let large = b.semaphore("s")?;
    let large = tokio::spawn(async move { large.acquire_many(5).await });
    settle().await;
    let small = b.semaphore("s")?;
    let small = tokio::spawn(async move { small.acquire_many(1).await });
    settle().await;
    if lost {
        lose(&memory, "gone");
    }
    let shrunk = Instant::now();
    shrink(&a, "s", 3).await?;
    let error = large.await?.unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                asked: 5,
                limit: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(shrunk.elapsed() <= PLACE / 3, "{:?}", shrunk.elapsed());
    drop(held);
    small.await??.release().await?;
    // With a limit of 0 a request waits for a larger one.
    shrink(&a, "s", 0).await?;
    let patience = Duration::from_secs(30);
    assert!(
        b.semaphore("s")?
            .acquire_many_timeout(4, patience)
            .await?
            .is_none()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_waiter_for_more_than_is_left_is_refused_and_the_queue_moves_on() -> Result {
    a_waiter_for_more_than_there_is(false).await
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_does_not_hear_that_it_is_refused_finds_out() -> Result {
    a_waiter_for_more_than_there_is(true).await
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_finds_its_lease_after_the_limit_shrank() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&a, "s", 5).await?;
    // The reply is lost, and before it is asked for again the limit goes down.
    let replies = Mutex::new(0);
    memory.set_faults(move |process, message| {
        let lost = process == "b" && message == (Message::Reply { script: "acquire" });
        *lock(&replies) += u32::from(lost);
        if lost && *lock(&replies) == 1 {
            Fault::Drop
        } else {
            Fault::Deliver
        }
    });
    let all = b.semaphore("s")?;
    let all = tokio::spawn(async move { all.acquire_many(5).await });
    settle().await;
    shrink(&a, "s", 3).await?;
    let lease = all.await??;
    assert_eq!(lease.permits(), 5);
    lease.release().await?;
    Ok(())
}

fn resources(count: usize) -> impl Iterator<Item = Resource> {
    (0..count).map(|i| Resource::new(format!("seat-{i}")).property("number", i.to_string()))
}

#[tokio::test(start_paused = true)]
async fn a_waiter_for_a_resource_that_is_taken_out_is_refused() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    for (declared, lost) in [(false, false), (false, true), (true, false), (true, true)] {
        let name = format!("p-{declared}-{lost}");
        let pool = a.lock_pool(&name)?;
        let object = object(Kind::Pool, &name)?;
        let declare = async |disabled: bool| {
            let mut all: Vec<Resource> = resources(3).collect();
            all[0].disabled = disabled;
            let declaration = Declaration {
                floor: 0,
                recovery: None,
                lease: Duration::from_secs(30),
                max_hold: None,
                capacity: Capacity::Resources {
                    order: Order::LeastRecentlyUsed,
                    resources: all,
                },
            };
            a.control().declare(&object, &declaration).await
        };
        if declared {
            declare(false).await?;
        } else {
            pool.assign(resources(3)).await?;
        }
        let held = pool.clone().named(["seat-0"])?.acquire().await?;
        let waits = |pool: tenure::LockPool| -> JoinHandle<std::result::Result<PoolLease, Error>> {
            tokio::spawn(async move { pool.acquire().await })
        };
        let named = waits(b.lock_pool(&name)?.named(["seat-0"])?);
        settle().await;
        let many = waits(b.lock_pool(&name)?.many(3));
        settle().await;
        let next = waits(b.lock_pool(&name)?);
        settle().await;
        if lost {
            lose(&memory, "gone");
        }
        if declared {
            declare(true).await?;
        } else {
            pool.shrink(["seat-0"]).await?;
        }
        let error = named.await?.unwrap_err();
        assert!(
            matches!(&error, Error::NoSuchResource { resource, .. } if resource == "seat-0"),
            "{error}"
        );
        let error = many.await?.unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLarge {
                    asked: 3,
                    limit: 2,
                    ..
                }
            ),
            "{error}"
        );
        next.await??.release().await?;
        held.release().await?;
        memory.clear_faults();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn five_thousand_resources_are_taken_at_once_in_every_way() -> Result {
    const MANY: u32 = 5000;
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pool = a.lock_pool("p")?;
    pool.assign(resources(MANY as usize)).await?;
    let all = pool.clone().many(MANY);
    let held = all.try_acquire().await?.ok_or("busy")?;
    assert_eq!(held.resources().len(), MANY as usize);
    // By push.
    let other = b.lock_pool("p")?.many(MANY);
    let next = tokio::spawn(async move { other.acquire().await });
    settle().await;
    held.release().await?;
    let next = next.await??;
    assert_eq!(next.resources().len(), MANY as usize);
    next.release().await?;
    assert_eq!(pool.health().await?.free, u64::from(MANY));
    let error = pool.many(10_001).try_acquire().await.unwrap_err();
    assert!(
        matches!(error, Error::InvalidInput { field: "count", .. }),
        "{error}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn many_leases_are_reclaimed_at_once() -> Result {
    let memory = Memory::seeded(1);
    let a = client(&memory, "a").await?;
    let object = declare_semaphore(&a, "s", 9000).await?;
    let semaphore = a.semaphore("s")?;
    let leases = join_all((0..9000).map(|_| semaphore.acquire())).await;
    let seen = a.control().look(&object, 10_000).await?.ok_or("gone")?;
    let tokens: Vec<String> = seen.holders.into_iter().map(|holder| holder.token).collect();
    assert_eq!(a.control().reclaim(&object, &tokens, "for the test").await?, 9000);
    assert_eq!(a.control().look(&object, 0).await?.ok_or("gone")?.held, 0);
    drop(leases);
    Ok(())
}

/// Waits for the condition with a lease of 200 ms, and crashes.
#[tokio::test(start_paused = true)]
async fn dead_condition_waiters_cost_one_lease_together() -> Result {
    const DEAD: usize = 50;
    let lease = Duration::from_millis(200);
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let mut waiters = Vec::new();
    for _ in 0..DEAD {
        let locked = b.lock("x")?.with(Options::new().lease(lease));
        let held = locked.acquire().await?;
        let condition = locked.condvar("c")?;
        waiters.push(tokio::spawn(async move { condition.wait(held).await }));
        settle().await;
    }
    let lock = a.lock("x")?;
    let held = lock.acquire().await?;
    silence(&memory, "b");
    assert_eq!(lock.condvar("c")?.notify_all(&held).await?, DEAD as u64);
    let crashed = Instant::now();
    held.release().await?;
    lock.acquire().await?.release().await?;
    let cost = crashed.elapsed();
    assert!(cost <= lease + Duration::from_millis(100), "{cost:?}");
    Ok(())
}

/// Of two conditions of a lock, all who wait for one are notified in their order, and those of the other sleep on.
#[tokio::test(start_paused = true)]
async fn a_thousand_are_notified_in_their_order_and_in_pieces() -> Result {
    const WAITERS: usize = 1000;
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let woken: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        let locked = b.lock("x")?;
        let held = locked.acquire().await?;
        let condition = locked.condvar(if i % 10 == 0 { "c:" } else { "c" })?;
        let woken = woken.clone();
        waiters.push(tokio::spawn(async move {
            let held = condition.wait(held).await?;
            lock(&woken).push(i);
            held.release().await
        }));
        settle().await;
    }
    let locked = a.lock("x")?;
    let held = locked.acquire().await?;
    assert_eq!(locked.condvar("c")?.notify(&held, 120).await?, 120);
    assert_eq!(locked.condvar("c")?.notify_all(&held).await?, 780);
    assert_eq!(locked.condvar("c")?.notify_all(&held).await?, 0);
    held.release().await?;
    settle().await;
    let expected: Vec<usize> = (0..WAITERS).filter(|i| i % 10 != 0).collect();
    assert_eq!(*lock(&woken), expected);
    assert!(memory.most_work() < 1000, "{}", memory.most_work());
    let held = locked.acquire().await?;
    assert_eq!(locked.condvar("c:")?.notify_all(&held).await?, 100);
    held.release().await?;
    for waiter in waiters {
        waiter.await??;
    }
    assert!(memory.keys().is_empty());
    Ok(())
}

fn seats(count: u64) -> Declaration {
    generated(Order::LeastRecentlyUsed, "seat-", count)
}

/// Looks until nothing is left to be done, and returns the number of free resources.
async fn finished(client: &Client) -> Result<u64> {
    let pool = object(Kind::Pool, "p")?;
    loop {
        let seen = client.control().look(&pool, 0).await?.ok_or("the pool is gone")?;
        if seen
            .next_change
            .is_none_or(|at| at > seen.now + Duration::from_millis(1))
        {
            return Ok(seen.free);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_generated_pool_of_thousands_shrinks_and_grows_in_pieces() -> Result {
    const MANY: u32 = 20_000;
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let (pool, control) = (object(Kind::Pool, "p")?, a.control());
    control.declare(&pool, &seats(MANY.into())).await?;
    // Each has been used once, and two that go out of service are held.
    let seats_of_a = a.lock_pool("p")?;
    let last = seats_of_a
        .clone()
        .named(["seat-19999", "seat-7"])?
        .acquire()
        .await?;
    let other = seats_of_a.clone().named(["seat-8"])?.acquire().await?;
    let mut used = Vec::new();
    for count in [&[97][..], &[100; 199]].concat() {
        used.push(seats_of_a.clone().many(count).acquire().await?);
    }
    for lease in used {
        lease.release().await?;
    }
    let waiter = b.lock_pool("p")?.many(5);
    control.declare(&pool, &seats(5)).await?;
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    assert_eq!(finished(&a).await?, 0, "all five are held by the waiter");
    let five = waiter.await??;
    other.release().await?;
    control.declare(&pool, &seats(10)).await?;
    assert_eq!(finished(&a).await?, 4, "seat-7 is held, and so are five");
    control.declare(&pool, &seats(MANY.into())).await?;
    assert_eq!(finished(&a).await?, u64::from(MANY) - 7);
    assert!(memory.most_work() < 900, "{} units", memory.most_work());
    let all = b.lock_pool("p")?;
    let mut leases = vec![last, five];
    leases.push(all.clone().many(MANY / 2).acquire().await?);
    leases.push(all.many(MANY / 2 - 7).acquire().await?);
    assert_eq!(finished(&a).await?, 0);
    let names = leases.iter().flat_map(PoolLease::resources);
    let different: HashSet<_> = names.map(|(name, _)| name).collect();
    assert_eq!(different.len(), MANY as usize);
    for lease in leases {
        lease.release().await?;
    }
    assert_eq!(finished(&a).await?, u64::from(MANY));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_expiry_brings_back_the_head_and_not_the_herd() -> Result {
    let memory = Memory::seeded(1);
    let holder = client(&memory, "holder").await?;
    let held = holder.lock("x")?.acquire().await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut waiters = Vec::new();
    for i in 0..200 {
        let lock = client(&memory, &format!("client-{i}")).await?.lock("x")?;
        waiters.push(tokio::spawn(async move { lock.acquire().await }));
        settle().await;
    }
    silence(&memory, "holder");
    tokio::time::sleep_until(deadline).await;
    let before = memory.calls();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let calls = memory.calls() - before;
    assert!(calls < 15, "{calls} calls within 10 ms");
    waiters.remove(0).await??.release().await?;
    drop(held);
    Ok(())
}

/// Most work of one call, in the units of [`Memory::most_work`].
const MOST: u64 = 900;

#[tokio::test(start_paused = true)]
async fn a_register_forgets_what_was_written_long_ago_in_pieces() -> Result {
    let memory = Memory::seeded(1);
    let client = client(&memory, "a").await?;
    let register = client.register("x")?;
    for value in 0..20_000_i64 {
        register.set(value).await?;
    }
    // The writes are remembered for 16 s, and their set for as long after the last one.
    tokio::time::sleep(Duration::from_secs(15)).await;
    register.set(0).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for value in 0..300_i64 {
        register.set(value).await?;
    }
    assert!(memory.most_work() < MOST / 9, "{}", memory.most_work());
    Ok(())
}

/// docs/protocol.md#budget-1: in units of work.
#[tokio::test(start_paused = true)]
async fn an_object_with_thousands_of_leases_and_waiters_is_deleted_in_pieces() -> Result {
    const MANY: u64 = 2000;
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let object = declare_semaphore(&a, "s", MANY).await?;
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(b.semaphore("s")?.acquire().await?);
    }
    let waits: Vec<_> = (0..MANY)
        .map(|_| {
            let waits = b.semaphore("s")?;
            Result::Ok(tokio::spawn(async move { waits.acquire_timeout(PLACE).await }))
        })
        .collect::<Result<_>>()?;
    settle().await;
    a.control().withdraw(&object, Withdrawal::Delete).await?;
    settle().await;
    assert!(memory.most_work() < MOST, "{}", memory.most_work());
    assert!(held.iter().all(|lease| lease.check().is_err()));
    for waits in waits {
        assert!(matches!(waits.await?, Ok(None) | Err(Error::NotDeclared { .. })));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_thousands_is_assigned_listed_and_cleared_in_pieces() -> Result {
    const MANY: usize = 5000;
    let memory = Memory::seeded(1);
    let client = client(&memory, "a").await?;
    let pool = client.lock_pool("p")?;
    pool.assign(resources(MANY)).await?;
    assert_eq!(pool.list().await?.len(), MANY);
    pool.shrink((0..MANY / 2).map(|i| format!("seat-{i}"))).await?;
    pool.extend(resources(MANY)).await?;
    assert!(memory.most_work() < 2 * MOST, "{}", memory.most_work());
    pool.clear().await?;
    assert!(memory.keys().is_empty());
    Ok(())
}
