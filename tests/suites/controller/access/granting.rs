//! The namespaces that get access, its extent, and the contents of the Secret.

use std::time::Duration;

use tenure::{Options, control::acl};
use tenure_tests::{Context, Result, bail, ensure, eventually};
use tokio::time::Instant;

use super::{NAME, World, client, holds, redis, url_of_controller};
use crate::{controller::support::SOON, library::tenants};

#[tokio::test]
async fn labelled_and_listed_namespaces_get_access_and_others_do_not() -> Result {
    let redis = redis()?.start().await?;
    let url = url_of_controller(&redis);
    // The name of a namespace is known after it was made.
    let mut world = World::at("access", redis, url, 4, &[]).await?;
    let [labelled, listed, denied, neither] = <[String; 4]>::try_from(world.namespaces.clone())
        .ok()
        .context("four")?;
    world.args = vec![format!("--access-namespaces={listed}")];
    world.controller = world.another_controller().await?;
    world.label(&denied, Some("false")).await?;
    let secret = world.grant(&labelled).await?;
    for (namespace, secret) in [(&labelled, &secret), (&listed, &world.secret(&listed).await?)] {
        let user = acl::tenant_user("tenure", namespace)?;
        let (port, password) = (world.redis.port().to_string(), &secret["password"]);
        let url = format!("redis://{user}:{password}@127.0.0.1:{port}");
        for (key, value) in [
            ("type", "redis"),
            ("provider", "tenure"),
            ("host", "127.0.0.1"),
            ("port", &port),
            ("username", &user),
            ("uri", &url),
            ("TENURE_REDIS_URL", &url),
            ("TENURE_REDIS_KEY_PREFIX", "tenure"),
            ("TENURE_NAMESPACE", namespace),
        ] {
            ensure!(secret[key] == value, "{key} is {}", secret[key]);
        }
        ensure!(password.len() == 64 && secret.len() == 10, "{:?}", secret.keys());
        let lease = client(secret).await?.lock("x")?.acquire().await?;
        lease.release().await?;
        world.event(namespace, "AccessGranted").await?;
        // Redis has the hash of the password, and nothing else opens it.
        let shown = world.acl(&["GETUSER", &user]).await?;
        ensure!(
            !shown.contains(password.as_str()) && !shown.contains("nopass"),
            "{shown}"
        );
    }
    let secret = world.found(&labelled).await?.context("it is gone")?;
    ensure!(
        secret.type_.as_deref() == Some("servicebinding.io/redis"),
        "{:?}",
        secret.type_
    );
    let mut users = world.acl(&["USERS"]).await?;
    for namespace in [&denied, &neither] {
        ensure!(
            world.found(namespace).await?.is_none(),
            "{namespace} has a Secret"
        );
        ensure!(!users.contains(namespace.as_str()), "{users}");
    }
    ensure!(
        world.metric("tenure_access_tenants").await? >= 2,
        "the tenants are not counted"
    );

    // Nothing is written while nothing changes.
    let settled = async || -> Result<(String, String, u64)> {
        let secret = world.found(&labelled).await?.context("it is gone")?;
        let stats = world.redis.cli(&["INFO", "commandstats"]).await?;
        let written = stats
            .lines()
            .filter(|line| line.contains("acl|setuser") || line.contains("acl|deluser"));
        let written: Vec<&str> = written.filter_map(|line| line.split(',').next()).collect();
        let version = secret.metadata.resource_version.unwrap_or_default();
        Ok((
            version,
            written.join(" "),
            world.metric("tenure_access_secret_writes_total").await?,
        ))
    };
    let before = settled().await?;
    users.clear();
    let (start, looks) = (Instant::now(), async || -> Result<u64> {
        let stats = world.redis.cli(&["INFO", "commandstats"]).await?;
        let calls = stats
            .split_once("acl|list:calls=")
            .and_then(|(_, rest)| rest.split(',').next());
        Ok(calls.context("no look")?.parse()?)
    });
    let first = looks().await?;
    eventually("the controllers to have looked again", SOON, async || {
        ensure!(looks().await? >= first + 4, "not yet");
        Ok(())
    })
    .await?;
    ensure!(start.elapsed() > Duration::from_secs(4), "they look all the time");
    let after = settled().await?;
    ensure!(before == after, "{before:?}, and after a rest {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_secret_opens_nothing_of_another_namespace() -> Result {
    let world = World::start("access-foreign", 2, &[]).await?;
    let (a, b) = (&world.namespaces[0], &world.namespaces[1]);
    let (of_a, of_b) = (world.grant(a).await?, world.grant(b).await?);
    let holder = client(&of_a).await?;
    let lease = holder.lock("x")?.acquire().await?;
    holder.register("x")?.set(7).await?;
    let keys = world.redis.cli(&["KEYS", &format!("tenure:{{{a}/*")]).await?;
    ensure!(keys.lines().count() >= 2, "{keys}");
    let data = async || -> Result<Vec<String>> {
        let mut data = Vec::new();
        for key in keys.lines() {
            data.push(world.redis.cli(&["DUMP", key]).await.unwrap_or_default());
        }
        Ok(data)
    };

    // The library does not even connect for another namespace.
    let builder = tenure::Client::builder(&of_b["TENURE_REDIS_URL"]).namespace(a);
    let Err(error) = builder.connect().await else {
        bail!("it is connected");
    };
    ensure!(error.to_string().contains("NOPERM"), "{error}");

    // With B's user, and A's channels besides, which the controller takes away again: all operations on A's objects.
    let user = acl::tenant_user("tenure", b)?;
    let keep = Options::new().lease(Duration::from_secs(3600));
    let secret = holder.lock("detached")?.with(keep).acquire().await?.detach();
    eventually("all operations to be refused", SOON, async || {
        world
            .acl(&["SETUSER", &user, &format!("&tenure:{{{a}/*")])
            .await?;
        let builder = tenure::Client::builder(&of_b["TENURE_REDIS_URL"]).namespace(a);
        let intruder = builder
            .response_timeout(Duration::from_millis(500))
            .connect()
            .await?;
        tenants::check_handles(&intruder, &secret).await
    })
    .await?;
    // All commands, on each key.
    let mut raw = world.connection(&of_b).await?;
    let own = format!("tenure:{{{b}/lock/x}}:obj");
    for key in keys.lines() {
        for command in tenants::raw::on_key(key, &own) {
            tenants::raw::check_denied(&mut raw, &command).await?;
        }
    }
    for command in tenants::raw::SERVER.split(',') {
        let words: Vec<&str> = command.split_whitespace().collect();
        tenants::raw::check_denied(&mut raw, &words).await?;
    }
    ensure!(data().await?.len() == keys.lines().count(), "keys are gone");
    lease.check()?;
    ensure!(
        holder.register("x")?.get().await? == Some(7.into()),
        "the register was changed"
    );
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_secret_of_another_program_is_left_alone() -> Result {
    let world = World::start("access-taken", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let create = [
        "-n",
        namespace,
        "create",
        "secret",
        "generic",
        NAME,
        "--from-literal=password=theirs",
    ];
    world.plane.kubectl(&create).await?;
    world.label(namespace, Some("true")).await?;
    let note = world.event(namespace, "AccessForeign").await?;
    ensure!(note.contains("delete or rename it"), "{note}");
    let secret = world.secret(namespace).await?;
    ensure!(
        secret.len() == 1 && secret["password"] == "theirs",
        "{:?}",
        secret.keys()
    );
    let user = acl::tenant_user("tenure", namespace)?;
    ensure!(!world.acl(&["USERS"]).await?.contains(&user), "it has a user");
    let (code, text) = world.controller.get("/readyz").await?;
    ensure!(code == 200, "{text}");
    // Neither the end of the permission.
    world.label(namespace, None).await?;
    world.label(namespace, Some("true")).await?;
    world
        .plane
        .kubectl(&["-n", namespace, "delete", "secret", NAME])
        .await?;
    let own = world.secret_that(namespace, |secret| {
        ensure!(secret.len() == 10, "still theirs");
        Ok(())
    });
    holds(&own.await?, "x").await?;
    Ok(())
}

#[tokio::test]
async fn a_secret_that_was_changed_or_deleted_is_mended() -> Result {
    let world = World::start("access-mended", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let first = world.grant(namespace).await?;
    let patch = r#"{"data": {"host": "eA==", "TENURE_REDIS_URL": "eA==", "mine": "eA=="}}"#;
    let args = [
        "-n",
        namespace,
        "patch",
        "secret",
        NAME,
        "--type=merge",
        "-p",
        patch,
    ];
    world.plane.kubectl(&args).await?;
    let mended = world.secret_that(namespace, |secret| {
        ensure!(secret["TENURE_REDIS_URL"] == first["TENURE_REDIS_URL"], "not yet");
        Ok(())
    });
    let mended = mended.await?;
    ensure!(
        mended["host"] == "127.0.0.1" && mended["mine"] == "x",
        "{:?}",
        mended.keys()
    );
    // A Secret that was deleted gets another password, and the old one ends.
    world
        .plane
        .kubectl(&["-n", namespace, "delete", "secret", NAME])
        .await?;
    let next = world.secret_that(namespace, |secret| {
        ensure!(secret["password"] != first["password"], "the old one");
        Ok(())
    });
    holds(&next.await?, "x").await?;
    eventually("the old password to end", SOON, async || {
        world.is_refused(&first).await
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_right_that_the_controller_lacks_is_named() -> Result {
    let world = World::start("access-rights", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    world.acl(&["SETUSER", "controller", "-acl|setuser"]).await?;
    world.label(namespace, Some("true")).await?;
    let not_ready = eventually("the controller to say so", SOON, async || {
        let (code, text) = world.controller.get("/readyz").await?;
        for named in ["access: ", "NOPERM", "acl|setuser", "docs/redis.md"] {
            ensure!(code == 503 && text.contains(named), "{code} {text}");
        }
        Ok(())
    });
    not_ready.await?;
    let failures = world
        .metric("tenure_access_failures_total{class=\"redis_refused\"}")
        .await?;
    ensure!(failures >= 1, "{failures}");
    ensure!(
        world.found(namespace).await?.is_none(),
        "a Secret whose password Redis does not have"
    );
    world.acl(&["SETUSER", "controller", "+acl|setuser"]).await?;
    let secret = world.secret(namespace).await?;
    holds(&secret, "x").await?;
    world.ready().await
}
