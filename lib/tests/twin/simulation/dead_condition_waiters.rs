//! Many wait for a condition with short leases and crash, one lives; all are notified. The one that lives wakes up after one
//! lease of the dead, however many these are, and no call does much work.

use std::{sync::Arc, time::Duration};

use tenure::{Client, Options};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    mixed_primitives,
    process::ms,
    world::{FaultProfile, World},
};
use crate::{Result, client};

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let length = random.u64(200..1000);
    let lease = ms(length);
    // Seldom so many that work that grows with their square shows.
    let count = if random.u8(..8) == 0 {
        random.usize(100..160)
    } else {
        random.usize(2..20)
    };
    let lives = random.usize(..count);
    let (dead, alive) = (
        client(&world.memory, "dead").await?,
        client(&world.memory, "alive").await?,
    );
    let mut crashed = JoinSet::new();
    let mut living = JoinSet::new();
    for number in 0..count {
        if number == lives {
            living.spawn(wait(alive.clone(), Duration::from_secs(10)));
        } else {
            crashed.spawn(wait(dead.clone(), lease));
        }
        sleep(ms(10)).await;
    }
    if world.profile == FaultProfile::Network {
        sleep(ms(5000)).await; // what was lost is repeated
    }
    let locked = world.observer.lock("x")?.with(Options::new().lease(ms(10_000)));
    let condition = locked.condvar("c")?;
    let held = locked.acquire().await?;
    world.silence("dead");
    sleep(ms(random.u64(..length))).await;
    let crash = Instant::now();
    // One by one, or all at once, and again for who was not there yet.
    if random.bool() {
        while condition.notify(&held, 1).await? > 0 {}
    } else {
        condition.notify_all(&held).await?;
    }
    held.release().await?;
    let patience = if world.profile == FaultProfile::None {
        // If so many waiters end that several calls are needed, the live one calls again for the rest a little later. A waiter
        // calls up to 5 ms later for each entry before its own, so that an expiry wakes no herd.
        lease * 4 / 3 + ms(300 + 5 * count as u64)
    } else {
        ms(60_000)
    };
    let woken = async {
        loop {
            if let Ok(woken) = timeout(ms(10_000), living.join_next()).await {
                return woken;
            }
            // Its wait may have begun, under network faults, when all had been notified.
            let held = locked.acquire().await.ok()?;
            condition.notify_all(&held).await.ok()?;
            held.release().await.ok()?;
        }
    };
    match timeout(patience, woken).await {
        Ok(Some(woken)) => woken??,
        Ok(None) => {}
        Err(_) => world.violation(format!(
            "{count} with leases of {lease:?} keep one that lives for {:?}",
            crash.elapsed()
        )),
    }
    crashed.shutdown().await;
    world.stop_faults();
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn wait(client: Client, lease: Duration) -> Result {
    let locked = client.lock("x")?.with(Options::new().lease(lease));
    let condition = locked.condvar("c")?;
    loop {
        let held = locked.acquire().await?;
        match condition.wait(held).await {
            Ok(held) => {
                drop(held);
                return Ok(());
            }
            Err(tenure::Error::Lost { .. } | tenure::Error::Unreachable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
