//! A lease that one client detaches and another one adopts: by the secret that `detach` returned and by nothing that is
//! shown, once, under the same fencing token and on the same terms.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure::{
    Client, Error, Kind, Lease, LeaseState, Memory, Options, PoolLease,
    control::{Capacity, Declaration, HolderView, Order, Resource},
    memory::{Fault, Message},
};

use super::{Result, client, declare_semaphore, lock, object, semaphore};

const LEASE: Duration = Duration::from_secs(30);

/// Waits for the loss of a lease, with a bound, because an unbounded wait would never end in virtual time.
async fn ended(lease: &Lease) -> Result<String> {
    Ok(tokio::time::timeout(Duration::from_secs(3600), lease.lost()).await?)
}

async fn shown(client: &Client, lease: &Lease) -> Result<HolderView> {
    let snapshot = client.control().look(lease.object(), 10).await?;
    let snapshot = snapshot.ok_or("there is no such object")?;
    Ok(snapshot.holders.into_iter().next().ok_or("there is no holder")?)
}

#[tokio::test(start_paused = true)]
async fn a_shown_token_adopts_nothing() -> Result {
    let memory = Memory::seeded(1);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    let id = b.lock("x")?.holder().await?.ok_or("there is no holder")?.token;
    assert!(
        b.lock("x")?.adopt(&id).await?.is_none(),
        "a lease that runs was taken"
    );
    assert_eq!(lease.state(), LeaseState::Held);
    // Not even when its holder has detached it.
    let secret = lease.detach();
    assert_ne!(secret, id);
    assert!(b.lock("x")?.adopt(&id).await?.is_none());
    assert!(b.lock("x")?.adopt(&secret).await?.is_some());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_of_many_adopters_gets_the_lease() -> Result {
    let memory = Memory::seeded(2);
    let a = client(&memory, "a").await?;
    let secret = a.lock("x")?.acquire().await?.detach();
    let mut adopted = Vec::new();
    for process in ["b", "c", "d"] {
        let lock = client(&memory, process).await?.lock("x")?;
        adopted.extend(lock.adopt(&secret).await?);
        adopted.extend(lock.adopt(&secret).await?);
    }
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(adopted[0].state(), LeaseState::Held);
    Ok(())
}

/// The reply is lost, the call is sent again, and answered as the first time.
#[tokio::test(start_paused = true)]
async fn an_adoption_whose_reply_is_lost_is_repeated() -> Result {
    let memory = Memory::seeded(3);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let lease = a.lock("x")?.acquire().await?;
    let fence = lease.fencing_token();
    let secret = lease.detach();
    let mut left = 2;
    memory.set_faults(move |process, message| match message {
        Message::Reply { .. } if process == "b" && left > 0 => {
            left -= 1;
            Fault::Cut
        }
        _ => Fault::Deliver,
    });
    let lease = b.lock("x")?.adopt(&secret).await?.ok_or("not adopted")?;
    assert_eq!((lease.fencing_token(), lease.state()), (fence, LeaseState::Held));
    Ok(())
}

/// Redis does not answer in time: whatever the outcome of the adoption, no lease stays held.
#[tokio::test(start_paused = true)]
async fn an_adoption_without_an_answer_leaves_nothing_held() -> Result {
    for lost in ["call", "reply"] {
        let memory = Memory::seeded(4);
        let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
        let options = Options::new().lease(Duration::from_secs(20));
        let secret = a.lock("x")?.with(options).acquire().await?.detach();
        memory.set_faults(move |process, message| match message {
            Message::Call { .. } if process == "b" && lost == "call" => Fault::Drop,
            Message::Reply { .. } if process == "b" && lost == "reply" => Fault::Drop,
            _ => Fault::Deliver,
        });
        let error = b.lock("x")?.adopt(&secret).await.err().ok_or("an answer")?;
        assert!(error.is_unreachable(), "{error}");
        memory.clear_faults();
        let patience = Duration::from_secs(25);
        let next = client(&memory, "c")
            .await?
            .lock("x")?
            .acquire_timeout(patience)
            .await?;
        assert!(next.is_some(), "{lost}: held for ever");
    }
    Ok(())
}

/// A client that detaches knows that it does not hold any more; a client that continues anyway receives the adopter's
/// identity.
#[tokio::test(start_paused = true)]
async fn the_client_that_detached_is_notified_of_the_adopter() -> Result {
    let memory = Memory::seeded(5);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let pushes: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = pushes.clone();
    memory.set_faults(move |process, message| {
        if let (Message::Push { payload, .. }, "a") = (message, process) {
            lock(&seen).push(payload.to_owned());
        }
        Fault::Deliver
    });
    let lease = a.lock("x")?.acquire().await?;
    let id = shown(&b, &lease).await?.token;
    let _adopted = b.lock("x")?.adopt(&lease.detach()).await?.ok_or("not adopted")?;
    let pushes = lock(&pushes).join("|");
    assert!(
        pushes.contains(&format!("lost\n{id}\nadopted\nadopted by ")),
        "{pushes}"
    );
    Ok(())
}

/// Every lease that can be detached can be adopted, with its permits and resources, and no other client gets them
/// meanwhile.
#[tokio::test(start_paused = true)]
async fn every_kind_is_adopted_with_its_permits_and_resources() -> Result {
    let memory = Memory::seeded(6);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&a, "s", 3).await?;
    let pool = object(Kind::Pool, "p")?;
    a.control().declare(&pool, &seats()).await?;
    let semaphore = b.semaphore("s")?;
    let secret = a.semaphore("s")?.acquire_many(2).await?.detach();
    let permits = semaphore.adopt(&secret).await?.ok_or("no permits")?;
    assert_eq!(permits.permits(), 2);
    assert_eq!(semaphore.available_permits().await?.available, 1);

    let seat = a.lock_pool("p")?.many(2).acquire().await?;
    let names: Vec<_> = seat.resources().to_vec();
    let secret = PoolLease::into_lease(seat).detach();
    let seat = b.lock_pool("p")?.adopt(&secret).await?.ok_or("no seat")?;
    assert_eq!(seat.resources(), names);
    assert!(a.lock_pool("p")?.many(2).try_acquire().await?.is_none());

    let secret = a.rw_lock("r")?.read().await?.detach();
    let reading = b.rw_lock("r")?.adopt(&secret).await?.ok_or("not reading")?;
    assert!(a.rw_lock("r")?.try_write().await?.is_none());
    reading.release().await?;
    assert!(a.rw_lock("r")?.try_write().await?.is_some());

    let keyed = a.keyed_lock("k", [("id", 1)])?.acquire().await?;
    let secret = keyed.into_lease().detach();
    let other = b.keyed_lock("k", [("id", 1)])?;
    let lease = other.as_lock().adopt(&secret).await?.ok_or("no keyed lock")?;
    assert!(a.keyed_lock("k", [("id", 1)])?.try_acquire().await?.is_none());

    // Given back by who adopted them.
    drop((permits, seat, lease));
    b.close().await;
    assert_eq!(a.semaphore("s")?.available_permits().await?.available, 3);
    assert!(a.lock_pool("p")?.many(3).try_acquire().await?.is_some());
    assert!(a.keyed_lock("k", [("id", 1)])?.try_acquire().await?.is_some());
    Ok(())
}

fn seats() -> Declaration {
    Declaration {
        capacity: Capacity::Resources {
            order: Order::LeastRecentlyUsed,
            resources: ["m", "n", "o"].map(Resource::new).into(),
        },
        ..semaphore(1)
    }
}

/// The longest hold counts from the grant, and the grace follows the end, for any holder.
#[tokio::test(start_paused = true)]
async fn an_adopted_lease_keeps_its_terms() -> Result {
    let memory = Memory::seeded(7);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let options = Options::new()
        .lease(Duration::from_secs(10))
        .max_hold(Duration::from_secs(60))
        .grace(Duration::from_secs(20))
        .reason("the first");
    let lease = a.lock("x")?.with(options).acquire().await?;
    let granted = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let other = Options::new().lease(LEASE).reason("the second");
    let lock = b.lock("x")?.with(other);
    let lease = lock.adopt(&lease.detach()).await?.ok_or("not adopted")?;
    let view = shown(&b, &lease).await?;
    assert_eq!(
        (view.reason.as_str(), view.holder.process.as_str()),
        ("the second", "b")
    );
    assert_eq!(view.since, lease.acquired_at());
    let next = a.lock("x")?;
    let next = tokio::spawn(async move { (next.acquire().await, tokio::time::Instant::now()) });
    ended(&lease).await?;
    let held = granted.elapsed();
    assert!(
        held > Duration::from_secs(59) && held <= Duration::from_secs(60),
        "{held:?}"
    );
    let (next, at) = next.await?;
    drop(next?);
    assert!(at - granted >= Duration::from_secs(80), "{:?}", at - granted);
    Ok(())
}

/// In its grace period the object has no holder, so there is nothing to adopt.
#[tokio::test(start_paused = true)]
async fn an_expired_lease_is_not_adopted() -> Result {
    let memory = Memory::seeded(8);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let options = Options::new().lease(Duration::from_secs(1)).grace(LEASE);
    let secret = a.lock("x")?.with(options).acquire().await?.detach();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(b.lock("x")?.holder().await?.is_some(), "in its grace");
    assert!(b.lock("x")?.adopt(&secret).await?.is_none());
    tokio::time::sleep(LEASE).await;
    assert!(b.lock("x")?.adopt(&secret).await?.is_none());
    Ok(())
}

/// After a loss of data the adopter sends the fencing token of the lease, and is readmitted on its terms.
#[tokio::test(start_paused = true)]
async fn an_adopted_lease_of_a_declared_object_survives_a_loss_of_data() -> Result {
    let memory = Memory::seeded(9);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    let object = declare_semaphore(&a, "s", 1).await?;
    let options = Options::new().max_hold(Duration::from_secs(600));
    let lease = a.semaphore("s")?.with(options).acquire().await?;
    let fence = lease.fencing_token();
    let lease = b
        .semaphore("s")?
        .adopt(&lease.detach())
        .await?
        .ok_or("not adopted")?;
    memory.restart(false);
    let again = Declaration {
        floor: 1_000_000,
        recovery: Some(LEASE),
        ..semaphore(1)
    };
    a.control().declare(&object, &again).await?;
    tokio::time::sleep(LEASE).await;
    assert_eq!(lease.state(), LeaseState::Held);
    let view = shown(&b, &lease).await?;
    assert_eq!((view.fence, view.holder.process.as_str()), (fence, "b"));
    let granted = view.since;
    ended(&lease).await?;
    let held = memory.clock().duration_since(granted)?;
    assert!(
        held <= Duration::from_secs(600),
        "{held:?}: the longest hold is forgotten"
    );
    Ok(())
}

/// A snapshot from before an adoption would let the same lease be adopted again, while its adopter believes in it.
#[tokio::test(start_paused = true)]
async fn nothing_is_adopted_while_an_object_recovers() -> Result {
    let memory = Memory::seeded(10);
    let (a, b) = (client(&memory, "a").await?, client(&memory, "b").await?);
    declare_semaphore(&a, "s", 1).await?;
    let secret = a.semaphore("s")?.acquire().await?.detach();
    memory.restart(true);
    assert!(b.semaphore("s")?.adopt(&secret).await?.is_none());
    Ok(())
}

/// A woken waiter has received its notification, and may hand on the lease that came with it.
#[tokio::test(start_paused = true)]
async fn a_lease_that_a_notification_brought_is_adopted_and_the_notification_with_it() -> Result {
    let memory = Memory::seeded(11);
    let (a, b, c) = (
        client(&memory, "a").await?,
        client(&memory, "b").await?,
        client(&memory, "c").await?,
    );
    let wait = async |client: &Client| {
        let lock = client.lock("x")?;
        let lease = lock.acquire().await?;
        Result::Ok(lock.condvar("c")?.wait(lease).await?)
    };
    let (first, second) = (a.clone(), b.clone());
    let first = tokio::spawn(async move { wait(&first).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = tokio::spawn(async move { wait(&second).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let lock = c.lock("x")?;
    let lease = lock.acquire().await?;
    assert_eq!(lock.condvar("c")?.notify(&lease, 1).await?, 1);
    lease.release().await?;
    let secret = first.await??.detach();
    let lease = lock.adopt(&secret).await?.ok_or("not adopted")?;
    lease.release().await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!second.is_finished(), "one notification has woken two");
    second.abort();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_in_any_form_and_other_texts_are_refused() -> Result {
    let memory = Memory::seeded(12);
    let a = client(&memory, "a").await?;
    let lock = a.lock("x")?;
    let secret = lock.acquire().await?.detach();
    let upper = secret.to_uppercase();
    let secret = lock.adopt(&upper).await?.ok_or("not adopted")?.detach();
    assert!(lock.adopt(&secret).await?.is_some());
    for bad in ["", "no secret", "\0", &"x".repeat(1 << 20)] {
        let error = lock.adopt(bad).await.err().ok_or("adopted")?;
        assert!(
            matches!(error, Error::InvalidInput { field: "secret", .. }),
            "{error}"
        );
        assert!(error.to_string().len() < 200, "{error}");
    }
    Ok(())
}

/// It does not appear in a log.
#[tokio::test(start_paused = true)]
async fn a_secret_is_in_no_debug_output() -> Result {
    let memory = Memory::seeded(13);
    let a = client(&memory, "a").await?;
    let lock = a.lock("x")?;
    let lease = lock.acquire().await?;
    let printed = format!("{lease:?} {lock:?} {a:?} {:?}", lock.holder().await?);
    assert!(!printed.contains(&lease.detach()), "{printed}");
    Ok(())
}
