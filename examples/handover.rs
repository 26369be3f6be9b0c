//! Two clients and one permit: the second gets it in the moment in which the first gives it back.
//!
//! The chart's `helm test` runs it in a pod: it fails unless the whole way works, from a resource that was applied a
//! moment ago to a lease that is handed over.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use tenure::{Client, Error, Lease, Options};
use tokio::time::sleep;

mod redis;

use redis::Redis;

/// Takes the permit of a declared Semaphore, hands it over to a second client, and gives it back.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The Semaphore's name; of its permits, none may be in use.
    semaphore: String,
    #[command(flatten)]
    redis: Redis,
    /// The time to wait for each step, in seconds.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let patience = Duration::from_secs(cli.patience);
    let (one, other) = (cli.client().await?, cli.client().await?);

    let first = declared(&one, &cli.semaphore, patience).await?;
    println!("taken, fencing token {}", first.fencing_token());

    let queue = other
        .semaphore(&cli.semaphore)?
        .with(Options::new().reason("second"));
    ensure!(
        queue.try_acquire().await?.is_none(),
        "the permit is held, and yet a second client got it"
    );
    let waiting = tokio::spawn(async move { queue.acquire_timeout(patience).await });
    // Long enough for the second client to join the queue; the result does not depend on it.
    sleep(Duration::from_millis(300)).await;
    let token = first.fencing_token();
    let released = Instant::now();
    first.release().await?;
    let second = waiting
        .await??
        .context("the permit was not handed over in time")?;
    println!(
        "handed over in {:.1} ms, fencing token {}",
        released.elapsed().as_secs_f64() * 1000.0,
        second.fencing_token()
    );
    ensure!(second.fencing_token() > token, "the fencing token did not grow");

    second.release().await?;
    println!("given back");
    one.close().await;
    other.close().await;
    Ok(())
}

impl Cli {
    async fn client(&self) -> anyhow::Result<Client> {
        Ok(self.redis.builder()?.connect().await?)
    }
}

/// The permit, as soon as the controller has declared the semaphore.
async fn declared(client: &Client, name: &str, patience: Duration) -> anyhow::Result<Lease> {
    let semaphore = client.semaphore(name)?.with(Options::new().reason("first"));
    let started = Instant::now();
    loop {
        match semaphore.acquire_timeout(patience).await {
            Ok(lease) => return lease.context("another client holds the permit"),
            Err(Error::NotDeclared { .. }) if started.elapsed() < patience => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
