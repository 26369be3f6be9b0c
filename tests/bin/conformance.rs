//! Replays the conformance vectors on a server.

use std::path::PathBuf;

use clap::Parser;
use tenure_tests::{Redis, Result, conformance, ensure};
use tokio::task::spawn_blocking;

/// Replays the vectors of conformance/ on a server, each scenario in a namespace of its own, and removes its keys afterwards.
#[derive(Debug, Parser)]
struct Args {
    /// The URL of the server; without it, a redis-server is started.
    url: Option<String>,
    /// The checkout that has the vectors and the scripts.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let args = Args::parse();
    let url = match args.url {
        Some(url) => url,
        None => Redis::shared().await?.url(),
    };
    let outcome =
        spawn_blocking(move || conformance::replay(&url, &args.root.join("conformance"), &args.root))
            .await??;
    for problem in &outcome.failed {
        println!("differs: {problem}");
    }
    println!(
        "{} scenarios do what they should, {} differ, {} need a virtual clock",
        outcome.passed,
        outcome.failed.len(),
        outcome.skipped
    );
    ensure!(
        outcome.failed.is_empty(),
        "the server, or its scripts, are not those of the vectors"
    );
    Ok(())
}
