//! Thousands of resources of a pool are acquired at once, by reply and by push, and thousands of leases are reclaimed at
//! once: each is done whole, and nothing stays held without a holder.

use std::sync::Arc;

use tenure::{
    Error, Kind,
    control::{Declaration, Order},
};

use super::{
    process::ms,
    world::{FaultProfile, World},
};
use crate::{Result, client, generated, object};

/// Number of resources that, with their properties, exceeds Lua's stack.
const MANY: u32 = 4010;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let pool = object(Kind::Pool, "p")?;
    let orders = [Order::LeastRecentlyUsed, Order::MostRecentlyUsed, Order::Random];
    let declaration = Declaration {
        floor: 0,
        lease: ms(20_000),
        ..generated(orders[random.usize(..orders.len())], "seat-", MANY.into())
    };
    let control = world.observer.control();
    control.declare(&pool, &declaration).await?;
    let (a, b) = (
        client(&world.memory, "a").await?,
        client(&world.memory, "b").await?,
    );
    let all = a.lock_pool("p")?.many(MANY).acquire().await?;
    let waiter = b.lock_pool("p")?.many(MANY - random.u32(..10));
    let pushed = tokio::spawn(async move { waiter.acquire().await });
    tokio::time::sleep(ms(random.u64(10..100))).await;
    match all.release().await {
        Ok(()) => {}
        Err(Error::Unreachable { .. } | Error::Lost { .. }) if world.profile != FaultProfile::None => {}
        Err(error) => world.violation(format!("the release says {error}")),
    }
    let pushed = pushed.await??;
    if pushed.resources().len() + 10 <= MANY as usize {
        world.violation(format!("{} were granted", pushed.resources().len()));
    }
    drop(pushed);
    a.close().await;
    b.close().await;
    tokio::time::sleep(ms(60_000)).await;
    let seen = control.look(&pool, 0).await?;
    if !seen
        .as_ref()
        .is_some_and(|s| s.held == 0 && s.free == u64::from(MANY))
    {
        world.violation(format!("left in the end: {seen:?}"));
    }
    Ok(())
}
