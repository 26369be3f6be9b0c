//! Promise 1: one command for an uncontended acquire, one for a release, one to renew every lease of a client;
//! contended, at most 2.5 commands sent per acquisition. Counted by Redis.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure::{Kind, Options};
use tenure_tests::{
    Redis, Result, ensure, eventually,
    sent::{Counter, total},
};

use super::support::{SOON, World, got, waiting};

#[tokio::test]
async fn an_uncontended_pair_is_two_commands() -> Result {
    let redis = Redis::start().await?;
    let client = World::on(&redis, "pair").client().await?;
    let lock = client.lock("x")?;
    lock.acquire().await?.release().await?; // loads the scripts
    let mut counter = Counter::start(&redis).await?;
    for _ in 0..100 {
        lock.acquire().await?.release().await?;
    }
    let sent = counter.take().await?;
    assert_eq!(sent, BTreeMap::from([("evalsha".to_owned(), 200)]));
    Ok(())
}

#[tokio::test]
async fn two_hundred_leases_are_renewed_by_a_few_commands() -> Result {
    let redis = Redis::start().await?;
    let client = World::on(&redis, "renew").client().await?;
    let options = Options::new().lease(Duration::from_secs(6));
    let mut leases = Vec::new();
    for i in 0..200 {
        leases.push(
            client
                .lock(format!("x{i}"))?
                .with(options.clone())
                .acquire()
                .await?,
        );
    }
    let first: Vec<_> = leases.iter().map(tenure::Lease::deadline).collect();
    let mut counter = Counter::start(&redis).await?;
    eventually("every lease to be renewed", SOON, async || {
        let renewed = leases
            .iter()
            .zip(&first)
            .filter(|(lease, first)| lease.deadline() > **first)
            .count();
        ensure!(renewed == leases.len(), "{renewed} are renewed");
        Ok(())
    })
    .await?;
    let sent = counter.take().await?;
    let renewals = sent.get("evalsha").copied().unwrap_or_default();
    // They were taken over some time, so they come due over some time, in batches of 50 ms.
    assert!(renewals <= 20, "{sent:?}");
    Ok(())
}

/// Twenty clients take one lock twenty-five times each for 2 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_share_one_lock_fairly_at_two_and_a_half_commands() -> Result {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 25;
    let redis = Redis::start().await?;
    let world = World::on(&redis, "twenty");
    let gate_client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(world.client().await?);
    }
    // All of them stand in the queue before the first is granted.
    let gate = got(gate_client.lock("x")?.try_acquire().await?)?;
    gate_client.lock("warm-up")?.acquire().await?.release().await?;
    let mut counter = Counter::start(&redis).await?;

    let inside = Arc::new(AtomicBool::new(false));
    let grants: Arc<Mutex<Vec<(usize, u64)>>> = Arc::default();
    let mut tasks = Vec::new();
    for (id, client) in clients.into_iter().enumerate() {
        let (inside, grants, lock) = (inside.clone(), grants.clone(), client.lock("x")?);
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let lease = lock.acquire().await?;
                ensure!(!inside.swap(true, Ordering::SeqCst), "two holders at once");
                grants.lock().unwrap().push((id, lease.fencing_token()));
                tokio::time::sleep(Duration::from_millis(2)).await;
                ensure!(inside.swap(false, Ordering::SeqCst), "the holder was not alone");
                lease.release().await?;
            }
            Ok(())
        }));
    }
    waiting(&gate_client, &object, CLIENTS as u64).await?;
    // This test's own looks at the queue, and the gate's release, do not count.
    let queued = CLIENTS as u64;
    let looks = counter.take().await?["evalsha"];
    ensure!(looks > queued, "{looks} calls of {queued} waiters and a look");
    gate.release().await?;
    for task in tasks {
        task.await??;
    }
    let sent = counter.take().await?;

    let grants = grants.lock().unwrap();
    assert_eq!(grants.len(), CLIENTS * ROUNDS);
    assert!(
        grants.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "fencing tokens do not strictly grow"
    );
    let mut shares = [0; CLIENTS];
    for (id, _) in &grants[..CLIENTS * ROUNDS / 2] {
        shares[*id] += 1;
    }
    assert!(
        shares.iter().all(|share| [12, 13].contains(share)),
        "shares of the first half: {shares:?}"
    );
    let commands = total(&sent) + queued - 1;
    #[allow(clippy::cast_precision_loss)] // some hundreds
    let each = commands as f64 / grants.len() as f64;
    assert!(each <= 2.5, "{each} commands per acquisition: {sent:?}");
    println!("{each} commands sent per acquisition, shares of the first half {shares:?}");
    Ok(())
}
