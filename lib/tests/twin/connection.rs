//! The connection itself: when a silent server is asked whether it is there, and what happens when it is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure::{
    Memory, Options,
    control::Server,
    memory::{Fault, Message},
};
use tokio::time::{Instant, sleep, timeout};

use super::{Result, client, silence};

/// The default of how long an answer may take, and of how long a server may be silent.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);

/// Number of requests for the server's time.
fn count_questions(memory: &Memory) -> Arc<AtomicU64> {
    let asked: Arc<AtomicU64> = Arc::default();
    let counted = asked.clone();
    memory.set_faults(move |_, message| {
        if message == (Message::Call { script: "time" }) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Fault::Deliver
    });
    asked
}

#[tokio::test(start_paused = true)]
async fn only_a_silent_server_is_asked_whether_it_is_there() -> Result {
    let memory = Memory::seeded(1);
    let client = client(&memory, "a").await?;
    let asked = count_questions(&memory);
    sleep(MINUTE + RESPONSE_TIMEOUT / 2).await;
    let times = asked.swap(0, Ordering::SeqCst);
    assert!((19..=20).contains(&times), "{times} times in a minute");
    // Renewals come every second.
    let options = Options::new().lease(RESPONSE_TIMEOUT);
    let lease = client.lock("x")?.with(options).acquire().await?;
    sleep(MINUTE).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    lease.release().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_within_two_response_timeouts() -> Result {
    let memory = Memory::seeded(2);
    let client = client(&memory, "a").await?;
    let known = client.control().server();
    silence(&memory, "a");
    let dead = Instant::now();
    let server = timeout(MINUTE, client.control().server_changed(&known)).await?;
    assert!(matches!(server, Server::Disconnected { .. }), "{server:?}");
    assert!(dead.elapsed() <= 2 * RESPONSE_TIMEOUT, "{:?}", dead.elapsed());
    memory.clear_faults();
    timeout(MINUTE, client.control().server_changed(&server)).await?;
    client.lock("x")?.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_first_call_after_a_silence_is_repeated_within_one_response_timeout() -> Result {
    let memory = Memory::seeded(3);
    let client = client(&memory, "a").await?;
    sleep(RESPONSE_TIMEOUT / 2).await;
    // The connection that is there is dead; the next one is not.
    let mut connected = false;
    memory.set_faults(move |_, message| {
        connected |= message == Message::Connect;
        if connected { Fault::Deliver } else { Fault::Drop }
    });
    let asked = Instant::now();
    let lease = client.lock("x")?.try_acquire().await?.ok_or("busy")?;
    assert!(asked.elapsed() <= RESPONSE_TIMEOUT / 2, "{:?}", asked.elapsed());
    lease.release().await?;
    Ok(())
}
