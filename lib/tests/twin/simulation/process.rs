//! Processes: each has a client and workers, and one life after another, of which any but the last may end in a crash.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use tenure::{Client, Identity};
use tokio::{task::JoinSet, time::sleep};

use super::world::{FaultProfile, World};
use crate::Result;

/// A worker: where it lives, and what is its own.
pub(super) struct Worker {
    pub(super) world: Arc<World>,
    pub(super) client: Client,
    pub(super) process: String,
    /// Its number in the process.
    pub(super) number: usize,
    pub(super) random: Rng,
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs processes with this number of workers each to their end.
pub(super) async fn run<F, W>(world: &Arc<World>, processes: usize, workers: usize, work: F) -> Result
where
    F: Fn(Worker) -> W + Clone + Send + 'static,
    W: Future<Output = Result> + Send + 'static,
{
    let mut running = JoinSet::new();
    for number in 0..processes {
        running.spawn(process(world.clone(), number, workers, work.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn process<F, W>(world: Arc<World>, number: usize, workers: usize, work: F) -> Result
where
    F: Fn(Worker) -> W,
    W: Future<Output = Result> + Send + 'static,
{
    let mut random = world.random();
    for life in 0.. {
        let name = format!("process-{number}-{life}");
        let connect = world.memory.client().namespace("test").response_timeout(ms(500));
        let mut identity = Identity::default();
        name.clone_into(&mut identity.process);
        let client = connect
            .identity(identity)
            .connect_timeout(Duration::from_secs(600))
            .connect()
            .await?;
        let mut running = JoinSet::new();
        for number in 0..workers {
            running.spawn(work(Worker {
                world: world.clone(),
                client: client.clone(),
                process: name.clone(),
                number,
                random: world.random(),
            }));
        }
        let crashes = world.profile != FaultProfile::None && life < 2;
        let crash = async {
            sleep(ms(random.u64(100..8_000))).await;
            if !crashes {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = crash => {
                world.silence(&name);
                world.check(|invariants| invariants.crashed(&name));
                running.shutdown().await;
                continue;
            }
            outcome = async { while let Some(ended) = running.join_next().await { ended??; } Result::Ok(()) } => outcome?,
        }
        client.close().await;
        return Ok(());
    }
    Ok(())
}
