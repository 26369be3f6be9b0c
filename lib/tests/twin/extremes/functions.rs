//! The table: each public function that takes something, as `file::function`.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    time::{Duration, SystemTime},
};

use tenure::{
    Client, Compare, Error, Expiry, Identity, Kind, Lock, Memory, ObjectRef, Options, ParamValue, Params,
    Register, RegisterValue,
    control::{Backing, Capacity, Declaration, Epoch, Epochs, Kept, Order, Resource, Withdrawal, plan},
};

use super::{World, durations, each, floats, numbers, small_numbers, texts};
use crate::{Result, generated, object, semaphore};

type Row = for<'a> fn(&'a mut Vec<String>) -> Pin<Box<dyn Future<Output = Result> + 'a>>;
type Outcome = std::result::Result<(), Error>;

/// All rows, each of which is a name and an attempt with every value of a list.
macro_rules! table {
    ($($name:literal, $values:expr, $attempt:expr;)*) => {
        const NAMES: &[&str] = &[$($name),*];
        // Each in a function of its own: the stack of a test has no room for all their futures.
        const ROWS: &[Row] = &[$(|problems| Box::pin(each(problems, $name, $values, $attempt))),*];

        #[tokio::test(start_paused = true)]
        async fn no_extreme_value_breaks_a_public_function() -> Result {
            let mut problems = Vec::new();
            for row in ROWS {
                row(&mut problems).await?;
            }
            assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
            Ok(())
        }
    };
}

fn at(text: &str) -> std::result::Result<ObjectRef, Error> {
    ObjectRef::new(Kind::Semaphore, "test", text)
}

/// The life of an epoch with extreme floors and times.
async fn epochs(world: &World, number: u64, span: Duration) -> Outcome {
    let (object, now) = (at("s")?, SystemTime::now());
    let seen = world.client.control().inspect(&object, 1, 0).await?;
    let times = [SystemTime::UNIX_EPOCH, now, now + Duration::from_secs(1 << 40)];
    for time in times.into_iter().chain(now.checked_sub(span)) {
        let status = Kept {
            floor: number,
            current_at: Some(time),
            newest: number,
            longest_lease: Duration::MAX,
        };
        let mut epochs = Epochs::default();
        epochs.found(Some(Epoch {
            from: number,
            to: number,
            at: time,
            open: true,
        }));
        epochs.abandoned();
        assert!(epochs.first_floor(now) >= number);
        let Some(kept) = epochs.kept(&object, Some(status), now) else {
            continue;
        };
        assert!(kept.floor >= number);
        let Some(plan) = plan(Some(&kept), &seen, "other", span, now) else {
            continue;
        };
        if let Backing::NewEpoch(epoch) = epochs.back(&kept, &plan, number, [status], now) {
            assert!(epoch.from >= number && epoch.to >= epoch.from);
            epochs.opened(epoch);
        }
        let before = epochs.declares(&object, &plan, number, now);
        epochs.written(&object, number);
        epochs.undo(&object, before);
        let _ = epochs.close([(object.clone(), Some(number))], now);
    }
    Ok(())
}

async fn locks(world: &World, options: Options) -> Outcome {
    let lock: Lock = world.client.lock("x")?.with(options.clone());
    drop(lock.acquire_timeout(Duration::from_secs(1)).await?);
    drop(lock.try_acquire().await?);
    let permit = world.client.semaphore("s")?.with(options);
    drop(permit.try_acquire().await?);
    Ok(())
}

async fn connects(builder: tenure::ClientBuilder) -> Outcome {
    let client = builder.connect().await?;
    drop(client.lock("x")?.acquire().await?);
    let seen = client.lock("x")?.holder().await?;
    drop(seen);
    client.close().await;
    Ok(())
}

async fn declares(world: &World, change: impl FnOnce(&mut Declaration)) -> Outcome {
    let object = at("declared")?;
    let mut declaration = semaphore(1);
    change(&mut declaration);
    world.client.control().declare(&object, &declaration).await?;
    let seen = world.client.control().look(&object, 10).await?.unwrap();
    if let Capacity::Permits(permits) = declaration.capacity {
        assert_eq!(seen.limit, permits, "cut");
    }
    assert_eq!(seen.last_fence, declaration.floor, "cut");
    assert_eq!(seen.digest.as_ref(), Some(&declaration.digest()), "cut");
    let lease = world.client.semaphore("declared")?.try_acquire().await?;
    if let Some(lease) = lease {
        assert!(
            lease.fencing_token() > declaration.floor,
            "{} after the floor",
            lease.fencing_token()
        );
    }
    Ok(())
}

fn pool_of(count: u64, prefix: &str) -> Declaration {
    Declaration {
        ..generated(Order::LeastRecentlyUsed, prefix, count)
    }
}

async fn keeps(register: &Register, value: RegisterValue) -> Outcome {
    register.set(value.clone()).await?;
    let kept = register.get().await?;
    assert!(kept.is_some_and(|kept| kept == value), "another value came back");
    drop(register.set_if(Compare::ge(value.clone()), value.clone()).await?);
    drop(register.delete_if(Compare::ne(value)).await?);
    Ok(())
}

table! {
    "name::new", texts(), async |_: World, text: String| {
        ObjectRef::new(Kind::Lock, "test", &text)?;
        Ok(())
    };
    "name::new namespace", texts(), async |_: World, text: String| {
        ObjectRef::new(Kind::Lock, &text, "x")?;
        Ok(())
    };
    "object::removal_command", texts(), async |_: World, text: String| {
        let command = at("x")?.removal_command(&text);
        assert!(command.starts_with("redis-cli -u URL unlink"), "{command}");
        Ok(())
    };
    "builder::builder", texts(), async |_: World, text: String| connects(Client::builder(&text)).await;
    "builder::connect", texts(), async |_: World, text: String| {
        Client::connect(&format!("redis://{text}\0@")).await?;
        Ok(())
    };
    "client::lock", texts(), async |world: World, text: String| {
        drop(world.client.lock(&text)?.acquire().await?);
        Ok(())
    };
    "client::reentrant_lock", texts(), async |world: World, text: String| {
        drop(world.client.reentrant_lock(&text)?.acquire().await?);
        Ok(())
    };
    "client::rw_lock", texts(), async |world: World, text: String| {
        drop(world.client.rw_lock(&text)?.write().await?);
        Ok(())
    };
    "client::semaphore", texts(), async |world: World, text: String| {
        drop(world.client.semaphore(&text)?.or_permits(1)?.acquire().await?);
        Ok(())
    };
    "client::lock_pool", texts(), async |world: World, text: String| {
        drop(world.client.lock_pool(&text)?.try_acquire().await?);
        Ok(())
    };
    "client::register", texts(), async |world: World, text: String| {
        world.client.register(&text)?.set(1).await
    };
    "client::keyed_lock", texts(), async |world: World, text: String| {
        drop(world.client.keyed_lock(&text, [("id", 1)])?.acquire().await?);
        drop(world.client.keyed_lock("k", [(text.clone(), text)])?.acquire().await?);
        Ok(())
    };
    "client::lock_set", texts(), async |world: World, text: String| {
        drop(world.client.lock_set([(text.clone(), [(text, 1)])])?.try_acquire().await?);
        Ok(())
    };
    "client::lock_set count", [0_usize, 1, 2000], async |world: World, count: usize| {
        let many = world.client.lock_set((0..count).map(|id| ("k", [("id", id as u64)])))?;
        drop(many.try_acquire().await?);
        Ok(())
    };
    "client::close_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.lock("x")?.acquire().await?);
        world.client.close_timeout(timeout).await;
        Ok(())
    };
    "builder::username", texts(), async |world: World, text: String| connects(world.memory.client().username(&text)).await;
    "builder::password", texts(), async |world: World, text: String| connects(world.memory.client().password(&text)).await;
    "builder::sentinel_credentials", texts(), async |world: World, text: String| {
        connects(world.memory.client().sentinel_credentials(Some(&text), &text)).await
    };
    "builder::namespace", texts(), async |world: World, text: String| connects(world.memory.client().namespace(&text)).await;
    "builder::key_prefix", texts(), async |world: World, text: String| connects(world.memory.client().key_prefix(&text)).await;
    "builder::identity", texts(), async |world: World, text: String| {
        let mut identity = Identity::from_env();
        identity.pod = Some(text.clone());
        identity.uid = Some(text.clone());
        identity.process = text;
        connects(world.memory.client().identity(identity)).await
    };
    "builder::connect_timeout", durations(), async |world: World, timeout: Duration| {
        connects(world.memory.client().connect_timeout(timeout)).await
    };
    "builder::response_timeout", durations(), async |world: World, timeout: Duration| {
        connects(world.memory.client().response_timeout(timeout)).await
    };
    "options::lease", durations(), async |world: World, span: Duration| locks(&world, Options::new().lease(span)).await;
    "options::max_hold", durations(), async |world: World, span: Duration| locks(&world, Options::new().max_hold(span)).await;
    "options::grace", durations(), async |world: World, span: Duration| locks(&world, Options::new().grace(span)).await;
    "options::priority", [i8::MIN, -1, 0, 1, i8::MAX], async |world: World, priority: i8| {
        locks(&world, Options::new().priority(priority)).await
    };
    "options::replicas", [0, 1, u8::MAX], async |world: World, replicas: u8| {
        locks(&world, Options::new().replicas(replicas)).await
    };
    "options::reason", texts(), async |world: World, text: String| locks(&world, Options::new().reason(text)).await;
    "lock::with", durations(), async |world: World, span: Duration| {
        locks(&world, Options::new().lease(span).max_hold(span).grace(span)).await
    };
    "lock::condvar", texts(), async |world: World, text: String| {
        let lock = world.client.lock("x")?;
        let condition = lock.condvar(&text)?;
        let lease = lock.acquire().await?;
        assert_eq!(condition.notify(&lease, 1).await?, 0);
        drop(condition.wait_timeout(lease, Duration::from_millis(5)).await?);
        Ok(())
    };
    "lock::adopt", texts(), async |world: World, text: String| {
        drop(world.client.lock("x")?.adopt(&text).await?);
        Ok(())
    };
    "lock::take_over", texts(), async |world: World, text: String| {
        let held = world.client.lock("x")?.acquire().await?;
        drop(world.client.lock("x")?.take_over(&text).await?);
        held.lost().await;
        Ok(())
    };
    "lock::status", durations(), async |world: World, within: Duration| {
        let lock = world.client.lock("x")?;
        let _lease = lock.acquire().await?;
        lock.status(within).await?;
        Ok(())
    };
    "lock::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.lock("x")?.acquire_timeout(timeout).await?);
        Ok(())
    };
    "keyed_lock::with", durations(), async |world: World, span: Duration| {
        let options = Options::new().lease(span);
        drop(world.client.keyed_lock("k", [("id", 1)])?.with(options).try_acquire().await?);
        Ok(())
    };
    "keyed_lock::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.keyed_lock("k", [("id", 1)])?.acquire_timeout(timeout).await?);
        Ok(())
    };
    "lock_set::with", durations(), async |world: World, span: Duration| {
        let options = Options::new().lease(span);
        drop(world.client.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?.with(options).try_acquire().await?);
        Ok(())
    };
    "lock_set::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.lock_set([("k", [("id", 1)]), ("k", [("id", 2)])])?.acquire_timeout(timeout).await?);
        Ok(())
    };
    "lock_set::get", [uuid::Uuid::nil(), uuid::Uuid::max()], async |world: World, key: uuid::Uuid| {
        let leases = world.client.lock_set([("k", [("id", 1)])])?.acquire().await?;
        assert!(leases.get(key).is_none());
        Ok(())
    };
    "reentrant_lock::with", durations(), async |world: World, span: Duration| {
        let options = Options::new().lease(span);
        drop(world.client.reentrant_lock("x")?.with(options).try_acquire().await?);
        Ok(())
    };
    "reentrant_lock::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        let owner = world.client.reentrant_lock("x")?;
        let outer = owner.acquire_timeout(timeout).await?;
        drop(owner.acquire_timeout(timeout).await?);
        drop(outer);
        Ok(())
    };
    "rw_lock::with", durations(), async |world: World, span: Duration| {
        let options = Options::new().lease(span);
        drop(world.client.rw_lock("r")?.with(options).try_write().await?);
        Ok(())
    };
    "rw_lock::read_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.rw_lock("r")?.read_timeout(timeout).await?);
        Ok(())
    };
    "rw_lock::write_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.rw_lock("r")?.write_timeout(timeout).await?);
        Ok(())
    };
    "rw_lock::adopt", texts(), async |world: World, text: String| {
        drop(world.client.rw_lock("r")?.adopt(&text).await?);
        Ok(())
    };
    "semaphore::with", durations(), async |world: World, span: Duration| {
        let options = Options::new().lease(span);
        drop(world.client.semaphore("s")?.with(options).try_acquire().await?);
        Ok(())
    };
    "semaphore::or_permits", small_numbers(), async |world: World, permits: u32| {
        let semaphore = world.client.semaphore("mine")?.or_permits(permits)?;
        let all = semaphore.acquire_many(permits).await?;
        assert_eq!(all.permits(), u64::from(permits), "cut");
        let seen = semaphore.available_permits().await?;
        assert_eq!((seen.available, seen.total), (0, permits.into()));
        Ok(())
    };
    "semaphore::acquire_many", small_numbers(), async |world: World, permits: u32| {
        drop(world.client.semaphore("s")?.acquire_many(permits).await?);
        Ok(())
    };
    "semaphore::acquire_many_timeout", small_numbers(), async |world: World, permits: u32| {
        drop(world.client.semaphore("s")?.acquire_many_timeout(permits, Duration::MAX).await?);
        Ok(())
    };
    "semaphore::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.semaphore("s")?.acquire_timeout(timeout).await?);
        Ok(())
    };
    "semaphore::try_acquire_many", small_numbers(), async |world: World, permits: u32| {
        drop(world.client.semaphore("s")?.try_acquire_many(permits).await?);
        Ok(())
    };
    "semaphore::adopt", texts(), async |world: World, text: String| {
        drop(world.client.semaphore("s")?.adopt(&text).await?);
        Ok(())
    };
    "pool::with", durations(), async |world: World, span: Duration| {
        drop(world.client.lock_pool("p")?.with(Options::new().lease(span)).try_acquire().await?);
        Ok(())
    };
    "pool::named", texts(), async |world: World, text: String| {
        drop(world.client.lock_pool("p")?.named(["m".to_owned(), text])?.try_acquire().await?);
        Ok(())
    };
    "pool::matching", texts(), async |world: World, text: String| {
        let pool = world.client.lock_pool("p")?;
        drop(pool.clone().matching([(text.clone(), text.clone())])?.try_acquire().await?);
        drop(pool.matching([("zone".to_owned(), text)])?.try_acquire().await?);
        Ok(())
    };
    "pool::preferring", texts(), async |world: World, text: String| {
        drop(world.client.lock_pool("p")?.preferring(&text)?.try_acquire().await?);
        Ok(())
    };
    "pool::many", small_numbers(), async |world: World, count: u32| {
        drop(world.client.lock_pool("p")?.many(count).try_acquire().await?);
        Ok(())
    };
    "pool::acquire_timeout", durations(), async |world: World, timeout: Duration| {
        drop(world.client.lock_pool("p")?.acquire_timeout(timeout).await?);
        Ok(())
    };
    "pool::adopt", texts(), async |world: World, text: String| {
        drop(world.client.lock_pool("p")?.adopt(&text).await?);
        Ok(())
    };
    "members::contains", texts(), async |world: World, text: String| {
        world.client.lock_pool("mine")?.contains(&text).await?;
        Ok(())
    };
    "members::ordered", [Order::Random, Order::MostRecentlyUsed], async |world: World, order: Order| {
        world.client.lock_pool("mine")?.ordered(order).assign([Resource::new("m")]).await?;
        Ok(())
    };
    "members::extend", texts(), async |world: World, text: String| {
        world.client.lock_pool("mine")?.extend([Resource::new(text)]).await?;
        Ok(())
    };
    "members::shrink", texts(), async |world: World, text: String| {
        world.client.lock_pool("mine")?.shrink([text]).await?;
        Ok(())
    };
    "members::assign", [0_usize, 1, 5000], async |world: World, count: usize| {
        let pool = world.client.lock_pool("mine")?;
        pool.assign((0..count).map(|n| Resource::new(format!("m{n}")))).await?;
        assert_eq!(pool.list().await?.len(), count);
        Ok(())
    };
    "condvar::wait", durations(), async |world: World, _: Duration| {
        let lock = world.client.lock("x")?;
        let lease = lock.acquire().await?;
        drop(tokio::time::timeout(Duration::from_millis(50), lock.condvar("c")?.wait(lease)).await);
        Ok(())
    };
    "condvar::wait_timeout", durations(), async |world: World, timeout: Duration| {
        let lock = world.client.lock("x")?;
        let condition = lock.condvar("c")?;
        let waiting = condition.wait_timeout(lock.acquire().await?, timeout);
        if let Ok(waited) = tokio::time::timeout(Duration::from_secs(60), waiting).await {
            drop(waited?);
        }
        Ok(())
    };
    "condvar::wait_while", [true, false], async |world: World, hold: bool| {
        let lock = world.client.lock("x")?;
        let waiting = async { lock.condvar("c")?.wait_while(lock.acquire().await?, async || hold).await };
        drop(tokio::time::timeout(Duration::from_millis(50), waiting).await);
        Ok(())
    };
    "condvar::notify", small_numbers(), async |world: World, count: u32| {
        let lock = world.client.lock("x")?;
        let lease = lock.acquire().await?;
        assert_eq!(lock.condvar("c")?.notify(&lease, count).await?, 0);
        Ok(())
    };
    "condvar::notify_all", [()], async |world: World, (): ()| {
        let lock = world.client.lock("x")?;
        let lease = lock.acquire().await?;
        lock.condvar("c")?.notify_all(&lease).await?;
        Ok(())
    };
    "register::with", durations(), async |world: World, span: Duration| {
        let register = world.client.register("v")?;
        register.clone().with(Expiry::After(span)).set(1).await?;
        register.get_with_expiry().await?;
        Ok(())
    };
    "register::set", texts(), async |world: World, text: String| keeps(&world.client.register("v")?, text.into()).await;
    "register::set_if", floats(), async |world: World, number: f64| keeps(&world.client.register("v")?, number.into()).await;
    "register::delete_if", [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX - 1, i64::MAX], async |world: World, number: i64| {
        let register = world.client.register("v")?;
        keeps(&register, number.into()).await?;
        register.set(number).await?;
        assert!(!register.delete_if(Compare::ne(number)).await?.is_applied());
        assert!(register.delete_if(Compare::eq(number)).await?.is_applied());
        Ok(())
    };
    "register::advance", numbers(), async |world: World, token: u64| {
        let register = world.client.register("v")?;
        register.advance(token).await?;
        register.advance(token).await?;
        if let Some(less) = token.checked_sub(1) {
            let outcome = register.advance(less).await;
            assert!(matches!(outcome, Err(Error::Fenced { .. })), "{outcome:?} after {token}");
        }
        Ok(())
    };
    "register::set_if compare", floats(), async |world: World, number: f64| {
        let register = world.client.register("v")?;
        register.set(0.0).await?;
        for compare in [Compare::gt(number), Compare::lt(number), Compare::le(number).or_missing()] {
            let _ = register.set_if(compare, 1).await?;
        }
        Ok(())
    };
    "params::with", floats(), async |_: World, number: f64| {
        Params::new().with("x", number).key("k")?;
        Ok(())
    };
    "params::key", texts(), async |_: World, text: String| {
        Params::new().with(text.clone(), text.clone()).key(&text)?;
        Params::superset().with(text.clone(), text.clone()).key(&text)?;
        Ok(())
    };
    "params::number", texts(), async |_: World, text: String| {
        ParamValue::number(&text)?;
        Ok(())
    };
    "control::declare", numbers(), async |world: World, number: u64| {
        declares(&world, |declaration| declaration.capacity = Capacity::Permits(number)).await
    };
    "control::declare floor", numbers(), async |world: World, number: u64| {
        declares(&world, |declaration| declaration.floor = number).await
    };
    "control::declare lease", durations(), async |world: World, span: Duration| {
        declares(&world, |declaration| declaration.lease = span).await
    };
    "control::declare max hold", durations(), async |world: World, span: Duration| {
        declares(&world, |declaration| declaration.max_hold = Some(span)).await
    };
    "control::declare recovery", durations(), async |world: World, span: Duration| {
        declares(&world, |declaration| declaration.recovery = Some(span)).await
    };
    "control::declare count", numbers(), async |world: World, number: u64| {
        let object = object(Kind::Pool, "declared").unwrap();
        world.client.control().declare(&object, &pool_of(number, "seat-")).await?;
        let seen = world.client.control().look(&object, 10).await?.unwrap();
        assert_eq!(seen.limit, number, "cut");
        Ok(())
    };
    "control::declare prefix", texts(), async |world: World, text: String| {
        let object = object(Kind::Pool, "declared").unwrap();
        world.client.control().declare(&object, &pool_of(3, &text)).await?;
        drop(world.client.lock_pool("declared")?.try_acquire().await?);
        Ok(())
    };
    "control::look", [0, 1, 1 << 32, usize::MAX], async |world: World, head: usize| {
        let _lease = world.client.semaphore("s")?.acquire().await?;
        world.client.control().look(&at("s")?, head).await?;
        Ok(())
    };
    "listing::requests", [0, 1, 1 << 32, usize::MAX], async |world: World, head: usize| {
        world.client.control().requests(&at("s")?, head).await?;
        Ok(())
    };
    "listing::objects", texts(), async |world: World, text: String| {
        world.client.control().objects(&text).await?;
        Ok(())
    };
    "control::inspect", [0, 1, usize::MAX], async |world: World, head: usize| {
        world.client.control().inspect(&at("s")?, head, 0).await?;
        Ok(())
    };
    "control::inspect floor", numbers(), async |world: World, floor: u64| {
        world.client.control().inspect(&at("s")?, 1, floor).await?;
        Ok(())
    };
    "plan::refreshed lease", durations(), async |world: World, span: Duration| {
        let seen = world.client.control().inspect(&at("s")?, 1, 0).await?;
        let kept = Kept { floor: u64::MAX, current_at: None, newest: u64::MAX, longest_lease: span };
        for at in [SystemTime::UNIX_EPOCH, SystemTime::now()] {
            let kept = Kept { current_at: Some(at), ..kept };
            let _ = plan(Some(&kept), &seen, "other", span, SystemTime::now());
            let _ = plan(None, &seen, "other", span, at);
        }
        Ok(())
    };
    "plan::refreshed", numbers(), async |_: World, number: u64| {
        let kept = Kept { floor: number, current_at: None, newest: number, longest_lease: Duration::MAX };
        assert!(kept.refreshed(number).is_some_and(|floor| floor >= number));
        Ok(())
    };
    "epoch::back", numbers(), async |world: World, number: u64| epochs(&world, number, Duration::MAX).await;
    "epoch::first_floor", durations(), async |world: World, span: Duration| epochs(&world, 1, span).await;
    "control::observe", [0, 1, usize::MAX], async |world: World, head: usize| {
        world.client.control().observe(&at("s")?, head).await?;
        Ok(())
    };
    "control::listen", [0, 1, 10_000], async |world: World, count: usize| {
        // This client was built without events.
        let refused = world.client.control().listen(&vec![at("s")?; count]).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
        Ok(())
    };
    "control::withdraw", durations(), async |world: World, keep: Duration| {
        let _lease = world.client.semaphore("s")?.acquire().await?;
        let control = world.client.control();
        control.withdraw(&at("s")?, Withdrawal::Retain { keep }).await?;
        control.look(&at("s")?, 1).await?;
        Ok(())
    };
    "control::server_of", texts(), async |world: World, text: String| {
        let _ = world.client.control().server_of(&at(&text)?);
        Ok(())
    };
    "control::reclaim", texts(), async |world: World, text: String| {
        let lease = world.client.semaphore("s")?.acquire().await?;
        let control = world.client.control();
        assert_eq!(control.reclaim(&at("s")?, std::slice::from_ref(&text), "a cause").await?, 0);
        let token = control.look(&at("s")?, 1).await?.unwrap().holders[0].token.clone();
        control.reclaim(&at("s")?, &[token], &text).await?;
        lease.lost().await;
        Ok(())
    };
    "control::reclaim count", [0_usize, 1, 10_000], async |world: World, count: usize| {
        let tokens = vec!["x".to_owned(); count];
        world.client.control().reclaim(&at("s")?, &tokens, "a cause").await?;
        Ok(())
    };
    "declaration::new", texts(), async |world: World, text: String| {
        world.client.lock_pool("mine")?.assign([Resource::new(text)]).await?;
        Ok(())
    };
    "declaration::property", texts(), async |world: World, text: String| {
        let resource = Resource::new("m").property(text.clone(), text.clone());
        let pool = world.client.lock_pool("mine")?;
        pool.assign([resource]).await?;
        let seat = pool.matching([(text.clone(), text.clone())])?.try_acquire().await?;
        let seat = seat.unwrap();
        assert_eq!(seat.properties(), &BTreeMap::from([(text.clone(), text)]), "cut");
        Ok(())
    };
    "tenants::set_tenant", texts(), async |world: World, text: String| {
        world.client.control().set_tenant(&text, ["0".repeat(64)]).await
    };
    "tenants::set_tenant password", texts(), async |world: World, text: String| {
        world.client.control().set_tenant("team-a", [text]).await
    };
    "tenants::remove_tenant", texts(), async |world: World, text: String| {
        world.client.control().remove_tenant(&text).await
    };
    "tenants::set_passwords", texts(), async |world: World, text: String| {
        world.client.control().set_passwords(&text, &["0".repeat(64)]).await.map(drop)
    };
    "tenants::set_passwords password", texts(), async |world: World, text: String| {
        world.client.control().set_passwords("x", &[text]).await.map(drop)
    };
    "memory::seeded", numbers(), async |_: World, seed: u64| {
        connects(Memory::seeded(seed).client()).await
    };
    "memory::suspend", durations(), async |world: World, span: Duration| {
        let lease = world.client.lock("x")?.acquire().await?;
        world.memory.suspend(span);
        world.memory.suspend(span);
        let _ = lease.check();
        Ok(())
    };
    "memory::command", texts(), async |world: World, text: String| {
        let _ = world.memory.command(&[&text]);
        let _ = world.memory.command(&["GET", &text]);
        let _ = world.memory.command(&[]);
        Ok(())
    };
    "memory::set_clock", [
        SystemTime::UNIX_EPOCH - Duration::from_secs(1),
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33),
        SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 62),
    ], async |world: World, to: SystemTime| {
        world.memory.set_clock(to);
        let _ = world.memory.clock();
        Ok(())
    };
}

/// A public function is found as the docs' test finds it: by its line.
#[test]
fn every_public_function_that_takes_something_is_in_the_table() -> Result {
    let table: BTreeSet<&str> = NAMES
        .iter()
        .map(|name| name.split(' ').next().unwrap_or_default())
        .collect();
    let mut files = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    let (mut missing, mut known) = (Vec::new(), BTreeSet::new());
    while let Some(path) = files.pop() {
        if path.is_dir() {
            for file in std::fs::read_dir(&path)? {
                files.push(file?.path());
            }
            continue;
        }
        let named = if path.ends_with("mod.rs") {
            path.parent()
        } else {
            Some(&*path)
        };
        let stem = named
            .and_then(|path| path.file_stem())
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let text = std::fs::read_to_string(&path)?;
        for (at, _) in text.match_indices("\n    pub ") {
            let line = text[at..].trim_start();
            let Some((before, rest)) = line
                .split_once("fn ")
                .filter(|(before, _)| !before.contains('\n'))
            else {
                continue;
            };
            if before.contains('(') {
                continue; // pub(crate)
            }
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let signature = rest.split_once("{\n").map_or(rest, |(signature, _)| signature);
            let takes = signature
                .replace("&self", "")
                .replace("mut self", "")
                .replace("self", "");
            let takes = takes.split_once('(').map_or("", |(_, takes)| takes);
            let takes = takes.split_once(')').map_or("", |(takes, _)| takes);
            let function = format!("{stem}::{name}");
            if takes.contains(':') && !SAME.contains(&&*function) && !table.contains(&*function) {
                missing.push(function.clone());
            }
            known.insert(function);
        }
    }
    assert!(known.len() > 100, "the public functions are not found any more");
    assert!(missing.is_empty(), "not in the table of extremes: {missing:?}");
    let gone: Vec<_> = table.iter().filter(|name| !known.contains(**name)).collect();
    assert!(gone.is_empty(), "in the table, and gone: {gone:?}");
    Ok(())
}

/// Functions that take a closure, a file, or a value that another row has made, and getters that send nothing.
const SAME: &[&str] = &[
    "builder::credentials",
    "builder::resolver",
    "builder::sentinel_credentials_provider",
    "builder::tls_ca",
    "builder::tls_ca_file",
    "builder::tls_client_certificate",
    "builder::tls_client_certificate_files",
    "compare::eq",
    "compare::ge",
    "compare::gt",
    "compare::le",
    "compare::lt",
    "compare::ne",
    "control::declare_in",
    "control::server_changed",
    "data_watch::concerns",
    "credentials::new",
    "credentials::refresh_after",
    "credentials::username",
    "credentials::username_file",
    "epoch::close",
    "epoch::declares",
    "epoch::found",
    "epoch::kept",
    "epoch::opened",
    "epoch::raised",
    "epoch::undo",
    "epoch::written",
    "guard::while_held",
    "memory::restart",
    "memory::restore",
    "memory::set_faults",
    "plan::knows",
    "pool::while_held",
];
