//! The conformance vectors on real servers: what the twin does, Redis and Valkey do.

use std::{fs, path::Path};

use tenure_tests::{Redis, Result, conformance, ensure, process::folder};
use tokio::task::spawn_blocking;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

async fn replay(url: String, vectors: &Path) -> Result<conformance::Outcome> {
    let vectors = vectors.to_owned();
    spawn_blocking(move || conformance::replay(&url, &vectors, Path::new(ROOT))).await?
}

async fn passes(redis: &Redis) -> Result {
    let outcome = replay(redis.url(), &Path::new(ROOT).join("conformance")).await?;
    ensure!(outcome.failed.is_empty(), "{}", outcome.failed.join("\n"));
    ensure!(outcome.passed > 60, "{outcome:?}");
    let left = redis.cli(&["KEYS", "tenure:{conformance*"]).await?;
    ensure!(!left.contains(":obj"), "keys are left:\n{left}");
    Ok(())
}

#[tokio::test]
async fn the_vectors_replay_on_redis() -> Result {
    passes(&Redis::start().await?).await
}

#[tokio::test]
async fn the_vectors_replay_on_valkey() -> Result {
    passes(&Redis::builder().valkey().start().await?).await
}

#[tokio::test]
async fn a_vector_that_differs_is_named_with_its_step() -> Result {
    let text = fs::read_to_string(Path::new(ROOT).join("conformance/lock.json"))?;
    let vectors = folder("vectors")?;
    fs::write(
        vectors.join("lock.json"),
        text.replacen("\"released\"", "\"gone\"", 1),
    )?;
    let outcome = replay(Redis::shared().await?.url(), &vectors).await?;
    let [problem] = &outcome.failed[..] else {
        tenure_tests::bail!("{outcome:?}")
    };
    ensure!(
        problem.starts_with("lock.json: a lock has one holder: step 3: released, expected \"gone\""),
        "{problem}"
    );
    Ok(())
}
