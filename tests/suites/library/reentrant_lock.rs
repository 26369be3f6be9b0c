//! The reentrant lock: its owner reenters, under the same fencing token, and others wait.

use std::time::Duration;

use tenure::{Error, Options, ReentrantLock};
use tenure_tests::{Result, ensure};

use super::support::{World, gone, got, on_both};

async fn an_owner_comes_in_again_and_the_last_one_out_gives_back(world: World) -> Result {
    let client = world.client().await?;
    let owner = client.reentrant_lock("x")?;
    let stranger = client.reentrant_lock("x")?;
    let outer = owner.acquire().await?;
    let inner = got(owner.clone().try_acquire().await?)?;
    assert_eq!(inner.fencing_token(), outer.fencing_token());
    assert_eq!(owner.depth(), 2);
    assert!(
        stranger.try_acquire().await?.is_none(),
        "another handle is another owner"
    );
    assert!(
        client.lock("x")?.try_acquire().await?.is_none(),
        "and so is a plain lock"
    );
    outer.release().await?;
    assert!(stranger.try_acquire().await?.is_none(), "one of two is out");
    inner.release().await?;
    let next = got(stranger.acquire_timeout(Duration::from_secs(5)).await?)?;
    assert!(owner.acquire_timeout(Duration::from_millis(20)).await?.is_none());
    next.release().await?;
    gone(&client, owner.object()).await
}

async fn coming_in_again_renews_the_lease(world: World) -> Result {
    let owner = world
        .client()
        .await?
        .reentrant_lock("x")?
        .with(Options::new().lease(Duration::from_secs(60)));
    let outer = owner.acquire().await?;
    let before = outer.deadline();
    let inner = owner.acquire().await?;
    ensure!(outer.deadline() > before, "the deadline did not move");
    assert_eq!(outer.deadline(), inner.deadline());
    Ok(())
}

async fn the_depth_is_limited_and_a_lost_lease_is_not_taken_again(world: World) -> Result {
    let client = world.client().await?;
    let owner = client.reentrant_lock("x")?;
    let mut leases = vec![owner.acquire().await?];
    while leases.len() < ReentrantLock::MAX_DEPTH {
        leases.push(owner.acquire().await?);
    }
    assert!(matches!(owner.acquire().await, Err(Error::TooLarge { .. })));
    leases.truncate(1);
    let snapshot = super::support::look(&client, owner.object()).await?;
    client
        .control()
        .reclaim(
            owner.object(),
            &[snapshot.holders[0].token.clone()],
            "for the test",
        )
        .await?;
    let other = client.lock("x")?.acquire().await?;
    let error = owner.acquire().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    other.release().await?;
    // When the last of the lost ones is gone, the owner may start over.
    leases.clear();
    owner.acquire().await?.release().await?;
    Ok(())
}

on_both! {
    an_owner_comes_in_again_and_the_last_one_out_gives_back,
    coming_in_again_renews_the_lease,
    the_depth_is_limited_and_a_lost_lease_is_not_taken_again,
}
