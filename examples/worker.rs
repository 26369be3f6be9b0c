//! A worker as any user would write it: takes a lease, works as long as the lease is ours, gives it back, and again.
//!
//! It prints a line for each thing that happens: `waiting`, `granted`, `released`, `busy`, `lost`.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tenure::{Client, Lease, Options};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

mod redis;

use redis::Redis;

/// Takes leases from Redis through Tenure, holds each for a while, and gives it back.
///
/// The identity comes from `POD_NAME`, `POD_NAMESPACE` and `POD_UID`, else from the host name and process id.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    redis: Redis,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A lock, which needs no declaration.
    Lock(Work),
    /// A permit of a declared Semaphore.
    Semaphore(Work),
    /// A resource of a declared LockPool.
    Pool(Work),
}

#[derive(Args)]
struct Work {
    /// The object's name.
    name: String,
    /// The number of leases to take, one after the other.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// The time to hold each, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    hold_ms: u64,
    /// The time to wait for each, in milliseconds; without it, for ever.
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// The length of a lease when this program dies, in milliseconds.
    #[arg(long)]
    lease_ms: Option<u64>,
    /// Why it is held, for the people who look.
    #[arg(long, default_value = "")]
    reason: String,
}

impl Work {
    fn options(&self) -> Options {
        let options = Options::new().reason(&self.reason);
        match self.lease_ms {
            Some(ms) => options.lease(Duration::from_millis(ms)),
            None => options,
        }
    }

    /// The longest possible wait stands for no limit.
    fn timeout(&self) -> Duration {
        self.timeout_ms.map_or(Duration::MAX, Duration::from_millis)
    }

    /// Holds a lease for as long as the work takes, or until it is lost. Returns whether the work was done.
    async fn hold(&self, lease: Lease, what: &str) -> anyhow::Result<bool> {
        say(&format!("granted {what} fence={}", lease.fencing_token()));
        tokio::select! {
            () = sleep(Duration::from_millis(self.hold_ms)) => {}
            cause = lease.lost() => {
                say(&format!("lost {what}: {cause}"));
                return Ok(false);
            }
        }
        lease.release().await?;
        say(&format!("released {what}"));
        Ok(true)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let cli = Cli::parse();
    let client = cli.redis.builder()?.connect().await.context("cannot start")?;
    let code = tokio::select! {
        done = work_on(&cli.what, &client) => done?,
        // Its lease or queue entry is dropped, and given back in the background. The work is not done.
        () = asked_to_stop() => {
            say("stopped");
            ExitCode::from(143)
        }
    };
    client.close().await;
    Ok(code)
}

/// Works for each round. The exit code is a failure if a lease was lost: a Job must try again.
async fn work_on(what: &What, client: &Client) -> anyhow::Result<ExitCode> {
    let mut done = true;
    let (What::Lock(work) | What::Semaphore(work) | What::Pool(work)) = what;
    for _ in 0..work.rounds {
        say(&format!("waiting for {}", work.name));
        let (name, options, timeout) = (&work.name, work.options(), work.timeout());
        match what {
            What::Lock(_) => match client.lock(name)?.with(options).acquire_timeout(timeout).await? {
                Some(lease) => done &= work.hold(lease, name).await?,
                None => say("busy"),
            },
            What::Semaphore(_) => match client
                .semaphore(name)?
                .with(options)
                .acquire_timeout(timeout)
                .await?
            {
                Some(permit) => done &= work.hold(permit, name).await?,
                None => say("busy"),
            },
            What::Pool(_) => match client
                .lock_pool(name)?
                .with(options)
                .acquire_timeout(timeout)
                .await?
            {
                Some(seat) => {
                    let what = format!("{} {:?}", seat.resource(), seat.properties());
                    done &= work.hold(seat.into_lease(), &what).await?;
                }
                None => say("busy"),
            },
        }
    }
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A pod is asked to stop with SIGTERM, a person uses Ctrl-C.
async fn asked_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn say(line: &str) {
    // A reader that has closed the pipe is no reason to lose a lease.
    let _ = writeln!(std::io::stdout(), "{line}");
}
