//! A server that hangs: no call outlives its timeout, and what it may have taken is released in the background.

use std::{pin::Pin, time::Duration};

use tenure::{Client, Memory, Options, Semaphore, memory::Fault};
use tokio::time::Instant;

use super::{Result, client, declare_semaphore, settle, silence};

const RESPONSE: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_millis(700);
/// Promised tolerance.
const SLACK: Duration = Duration::from_millis(50);

type Call = Pin<Box<dyn Future<Output = bool> + Send>>;

fn ready<T>(outcome: &std::result::Result<Option<T>, tenure::Error>) -> bool {
    matches!(outcome, Ok(Some(_)))
}

/// Everything that takes a timeout, or has the response timeout, on objects that are free or held by another. True: it got
/// what it asked for.
fn calls(a: &Client) -> Result<Vec<(&'static str, Duration, Call)>> {
    let (lock, rw, keyed) = (a.lock("x")?, a.rw_lock("r")?, a.keyed_lock("k", [("id", 1)])?);
    let semaphore: Semaphore = a.semaphore("s")?;
    let many = a.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?;
    let reentrant = a.reentrant_lock("e")?;
    let register = a.register("g")?;
    let pool = a.lock_pool("p")?;
    macro_rules! call {
        ($within:expr, $handle:ident . $method:ident ( $($argument:expr),* )) => {{
            let handle = $handle.clone();
            let call: Call = Box::pin(async move { ready(&handle.$method($($argument),*).await) });
            (concat!(stringify!($handle), ".", stringify!($method)), $within, call)
        }};
        ($within:expr, plain $handle:ident . $method:ident ( $($argument:expr),* )) => {{
            let handle = $handle.clone();
            let call: Call = Box::pin(async move { handle.$method($($argument),*).await.is_ok() });
            (concat!(stringify!($handle), ".", stringify!($method)), $within, call)
        }};
    }
    let close = a.clone();
    let closing: Call = Box::pin(async move { close.close_timeout(TIMEOUT).await });
    Ok(vec![
        call!(TIMEOUT, lock.acquire_timeout(TIMEOUT)),
        call!(RESPONSE, lock.try_acquire()),
        call!(RESPONSE, lock.take_over("urgent")),
        call!(RESPONSE, plain lock.holder()),
        call!(RESPONSE, plain lock.status(TIMEOUT)),
        call!(TIMEOUT, rw.read_timeout(TIMEOUT)),
        call!(TIMEOUT, rw.write_timeout(TIMEOUT)),
        call!(RESPONSE, rw.try_write()),
        call!(TIMEOUT, keyed.acquire_timeout(TIMEOUT)),
        call!(TIMEOUT, semaphore.acquire_many_timeout(2, TIMEOUT)),
        call!(RESPONSE, semaphore.try_acquire()),
        call!(RESPONSE, plain semaphore.available_permits()),
        call!(TIMEOUT, many.acquire_timeout(TIMEOUT)),
        call!(RESPONSE, many.try_acquire()),
        call!(TIMEOUT, reentrant.acquire_timeout(TIMEOUT)),
        call!(TIMEOUT, pool.acquire_timeout(TIMEOUT)),
        call!(RESPONSE, pool.try_acquire()),
        call!(RESPONSE, plain register.get()),
        ("client.close_timeout", TIMEOUT, closing),
    ])
}

/// Nothing that client `a` sends arrives any more, and no connection can be made.
fn hang(memory: &Memory) {
    memory.set_faults(|process, _| {
        if process == "a" {
            Fault::Drop
        } else {
            Fault::Deliver
        }
    });
}

#[tokio::test(start_paused = true)]
async fn on_a_server_that_hangs_no_call_outlives_its_timeout() -> Result {
    let memory = Memory::seeded(80);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&b, "s", 2).await?;
    let pool = super::object(tenure::Kind::Pool, "p")?;
    let seats = super::pool(&["one"]);
    b.control().declare(&pool, &seats).await?;
    let dropped = a.lock("dropped")?.acquire().await?;
    hang(&memory);
    drop(dropped);
    for (name, within, call) in calls(&a)? {
        let started = Instant::now();
        assert!(!call.await, "{name} got something");
        assert!(
            started.elapsed() <= within + SLACK,
            "{name}: {:?}",
            started.elapsed()
        );
    }
    memory.clear_faults();
    // Pending releases in the background complete, and only declared objects are left.
    assert!(a.close_timeout(Duration::from_secs(120)).await);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(
        memory
            .keys()
            .iter()
            .all(|key| key.contains("{test/semaphore/") || key.contains("{test/pool/"))
    );
    Ok(())
}

/// The server hangs after the request has been queued, or while it is being left.
#[tokio::test(start_paused = true)]
async fn a_waiter_whose_server_hangs_leaves_in_the_background() -> Result {
    let memory = Memory::seeded(81);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let _held = b.lock("x")?.acquire().await?;
    let _all = b
        .lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?
        .acquire()
        .await?;
    let (lock, many) = (
        a.lock("x")?,
        a.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?,
    );
    let timed = |call: Call| async move {
        let started = Instant::now();
        (call.await, started.elapsed())
    };
    let waits: [Call; 2] = [
        Box::pin(async move { ready(&lock.acquire_timeout(TIMEOUT).await) }),
        Box::pin(async move { ready(&many.acquire_timeout(TIMEOUT).await) }),
    ];
    let waits = waits.map(|call| tokio::spawn(timed(call)));
    settle().await;
    hang(&memory);
    for wait in waits {
        let (got, took) = wait.await?;
        assert!(!got && took <= TIMEOUT + SLACK, "{took:?}");
    }
    memory.clear_faults();
    assert!(a.close_timeout(Duration::from_secs(120)).await);
    let snapshot = b
        .control()
        .look(&super::object(tenure::Kind::Lock, "x")?, 1)
        .await?
        .ok_or("gone")?;
    assert_eq!(snapshot.waiting, 0);
    Ok(())
}

/// A round trip outlasts the lease, so that one lock has run out before the next is held.
#[tokio::test(start_paused = true)]
async fn several_locks_end_their_wait_though_no_round_trip_is_within_a_lease() -> Result {
    let memory = Memory::seeded(82);
    let a = client(&memory, "a").await?;
    memory.set_faults(|_, _| Fault::Delay(Duration::from_millis(150)));
    let short = Options::new().lease(Duration::from_millis(100));
    let many = a.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?.with(short);
    let within = Duration::from_secs(5);
    let started = Instant::now();
    let outcome = many.acquire_timeout(within).await;
    assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
    assert!(started.elapsed() <= within + SLACK, "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_named_by_its_address() -> Result {
    let memory = Memory::seeded(1);
    let client = client(&memory, "a").await?;
    let lock = client.lock("x")?;
    silence(&memory, "a");
    for error in [
        lock.acquire_timeout(TIMEOUT).await.unwrap_err(),
        lock.try_acquire().await.unwrap_err(),
    ] {
        assert!(
            error.is_unreachable() && error.to_string().contains("the in-memory twin"),
            "{error}"
        );
    }
    Ok(())
}
