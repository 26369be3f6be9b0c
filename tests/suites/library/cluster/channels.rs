//! Pushes and events over sharded channels. No node of these clusters lets its users publish or subscribe in any other way:
//! neither a client nor a script.

use std::collections::BTreeMap;

use tenure::{Options, RegisterValue, control::Event};
use tenure_tests::{Redis, bail, eventually, sent::total};

use super::*;
use crate::library::support::{handed_over, waiting};

/// Shorter than the time to the first renewal of a lease or queue entry of the library's usual length: what is known within this time
/// was pushed.
const PUSHED: Duration = Duration::from_secs(2);

/// The calls of a command at a node, also in scripts.
async fn calls(node: &Redis, command: &str) -> Result<u64> {
    let stats = node.cli(&["INFO", "commandstats"]).await?;
    let calls = stats.lines().find_map(|line| {
        let rest = line.strip_prefix("cmdstat_")?.strip_prefix(command)?;
        rest.strip_prefix(":calls=")?.split(',').next()
    });
    Ok(calls.map_or(Ok(0), str::parse)?)
}

/// docs/protocol.md#push-sharded, docs/protocol.md#event-sharded
#[tokio::test]
async fn every_push_and_every_event_goes_over_a_sharded_channel() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "sharded");
    let controller = world.builder().with_events().connect().await?;
    let (one, two) = (world.client().await?, world.client().await?);
    for name in names(&cluster, &world, Kind::Lock, 1).await?.concat() {
        // From holder to waiter.
        let lease = one.lock(&name)?.acquire().await?;
        let lock = two.lock(&name)?;
        let next = tokio::spawn(async move { lock.acquire().await });
        waiting(&one, lease.object(), 1).await?;
        handed_over(lease, next, PUSHED).await?;

        // The loss by a takeover.
        let lease = one.lock(&name)?.acquire().await?;
        let taken = got(two.lock(&name)?.take_over("for the test").await?)?;
        let cause = timeout(PUSHED, lease.lost()).await?;
        ensure!(cause.contains("for the test"), "{cause}");
        taken.release().await?;

        // A condition.
        let lock = one.lock(&name)?;
        let lease = lock.acquire().await?;
        let object = lease.object().clone();
        let woken = tokio::spawn(async move {
            let lease = lock.condvar("changed")?.wait(lease).await?;
            lease.release().await
        });
        let lease = got(two.lock(&name)?.acquire_timeout(SOON).await?)?;
        two.lock(&name)?.condvar("changed")?.notify(&lease, 1).await?;
        waiting(&two, &object, 1).await?;
        lease.release().await?;
        timeout(PUSHED, woken).await???;
    }

    // A pool, with the events about it.
    let control = controller.control();
    let mut events = control.events()?;
    let mut next = async |expected: Event| -> Result {
        while let Some(event) = timeout(SOON, events.next()).await? {
            if event == expected {
                return Ok(());
            }
        }
        bail!("the events have ended before {expected:?}")
    };
    let undeclared = world.object(Kind::Pool, "seats")?;
    control.listen(std::slice::from_ref(&undeclared)).await?;
    ensure!(
        one.lock_pool("seats")?.try_acquire().await.is_err(),
        "it is declared"
    );
    next(Event::Missing(undeclared)).await?;
    let object = world.declare_pool(&controller, "seats", &["a"]).await?;
    control.observe(&object, 1).await?;
    let seat = one.lock_pool("seats")?.acquire().await?;
    next(Event::Changed(object.clone())).await?;
    control.observe(&object, 1).await?;
    let pool = two.lock_pool("seats")?;
    let waits = tokio::spawn(async move { pool.acquire().await });
    next(Event::Changed(object.clone())).await?;
    waiting(&one, &object, 1).await?;
    seat.release().await?;
    timeout(PUSHED, waits).await???.release().await?;

    // A register has no pushes, and each change is seen at the next look.
    one.register("x")?.set(1).await?;
    ensure!(two.register("x")?.get().await? == Some(1.into()), "not set");

    for node in cluster.nodes() {
        for command in ["publish", "subscribe", "psubscribe"] {
            let calls = calls(node, command).await?;
            ensure!(calls == 0, "{calls} calls of {command}");
        }
        ensure!(calls(node, "spublish").await? > 0, "nothing was published");
        let refused = node.cli(&["ACL", "LOG"]).await?;
        ensure!(refused.trim().is_empty(), "{refused}");
    }
    Ok(())
}

/// docs/protocol.md#push-subscribe
#[tokio::test]
async fn a_client_subscribes_once_in_each_slot() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "once");
    let client = world.client().await?;
    let names = names(&cluster, &world, Kind::Lock, 1).await?.concat();
    let mut counters = Counters::start(&cluster).await?;
    for name in &names {
        client.lock(name)?.acquire().await?.release().await?;
    }
    let slots = names.len() as u64;
    let sent = counters.take().await?;
    ensure!(sent.get("ssubscribe") == Some(&slots), "{sent:?}");
    for name in &names {
        for _ in 0..20 {
            client.lock(name)?.acquire().await?.release().await?;
        }
    }
    let sent = counters.take().await?;
    let expected = BTreeMap::from([("evalsha".to_owned(), 2 * 20 * slots)]);
    ensure!(sent == expected, "{sent:?}");
    Ok(())
}

/// Promise 1 in a cluster: with the subscription of each client, which it makes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_clients_send_two_and_a_half_commands_for_an_acquisition() -> Result {
    const CLIENTS: u64 = 5;
    const ROUNDS: u64 = 40;
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "contended");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(world.client().await?);
    }
    clients[0].lock("x")?.acquire().await?.release().await?;
    let mut counters = Counters::start(&cluster).await?;
    let mut tasks = Vec::new();
    for client in clients {
        let lock = client.lock("x")?;
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let lease = lock.acquire().await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                lease.release().await?;
            }
            Result::Ok(())
        }));
    }
    for task in tasks {
        timeout(SOON, task).await???;
    }
    let sent = counters.take().await?;
    ensure!(sent.get("ssubscribe") == Some(&(CLIENTS - 1)), "{sent:?}");
    ensure!(2 * total(&sent) <= 5 * CLIENTS * ROUNDS, "{sent:?}");
    Ok(())
}

/// The server ends a subscription by a message that looks like a reply. Requests of the same connection are in flight meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_gets_the_reply_of_another_one_while_slots_move_away() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "in-step");
    let client = world.client().await?;
    let [held, ..] = names(&cluster, &world, Kind::Lock, 30).await?;
    let [registers, ..] = names(&cluster, &world, Kind::Register, 8).await?;
    let mut leases = Vec::new();
    for name in &held {
        leases.push(client.lock(name)?.acquire().await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for (i, name) in registers.iter().enumerate() {
        let (register, stop) = (client.register(name)?, stop.clone());
        let own = RegisterValue::from(i64::try_from(i)?);
        tasks.push(tokio::spawn(async move {
            register.set(own.clone()).await?;
            while !stop.load(Ordering::SeqCst) {
                let value = register.get().await?;
                ensure!(value.as_ref() == Some(&own), "{value:?} in place of {own:?}");
            }
            Result::Ok(())
        }));
    }
    for lease in &leases {
        let slot = slot(&cluster, lease.object()).await?;
        let own = slot_of(&cluster, &world, &registers).await?;
        if !own.contains(&slot) {
            cluster.reshard(&[slot], 1).await?;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        timeout(SOON, task).await???;
    }
    for lease in leases {
        lease.release().await?;
    }
    Ok(())
}

/// The slots of registers.
async fn slot_of(cluster: &Cluster, world: &World, names: &[String]) -> Result<BTreeSet<u16>> {
    let mut slots = BTreeSet::new();
    for name in names {
        slots.insert(slot(cluster, &world.object(Kind::Register, name)?).await?);
    }
    Ok(slots)
}

/// docs/protocol.md#push-ended: the waiter itself sends nothing until then.
#[tokio::test]
async fn a_waiter_is_pushed_by_the_new_server_of_its_slot() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "follows");
    let (one, two) = (world.client().await?, world.client().await?);
    let lease = one.lock("x")?.acquire().await?;
    let lock = two.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    waiting(&one, lease.object(), 1).await?;
    let slot = slot(&cluster, lease.object()).await?;
    for _ in 0..3 {
        let to = (cluster.owner(slot).await? + 1) % 3;
        let before = calls(cluster.node(to), "ssubscribe").await?;
        cluster.reshard(&[slot], to).await?;
        eventually("both clients to have subscribed there", PUSHED, async || {
            let more = calls(cluster.node(to), "ssubscribe").await? - before;
            ensure!(more >= 2, "{more} subscriptions");
            Ok(())
        })
        .await?;
    }
    handed_over(lease, next, PUSHED).await
}

/// While its slot migrates, a client that was sent to the new server is subscribed there, too.
#[tokio::test]
async fn a_waiter_is_pushed_by_the_server_that_is_about_to_take_its_slot_over() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "asked");
    let (one, two) = (world.client().await?, world.client().await?);
    let semaphore = |client: &Client| -> Result<_> {
        let options = Options::new().lease(Duration::from_secs(30));
        Ok(client.semaphore("x")?.or_permits(1)?.with(options))
    };
    let lease = semaphore(&one)?.acquire().await?;
    let waits = semaphore(&two)?;
    let next = tokio::spawn(async move { waits.acquire().await });
    waiting(&one, lease.object(), 1).await?;
    let slot = slot(&cluster, lease.object()).await?;
    let to = (cluster.owner(slot).await? + 1) % 3;
    let mut moving = cluster.begin_move(&[slot], to).await?;
    let keys = moving.left().await?;
    moving.carry(&keys).await?;
    ensure!(semaphore(&two)?.try_acquire().await?.is_none(), "held by two");
    lease.release().await?;
    // Without a key for the queue, the object is not served before the migration has ended.
    let next = timeout(PUSHED, next).await???;
    moving.finish().await?;
    next.release().await?;
    Ok(())
}
