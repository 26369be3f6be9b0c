//! A server that answers with an error reply for a while, again and again: a pending release completes as soon as the
//! server accepts it, nothing is granted twice, and a server that refuses is sent few calls.

use std::sync::Arc;

use tenure::{Error, Options};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    mixed_primitives::{self, Got},
    process::{self, Worker, ms},
    world::World,
};
use crate::Result;

const PROCESSES: usize = 2;
const WORKERS: usize = 3;
const ROUNDS: usize = 3;
/// A lease that is not released keeps the next holder for longer than anything else here.
const LEASE: u64 = 200_000;
const SOON: u64 = 120_000;
const REPLIES: [&str; 7] = [
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM User default has no permissions to run the 'evalsha' command",
];

pub(super) async fn run(world: &Arc<World>) -> Result {
    let mut background = JoinSet::new();
    background.spawn(refuse(world.clone()));
    process::run(world, PROCESSES, WORKERS, work).await?;
    background.shutdown().await;
    world.refuse(None);
    // An expired lease stays until its keys expire, if no other call comes.
    sleep(ms(2 * LEASE)).await;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn refuse(world: Arc<World>) {
    let mut random = world.random();
    loop {
        sleep(ms(random.u64(..1500))).await;
        let reply = REPLIES[random.usize(..REPLIES.len())];
        let span = random.u64(..5000);
        world.refuse(Some(reply));
        sleep(ms(span)).await;
        let calls = world.refuse(None);
        // A refusal of one call, or of one kind of call, is repeated by each caller independently.
        if ["TRYAGAIN", "OOM", "NOPERM"]
            .iter()
            .any(|code| reply.starts_with(code))
        {
            continue;
        }
        let most = PROCESSES as u64 * (WORKERS as u64 + 8 + span / 500);
        if calls > most {
            world.violation(format!(
                "{calls} calls within {span} ms of {reply}, more than {most}"
            ));
        }
    }
}

async fn work(mut worker: Worker) -> Result {
    let options = Options::new().lease(ms(LEASE));
    for _ in 0..ROUNDS {
        let random = &mut worker.random;
        sleep(ms(random.u64(..1500))).await;
        let lock = worker.client.lock("x")?.with(options.clone());
        let asked = Instant::now();
        let (world, process) = (&worker.world, &worker.process);
        let got = loop {
            match lock.acquire().await {
                Ok(lease) => break Arc::new(Got::Lease(lease)),
                // It is full, or has taken our rights away: an acquisition returns the refusal.
                Err(Error::Refused { .. }) => sleep(ms(200)).await,
                Err(error) => return Err(error.into()),
            }
        };
        if asked.elapsed() > ms(SOON) {
            world.violation(format!(
                "{process} has waited for {:?}, though everything is given back",
                asked.elapsed()
            ));
        }
        world.log(|| format!("{process} has {:?}", **got));
        world.check(|invariants| invariants.granted("x", process, 1, 1, &got));
        sleep(ms(worker.random.u64(..300))).await;
        let Some(got) = Arc::into_inner(got) else {
            return Err("another task keeps the lease".into());
        };
        if worker.random.bool() {
            let deadline = got.deadline();
            match got.release().await {
                Ok(()) => {}
                // A lease that was handed over and not confirmed since is short.
                Err(Error::Unreachable { .. } | Error::Lost { .. } | Error::Refused { .. })
                    if Instant::now() >= deadline => {}
                Err(error) => world.violation(format!("{process}: the release says {error}")),
            }
        }
    }
    Ok(())
}
