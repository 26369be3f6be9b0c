//! Leases of a few hundred milliseconds over links on which calls, replies and pushes take as long: whatever an
//! acquisition returns is held at that moment, and never by two.

use std::sync::Arc;

use tenure::{Client, Error, LeaseState, Options};
use tokio::time::{Instant, sleep, timeout};

use super::{
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const ROUNDS: usize = 5;

pub(super) async fn run(world: &Arc<World>) -> Result {
    world.slow_down(160);
    process::run(world, 3, 1, work).await?;
    world.stop_faults();
    if world.check(|invariants| invariants.grants()) == 0 {
        world.violation("nothing was ever granted");
    }
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

/// None: not in time. Both waiting and non-waiting acquisitions may report that.
async fn take(client: &Client, options: Options, how: u8, within: u64) -> (String, u64, Option<Got>) {
    let within = ms(within);
    let lease = |got: std::result::Result<Option<tenure::Lease>, Error>| match got {
        Ok(lease) => Ok(lease.map(Got::Lease)),
        Err(error) => Err(error),
    };
    let named = |name: &str| client.lock(name).map(|lock| lock.with(options.clone()));
    let (Ok(x), Ok(r)) = (named("x"), client.rw_lock("r")) else {
        return (String::new(), 0, None);
    };
    let r = r.with(options.clone());
    let (name, limit, got) = match how {
        0 => ("x", 1, lease(x.try_acquire().await)),
        1 => ("x", 1, lease(x.acquire_timeout(within).await)),
        2 => match timeout(within, x.acquire()).await {
            Ok(got) => ("x", 1, lease(got.map(Some))),
            Err(_) => ("x", 1, Ok(None)),
        },
        3 => ("r", 1 << 30, lease(r.read_timeout(within).await)),
        _ => {
            let write = r.write_timeout(within).await;
            let read = match write {
                // A downgrade that is too late returns an error.
                Ok(Some(write)) => match write.downgrade().await {
                    Ok(read) => Ok(Some(Got::Lease(read))),
                    Err(Error::Lost { .. }) => Ok(None),
                    Err(error) => Err(error),
                },
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            ("r", 1 << 30, read)
        }
    };
    (name.to_owned(), limit, got.unwrap_or_default())
}

async fn work(mut worker: Worker) -> Result {
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..400))).await;
        let options = Options::new().lease(ms(random.u64(100..500)));
        let (how, within) = (random.u8(..5), random.u64(..3000));
        let started = Instant::now();
        let (object, limit, got) = take(&worker.client, options, how, within).await;
        let Some(got) = got else { continue };
        let (world, process) = (&worker.world, &worker.process);
        world.log(|| format!("{process} has {got:?} after {:?}", started.elapsed()));
        if let LeaseState::Lost { cause } = got.state() {
            world.violation(format!("{process}: {object} was returned lost: {cause}"));
        }
        let got = Arc::new(got);
        world.check(|invariants| invariants.granted(&object, process, 1, limit, &got));
        sleep(ms(worker.random.u64(..500))).await;
        if worker.random.bool()
            && let Some(got) = Arc::into_inner(got)
        {
            // It may be lost by now.
            let _ = got.release().await;
        }
    }
    Ok(())
}
