//! When things happen, to the millisecond: hours of leases in no time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure::{
    Identity, Kind, LeaseState, Memory, Options,
    control::Declaration,
    memory::{Fault, Message},
};
use tokio::time::Instant;

use super::{Result, client, declare_semaphore, lock, object, semaphore, settle, silence};

const LEASE: Duration = Duration::from_secs(30);
/// The life of a queue entry that is not renewed.
const PLACE: Duration = Duration::from_secs(10);
/// Time by which a holder stops earlier than the server: a millisecond, and a thousandth of the lease.
const MARGIN: Duration = Duration::from_millis(31);

#[tokio::test(start_paused = true)]
async fn a_dead_holders_lease_ends_with_its_last_renewal_and_not_before() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    let granted = Instant::now();
    assert_eq!(lease.deadline(), granted + LEASE - MARGIN);
    silence(&memory, "a");
    let lock = b.lock("x")?;
    let next = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
    let cause = lease.lost().await;
    assert_eq!(granted.elapsed() + MARGIN, LEASE, "{cause}");
    let (next, at) = next.await?;
    assert!(next?.fencing_token() > lease.fencing_token());
    // The queue entry is renewed two milliseconds after the lease has run out.
    assert!(
        (LEASE..=LEASE + Duration::from_millis(4)).contains(&(at - granted)),
        "{:?}",
        at - granted
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_longest_hold_is_kept_to_the_millisecond() -> Result {
    let memory = Memory::seeded(2);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let short = Options::new().max_hold(LEASE / 2);
    let error = a.lock("x")?.with(short).acquire().await.unwrap_err().to_string();
    assert!(
        error.starts_with("max_hold is 15s: ") && error.contains("30s"),
        "{error}"
    );
    let max_hold = Duration::from_millis(3_600_123);
    let options = Options::new().max_hold(max_hold);
    let lease = a.lock("x")?.with(options).acquire().await?;
    let granted = Instant::now();
    let lock = b.lock("x")?;
    let next = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
    let cause = lease.lost().await;
    assert!(cause.contains("longest hold"), "{cause}");
    let held = granted.elapsed();
    assert!(held <= max_hold && held + MARGIN >= max_hold, "{held:?}");
    let (next, at) = next.await?;
    drop(next?);
    let after = at - granted;
    assert!(
        (held..=max_hold + Duration::from_millis(4)).contains(&after),
        "{after:?}"
    );
    // The message that it has expired comes later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lease.lost().await, cause);
    Ok(())
}

/// A renewal for less than the lease that was granted is not the last one if the declared lease was shortened.
#[tokio::test(start_paused = true)]
async fn a_shortened_lease_has_not_come_to_its_longest_hold() -> Result {
    let memory = Memory::seeded(31);
    let a = client(&memory, "a").await?;
    let object = declare_semaphore(&a, "x", 1).await?;
    let lease = a.semaphore("x")?.acquire().await?;
    let shorter = Declaration {
        lease: LEASE / 3,
        ..semaphore(1)
    };
    a.control().declare(&object, &shorter).await?;
    for _ in 0..2 {
        lease.renew().await?;
    }
    memory.suspend(Duration::from_secs(3600));
    let cause = lease.lost().await;
    assert!(cause.contains("without a renewal"), "{cause}");
    Ok(())
}

/// Records the times at which a process calls a script.
fn record(memory: &Memory, of: &'static str, script: &'static str) -> Arc<Mutex<Vec<Instant>>> {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = times.clone();
    memory.set_faults(move |process, message| {
        if process == of && message == (Message::Call { script }) {
            lock(&seen).push(Instant::now());
        }
        Fault::Deliver
    });
    times
}

#[tokio::test(start_paused = true)]
async fn waiters_and_holders_renew_at_a_third_and_a_little_earlier() -> Result {
    let memory = Memory::seeded(3);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let _lease = a.lock("x")?.acquire().await?;
    for (process, third) in [("a", LEASE / 3), ("b", PLACE / 3)] {
        let times = record(&memory, process, "renew");
        assert!(
            b.lock("x")?
                .acquire_timeout(Duration::from_secs(600))
                .await?
                .is_none()
        );
        let times = lock(&times);
        assert!(times.len() > 50, "{process}: {}", times.len());
        for pair in times.windows(2) {
            let span = pair[1] - pair[0];
            assert!(
                span > third * 8 / 10 && span <= third + Duration::from_millis(2),
                "{process}: {span:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn five_hundred_leases_are_renewed_by_a_few_commands_a_period() -> Result {
    let memory = Memory::seeded(4);
    let a = client(&memory, "a").await?;
    let mut leases = Vec::new();
    for i in 0..500 {
        leases.push(a.lock(format!("x{i}"))?.acquire().await?);
    }
    let times = record(&memory, "a", "renew");
    tokio::time::sleep(LEASE * 3).await;
    assert!(leases.iter().all(|lease| lease.state() == LeaseState::Held));
    // Sixteen groups by their jitter, each in one or two batches: far from five hundred.
    let periods = lock(&times).len() / 9;
    assert!(periods <= 32, "{periods} commands a period");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_dead_waiters_cost_one_place_lease() -> Result {
    let memory = Memory::seeded(5);
    let (a, b, dead) = (
        client(&memory, "a").await?,
        client(&memory, "b").await?,
        client(&memory, "dead").await?,
    );
    let gate = a.lock("x")?.acquire().await?;
    for _ in 0..100 {
        let lock = dead.lock("x")?;
        tokio::spawn(async move { lock.acquire().await.map(std::mem::forget) });
    }
    settle().await;
    let lock = b.lock("x")?;
    let live = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
    settle().await;
    let snapshot = a.control().look(&object(Kind::Lock, "x")?, 0).await?.unwrap();
    assert_eq!(snapshot.waiting, 101);
    silence(&memory, "dead");
    let crashed = Instant::now();
    gate.release().await?;
    let (lease, at) = live.await?;
    drop(lease?);
    assert!(
        at - crashed <= PLACE + Duration::from_millis(5),
        "it cost {:?}",
        at - crashed
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_push_is_found_by_the_renewal_of_the_place() -> Result {
    let memory = Memory::seeded(6);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    for _ in 0..20 {
        let gate = a.lock("x")?.acquire().await?;
        let lock = b.lock("x")?;
        let wait = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
        settle().await;
        memory.set_faults(|_, message| match message {
            Message::Push { .. } => Fault::Drop,
            _ => Fault::Deliver,
        });
        let released = Instant::now();
        gate.release().await?;
        let (lease, at) = wait.await?;
        let lease = lease?;
        assert!(
            at - released <= PLACE / 3 + Duration::from_millis(5),
            "{:?}",
            at - released
        );
        assert_eq!(lease.state(), LeaseState::Held);
        memory.clear_faults();
        lease.release().await?;
    }
    assert_eq!(memory.keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_lost_after_its_script_has_run_doubles_nothing() -> Result {
    let memory = Memory::seeded(7);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let semaphore = declare_semaphore(&a, "x", 3).await?;
    for (script, fault) in [
        ("acquire", Fault::Cut),
        ("acquire", Fault::Drop),
        ("release", Fault::Cut),
        ("release", Fault::Drop),
        ("renew", Fault::Cut),
        ("renew", Fault::Drop),
    ] {
        let mut once = Some(fault);
        memory.set_faults(move |process, message| {
            if process == "a" && message == (Message::Reply { script }) {
                return once.take().unwrap_or(Fault::Deliver);
            }
            Fault::Deliver
        });
        let lease = a.semaphore("x")?.acquire_many(2).await?;
        tokio::time::sleep(LEASE * 3).await;
        assert_eq!(lease.state(), LeaseState::Held, "{script} {fault:?}");
        let snapshot = b.control().look(&semaphore, 10).await?.unwrap();
        assert_eq!(
            (snapshot.held, snapshot.holders.len()),
            (2, 1),
            "{script} {fault:?}"
        );
        lease.release().await?;
        let snapshot = b.control().look(&semaphore, 10).await?.unwrap();
        assert_eq!((snapshot.held, snapshot.free), (0, 3), "{script} {fault:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_makes_the_holder_unsure_and_in_the_end_lost() -> Result {
    let memory = Memory::seeded(8);
    let a = client(&memory, "a").await?;
    let lease = a.lock("x")?.acquire().await?;
    memory.stop();
    tokio::time::sleep(LEASE / 2).await;
    assert!(
        matches!(lease.state(), LeaseState::Unsure { .. }),
        "{:?}",
        lease.state()
    );
    memory.restart(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lease.state(), LeaseState::Held);
    let deadline = lease.deadline();
    memory.stop();
    lease.lost().await;
    let now = Instant::now();
    assert!(now >= deadline && now <= deadline + Duration::from_millis(1));
    memory.restart(true);
    // It stays lost, though the server may have it still.
    assert!(lease.release().await.unwrap_err().to_string().contains("lost"));
    Ok(())
}

/// Its renewal has arrived in time, and the reply has not: the server has the lease still, and its holder had to stop.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_stays_lost_when_the_renewals_reply_is_late() -> Result {
    let memory = Memory::seeded(31);
    let second = Duration::from_secs(1);
    for in_background in [true, false] {
        let mut patient = Identity::from_env();
        "a".clone_into(&mut patient.process);
        let connect = memory.client().namespace("test").identity(patient);
        let (a, b) = (
            connect.response_timeout(LEASE).connect().await?,
            client(&memory, "b").await?,
        );
        let lease = Arc::new(a.lock("x")?.acquire().await?);
        let fence = lease.fencing_token();
        let early = if in_background { second } else { MARGIN / 2 };
        let late = LEASE.saturating_sub(early);
        memory.set_faults(move |process, message| match message {
            Message::Reply { script: "renew" } if process == "a" => Fault::Delay(late),
            _ => Fault::Deliver,
        });
        let renewal = (!in_background).then(|| {
            let lease = lease.clone();
            tokio::spawn(async move { lease.renew().await })
        });
        let lock = b.lock("x")?;
        let next = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
        lease.lost().await;
        let lost = Instant::now();
        assert_eq!(lost, lease.deadline());
        let (next, at) = tokio::time::timeout(LEASE, next).await??;
        assert!(next?.fencing_token() > fence);
        // As soon as the reply had come, and long before the renewed lease would have ended.
        assert!(at - lost < 10 * second, "{:?}", at - lost);
        for _ in 0..100 {
            assert!(matches!(lease.state(), LeaseState::Lost { .. }), "{lease:?}");
            tokio::time::sleep(second).await;
        }
        if let Some(renewal) = renewal {
            assert!(renewal.await?.unwrap_err().to_string().contains("lost"));
        }
        memory.clear_faults();
        drop(lease);
        settle().await;
        assert_eq!(memory.keys(), Vec::<String>::new());
    }
    Ok(())
}

/// A released lease has no grace; so what its holder may not have noticed to be lost is not released, and runs out.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_has_its_grace_also_when_the_renewals_reply_is_late() -> Result {
    let memory = Memory::seeded(33);
    let mut patient = Identity::from_env();
    "a".clone_into(&mut patient.process);
    let connect = memory.client().namespace("test").identity(patient);
    let (a, b) = (
        connect.response_timeout(LEASE).connect().await?,
        client(&memory, "b").await?,
    );
    let grace = 2 * LEASE;
    let lease = a.lock("x")?.with(Options::new().grace(grace)).acquire().await?;
    memory.set_faults(|process, message| match message {
        Message::Reply { script: "renew" } if process == "a" => Fault::Delay(LEASE.saturating_sub(MARGIN)),
        _ => Fault::Deliver,
    });
    let lock = b.lock("x")?;
    let next = tokio::spawn(async move { (lock.acquire().await, Instant::now()) });
    lease.lost().await;
    let lost = Instant::now();
    let (next, at) = tokio::time::timeout(grace * 2, next).await??;
    assert!(next?.fencing_token() > lease.fencing_token());
    assert!(at - lost >= grace, "{:?}", at - lost);
    Ok(())
}

/// Its client has given the connection up, and has seen another one, and another time, before the push arrives.
#[tokio::test(start_paused = true)]
async fn a_push_over_a_connection_that_was_given_up_grants_nothing() -> Result {
    let memory = Memory::seeded(32);
    let second = Duration::from_secs(1);
    let mut hasty = Identity::from_env();
    "a".clone_into(&mut hasty.process);
    let connect = memory.client().namespace("test").identity(hasty);
    let (a, b) = (
        connect.response_timeout(second / 2).connect().await?,
        client(&memory, "b").await?,
    );
    let gate = b.lock("x")?.acquire().await?;
    let lock = a.lock("x")?.with(Options::new().lease(second));
    let wait = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    memory.set_faults(move |process, message| match message {
        Message::Push { .. } if process == "a" => Fault::Delay(5 * second),
        Message::Connect if process == "a" => Fault::Cut,
        _ => Fault::Deliver,
    });
    gate.release().await?;
    // It was a's for a second, without a notification.
    let next = b.lock("x")?.acquire().await?;
    memory.clear_faults();
    memory.set_clock(memory.clock() - 60 * second);
    tokio::time::sleep(10 * second).await;
    assert!(!wait.is_finished(), "{next:?} is held");
    next.release().await?;
    drop(wait.await??);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_slow_shortens_the_holders_view_and_never_lengthens_it() -> Result {
    let memory = Memory::seeded(9);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let second = Duration::from_secs(1);
    memory.set_faults(move |process, message| match (process, message) {
        ("a", Message::Reply { .. } | Message::Push { .. }) => Fault::Delay(second * 3 / 2),
        ("a", Message::Call { .. }) => Fault::Delay(second / 2),
        _ => Fault::Deliver,
    });
    let x = object(Kind::Lock, "x")?;
    for by_push in [false, true] {
        let gate = if by_push {
            Some(b.lock("x")?.acquire().await?)
        } else {
            None
        };
        let lock = a.lock("x")?;
        let wait = tokio::spawn(async move { lock.acquire().await });
        tokio::time::sleep(3 * second).await;
        drop(gate);
        let lease = wait.await??;
        for _ in 0..10 {
            let snapshot = b.control().look(&x, 1).await?.unwrap();
            let left = snapshot.holders[0].expires.duration_since(snapshot.now)?;
            assert!(
                lease.deadline() <= Instant::now() + left,
                "the holder would stop too late"
            );
            tokio::time::sleep(5 * second).await;
            assert_eq!(lease.state(), LeaseState::Held);
        }
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_clock_that_jumps_ahead_ends_leases_and_notifies_their_holders() -> Result {
    let memory = Memory::seeded(10);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&a, "x", 1).await?;
    let (lease, lock) = (a.semaphore("x")?.acquire().await?, a.lock("x")?.acquire().await?);
    memory.set_clock(memory.clock() + Duration::from_secs(3600));
    let jumped = Instant::now();
    let next = b.semaphore("x")?.try_acquire().await?;
    assert!(next.unwrap().fencing_token() > lease.fencing_token());
    settle().await;
    assert_eq!(lease.lost().await, "expired");
    assert!(jumped.elapsed() < Duration::from_millis(5), "by push");
    // A lock's very keys are gone, and with them its holder's channel: it finds out when it renews.
    lock.lost().await;
    assert!(jumped.elapsed() <= LEASE / 3, "{:?}", jumped.elapsed());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_clock_that_jumps_back_keeps_live_holders_exclusive() -> Result {
    let memory = Memory::seeded(11);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let x = declare_semaphore(&a, "x", 1).await?;
    let lease = a.semaphore("x")?.acquire().await?;
    memory.set_clock(memory.clock() - Duration::from_secs(3600));
    assert!(b.semaphore("x")?.acquire_timeout(LEASE * 4).await?.is_none());
    assert_eq!(lease.state(), LeaseState::Held);
    lease.release().await?;
    let next = b.semaphore("x")?.try_acquire().await?.unwrap();
    assert!(next.fencing_token() > 1001);
    next.release().await?;
    assert_eq!(a.control().look(&x, 1).await?.unwrap().held, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_all_data_keeps_known_holders_and_grants_nothing_new_for_one_lease() -> Result {
    let memory = Memory::seeded(12);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let x = declare_semaphore(&a, "x", 2).await?;
    let lease = a.semaphore("x")?.acquire().await?;
    memory.restart(false);
    let mut again = semaphore(2);
    again.recovery = Some(Duration::ZERO);
    again.floor = 1_000_000;
    assert!(b.control().declare(&x, &again).await?, "it recovers");
    let declared = Instant::now();
    let next = b.semaphore("x")?.acquire().await?;
    assert!(declared.elapsed() >= LEASE, "{:?}", declared.elapsed());
    assert!(
        declared.elapsed() < LEASE + Duration::from_secs(1),
        "{:?}",
        declared.elapsed()
    );
    assert!(next.fencing_token() > 1_000_000);
    assert_eq!(lease.state(), LeaseState::Held);
    let snapshot = b.control().look(&x, 2).await?.unwrap();
    assert_eq!(snapshot.holders[0].fence, lease.fencing_token());
    Ok(())
}

/// Its renewal is on its way when the deadline passes; then the server comes back with its data, in which the lease has
/// ended and another client has one.
#[tokio::test(start_paused = true)]
async fn a_lease_that_has_run_out_is_not_let_in_again_by_a_server_that_recovers() -> Result {
    let memory = Memory::seeded(13);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let x = declare_semaphore(&a, "x", 1).await?;
    let lease = a.semaphore("x")?.acquire().await?;
    memory.set_faults(|process, message| match message {
        Message::Connect | Message::Call { .. } if process == "a" => Fault::Cut,
        _ => Fault::Deliver,
    });
    let next = b.semaphore("x")?.acquire().await?;
    assert!(lease.check().is_err());
    memory.clear_faults();
    memory.restart(true);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let snapshot = b.control().look(&x, 10).await?.unwrap();
        assert_eq!(snapshot.held, 1, "{:?}", snapshot.holders);
        assert_eq!(snapshot.holders[0].fence, next.fencing_token());
    }
    assert!(lease.check().is_err());
    assert_eq!(next.state(), LeaseState::Held);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_outlasts_a_loss_of_data_until_the_object_is_declared_again() -> Result {
    let memory = Memory::seeded(30);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let object = declare_semaphore(&a, "x", 1).await?;
    let held = a.semaphore("x")?.acquire().await?;
    let waiter = b.semaphore("x")?;
    let wait = tokio::spawn(async move { waiter.acquire().await });
    // Longer than any client waits for a declaration that has never existed.
    tokio::time::sleep(Duration::from_secs(20)).await;
    memory.flush_all();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!wait.is_finished());
    let again = Declaration {
        floor: 1_000_000,
        recovery: Some(Duration::ZERO),
        ..semaphore(1)
    };
    a.control().declare(&object, &again).await?;
    drop(held);
    wait.await??.release().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_ended_before_its_future_is_polled_is_lost_from_the_start() -> Result {
    let memory = Memory::seeded(29);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let (held, lock, other) = (a.lock("x")?.acquire().await?, a.lock("x")?, b.lock("x")?);
    let mut waiting = std::pin::pin!(lock.acquire());
    let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "it was not held: {early:?}");
    // Granted by push, and taken over, while the waiter is not polled.
    held.release().await?;
    let taken = other.take_over("urgent").await?.ok_or("not taken")?;
    settle().await;
    let lease = waiting.await?;
    assert!(lease.fencing_token() < taken.fencing_token());
    let cause = lease.check().unwrap_err().to_string();
    assert!(cause.contains("urgent"), "{cause}");
    taken.check()?;
    Ok(())
}
