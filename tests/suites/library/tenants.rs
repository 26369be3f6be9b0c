//! One Redis user for each namespace: it can use everything of its own namespace, and nothing of another one.

use std::{collections::BTreeMap, time::Duration};

use redis::{AsyncConnectionConfig, PushInfo, aio::MultiplexedConnection};
use tenure::{
    Client, Compare, Error, Kind, Options,
    control::{Declaration, Event, Resource, Withdrawal, acl},
};
use tenure_tests::{Cluster, Context, Redis, Result, bail, ensure};
use tokio::sync::mpsc;

use super::support::{SOON, World, declaration, named};

pub(crate) mod raw;
mod users;

const LONG: Duration = Duration::from_secs(3600);
const LONG_MS: &str = "3600000";
const WRITER: &str = "1073741824";

/// The bundles of the scripts, by name.
macro_rules! bundles {
    ($($name:literal),* $(,)?) => {
        const SCRIPTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../lua/dist/", $name, ".lua")))),*];
    };
}

bundles! {
    "acquire", "adopt", "declare", "downgrade", "list", "members", "notify", "observe", "readmit", "register", "rejoin",
    "release", "renew", "wait", "withdraw",
}

fn script(name: &str) -> Result<&'static str> {
    let found = SCRIPTS.iter().find(|(known, _)| *known == name);
    Ok(found.context("no such script")?.1)
}

/// Two namespaces on one Redis, `team-a` with a user `a` of its own.
struct Tenants {
    redis: Redis,
    a: World,
    b: World,
}

impl Tenants {
    async fn start() -> Result<Self> {
        let redis = Redis::start().await?;
        let (a, b) = (World::on(&redis, "a"), World::on(&redis, "b"));
        let tenants = Self { redis, a, b };
        let rules = acl::tenant_rules("tenure", &tenants.a.namespace)?;
        tenants.set_user("a", &rules).await?;
        tenants
            .set_user("controller", &acl::controller_rules("tenure")?)
            .await?;
        Ok(tenants)
    }

    async fn set_user(&self, user: &str, rules: &[String]) -> Result {
        let mut command = vec!["ACL", "SETUSER", user, "reset", "on", ">secret"];
        command.extend(rules.iter().map(String::as_str));
        self.redis.cli(&command).await?;
        Ok(())
    }

    /// A connection of a user, without the library.
    async fn raw(&self, user: &str) -> Result<MultiplexedConnection> {
        let url = format!("redis://{user}:secret@127.0.0.1:{}", self.redis.port());
        Ok(redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?)
    }

    /// A client of a user for a namespace.
    async fn client(&self, user: &str, world: &World) -> std::result::Result<Client, Error> {
        world
            .builder()
            .username(user)
            .password("secret")
            .connect_timeout(Duration::from_secs(2))
            .response_timeout(Duration::from_millis(500))
            .connect()
            .await
    }

    /// Runs a script for an object of `world`, as an administrator.
    async fn run(&self, name: &str, world: &World, object: &str, args: &[&str]) -> Result<String> {
        let key = key(world, object, "obj");
        let run = format!("2 {}", self.redis.info("run_id").await?);
        let command = [&["EVAL", script(name)?, "1", &key, &run][..], args].concat();
        self.redis.cli(&command).await.context(object.to_owned())
    }

    /// All keys of namespace B, with their values.
    async fn data_of_b(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut connection = self.redis.connection().await?;
        let pattern = format!("tenure:{{{}/*", self.b.namespace);
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(pattern)
            .query_async(&mut connection)
            .await?;
        let mut data = BTreeMap::new();
        for key in keys {
            let value = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await?;
            data.insert(key, value);
        }
        Ok(data)
    }

    /// Makes an object of each kind in B, so that each has all of its keys. No client renews them.
    async fn fill_b(&self) -> Result {
        let b = &self.b;
        let acquire = async |object, token: &str, permits: &str, limit: &str, selector: &str| {
            let request = format!("{LONG_MS} {permits} {limit} {LONG_MS} {token} {{}}");
            let args = [token, &request, "0", "0", "0", "0", selector];
            self.run("acquire", b, object, &args).await
        };
        acquire("lock/x", "l1", "1", "1", "-").await?;
        let wait = ["l1", "l2", "@changed", LONG_MS, "0", LONG_MS, "c", "{}", "0"];
        self.run("wait", b, "lock/x", &wait).await?;
        acquire("lock/x", "l3", "1", "1", "-").await?;
        acquire("lock/x", "l4", "1", "1", "-").await?;
        acquire("rwlock/x", "w1", "1", WRITER, "-").await?;
        acquire("rwlock/x", "w2", WRITER, WRITER, "-").await?;
        let admin = b.client().await?;
        let long = |capacity| Declaration {
            lease: LONG,
            ..declaration(capacity)
        };
        let control = admin.control();
        let one = tenure::control::Capacity::Permits(1);
        control
            .declare(&b.object(Kind::Semaphore, "x")?, &long(one))
            .await?;
        control
            .declare(&b.object(Kind::Pool, "x")?, &long(named(&["one", "two"])))
            .await?;
        acquire("semaphore/x", "s1", "1", "0", "-").await?;
        acquire("semaphore/x", "s2", "1", "0", "-").await?;
        acquire("pool/x", "p1", "1", "0", "=one").await?;
        acquire("pool/x", "p2", "1", "0", "=one").await?;
        admin.register("x")?.set(1).await?;
        Ok(())
    }
}

fn key(world: &World, object: &str, part: &str) -> String {
    format!("tenure:{{{}/{object}}}:{part}", world.namespace)
}

/// The code as Redis sends it and as the driver prints it; Redis 7.0 reports a command within a script without the code.
fn is_denied(text: &str) -> bool {
    let refusals = [
        "NOPERM",
        "NoPerm",
        "The user executing the script can't",
        "ACL failure in script",
    ];
    refusals.iter().any(|refusal| text.contains(refusal))
}

/// The error names the page with the rights, except for an operation that is repeated until its timeout.
fn check_denied<T>(operation: &str, outcome: std::result::Result<T, Error>) -> Result {
    match outcome {
        Err(error @ Error::Refused { .. }) => {
            let text = error.to_string();
            ensure!(
                is_denied(&text) && text.contains("docs/redis.md"),
                "{operation}: {text}"
            );
        }
        Err(error @ Error::Unreachable { .. }) if operation == "reclaim" => {
            ensure!(is_denied(&error.to_string()), "{operation}: {error}");
        }
        Err(error) => bail!("{operation}: {error}"),
        Ok(_) => bail!("{operation} is possible"),
    }
    Ok(())
}

/// All operations on the objects of the client's namespace that need no lease.
pub(crate) async fn check_handles(client: &Client, secret: &str) -> Result {
    macro_rules! denied {
        ($($operation:expr),* $(,)?) => {
            $(check_denied(stringify!($operation), $operation.await)?;)*
        };
    }
    let soon = Duration::from_secs(1);
    let lock = client.lock("x")?;
    denied! {
        lock.acquire(), lock.try_acquire(), lock.acquire_timeout(soon), lock.take_over("why"), lock.adopt(secret),
        lock.holder(), lock.is_locked(), lock.status(soon),
    }
    let reentrant = client.reentrant_lock("x")?;
    denied! { reentrant.acquire(), reentrant.try_acquire(), reentrant.acquire_timeout(soon) }
    let rw_lock = client.rw_lock("x")?;
    denied! {
        rw_lock.read(), rw_lock.try_read(), rw_lock.read_timeout(soon), rw_lock.write(), rw_lock.try_write(),
        rw_lock.write_timeout(soon), rw_lock.adopt(secret),
    }
    let semaphore = client.semaphore("x")?;
    let first_user = client.semaphore("new")?.or_permits(2)?;
    denied! {
        semaphore.acquire(), semaphore.acquire_many(2), semaphore.try_acquire(), semaphore.try_acquire_many(2),
        semaphore.acquire_timeout(soon), semaphore.acquire_many_timeout(2, soon), semaphore.adopt(secret),
        semaphore.available_permits(), first_user.acquire(),
    }
    let pool = client.lock_pool("x")?;
    let more = || [Resource::new("more")];
    denied! {
        pool.acquire(), pool.try_acquire(), pool.acquire_timeout(soon), pool.adopt(secret), pool.list(),
        pool.contains("one"), pool.health(), pool.extend(more()), pool.shrink(["one"]), pool.assign(more()), pool.clear(),
    }
    let keyed = client.keyed_lock("cache", [("a", 1)])?;
    let set = client.lock_set([("cache", [("a", 1)]), ("cache", [("a", 2)])])?;
    denied! {
        keyed.acquire(), keyed.try_acquire(), keyed.acquire_timeout(soon),
        set.acquire(), set.try_acquire(), set.acquire_timeout(soon),
    }
    let register = client.register("x")?;
    denied! {
        register.get(), register.get_with_expiry(), register.set(2), register.set_if(Compare::gt(0), 2), register.delete(),
        register.delete_if(Compare::gt(0)), register.advance(9),
    }
    Ok(())
}

/// All operations of a controller on the objects of a namespace, and the release of leases by their tokens.
async fn check_control(client: &Client, world: &World) -> Result {
    let control = client.control();
    for (kind, token, capacity) in [
        (Kind::Semaphore, "s1", tenure::control::Capacity::Permits(3)),
        (Kind::Pool, "p1", named(&["one"])),
    ] {
        let object = world.object(kind, "x")?;
        check_denied("declare", control.declare(&object, &declaration(capacity)).await)?;
        for how in [
            Withdrawal::Drain,
            Withdrawal::Delete,
            Withdrawal::Retain { keep: SOON },
        ] {
            check_denied("withdraw", control.withdraw(&object, how).await)?;
        }
        let tokens = [token.to_owned()];
        check_denied("reclaim", control.reclaim(&object, &tokens, "why").await)?;
    }
    for kind in [Kind::Lock, Kind::RwLock, Kind::Semaphore, Kind::Pool] {
        let object = world.object(kind, "x")?;
        check_denied("look", control.look(&object, 1).await)?;
        check_denied("observe", control.observe(&object, 1).await)?;
        check_denied("inspect", control.inspect(&object, 1, 0).await)?;
    }
    Ok(())
}

#[tokio::test]
async fn no_operation_reaches_the_objects_of_another_namespace() -> Result {
    let tenants = Tenants::start().await?;
    tenants.fill_b().await?;
    let holder = tenants.b.client().await?;
    let keep = Options::new().lease(LONG);
    let secret = holder.lock("detached")?.with(keep).acquire().await?.detach();
    let before = tenants.data_of_b().await?;

    // A client of namespace B does not even connect.
    let error = tenants
        .client("a", &tenants.b)
        .await
        .err()
        .context("it is connected")?
        .to_string();
    let channel = format!("tenure:{{{}/client/", tenants.b.namespace);
    for named in ["NOPERM", &channel, "docs/redis.md"] {
        ensure!(error.contains(named), "{error}");
    }
    // The controller's side takes any object.
    check_control(&tenants.client("a", &tenants.a).await?, &tenants.b).await?;
    // With the channels, but without the keys.
    let mut rules = acl::tenant_rules("tenure", &tenants.a.namespace)?;
    rules.push(format!("&tenure:{{{}/*", tenants.b.namespace));
    tenants.set_user("with-channels", &rules).await?;
    let intruder = tenants.client("with-channels", &tenants.b).await?;
    check_handles(&intruder, &secret).await?;
    check_control(&intruder, &tenants.b).await?;

    ensure!(
        before == tenants.data_of_b().await?,
        "the data of the other namespace has changed"
    );
    Ok(())
}

/// Loads a script, and returns its hash.
async fn loaded(connection: &mut MultiplexedConnection, text: &str) -> Result<String> {
    let load = redis::cmd("SCRIPT").arg(&["LOAD", text]).clone();
    Ok(load.query_async(connection).await?)
}

#[tokio::test]
async fn the_holders_of_one_namespace_do_not_show_in_the_objects_of_another() -> Result {
    let tenants = Tenants::start().await?;
    let rules = acl::tenant_rules("tenure", &tenants.b.namespace)?;
    tenants.set_user("b", &rules).await?;
    let a = tenants.client("a", &tenants.a).await?;
    let b = tenants.client("b", &tenants.b).await?;
    let lock =
        |client: &Client, reason| -> Result<_> { Ok(client.lock("x")?.with(Options::new().reason(reason))) };
    let _of_a = lock(&a, "of a")?.acquire().await?;
    let _of_b = lock(&b, "of b")?
        .try_acquire()
        .await?
        .context("busy with a lease of a")?;
    for (client, world, own, other) in [(&a, &tenants.a, "of a", "of b"), (&b, &tenants.b, "of b", "of a")] {
        let seen = client
            .control()
            .look(&world.object(Kind::Lock, "x")?, 10)
            .await?
            .context("it is gone")?;
        let text = format!("{seen:?}");
        ensure!(
            seen.held == 1 && text.contains(own) && !text.contains(other),
            "{text}"
        );
    }
    Ok(())
}

/// Clients of protocol 1 gave the full name of their channel, and so may any client that does not follow the protocol. A
/// script that releases such a lease, or grants to such a waiter, runs with the rights of its caller.
#[tokio::test]
async fn a_script_publishes_on_no_foreign_channel_and_does_all_of_its_work() -> Result {
    let tenants = Tenants::start().await?;
    let victim = format!("tenure:{{{}/client/1}}", tenants.b.namespace);
    let own = format!("tenure:{{{}/client/1}}", tenants.a.namespace);
    let channels = ["tenure:client:1", &victim, "other", &own];
    let (sender, mut messages) = mpsc::unbounded_channel::<PushInfo>();
    let url = format!("redis://127.0.0.1:{}?protocol=resp3", tenants.redis.port());
    let mut listener = redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&AsyncConnectionConfig::new().set_push_sender(sender))
        .await?;
    for channel in channels {
        listener.subscribe(channel).await?;
    }
    tenants
        .set_user("all", &["~*", "&*", "+@all"].map(str::to_owned))
        .await?;
    let admin = tenants.a.client().await?;
    let run = format!("2 {}", tenants.redis.info("run_id").await?);
    for (number, (user, given, heard)) in [
        ("a", "tenure:client:1", None),
        ("a", &victim, None),
        ("a", "other", None),
        ("a", "1", Some(&*own)),
        ("controller", "tenure:client:1", None),
        ("controller", &victim, None),
        ("all", "tenure:client:1", Some("tenure:client:1")),
        ("all", &victim, None),
        ("all", "other:1", None),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("{user} pushes to {given}");
        let name = format!("x{number}");
        let object = tenants.a.object(Kind::Semaphore, &name)?;
        let declared = declaration(tenure::control::Capacity::Permits(1));
        admin.control().declare(&object, &declared).await?;
        let path = format!("semaphore/{name}");
        let request = format!("30000 1 0 10000 {given} {{}}");
        for token in ["holds", "waits"] {
            tenants
                .run("acquire", &tenants.a, &path, &[token, &request])
                .await?;
        }
        // The first call pushes the grant to the waiter, and the second one the loss of its lease.
        let mut connection = tenants.raw(user).await?;
        let key = key(&tenants.a, &path, "obj");
        // By its owner, a release goes the fast way first.
        for (token, args, holders) in [("holds", &[][..], 1), ("waits", &["reclaimed", ""], 0)] {
            let hash = loaded(&mut connection, script("release")?).await?;
            let reply: String = redis::cmd("EVALSHA")
                .arg(&[&hash, "1", &key, &run, token])
                .arg(args)
                .query_async(&mut connection)
                .await
                .with_context(|| case.clone())?;
            ensure!(reply == "released", "{case}: {reply:?}");
            let seen = admin.control().look(&object, 10).await?.context("it is gone")?;
            ensure!(
                seen.held == holders && seen.holders.len() as u64 == holders && seen.waiting == 0,
                "{case}: {seen:?}"
            );
            if let Some(heard) = heard {
                let message = tokio::time::timeout(SOON, received(&mut messages)).await??;
                ensure!(message == heard, "{case}: on {message}");
            }
        }
    }
    // A message on a channel of the listener's shows that none came before it.
    tenants.redis.cli(&["PUBLISH", "other", "the end"]).await?;
    let last = tokio::time::timeout(SOON, received(&mut messages)).await??;
    ensure!(last == "other", "a message came on {last}");
    Ok(())
}

/// The channel of the next message.
async fn received(messages: &mut mpsc::UnboundedReceiver<PushInfo>) -> Result<String> {
    loop {
        let info = messages.recv().await.context("the connection has ended")?;
        if info.kind == redis::PushKind::Message {
            return Ok(redis::from_redis_value(info.data[0].clone())?);
        }
    }
}

#[tokio::test]
async fn a_controller_takes_events_about_the_objects_of_their_own_namespace_alone() -> Result {
    let tenants = Tenants::start().await?;
    let controller = tenants
        .b
        .builder()
        .username("controller")
        .password("secret")
        .with_events()
        .connect()
        .await?;
    let mut events = controller.control().events()?;
    let run = tenants.redis.info("run_id").await?;
    let of_b = tenants.b.object(Kind::Pool, "x")?;
    let of_a = tenants.a.object(Kind::Pool, "x")?;
    let mut a = tenants.raw("a").await?;
    let namespace = &tenants.a.namespace;
    // The second channel is one of A, and ends as that of B.
    for (channel, object) in [
        (format!("tenure:{{{namespace}/events}}"), &of_b),
        (
            format!("tenure:{{{namespace}/x{{{}/events}}", tenants.b.namespace),
            &of_b,
        ),
        (format!("tenure:{{{namespace}/events}}"), &of_a),
    ] {
        let heard: u64 = redis::cmd("PUBLISH")
            .arg(channel)
            .arg(format!("{run}\nchanged\n{object}"))
            .query_async(&mut a)
            .await?;
        ensure!(heard == 1, "{heard} listen");
    }
    let event = tokio::time::timeout(SOON, async {
        loop {
            match events.next().await {
                Some(Event::Reconnected) => {}
                event => return event,
            }
        }
    })
    .await?;
    ensure!(event == Some(Event::Changed(of_a)), "{event:?}");
    Ok(())
}

#[tokio::test]
async fn a_tenant_may_not_load_scripts_where_another_user_has_loaded_them() -> Result {
    let tenants = Tenants::start().await?;
    let mut rules = acl::tenant_rules("tenure", &tenants.a.namespace)?;
    rules.retain(|rule| rule != "+script|load");
    tenants.set_user("runs", &rules).await?;
    let client = tenants.client("runs", &tenants.a).await?;
    let lock = client.lock("x")?;
    let error = lock.acquire().await.unwrap_err().to_string();
    ensure!(error.contains("script|load"), "{error}");
    let mut admin = tenants.redis.connection().await?;
    for (_, text) in SCRIPTS {
        loaded(&mut admin, text).await?;
    }
    let lease = lock.acquire().await?;
    lease.renew().await?;
    lease.release().await?;
    Ok(())
}

/// The same in a cluster, whose channels are sharded.
#[tokio::test]
async fn nothing_of_another_namespace_is_reached_in_a_cluster() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let (a, b) = (World::at(cluster.url(), "a"), World::at(cluster.url(), "b"));
    let rules = acl::cluster_tenant_rules("tenure", &a.namespace)?;
    let foreign = format!("&tenure:{{{}/*", b.namespace);
    for node in cluster.nodes() {
        for (user, more) in [("a", None), ("with-channels", Some(&*foreign))] {
            let mut command = vec!["ACL", "SETUSER", user, "reset", "on", ">secret"];
            command.extend(rules.iter().map(String::as_str).chain(more));
            node.cli(&command).await?;
        }
    }
    let connect = async |user, world: &World| {
        let builder = world.builder().username(user).password("secret");
        builder.connect_timeout(Duration::from_secs(2)).connect().await
    };
    let own = connect("a", &a).await?;
    own.lock("x")?.acquire().await?.release().await?;
    let holder = b.client().await?;
    let lease = holder.lock("x")?.acquire().await?;

    // A client of namespace B does not even connect.
    let error = connect("a", &b)
        .await
        .err()
        .context("it is connected")?
        .to_string();
    let channel = format!("tenure:{{{}/client/", b.namespace);
    for named in ["NOPERM", &channel, "docs/redis.md"] {
        ensure!(error.contains(named), "{error}");
    }
    check_control(&own, &b).await?;
    // With the channels, but without the keys.
    let intruder = connect("with-channels", &b).await?;
    check_handles(&intruder, &"0".repeat(32)).await?;
    check_control(&intruder, &b).await?;
    lease.renew().await?;
    lease.release().await?;

    // Without the library.
    for node in cluster.nodes() {
        let url = format!("redis://a:secret@127.0.0.1:{}", node.port());
        let mut raw = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let mut denied = async |command: &[&str]| -> Result {
            let reply: redis::RedisResult<redis::Value> = redis::cmd(command[0])
                .arg(&command[1..])
                .query_async(&mut raw)
                .await;
            match reply {
                Err(error) if is_denied(&error.to_string()) => Ok(()),
                other => bail!("{command:?}: {other:?}"),
            }
        };
        for channel in [
            format!("tenure:{{{}/client/1/abc}}", b.namespace),
            format!("tenure:{{{}/lock/x}}:events", b.namespace),
            "other".to_owned(),
        ] {
            denied(&["SSUBSCRIBE", &channel]).await?;
            denied(&["SPUBLISH", &channel, "x"]).await?;
            let publish = format!("return redis.call('SPUBLISH', '{channel}', 'x')");
            let hash = node.cli(&["SCRIPT", "LOAD", &publish]).await?;
            denied(&["EVALSHA", hash.trim(), "0"]).await?;
        }
        let own = format!("tenure:{{{}/x}}", a.namespace);
        for command in [
            &["SUBSCRIBE", &own][..],
            &["PSUBSCRIBE", &own],
            &["PUBLISH", &own, "x"],
            &["CLUSTER", "NODES"],
        ] {
            denied(command).await?;
        }
    }
    Ok(())
}
