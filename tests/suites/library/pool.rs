//! Pools: certain resources, several at once, by properties; and pools that programs keep (P1 to P7 of the seeds).

use std::time::Duration;

use tenure::{Error, Kind, ResourceState, control::Order, control::Resource};
use tenure_tests::{Result, ensure, eventually};

use super::support::{SOON, World, gone, got, look, on_both, waiting};

fn names(resources: &[&str]) -> Vec<Resource> {
    resources
        .iter()
        .map(|name| Resource::new(*name).property("host", format!("host of {name}")))
        .collect()
}

async fn named_resources_several_at_once_and_preferred_ones(world: World) -> Result {
    let client = world.client().await?;
    world.declare_pool(&client, "x", &["a", "b", "c"]).await?;
    let pool = client.lock_pool("x")?;
    let b = got(pool.clone().named(["b"])?.try_acquire().await?)?;
    assert_eq!((b.resource(), b.permits()), ("b", 1));
    assert!(pool.clone().named(["b"])?.try_acquire().await?.is_none());
    assert!(
        pool.clone().named(["a", "b"])?.try_acquire().await?.is_none(),
        "all or none"
    );
    let two = got(pool.clone().many(2).try_acquire().await?)?;
    let mut both: Vec<_> = two.resources().iter().map(|(name, _)| name.as_str()).collect();
    both.sort_unstable();
    assert_eq!(both, ["a", "c"]);
    assert!(pool.try_acquire().await?.is_none());
    two.release().await?;
    // The least recently used would be another one.
    let c = got(pool.clone().preferring("c")?.try_acquire().await?)?;
    assert_eq!(c.resource(), "c");
    let other = got(pool.clone().preferring("c")?.try_acquire().await?)?;
    assert_eq!(other.resource(), "a", "it is taken, so any will do");
    let error = pool.clone().named(["d"])?.acquire().await.unwrap_err();
    assert!(matches!(error, Error::NoSuchResource { .. }), "{error}");
    assert!(matches!(
        pool.clone().many(4).acquire().await,
        Err(Error::TooLarge { .. })
    ));
    assert!(pool.clone().named(["a,b"]).is_err() && pool.clone().named(Vec::<String>::new()).is_err());
    Ok(())
}

async fn resources_by_their_properties(world: World) -> Result {
    let client = world.client().await?;
    let pool = client.lock_pool("x")?;
    let odd = "50% & more = ü";
    let zone = |name, zone| Resource::new(name).property("zone", zone).property("gpu", "h100");
    pool.assign([
        zone("a", "north"),
        zone("b", "south"),
        zone("c", "south"),
        zone("d", odd),
    ])
    .await?;
    let south = pool.clone().matching([("zone", "south"), ("gpu", "h100")])?;
    let two = got(south.clone().many(2).try_acquire().await?)?;
    assert!(south.try_acquire().await?.is_none());
    assert!(
        pool.clone()
            .matching([("zone", "south"), ("gpu", "a100")])?
            .try_acquire()
            .await?
            .is_none()
    );
    let strange = got(pool.clone().matching([("zone", odd)])?.try_acquire().await?)?;
    assert_eq!(
        (strange.resource(), strange.properties()["zone"].as_str()),
        ("d", odd)
    );
    two.release().await?;
    Ok(())
}

async fn a_request_for_certain_resources_lets_others_pass_only_to_the_rest(world: World) -> Result {
    let client = world.client().await?;
    let object = world.declare_pool(&client, "x", &["a", "b", "c"]).await?;
    let pool = client.lock_pool("x")?;
    let a = pool.clone().named(["a"])?.acquire().await?;
    let b = pool.clone().named(["b"])?.acquire().await?;
    let wants_a = pool.clone().named(["a"])?;
    let wants_a = tokio::spawn(async move { wants_a.acquire().await });
    waiting(&client, &object, 1).await?;
    // c is not what the first waits for.
    let c = got(pool.try_acquire().await?)?;
    assert_eq!(c.resource(), "c");
    let any = pool.clone();
    let any = tokio::spawn(async move { any.acquire().await });
    waiting(&client, &object, 2).await?;
    // a goes to who waits for it, though another one would take it too; b goes to that one.
    a.release().await?;
    let a = wants_a.await??;
    assert_eq!(a.resource(), "a");
    assert!(!any.is_finished());
    b.release().await?;
    assert_eq!(any.await??.resource(), "b");
    Ok(())
}

async fn a_pool_that_programs_keep_grows_shrinks_and_goes(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Pool, "x")?;
    let pool = client.lock_pool("x")?;
    assert!(matches!(pool.try_acquire().await, Err(Error::NotDeclared { .. })));
    assert_eq!(pool.extend(names(&["a", "b"])).await?, 2);
    assert_eq!(
        pool.extend(names(&["b", "c"])).await?,
        3,
        "P1: duplicates count once"
    );
    assert_eq!(pool.extend(Vec::new()).await?, 3);
    assert!(pool.contains("a").await? && !pool.contains("z").await?);
    let held = got(pool.clone().named(["a"])?.try_acquire().await?)?;
    // P2: what is held drains, unknown names do no harm.
    assert_eq!(pool.shrink(["a", "unknown"]).await?, 2);
    let health = pool.health().await?;
    assert_eq!(
        (health.in_service, health.held, health.free, health.draining),
        (2, 1, 2, 1)
    );
    let list = pool.list().await?;
    assert_eq!(
        list.iter()
            .map(|m| (m.name.as_str(), m.state))
            .collect::<Vec<_>>(),
        [("b", ResourceState::Free), ("c", ResourceState::Free)]
    );
    assert_eq!(list[0].properties["host"], "host of b");
    held.release().await?;
    // P3: in one step; what is held now is held afterwards, and is not granted twice when it comes back.
    let held = got(pool.clone().named(["b"])?.try_acquire().await?)?;
    assert_eq!(pool.assign(names(&["b", "d"])).await?, 2);
    let d = got(pool.try_acquire().await?)?;
    assert_eq!(d.resource(), "d");
    assert!(pool.try_acquire().await?.is_none());
    held.release().await?;
    d.release().await?;
    // A waiter is granted what is added.
    let all = pool.clone().many(2).acquire().await?;
    let waiter = pool.clone();
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    waiting(&client, &object, 1).await?;
    pool.extend(names(&["new"])).await?;
    let new = waiter.await??;
    assert_eq!(new.resource(), "new");
    // It lasts without leases, and goes when it is cleared and the last lease has ended.
    new.release().await?;
    pool.clear().await?;
    assert_eq!(pool.health().await?.in_service, 0);
    all.check()?;
    all.release().await?;
    gone(&client, &object).await?;
    Ok(())
}

async fn a_declared_pool_is_the_custom_resources_alone_and_bad_resources_are_named(world: World) -> Result {
    let client = world.client().await?;
    world.declare_pool(&client, "x", &["a"]).await?;
    let pool = client.lock_pool("x")?;
    for error in [
        pool.extend(names(&["b"])).await.unwrap_err(),
        pool.shrink(["a"]).await.unwrap_err(),
        pool.assign(names(&["b"])).await.unwrap_err(),
        pool.clear().await.unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("a custom resource declares"),
            "{error}"
        );
    }
    assert_eq!(pool.list().await?.len(), 1);
    let kept = client.lock_pool("kept")?;
    let error = kept
        .assign([Resource::new("a"), Resource::new("not a name")])
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("resources.name"), "{error}");
    assert_eq!(kept.health().await?.in_service, 0, "nothing was sent");
    Ok(())
}

async fn a_hundred_thousand_resources_are_assigned_in_pieces_with_nothing_lost_on_failure(
    world: World,
) -> Result {
    let client = world.client().await?;
    let pool = client.lock_pool("x")?.ordered(Order::MostRecentlyUsed);
    pool.assign(names(&["old"])).await?;
    let many = |prefix: &'static str| (0..100_000).map(move |i| Resource::new(format!("{prefix}-{i}")));
    // Dropped somewhere on its way: the pool is as it was.
    drop(tokio::time::timeout(Duration::from_millis(30), pool.assign(many("half"))).await);
    assert_eq!(pool.list().await?.len(), 1);
    assert_eq!(pool.assign(many("new")).await?, 100_000);
    assert_eq!(pool.list().await?.len(), 100_000);
    let seat = pool.acquire().await?;
    ensure!(seat.resource().starts_with("new-"), "{}", seat.resource());
    let name = seat.resource().to_owned();
    seat.release().await?;
    assert_eq!(pool.acquire().await?.resource(), name, "the most recently used");
    pool.clear().await?;
    Ok(())
}

async fn a_wish_follows_the_order_of_the_pool(world: World) -> Result {
    let client = world.client().await?;
    let pool = client.lock_pool("x")?.ordered(Order::MostRecentlyUsed);
    let south = |name| Resource::new(name).property("zone", "south");
    pool.assign([south("a"), south("b"), south("c"), Resource::new("d")])
        .await?;
    for name in ["c", "a", "d"] {
        got(pool.clone().named([name])?.try_acquire().await?)?
            .release()
            .await?;
    }
    let seat = got(pool.clone().matching([("zone", "south")])?.try_acquire().await?)?;
    assert_eq!(seat.resource(), "a", "the most recently used of the south");
    Ok(())
}

async fn a_named_resource_of_a_generated_pool_is_granted_once(world: World) -> Result {
    use tenure::control::Capacity;
    let client = world.client().await?;
    let object = world.object(Kind::Pool, "x")?;
    let seats = Capacity::Generated {
        order: Order::LeastRecentlyUsed,
        prefix: "s".into(),
        count: 4,
    };
    client
        .control()
        .declare(&object, &super::support::declaration(seats))
        .await?;
    let pool = client.lock_pool("x")?;
    let third = got(pool.clone().named(["s2"])?.try_acquire().await?)?;
    assert!(pool.clone().named(["s2"])?.try_acquire().await?.is_none());
    assert!(matches!(
        pool.clone().named(["s4"])?.try_acquire().await,
        Err(Error::NoSuchResource { .. })
    ));
    let rest = got(pool.clone().many(3).try_acquire().await?)?;
    let mut others: Vec<_> = rest.resources().iter().map(|(name, _)| name.as_str()).collect();
    others.sort_unstable();
    assert_eq!(others, ["s0", "s1", "s3"]);
    assert!(pool.try_acquire().await?.is_none());
    drop((third, rest));
    eventually("all to be free", SOON, async || {
        let free = look(&client, &object).await?.free;
        ensure!(free == 4, "{free}");
        Ok(())
    })
    .await
}

on_both! {
    named_resources_several_at_once_and_preferred_ones,
    resources_by_their_properties,
    a_request_for_certain_resources_lets_others_pass_only_to_the_rest,
    a_pool_that_programs_keep_grows_shrinks_and_goes,
    a_declared_pool_is_the_custom_resources_alone_and_bad_resources_are_named,
    a_hundred_thousand_resources_are_assigned_in_pieces_with_nothing_lost_on_failure,
    a_wish_follows_the_order_of_the_pool,
    a_named_resource_of_a_generated_pool_is_granted_once,
}
