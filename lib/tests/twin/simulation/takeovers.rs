//! A lock that is taken from its holder again and again: the old holder receives the new holder and the reason, the new one
//! has a larger fencing token, and waiters keep their positions.

use std::sync::{Arc, Mutex, Weak};

use tenure::{Error, Kind, LeaseState, Options};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    invariants::held,
    mixed_primitives::{self, Got, observe},
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, lock, object};

const ROUNDS: usize = 4;
/// Upper bound of the delay of a push without faults.
const TOLD: u64 = 20;
/// Stands before all who wait, so that the invariant checker expects it.
const BEFORE_ALL: &str = "127";

type Holders = Arc<Mutex<Vec<Weak<Got>>>>;

pub(super) async fn run(world: &Arc<World>) -> Result {
    let holders = Holders::default();
    let mut background = JoinSet::new();
    background.spawn(observe(world.clone(), vec![object(Kind::Lock, "x")?]));
    process::run(world, 4, 2, move |worker| work(worker, holders.clone())).await?;
    background.shutdown().await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker, holders: Holders) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..1500))).await;
        let takes = random.u8(..3) == 0;
        let reason = if takes { BEFORE_ALL } else { "" };
        let options = Options::new().lease(ms(random.u64(400..4000))).reason(reason);
        let locked = worker.client.lock("x")?.with(options);
        let (world, process) = (&worker.world, &worker.process);
        let newest = world.check(|invariants| invariants.highest_fence("x"));
        let got = if takes {
            locked.take_over("it hangs").await
        } else {
            locked.acquire().await.map(Some)
        };
        let reliable = world.profile == FaultProfile::None;
        let got = match got {
            Ok(Some(got)) => Arc::new(Got::Lease(got)),
            Err(Error::Unreachable { .. }) if !reliable => continue,
            outcome => {
                world.violation(format!("{process}: {outcome:?}"));
                continue;
            }
        };
        let fence = got.fencing_token();
        world.log(|| format!("{process} has {:?}, taken over: {takes}", **got));
        if fence <= newest {
            world.violation(format!("{process}: fencing token {fence} after {newest}"));
        }
        // While the push is in flight, the old holder considers its lease held: only the fence keeps it out.
        world.check(|invariants| invariants.granted("x", process, 1, u64::MAX, &got));
        lock(&holders).push(Arc::downgrade(&got));
        if reliable {
            sleep(ms(TOLD)).await;
            for old in lock(&holders).iter().filter_map(Weak::upgrade) {
                if old.fencing_token() < fence && held(&old) {
                    world.violation(format!("{process}: not told: {:?}", **old));
                }
            }
        }
        let lost = timeout(ms(worker.random.u64(..1500)), got.lost()).await;
        if let (Ok(cause), true) = (lost, reliable)
            && !(cause.starts_with("taken over by ") && cause.ends_with(": it hangs"))
        {
            world.violation(format!("{process}: lost, because {cause}"));
        }
        let was_lost = matches!(got.state(), LeaseState::Lost { .. });
        let Some(got) = Arc::into_inner(got) else {
            return Err("another reference keeps the lease".into());
        };
        match got.release().await {
            Ok(()) if was_lost && reliable => world.violation(format!("{process}: lost, and released")),
            // Taken over while the release was on its way.
            Ok(()) | Err(Error::Lost { .. }) => {}
            Err(Error::Unreachable { .. }) if !reliable => {}
            Err(error) => world.violation(format!("{process}: the release says {error}")),
        }
    }
    Ok(())
}
