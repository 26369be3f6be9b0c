//! Grants that arrive after their lease has run out: none of them is returned as a lease.

use std::{sync::Arc, time::Duration};

use tenure::{
    Error, Lease, LeaseState, Memory, Options,
    memory::{Fault, Message},
};
use tokio::{sync::Notify, time::Instant};

use super::{Result, client, settle, silence};

const LEASE: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_millis(300);

fn short() -> Options {
    Options::new().lease(LEASE)
}

/// The first reply of this script to client `a` comes after a lease that it grants has run out.
fn late_reply(memory: &Memory, script: &'static str) {
    let mut late = Some(Fault::Delay(LATE));
    memory.set_faults(move |process, message| match message {
        Message::Reply { script: name } if process == "a" && name == script => {
            late.take().unwrap_or(Fault::Deliver)
        }
        _ => Fault::Deliver,
    });
}

/// The same for the first push of a grant.
fn late_push(memory: &Memory) {
    let mut late = Some(Fault::Delay(LATE));
    memory.set_faults(move |process, message| match message {
        Message::Push { payload } if process == "a" && payload.contains("granted") => {
            late.take().unwrap_or(Fault::Deliver)
        }
        _ => Fault::Deliver,
    });
}

fn assert_held(lease: &Lease, what: &str) {
    assert_eq!(lease.state(), LeaseState::Held, "{what}");
    assert!(lease.deadline() > Instant::now(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_too_late_is_asked_for_again() -> Result {
    let memory = Memory::seeded(60);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    late_reply(&memory, "acquire");
    let lease = a.lock("x")?.with(short()).acquire().await?;
    assert_held(&lease, "by reply");
    lease.release().await?;

    let gate = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?.with(short());
    let wait = tokio::spawn(async move {
        let lease = lock.acquire().await?;
        let state = lease.state();
        Ok::<_, Error>((lease, state))
    });
    settle().await;
    late_push(&memory);
    gate.release().await?;
    let (lease, state) = wait.await??;
    assert_eq!(state, LeaseState::Held, "by push");
    lease.release().await?;

    late_reply(&memory, "acquire");
    let within = Duration::from_secs(5);
    let read = a.rw_lock("r")?.with(short()).read_timeout(within).await?;
    assert_held(&read.ok_or("not taken")?, "within a timeout");
    late_reply(&memory, "acquire");
    let all = a
        .lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?
        .with(short());
    let leases = all.acquire().await?;
    for lease in leases.iter() {
        assert_held(lease, "several locks");
    }
    leases.release().await?;
    settle().await;
    assert_eq!(memory.keys(), Vec::<String>::new());
    Ok(())
}

/// While the future is not polled, its lease runs out, and the next holder is granted.
#[tokio::test(start_paused = true)]
async fn a_grant_that_is_taken_up_too_late_is_asked_for_again() -> Result {
    let memory = Memory::seeded(61);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let gate = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?.with(short());
    let mut wait = std::pin::pin!(lock.acquire());
    assert!(tokio::time::timeout(LEASE, &mut wait).await.is_err());
    gate.release().await?;
    let next = b.lock("x")?.acquire().await?;
    let late = Arc::new(tokio::sync::Notify::new());
    let told = late.clone();
    tokio::spawn(async move {
        told.notified().await;
        next.release().await
    });
    late.notify_one();
    assert_held(&wait.await?, "taken up late");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_gets_an_error_and_leaves_nothing_behind() -> Result {
    let memory = Memory::seeded(62);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lock = a.lock("x")?.with(short());
    let late_replies = || {
        memory.set_faults(|process, message| match message {
            Message::Reply { .. } if process == "a" => Fault::Delay(LATE),
            _ => Fault::Deliver,
        });
    };
    late_replies();
    for within in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(1)] {
        let started = Instant::now();
        let outcome = lock.acquire_timeout(within).await;
        assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
        assert!(started.elapsed() <= within + 2 * LATE, "{:?}", started.elapsed());
    }
    // An abandoned lease is released.
    settle().await;
    let error = lock.try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("longer lease"), "{error}");

    // A lease that is taken over late is released, and not taken over twice.
    let held = b.lock("y")?.acquire().await?;
    let outcome = a.lock("y")?.with(short()).take_over("urgent").await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(held.lost().await.ends_with("urgent"));
    let all = a
        .lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?
        .with(short());
    assert!(all.try_acquire().await.is_err());
    memory.clear_faults();
    tokio::time::sleep(LATE).await;
    assert_eq!(memory.keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn adoption_and_downgrade_return_no_lease_that_has_run_out() -> Result {
    let memory = Memory::seeded(63);
    let a = client(&memory, "a").await?;
    let token = a.lock("x")?.with(short()).acquire().await?.detach();
    late_reply(&memory, "adopt");
    assert!(a.lock("x")?.with(short()).adopt(&token).await?.is_none());

    let write = a.rw_lock("r")?.with(short()).write().await?;
    late_reply(&memory, "downgrade");
    let outcome = write.downgrade().await;
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
    settle().await;
    assert_eq!(memory.keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_wait_for_a_condition_returns_no_lease_that_has_run_out() -> Result {
    let memory = Memory::seeded(64);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    for notified in [true, false] {
        let lock = a.lock("x")?.with(short());
        let lease = lock.acquire().await?;
        let ready = lock.condvar("ready")?;
        let patience = Duration::from_secs(if notified { 3600 } else { 1 });
        let wait = tokio::spawn(async move {
            let (lease, notified) = ready.wait_timeout(lease, patience).await?;
            let state = lease.state();
            Ok::<_, Error>((lease, notified, state))
        });
        settle().await;
        let other = b.lock("x")?.acquire().await?;
        late_push(&memory);
        if notified {
            b.lock("x")?.condvar("ready")?.notify(&other, 1).await?;
        } else {
            tokio::time::sleep(patience).await;
        }
        other.release().await?;
        let (lease, heard, state) = wait.await??;
        assert_eq!((heard, state), (notified, LeaseState::Held));
        lease.release().await?;
    }
    Ok(())
}

/// The server's clock jumps ahead while a client waits, which is then granted, and notified late: the jump hides the delay.
#[tokio::test(start_paused = true)]
async fn a_late_push_after_a_jump_of_the_clock_moves_no_deadline_out() -> Result {
    let memory = Memory::seeded(65);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let second = Duration::from_secs(1);
    let gate = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?.with(Options::new().lease(20 * second));
    let wait = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    // No lease of a or b ends by it.
    memory.set_clock(memory.clock() + 5 * second);
    memory.set_faults(move |process, message| match message {
        Message::Push { .. } if process == "a" => Fault::Delay(4 * second),
        // Its first renewal does not come into it.
        Message::Call { script: "renew" } if process == "a" => Fault::Delay(60 * second),
        _ => Fault::Deliver,
    });
    gate.release().await?;
    let object = super::object(tenure::Kind::Lock, "x")?;
    let snapshot = b.control().look(&object, 1).await?.ok_or("not there")?;
    let expires = Instant::now() + snapshot.holders[0].expires.duration_since(snapshot.now)?;
    let lease = wait.await??;
    assert!(
        lease.deadline() < expires,
        "{:?} too late",
        lease.deadline() - expires
    );
    Ok(())
}

/// A client repeats a request after the server's clock was set back, and the lease that it got the first time ends late by
/// that clock.
#[tokio::test(start_paused = true)]
async fn a_lease_from_before_a_clock_was_set_back_is_no_longer_than_its_length() -> Result {
    let (second, length) = (Duration::from_secs(1), Duration::from_secs(20));
    for repeated in ["acquire", "adopt"] {
        let memory = Memory::seeded(66);
        let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
        let lock = a.lock("x")?.with(Options::new().lease(length));
        let secret = match repeated {
            "adopt" => Some(lock.acquire().await?.detach()),
            _ => None,
        };
        let is_lost = Arc::new(Notify::new());
        let (clock, losing, mut lost) = (memory.clone(), is_lost.clone(), false);
        memory.set_faults(move |process, message| match message {
            Message::Reply { script } if process == "a" && script == repeated && !lost => {
                lost = true;
                losing.notify_one();
                Fault::Cut
            }
            _ => Fault::Deliver,
        });
        tokio::spawn(async move {
            is_lost.notified().await;
            clock.set_clock(clock.clock() - 600 * second);
        });
        let lease = match secret {
            Some(secret) => lock.adopt(&secret).await?.ok_or("gone")?,
            None => lock.acquire().await?,
        };
        let longest = Instant::now() + length;
        assert!(
            lease.deadline() <= longest,
            "{repeated}: {:?} too late",
            lease.deadline() - longest
        );
        // The end that is cut to the length of the lease is never before the one that its holder counts on.
        silence(&memory, "a");
        let next = b.lock("x")?.acquire_timeout(60 * second).await?;
        assert!(next.is_some(), "{repeated}: the lease does not end");
        assert!(lease.deadline() <= Instant::now(), "{repeated}: two holders");
    }
    Ok(())
}

/// The first reply or push that grants something to client `a` is lost, and its next `acquire` is refused.
fn lose_grant_and_refuse(memory: &Memory) {
    let (mut lost, mut refused) = (false, false);
    memory.set_faults(move |process, message| match message {
        _ if process != "a" => Fault::Deliver,
        Message::Call {
            script: "acquire", ..
        } if lost && !refused => {
            refused = true;
            Fault::Refuse("OOM command not allowed when used memory > 'maxmemory'.")
        }
        Message::Reply { script: "acquire" } if !lost => {
            lost = true;
            Fault::Drop
        }
        Message::Push { payload } if !lost && payload.contains("granted") => {
            lost = true;
            Fault::Drop
        }
        _ => Fault::Deliver,
    });
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_lost_is_given_back_when_the_repeated_request_is_refused() -> Result {
    let memory = Memory::seeded(61);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let long = Options::new().lease(Duration::from_secs(600));
    for by_push in [false, true] {
        let gate = if by_push {
            b.lock("x")?.try_acquire().await?
        } else {
            None
        };
        let lock = a.lock("x")?.with(long.clone());
        let wait = tokio::spawn(async move { lock.acquire().await });
        if by_push {
            settle().await;
        }
        lose_grant_and_refuse(&memory);
        if let Some(gate) = gate {
            gate.release().await?;
        }
        let refused = wait.await?;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        let next = b.lock("x")?.acquire_timeout(Duration::from_secs(5)).await?;
        next.ok_or("the lost grant keeps the lock")?.release().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_ends_while_a_queued_request_is_repeated_finds_the_lock_busy() -> Result {
    let memory = Memory::seeded(62);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let _held = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?;
    let wait = tokio::spawn(async move { lock.acquire_timeout(Duration::from_secs(4)).await });
    settle().await;
    // The renewal of the queue entry finds that it is gone, and the request is repeated.
    for key in ["obj", "holders", "queue", "expiry"] {
        memory.command(&["UNLINK", &format!("tenure:{{test/lock/x}}:{key}")])?;
    }
    memory.set_faults(|process, message| match message {
        Message::Reply { script: "acquire" } if process == "a" => Fault::Delay(Duration::from_secs(2)),
        _ => Fault::Deliver,
    });
    let outcome = wait.await?;
    assert!(matches!(outcome, Ok(None)), "{outcome:?}");
    // The lease that the repeated request got is given back.
    let next = b.lock("x")?.acquire_timeout(Duration::from_secs(5)).await?;
    assert!(next.is_some());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_ends_while_the_last_of_several_locks_is_asked_for_finds_it_busy() -> Result {
    let memory = Memory::seeded(226);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let key = |id: u64| ("x", [("id", id)]);
    let both = a.lock_set([key(1), key(2)])?;
    let keys: Vec<_> = both.keys().collect();
    let first = b.keyed_lock(key(1).0, key(1).1)?;
    let first = if first.key() == keys[0] {
        first
    } else {
        b.keyed_lock(key(2).0, key(2).1)?
    };
    let held = first.acquire().await?;
    let wait = tokio::spawn(async move { both.acquire_timeout(Duration::from_secs(4)).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    memory.set_faults(|process, message| match message {
        Message::Reply { script: "acquire" } if process == "a" => Fault::Delay(Duration::from_secs(2)),
        _ => Fault::Deliver,
    });
    held.release().await?;
    let outcome = wait.await?;
    assert!(matches!(outcome, Ok(None)), "{outcome:?}");
    // Both are given back, also the lock whose grant is under way.
    let both = b.lock_set([key(1), key(2)])?;
    assert!(both.acquire_timeout(Duration::from_secs(5)).await?.is_some());
    Ok(())
}

/// The deadline of a lease that is granted by push counts from the last answer. The renewal of the queue entry that was under
/// way then is a newer one.
#[tokio::test(start_paused = true)]
async fn the_answer_to_the_renewal_of_a_queue_entry_renews_the_lease_that_it_has_become() -> Result {
    let memory = Memory::seeded(63);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let held = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?.with(Options::new().lease(Duration::from_secs(30)));
    let wait = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    // The renewal reaches the server after the grant.
    let sent = Arc::new(Notify::new());
    let under_way = sent.clone();
    memory.set_faults(move |process, message| match message {
        Message::Call { script: "renew" } if process == "a" => {
            sent.notify_one();
            Fault::Delay(Duration::from_millis(500))
        }
        _ => Fault::Deliver,
    });
    under_way.notified().await;
    held.release().await?;
    let lease = wait.await??;
    let pushed = lease.deadline();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        lease.deadline() > pushed + Duration::from_secs(10),
        "{:?}",
        lease.deadline() - pushed
    );
    lease.release().await?;
    Ok(())
}
