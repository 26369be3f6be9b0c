//! Requests of a pool that wait for certain resources, behind many others.

use std::time::Duration;

use futures_util::future::join_all;
use tenure::{
    Error, Kind, Memory,
    control::{Capacity, Declaration, Order, Resource},
};
use tokio::time::timeout;

use crate::{Result, client, generated, object, semaphore, settle};

const SOON: Duration = Duration::from_secs(1);

async fn declared(client: &tenure::Client, resources: Vec<Resource>) -> Result<tenure::LockPool> {
    let capacity = Capacity::Resources {
        order: Order::LeastRecentlyUsed,
        resources,
    };
    let declaration = Declaration {
        capacity,
        ..semaphore(0)
    };
    client
        .control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    Ok(client.lock_pool("p")?)
}

fn resource(number: usize) -> Resource {
    Resource::new(format!("r{number}")).property("host", format!("h{number}"))
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_many_that_wait_for_something_else_is_served_at_once() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pool = declared(&a, (0..3).map(resource).collect()).await?;
    let _held = pool.clone().named(["r0"])?.acquire().await?;
    for last in [
        pool.clone().named(["r1"])?,
        pool.clone().matching([("host", "h1")])?,
    ] {
        let busy = pool.clone().named(["r1"])?.acquire().await?;
        let many: Vec<_> = (0..1500)
            .map(|number| {
                let waits = b.lock_pool("p")?;
                let waits = match number % 2 {
                    0 => waits.named(["r0"])?,
                    _ => waits.matching([("host", "h0")])?,
                };
                Result::Ok(tokio::spawn(async move { waits.acquire().await }))
            })
            .collect::<Result<_>>()?;
        settle().await;
        let waits = tokio::spawn(async move { last.acquire().await });
        settle().await;
        busy.release().await?;
        let got = timeout(SOON, waits).await???;
        assert_eq!(got.resource(), "r1");
        got.release().await?;
        for waits in many {
            waits.abort();
        }
        settle().await;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn of_many_different_requests_each_is_served_when_its_resources_are_free() -> Result {
    let memory = Memory::seeded(2);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pool = declared(&a, (0..200).map(resource).collect()).await?;
    let all = pool.clone().many(200).acquire().await?;
    let waits = (0..200).map(|number| {
        let waits = b.lock_pool("p")?;
        let waits = match number % 3 {
            0 => waits.named([format!("r{number}")])?,
            1 => waits.named([format!("r{number}"), format!("r{}", number - 1)])?,
            _ => waits.matching([("host", format!("h{number}"))])?,
        };
        Result::Ok(tokio::spawn(
            async move { waits.acquire().await?.release().await },
        ))
    });
    let waits = waits.collect::<Result<Vec<_>>>()?;
    settle().await;
    all.release().await?;
    for done in timeout(SOON * 60, join_all(waits)).await? {
        done??;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn generated_resources_have_no_properties_to_be_asked_for() -> Result {
    let memory = Memory::seeded(3);
    let client = client(&memory, "a").await?;
    let declaration = generated(Order::LeastRecentlyUsed, "r", 100_000);
    client
        .control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    let asked = client
        .lock_pool("p")?
        .matching([("host", "h1")])?
        .try_acquire()
        .await;
    assert!(
        matches!(&asked, Err(Error::InvalidInput { field: "properties", problem, .. }) if problem.contains("test/pool/p")),
        "{asked:?}"
    );
    Ok(())
}

/// docs/protocol.md#acq-parts: in several calls.
#[tokio::test(start_paused = true)]
async fn an_attempt_finds_the_matching_resource_among_many_free_ones() -> Result {
    let memory = Memory::seeded(4);
    let client = client(&memory, "a").await?;
    let pool = declared(&client, (0..3000).map(resource).collect()).await?;
    let _held = pool.clone().named(["r0"])?.acquire().await?;
    let waits = pool.clone().matching([("host", "h0")])?;
    let waits = tokio::spawn(async move { waits.acquire().await });
    settle().await;
    for number in [7, 777, 2999] {
        let suits = pool.clone().matching([("host", format!("h{number}"))])?;
        let got = suits
            .try_acquire()
            .await?
            .ok_or_else(|| format!("{number} is not found"))?;
        assert_eq!(got.resource(), format!("r{number}"));
    }
    let before = memory.calls();
    assert!(
        pool.clone()
            .matching([("host", "h0")])?
            .try_acquire()
            .await?
            .is_none()
    );
    assert!(memory.calls() - before < 10, "{}", memory.calls() - before);
    waits.abort();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_finds_the_matching_resource_among_many_free_ones_at_once() -> Result {
    let memory = Memory::seeded(5);
    let client = client(&memory, "a").await?;
    let pool = declared(&client, (0..3000).map(resource).collect()).await?;
    let _held = pool.clone().named(["r0"])?.acquire().await?;
    let waits = pool.clone().matching([("host", "h0")])?;
    let waits = tokio::spawn(async move { waits.acquire().await });
    settle().await;
    for number in [7, 777, 2999] {
        let suits = pool.clone().matching([("host", format!("h{number}"))])?;
        let got = timeout(SOON, suits.acquire()).await??;
        assert_eq!(got.resource(), format!("r{number}"));
    }
    waits.abort();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_generated_pool_serves_others_though_many_of_its_resources_are_held_by_name() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let declaration = generated(Order::LeastRecentlyUsed, "r", 1000);
    a.control()
        .declare(&object(Kind::Pool, "p")?, &declaration)
        .await?;
    let pool = a.lock_pool("p")?;
    let mut held = Vec::new();
    for number in 0..300 {
        held.push(pool.clone().named([format!("r{number}")])?.acquire().await?);
    }
    let named = pool.clone().named(["r0"])?;
    let waits = tokio::spawn(async move { named.acquire().await });
    settle().await;
    assert!(b.lock_pool("p")?.try_acquire().await?.is_some());
    let many = b.lock_pool("p")?.many(200);
    assert!(
        timeout(SOON, many.acquire()).await.is_ok(),
        "two hundred are free"
    );
    assert!(!waits.is_finished(), "r0 is held");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn of_more_different_requests_than_one_call_looks_at_the_right_one_is_served_soon() -> Result {
    let memory = Memory::seeded(3);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    // One resource is free that no request wants, so that all requests stay in the queue.
    let resources = (0..300).map(resource).chain([resource(1000)]);
    let pool = declared(&a, resources.collect()).await?;
    let mut held = Vec::new();
    for number in 0..300 {
        held.push(pool.clone().named([format!("r{number}")])?.acquire().await?);
    }
    let mut waits = Vec::new();
    for number in 0..300 {
        let waiting = b.lock_pool("p")?.matching([("host", format!("h{number}"))])?;
        waits.push(Some(tokio::spawn(async move { waiting.acquire().await })));
    }
    settle().await;
    for number in [299, 0, 150, 31, 32, 33, 298] {
        let (at, lease) = held
            .iter()
            .enumerate()
            .find(|(_, lease)| lease.resource() == format!("r{number}"))
            .ok_or("held")?;
        assert_eq!(lease.resource(), format!("r{number}"));
        let begun = tokio::time::Instant::now();
        held.swap_remove(at).release().await?;
        let wait = waits[number].take().ok_or("waited for before")?;
        let lease = timeout(SOON, wait)
            .await
            .map_err(|_| format!("h{number} is not served"))???;
        assert_eq!(lease.resource(), format!("r{number}"));
        assert!(
            begun.elapsed() < Duration::from_millis(100),
            "h{number} took {:?}",
            begun.elapsed()
        );
    }
    assert!(memory.most_work() < 900, "{} units", memory.most_work());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_large_release_looks_for_waiters_of_some_of_its_resources_alone() -> Result {
    const COUNT: u32 = 3000;
    let memory = Memory::seeded(6);
    let client = client(&memory, "a").await?;
    let pool = declared(&client, (0..COUNT as usize).map(resource).collect()).await?;
    let mut work = Vec::new();
    for waits in [false, true] {
        let all = pool.clone().many(COUNT).acquire().await?;
        let before = memory.most_work();
        let waiting = pool.clone().matching([("host", "none")])?;
        let waiting = waits.then(|| tokio::spawn(async move { waiting.acquire().await }));
        settle().await;
        all.release().await?;
        work.push(memory.most_work() - before);
        if let Some(waiting) = waiting {
            waiting.abort();
        }
    }
    assert!(work[1] < 1000, "{work:?}");
    Ok(())
}

/// As the documentation of `LockPool::matching` has it.
#[tokio::test(start_paused = true)]
async fn several_matching_resources_are_found_only_where_they_stand_close_together() -> Result {
    // In the order of their names, as none was used before.
    let resources = |last: usize| {
        (0..3000).map(move |number| {
            let zone = if number == 0 || number == last { "b" } else { "a" };
            Resource::new(format!("r{number:04}")).property("zone", zone)
        })
    };
    for (last, found) in [(499, true), (1500, false)] {
        let client = client(&Memory::seeded(5), "a").await?;
        let pool = declared(&client, resources(last).collect()).await?;
        let two = pool.matching([("zone", "b")])?.many(2);
        let lease = two.try_acquire().await?;
        assert_eq!(lease.is_some(), found, "{last}");
        assert!(two.acquire_timeout(SOON).await?.is_none(), "{last}");
        // No resource of the pool matches, and it may change.
        let none = client.lock_pool("p")?.matching([("zone", "c")])?;
        assert!(none.acquire_timeout(SOON).await?.is_none());
    }
    Ok(())
}
