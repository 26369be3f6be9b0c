//! Why a fencing token: workers whose leases run out unnoticed lose updates, unless the store checks the token.
//!
//! Each worker adds one to a counter, by reading and writing it, under a lock. Now and then it pauses in between for
//! longer than its lease runs, with all that belongs to it, as by a stopped process or a long garbage collection: its
//! lease ends, another one is granted, and the worker goes on with what it had read. First the counter's store takes every
//! write, then it checks the fencing token.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{anyhow, ensure};
use clap::Parser;
use tenure::{Error, Lease, Options};

mod redis;

use redis::Redis;

/// Counts lost updates with and without a fence, with workers that pause for longer than their leases run.
#[derive(Parser, Clone)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    redis: Redis,
    /// The number of workers.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// The number of updates of each worker.
    #[arg(long, default_value_t = 10)]
    updates: u32,
    /// The length of a lease, in milliseconds.
    #[arg(long, default_value_t = 200)]
    lease_ms: u64,
    /// The pause of a worker in every third update, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
}

/// The value that the lock protects. In practice it is in a database, or an object store, elsewhere.
#[derive(Default)]
struct Store {
    fenced: bool,
    counter: u32,
    /// The newest fencing token that has been shown to it.
    newest: u64,
}

/// The lease is lost, and another worker may have held since: the read value is old.
struct Late;

impl Store {
    /// A read shows the token too: from here on, the former holders can write no more.
    fn read(&mut self, token: u64) -> Result<u32, Late> {
        self.admit(token)?;
        Ok(self.counter)
    }

    fn write(&mut self, token: u64, counter: u32) -> Result<(), Late> {
        self.admit(token)?;
        self.counter = counter;
        Ok(())
    }

    fn admit(&mut self, token: u64) -> Result<(), Late> {
        if self.fenced && token < self.newest {
            return Err(Late);
        }
        self.newest = self.newest.max(token);
        Ok(())
    }
}

type Shared = Arc<Mutex<Store>>;

fn at(store: &Shared) -> std::sync::MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    println!(
        "{} workers, {} updates each; leases of {} ms, pauses of {} ms",
        cli.workers, cli.updates, cli.lease_ms, cli.pause_ms
    );
    cli.count(false)?;
    let lost = cli.count(true)?;
    ensure!(lost == 0, "updates were lost in spite of the fence");
    Ok(())
}

impl Cli {
    /// The number of lost updates.
    fn count(&self, fenced: bool) -> anyhow::Result<u32> {
        let store = Shared::new(Mutex::new(Store {
            fenced,
            ..Store::default()
        }));
        let workers: Vec<_> = (0..self.workers)
            .map(|id| {
                let (cli, store) = (self.clone(), store.clone());
                thread::spawn(move || cli.work(id, &store))
            })
            .collect();
        let mut late = 0;
        for worker in workers {
            late += worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        let (made, counter) = (self.workers * self.updates, at(&store).counter);
        println!(
            "{} fence: {made} updates made, the counter is at {counter}: {} lost ({late} came late, knew it, and were made again)",
            if fenced { "   with" } else { "without" },
            made - counter
        );
        Ok(made - counter)
    }

    /// A worker has a runtime of its own, on one thread: when that pauses, so does the renewal of its leases.
    #[tokio::main(flavor = "current_thread")]
    async fn work(&self, id: u32, store: &Shared) -> anyhow::Result<u32> {
        let client = self.redis.builder()?.connect().await?;
        let lock = client
            .lock("fence-example")?
            .with(Options::new().lease(Duration::from_millis(self.lease_ms)));
        let mut late = 0;
        for update in 0..self.updates {
            let mut pauses = (id + update).is_multiple_of(3);
            while self.update(lock.acquire().await?, store, pauses).await?.is_err() {
                late += 1;
                pauses = false;
            }
        }
        client.close().await;
        Ok(late)
    }

    /// One update: read, perhaps pause, write. Without a fence, a holder can only check its lease.
    async fn update(&self, lease: Lease, store: &Shared, pauses: bool) -> anyhow::Result<Result<(), Late>> {
        let token = lease.fencing_token();
        let Ok(counter) = at(store).read(token) else {
            return Ok(Err(Late));
        };
        if lease.check().is_err() {
            return Ok(Err(Late));
        }
        if pauses {
            thread::sleep(Duration::from_millis(self.pause_ms));
        }
        let written = at(store).write(token, counter + 1);
        match lease.release().await {
            // It was lost while we paused; what we have written before that is for the store to judge.
            Ok(()) | Err(Error::Lost { .. }) => Ok(written),
            Err(error) => Err(error.into()),
        }
    }
}
