//! TLS, and the smallest rights that work, which `docs/redis.md` shows.

use std::time::Duration;

use tenure::{
    Client, Compare, Error, Expiry, Kind, Options,
    control::{Capacity, Order, Resource, Withdrawal, acl},
};
use tenure_tests::{
    Cluster, Context, Redis, Result, bail, ensure, eventually,
    tls::{self, Authority},
};

use super::support::{SOON, World, declaration, named};

#[tokio::test]
async fn tls_with_an_own_authority_and_a_client_certificate() -> Result {
    let authority = Authority::new()?;
    let (redis, port) = tls::redis(&authority).await?;
    let (certificate, key) = authority.sign("pod")?;
    let url = format!("rediss://localhost:{port}");
    let builder = Client::builder(&url).connect_timeout(SOON);
    let good = builder
        .clone()
        .tls_ca(authority.pem())
        .tls_client_certificate(certificate.clone(), key.clone());
    let (one, two) = (good.clone().connect().await?, good.connect().await?);
    let gate = one.lock("x")?.acquire().await?;
    let lock = two.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    super::support::waiting(&one, gate.object(), 1).await?;
    // It also comes back over TLS.
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
    gate.release().await?;
    tokio::time::timeout(SOON, next).await???.release().await?;

    // Whom we do not trust, and who does not trust us, is not connected to.
    let hasty = builder.connect_timeout(Duration::from_millis(500));
    let stranger = Authority::new()?;
    let (strange, strange_key) = stranger.sign("pod")?;
    for (case, builder) in [
        (
            "the system's authorities",
            hasty
                .clone()
                .tls_client_certificate(certificate.clone(), key.clone()),
        ),
        (
            "another authority",
            hasty
                .clone()
                .tls_ca(stranger.pem())
                .tls_client_certificate(certificate.clone(), key.clone()),
        ),
        ("no certificate", hasty.clone().tls_ca(authority.pem())),
        (
            "a stranger's certificate",
            hasty
                .clone()
                .tls_ca(authority.pem())
                .tls_client_certificate(strange, strange_key),
        ),
    ] {
        let error = builder
            .connect()
            .await
            .err()
            .with_context(|| format!("{case}: connected"))?;
        ensure!(error.is_unreachable(), "{case}: {error}");
        ensure!(error.to_string().contains(&port.to_string()), "{case}: {error}");
    }
    // The name in the certificate counts.
    let other_name = Client::builder(format!("rediss://127.0.0.1:{port}"))
        .tls_ca(authority.pem())
        .tls_client_certificate(certificate.clone(), key.clone())
        .connect_timeout(Duration::from_millis(500));
    ensure!(
        other_name.connect().await.is_err(),
        "connected under another name"
    );

    // Unusable files are reported before anything is sent.
    for (builder, field) in [
        (hasty.clone().tls_ca("no PEM"), "tls_ca"),
        (
            hasty.clone().tls_client_certificate("no PEM", key.clone()),
            "tls_client_certificate",
        ),
        (
            hasty
                .clone()
                .tls_client_certificate(certificate.clone(), "no PEM"),
            "tls_client_certificate",
        ),
        (Client::builder(redis.url()).tls_ca(authority.pem()), "url"),
    ] {
        let error = builder.connect().await.unwrap_err();
        ensure!(
            matches!(&error, Error::InvalidInput { field: named, .. } if *named == field),
            "{field}: {error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn certificates_in_files_are_read_at_each_connect() -> Result {
    let (first, second) = (Authority::new()?, Authority::new()?);
    let (redis, port) = tls::redis(&first).await?;
    let folder = tempfile::tempdir()?;
    let [ca, certificate, key] = ["ca.crt", "tls.crt", "tls.key"].map(|name| folder.path().join(name));
    let replace = |authority: &Authority| -> Result {
        let (signed, private) = authority.sign("pod")?;
        std::fs::write(&ca, authority.pem())?;
        std::fs::write(&certificate, signed)?;
        std::fs::write(&key, private)?;
        Ok(())
    };
    let builder = Client::builder(format!("rediss://localhost:{port}"))
        .tls_ca_file(&ca)
        .tls_client_certificate_files(&certificate, &key)
        .connect_timeout(SOON);
    let error = builder.clone().connect().await.unwrap_err().to_string();
    ensure!(error.contains("ca.crt, which cannot be read"), "{error}");

    replace(&first)?;
    let client = builder.connect().await?;
    let lease = client.lock("x")?.acquire().await?;
    // Redis changes first: server and client do not trust each other until the files of the client follow.
    tls::change_authority(&redis, &second).await?;
    redis
        .cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await?;
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
    let lock = client.lock("y")?;
    let error = lock
        .acquire_timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    ensure!(error.is_unreachable(), "{error:?}");
    std::fs::write(&ca, "half of a certif")?;
    let waits = tokio::spawn(async move { lock.acquire_timeout(SOON).await });
    eventually("the reason", SOON, async || {
        let server = client.control().server();
        ensure!(format!("{server:?}").contains("tls_ca"), "{server:?}");
        Ok(())
    })
    .await?;
    replace(&second)?;
    waits
        .await??
        .context("the lock is not to be had")?
        .release()
        .await?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_and_sentinels_are_spoken_to_over_tls_wherever_they_point_to() -> Result {
    let authority = Authority::new()?;
    let (certificate, key) = authority.sign("pod")?;
    let (_cluster, node) = tls::cluster(&authority).await?;
    let (_redis, master) = tls::redis(&authority).await?;
    let (_sentinel, sentinel) = tls::sentinel(&authority, master).await?;
    for url in [
        format!("rediss://localhost:{node}"),
        format!("rediss+sentinel://localhost:{sentinel}/main"),
    ] {
        let client = Client::builder(&url)
            .connect_timeout(SOON)
            .tls_ca(authority.pem())
            .tls_client_certificate(certificate.clone(), key.clone())
            .connect()
            .await
            .with_context(|| url.clone())?;
        client.lock("x")?.acquire().await?.release().await?;
    }
    Ok(())
}

/// Gives a user these rules and no others, at each of these servers.
async fn set_user(servers: &[Redis], user: &str, rules: &[impl AsRef<str>]) -> Result {
    let mut command = vec!["ACL", "SETUSER", user, "reset", "on", ">secret"];
    command.extend(rules.iter().map(AsRef::as_ref));
    on_all(servers, &command).await
}

async fn on_all(servers: &[Redis], command: &[&str]) -> Result {
    for redis in servers {
        redis.cli(command).await?;
    }
    Ok(())
}

async fn connect(world: &World, user: &str) -> Result<Client> {
    let mut builder = world.builder();
    if user == "controller" {
        builder = builder.with_events();
    }
    Ok(builder
        .username(user)
        .password("secret")
        .connect_timeout(Duration::from_secs(2))
        .connect()
        .await?)
}

/// Uses all operations of a pod.
async fn pod_works(world: &World) -> Result {
    let (one, two) = (connect(world, "pod").await?, connect(world, "pod").await?);
    let gate = one.lock("x")?.acquire().await?;
    let lock = two.lock("x")?;
    let next = tokio::spawn(async move { lock.acquire().await });
    eventually("a waiter", Duration::from_secs(2), async || {
        let waiting = one
            .control()
            .look(gate.object(), 1)
            .await?
            .map_or(0, |seen| seen.waiting);
        ensure!(waiting == 1, "{waiting} wait");
        Ok(())
    })
    .await?;
    gate.renew().await?;
    gate.release().await?;
    let lease = tokio::time::timeout(Duration::from_secs(2), next).await???;
    let condition = two.lock("x")?.condvar("changed")?;
    condition.notify(&lease, 1).await?;
    let (lease, _) = condition.wait_timeout(lease, Duration::from_millis(20)).await?;
    lease.release().await?;
    one.rw_lock("x")?
        .write()
        .await?
        .downgrade()
        .await?
        .release()
        .await?;
    let semaphore = one.semaphore("x")?;
    semaphore.acquire_many(2).await?.release().await?;
    let keep = Options::new().lease(Duration::from_secs(1));
    for name in ["least", "most", "random", "generated"] {
        let pool = one.lock_pool(name)?.with(keep.clone());
        let seat = pool
            .try_acquire()
            .await?
            .with_context(|| format!("{name} is busy"))?;
        seat.release().await?;
        pool.try_acquire().await?.context("busy")?.release().await?;
    }
    // A name that was never handed out, and a pool that its resource has left behind.
    let never = one.lock_pool("fresh")?.named(["s3"])?;
    never.try_acquire().await?.context("busy")?.release().await?;
    one.lock_pool("retained")?
        .try_acquire()
        .await?
        .context("busy")?
        .release()
        .await?;
    // A pool that programs keep.
    let kept = one.lock_pool("kept")?;
    let member = Resource::new;
    kept.assign([member("a"), member("b")]).await?;
    kept.extend([member("c")]).await?;
    kept.shrink(["a"]).await?;
    ensure!(
        kept.list().await?.len() == 2 && kept.contains("b").await?,
        "it is not as it was left"
    );
    kept.health().await?;
    kept.clear().await?;
    // Registers.
    let register = one.register("x")?.with(Expiry::After(SOON));
    register.set(1).await?;
    ensure!(
        register.set_if(Compare::gt(2), 2).await?.is_applied(),
        "2 is not greater"
    );
    ensure!(register.get_with_expiry().await?.is_some(), "it is gone");
    ensure!(register.delete().await?, "it was gone");
    // Durability: there is no replica, and the error has to report that.
    let durable = one.lock("durable")?.with(Options::new().replicas(1));
    let few = durable.try_acquire().await;
    ensure!(matches!(few, Err(Error::NotReplicated { .. })), "{few:?}");
    // One that the controller does not know calls for it.
    ensure!(
        one.semaphore("missing")?.try_acquire().await.is_err(),
        "it was never declared"
    );
    Ok(())
}

/// Uses all operations of the controller.
async fn controller_works(world: &World, user: &str) -> Result {
    let client = connect(world, user).await?;
    let control = client.control();
    control.now_micros().await?;
    let mut watch = control.data_watch();
    for _ in 0..2 {
        let losses = watch.check().await?;
        ensure!(losses.is_empty(), "{losses:?}");
    }
    let object = world.object(Kind::Semaphore, "x")?;
    control
        .declare(&object, &declaration(Capacity::Permits(2)))
        .await?;
    let order = |order| match named(&["a", "b"]) {
        Capacity::Resources { resources, .. } => Capacity::Resources { order, resources },
        other => other,
    };
    let generated = |count| Capacity::Generated {
        order: Order::Random,
        prefix: "s".to_owned(),
        count,
    };
    for (name, capacity) in [
        ("least", order(Order::LeastRecentlyUsed)),
        ("most", order(Order::MostRecentlyUsed)),
        ("random", order(Order::Random)),
        ("generated", generated(5)),
        ("fresh", generated(5)),
        ("retained", generated(5)),
        ("passing", order(Order::Random)),
        ("passing", generated(3)),
        ("passing", named(&["b"])),
    ] {
        control
            .declare(&world.object(Kind::Pool, name)?, &declaration(capacity))
            .await?;
    }
    let holder = connect(world, "setup").await?;
    holder.lock_pool("kept")?.extend([Resource::new("a")]).await?;
    control
        .look(&world.object(Kind::Pool, "kept")?, 1)
        .await?
        .context("it is gone")?;
    // A reclaimed lease goes to the waiter.
    for name in ["least", "most", "random", "generated", "fresh"] {
        let mut pool = holder.lock_pool(name)?;
        if name == "fresh" {
            pool = pool.named(["s4"])?;
        }
        let object = world.object(Kind::Pool, name)?;
        let mut seats = Vec::new();
        while let Some(seat) = pool.try_acquire().await? {
            seats.push(seat);
        }
        let next = tokio::spawn(async move { pool.acquire().await });
        let seen = eventually("a waiter", Duration::from_secs(2), async || {
            let seen = control.observe(&object, 10).await?.context("it is gone")?;
            ensure!(seen.waiting == 1, "{seen:?}");
            Ok(seen)
        })
        .await?;
        let taken = control
            .reclaim(&object, &[seen.holders[0].token.clone()], "for the test")
            .await?;
        ensure!(taken == 1, "{taken} taken");
        tokio::time::timeout(Duration::from_secs(2), next)
            .await???
            .release()
            .await?;
        for seat in seats.drain(1..) {
            seat.release().await?;
        }
    }
    let retained = world.object(Kind::Pool, "retained")?;
    control
        .withdraw(&retained, Withdrawal::Retain { keep: SOON })
        .await?;
    let passing = world.object(Kind::Pool, "passing")?;
    let last = holder
        .lock_pool("passing")?
        .try_acquire()
        .await?
        .context("busy")?;
    let drains = control.withdraw(&passing, Withdrawal::Drain).await?;
    ensure!(drains == 1, "{drains} drain");
    let seen = control.look(&passing, 1).await?.context("it is gone")?;
    control
        .reclaim(&passing, &[seen.holders[0].token.clone()], "for the test")
        .await?;
    ensure!(control.look(&passing, 1).await?.is_none(), "it is still there");
    drop(last);
    Ok(())
}

/// The keys, channels and commands that Redis has refused, without the commands that only end a broken connection. Scripts do without some of their rights, and
/// are slower, or publish nothing: so the operations alone do not show every refusal.
async fn refused(servers: &[Redis]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for redis in servers {
        let log = redis.cli(&["ACL", "LOG"]).await?;
        let lines: Vec<&str> = log.lines().collect();
        let refused = lines
            .windows(2)
            .filter(|pair| pair[0] == "object")
            .map(|pair| pair[1]);
        let is_optional = |object: &&str| object.starts_with("client|");
        all.extend(refused.filter(|object| !is_optional(object)).map(str::to_owned));
    }
    Ok(all)
}

/// The rules but for one.
fn without(rules: &[String], i: usize) -> Vec<String> {
    [&rules[..i], &rules[i + 1..]].concat()
}

/// The rules of a tenant and of a controller, for servers of one topology.
struct Rules {
    tenant: Vec<String>,
    controller: Vec<String>,
}

impl Rules {
    /// Checks that these rules suffice for `works`, and that it does not work without any one of them.
    async fn check(&self, servers: &[Redis], works: impl AsyncFn() -> Result) -> Result {
        let everything = ["~*", "&*", "+@all"].map(str::to_owned);
        set_user(servers, "setup", &everything).await?;
        let run = async |tenant: &[String], controller: &[String]| -> Result {
            on_all(servers, &["FLUSHALL"]).await?;
            on_all(servers, &["ACL", "LOG", "RESET"]).await?;
            set_user(servers, "pod", tenant).await?;
            set_user(servers, "controller", controller).await?;
            // A script that ends half-way for want of a right may leave a waiter waiting.
            tokio::time::timeout(Duration::from_secs(30), works())
                .await
                .context("it hangs")??;
            let refused = refused(servers).await?;
            ensure!(refused.is_empty(), "Redis has refused {refused:?}");
            Ok(())
        };
        run(&self.tenant, &self.controller).await?;
        let mut needless = Vec::new();
        for (i, rule) in self.tenant.iter().enumerate() {
            if run(&without(&self.tenant, i), &self.controller).await.is_ok() {
                needless.push(format!("the tenant's {rule}"));
            }
        }
        for (i, rule) in self.controller.iter().enumerate() {
            if run(&everything, &without(&self.controller, i)).await.is_ok() {
                needless.push(format!("the controller's {rule}"));
            }
        }
        if !needless.is_empty() {
            bail!("it works without: {}", needless.join(", "));
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_rules_of_tenant_and_controller_suffice_and_each_of_them_is_needed() -> Result {
    let redis = [Redis::start().await?];
    let world = World::on(&redis[0], "rights");
    let rules = Rules {
        tenant: acl::tenant_rules("tenure", &world.namespace)?,
        controller: acl::controller_rules("tenure")?,
    };
    let works = async || -> Result {
        on_all(&redis, &["SCRIPT", "FLUSH"]).await?;
        controller_works(&world, "controller")
            .await
            .context("the controller")?;
        on_all(&redis, &["SCRIPT", "FLUSH"]).await?;
        pod_works(&world).await.context("a tenant")
    };
    rules.check(&redis, works).await
}

#[tokio::test]
async fn the_rules_for_a_cluster_suffice_and_each_of_them_is_needed() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "rights");
    let rules = Rules {
        tenant: acl::cluster_tenant_rules("tenure", &world.namespace)?,
        controller: acl::cluster_controller_rules("tenure")?,
    };
    let works = async || -> Result {
        on_all(cluster.nodes(), &["SCRIPT", "FLUSH"]).await?;
        controller_works(&world, "controller")
            .await
            .context("the controller")?;
        on_all(cluster.nodes(), &["SCRIPT", "FLUSH"]).await?;
        pod_works(&world).await.context("a tenant")?;
        both_ask(&cluster, &world).await
    };
    rules.check(cluster.nodes(), works).await
}

/// Lets both users look at an object whose keys are on their way to another server.
async fn both_ask(cluster: &Cluster, world: &World) -> Result {
    let (holder, waiter) = (connect(world, "setup").await?, connect(world, "setup").await?);
    let object = world.declare_semaphore(&holder, "moving", 1).await?;
    let lease = holder.semaphore("moving")?.acquire().await?;
    let waits = waiter.semaphore("moving")?;
    let waits = tokio::spawn(async move { waits.acquire().await });
    super::support::waiting(&holder, &object, 1).await?;
    let slot = cluster.slot(&format!("{{{object}}}")).await?;
    let to = (cluster.owner(slot).await? + 1) % 3;
    let mut moving = cluster.begin_move(&[slot], to).await?;
    let keys = moving.left().await?;
    moving.carry(&keys).await?;
    let asked = async {
        let pod = connect(world, "pod").await?;
        let busy = pod.semaphore("moving")?.try_acquire().await?.is_none();
        ensure!(busy, "held by two");
        let controller = connect(world, "controller").await?;
        controller.control().observe(&object, 1).await?;
        Ok(())
    };
    let asked = asked.await;
    moving.finish().await?;
    waits.abort();
    lease.release().await?;
    asked
}

#[tokio::test]
async fn missing_rights_are_reported() -> Result {
    let redis = [Redis::start().await?];
    let world = World::on(&redis[0], "forbidden");
    set_user(&redis, "pod", &["~other:*", "&*", "+@all"]).await?;
    let client = connect(&world, "pod").await?;
    let error = client.lock("x")?.acquire().await.unwrap_err();
    ensure!(matches!(error, Error::Refused { .. }), "{error}");
    let own = format!("~tenure:{{{}/*", world.namespace);
    for named in ["NOPERM", &own, "docs/redis.md"] {
        ensure!(error.to_string().contains(named), "{error}");
    }
    // Without the right to publish, waiters would not receive their grants.
    set_user(&redis, "pod", &["~*", "&*", "+@all", "-publish"]).await?;
    let error = connect(&world, "pod").await.unwrap_err().to_string();
    ensure!(
        error.contains("publish") && error.contains("docs/redis.md"),
        "{error}"
    );
    // Without a channel of its own a client would never receive a push.
    set_user(&redis, "pod", &["~*", "+@all"]).await?;
    let error = connect(&world, "pod").await.unwrap_err().to_string();
    ensure!(
        error.contains("channel") && error.contains("docs/redis.md"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn missing_rights_are_reported_in_a_cluster() -> Result {
    let cluster = Cluster::builder().no_replicas().start().await?;
    let world = World::at(cluster.url(), "forbidden");
    for (missing, named) in [
        ("-ssubscribe", "ssubscribe"),
        ("-spublish", "spublish"),
        ("resetchannels", "channel"),
        ("-cluster|slots", "cluster|slots"),
    ] {
        let rules = ["~*", "&*", "+@all", missing];
        set_user(cluster.nodes(), "pod", &rules).await?;
        let error = connect(&world, "pod").await.unwrap_err().to_string();
        ensure!(
            error.contains(named) && error.contains("docs/redis.md"),
            "{missing}: {error}"
        );
    }
    Ok(())
}
