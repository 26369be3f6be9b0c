//! A holder crashes while clients wait, some of whom crash as well. When its lease runs out, the one that stands first of those
//! who live is granted at once, and the others leave the server alone.

use std::sync::Arc;

use tenure::Options;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{process::ms, world::World};
use crate::{Result, client};

const CLIENTS: usize = 16;
/// Calls that may come within ten milliseconds of the expiry: the head's, and some that renew their queue entry just then.
const FEW: u64 = 6;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut random = world.random();
    let holder = client(&world.memory, "holder").await?;
    let lease = ms(random.u64(4000..9000));
    let held = holder
        .lock("x")?
        .with(Options::new().lease(lease))
        .acquire()
        .await?;
    let expires = Instant::now() + lease;
    let mut waiting = JoinSet::new();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let name = format!("client-{number}");
        let client = client(&world.memory, &name).await?;
        let lock = client.lock("x")?;
        waiting.spawn(async move {
            let lease = lock.acquire().await?;
            Ok::<_, tenure::Error>((number, lease))
        });
        clients.push(client);
        sleep(ms(random.u64(10..100))).await;
    }
    // Up to three that stand first crash, long before.
    let dead = random.usize(..4);
    for number in 0..dead {
        world.silence(&format!("client-{number}"));
    }
    drop(held.detach());
    world.silence("holder");
    sleep_until(expires.checked_sub(ms(1)).unwrap_or(expires)).await;
    let before = world.memory.calls();
    sleep(ms(11)).await;
    let calls = world.memory.calls() - before;
    if calls > FEW {
        world.violation(format!("{calls} calls within 10 ms of an expiry"));
    }
    // Dead ones end with their queue entries, which live for ten seconds.
    let patience = if dead == 0 { ms(50) } else { ms(10_500) };
    match timeout(patience, waiting.join_next()).await {
        Ok(Some(first)) => {
            let (number, lease) = first??;
            if number != dead {
                world.violation(format!("client {number} was granted before client {dead}"));
            }
            drop(lease);
        }
        _ => world.violation(format!(
            "no client was granted within {patience:?} of the expiry, behind {dead} dead"
        )),
    }
    waiting.shutdown().await;
    Ok(())
}
