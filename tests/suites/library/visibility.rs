//! Promise 12: who holds, and who waits, can always be read, for every object.

use tenure::{Kind, Options};
use tenure_tests::Result;

use super::support::{World, look, on_both, waiting};

async fn holders_and_waiters_are_listed_with_identity_reason_and_time(world: World) -> Result {
    let client = world.client().await?;
    let object = world.object(Kind::Lock, "x")?;
    let lease = client
        .lock("x")?
        .with(Options::new().reason("first; with \"quotes\" and spaces"))
        .acquire()
        .await?;
    let waiter = world
        .client()
        .await?
        .lock("x")?
        .with(Options::new().reason("second"));
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    waiting(&client, &object, 1).await?;
    let snapshot = look(&client, &object).await?;
    assert_eq!(
        (snapshot.limit, snapshot.held, snapshot.free, snapshot.waiting),
        (1, 1, 0, 1)
    );
    let holder = &snapshot.holders[0];
    assert_eq!(holder.reason, "first; with \"quotes\" and spaces");
    assert_eq!(holder.holder.process, client.identity().process);
    assert_eq!(holder.fence, lease.fencing_token());
    assert_eq!(holder.since, lease.acquired_at());
    assert!(holder.expires > snapshot.now);
    assert_eq!(snapshot.waiters[0].reason, "second");
    lease.release().await?;
    waiter.await??.release().await?;
    assert_eq!(client.control().look(&object, 1).await?, None);
    Ok(())
}

async fn a_watched_object_publishes_its_next_change_once(world: World) -> Result {
    use tenure::control::Event;
    let watcher = world.builder().with_events().connect().await?;
    let control = watcher.control();
    let mut events = control.events()?;
    let client = world.client().await?;
    let object = world.declare_semaphore(&client, "x", 2).await?;
    control.observe(&object, 0).await?;
    let one = client.semaphore("x")?.acquire().await?;
    let two = client.semaphore("x")?.acquire().await?;
    // The shared server carries other tests' events too, and the event of the first connection may come late.
    let mut next = async || loop {
        match events.next().await {
            Some(Event::Reconnected) => {}
            Some(Event::Changed(changed) | Event::Missing(changed)) if changed != object => {}
            event => break event,
        }
    };
    assert_eq!(next().await, Some(Event::Changed(object.clone())));
    control.observe(&object, 0).await?;
    one.release().await?;
    assert_eq!(
        next().await,
        Some(Event::Changed(object.clone())),
        "the second acquisition was not told of"
    );
    two.release().await?;
    let missing = world.object(Kind::Semaphore, "never-declared")?;
    assert!(client.semaphore("never-declared")?.try_acquire().await.is_err());
    loop {
        match events.next().await {
            Some(Event::Missing(object)) if object == missing => break,
            Some(_) => {}
            None => panic!("the events ended"),
        }
    }
    Ok(())
}

on_both! {
    holders_and_waiters_are_listed_with_identity_reason_and_time,
    a_watched_object_publishes_its_next_change_once,
}
