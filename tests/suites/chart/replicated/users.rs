//! The users of the pods, and the controller's way to them.

use std::{collections::HashMap, time::Duration};

use tenure::{Client, Options};
use tenure_tests::{Context, Result, ensure, eventually};
use tokio::time::Instant;

use super::{NODE_PASSWORD, PASSWORD, Pods, SOON};

#[tokio::test]
async fn each_user_has_the_rights_that_it_needs_and_no_others() -> Result {
    let pods = Pods::start().await?;
    let host = &pods.nodes[1].host;
    for (port, user, taken, refused) in [
        (
            pods.redis_port,
            "tenure-sentinel",
            &["PING", "INFO"][..],
            &["GET x", "CONFIG GET *", "ACL LIST", "PUBLISH x y"][..],
        ),
        (
            pods.redis_port,
            "tenure-replica",
            &["PING"],
            &["INFO", "GET x", "REPLICAOF NO ONE"],
        ),
        (
            pods.redis_port,
            "tenure-node",
            &["PING", "INFO"],
            &["GET x", "REPLICAOF NO ONE", "CONFIG GET *", "ACL LIST"],
        ),
        (
            pods.sentinel_port,
            "tenure-sentinel",
            &["PING"],
            &["SENTINEL FAILOVER tenure", "SENTINEL MASTERS"],
        ),
        (
            pods.sentinel_port,
            "tenure-node",
            &["SENTINEL MASTER tenure"],
            &["SENTINEL REMOVE tenure", "ACL LIST", "SHUTDOWN"],
        ),
        (
            pods.sentinel_port,
            "",
            &["PING", "SENTINEL GET-MASTER-ADDR-BY-NAME tenure"],
            &[
                "SENTINEL MASTER tenure",
                "SENTINEL FAILOVER tenure",
                "SENTINEL IS-MASTER-DOWN-BY-ADDR x 1 1 *",
                "SENTINEL CONFIG GET *",
                "INFO",
            ],
        ),
    ] {
        let credentials = match user {
            "" => String::new(),
            user => format!("{user}:{}@", pods.derived(user).await?),
        };
        let mut connection = pods.connection(&credentials, host, port).await?;
        for (commands, is_taken) in [(taken, true), (refused, false)] {
            for command in commands {
                let mut words = command.split(' ');
                let mut sent = redis::cmd(words.next().context("no command")?);
                sent.arg(words.collect::<Vec<_>>());
                let answer = sent.query_async::<redis::Value>(&mut connection).await;
                let is_refused = answer.as_ref().is_err_and(|error| error.code() == Some("NOPERM"));
                ensure!(is_taken != is_refused, "{user:?}: {command}: {answer:?}");
            }
        }
    }
    for credentials in [
        format!("default:{PASSWORD}@"),
        format!("tenure-node:{NODE_PASSWORD}@"),
    ] {
        let refused = match pods.connection(&credentials, host, pods.redis_port).await {
            Ok(mut connection) => redis::cmd("PING").exec_async(&mut connection).await.is_err(),
            Err(_) => true,
        };
        ensure!(refused, "{credentials} is let in");
    }
    Ok(())
}

/// Redis has refused no command of the pods themselves.
#[tokio::test]
async fn no_right_is_missing_over_a_failover() -> Result {
    let mut pods = Pods::start().await?;
    pods.write(1).await?;
    pods.all_have(1).await?;
    pods.nodes[0].stop_redis().await?;
    let master = pods.promoted(0).await?;
    pods.nodes[0].start_redis()?;
    pods.ready().await?;
    ensure!(pods.master().await? == master, "another one");
    for pod in 0..3 {
        let log = pods.nodes[pod].log()?;
        ensure!(!log.contains("NOPERM") && !log.contains("WRONGPASS"), "{log}");
        let sentinel = pods.nodes[pod].sentinel.as_ref().context("no Sentinel")?;
        let log = sentinel.output()?;
        ensure!(!log.contains("NOPERM") && !log.contains("WRONGPASS"), "{log}");
        // An administrator made by the controller, which may do so.
        let mut connection = pods.redis(pod).await?;
        let mut user = redis::cmd("ACL");
        user.arg(&["SETUSER", "admin", "on", ">admin", "+@all"])
            .exec_async(&mut connection)
            .await?;
        let mut connection = pods
            .connection("admin:admin@", &pods.nodes[pod].host, pods.redis_port)
            .await?;
        let refusals: Vec<HashMap<String, redis::Value>> =
            redis::cmd("ACL").arg("LOG").query_async(&mut connection).await?;
        // The driver of this test sends commands that are refused, too.
        let by_test = redis::Value::BulkString(b"tenure-controller".to_vec());
        let refusals: Vec<_> = refusals
            .iter()
            .filter(|refusal| refusal["username"] != by_test)
            .collect();
        ensure!(refusals.is_empty(), "{refusals:?}");
    }
    Ok(())
}

#[tokio::test]
async fn leases_and_waiters_outlive_the_stop_of_the_master() -> Result {
    let mut pods = Pods::start().await?;
    let url = pods.url("tenure-controller", PASSWORD);
    let control = Client::builder(&url).namespace("ml").connect().await?.control();
    let user = tenure::control::acl::tenant_user("tenure", "ml")?;
    // The SHA-256 of "s3".
    let hash = "41242b9fae56fad4e6e77dfe33cb18d1c3fc583f988cf25ef9f2d9be0d440bbb";
    control.set_tenant("ml", [hash]).await?;
    let client = async || {
        Client::builder(pods.url(&user, "s3"))
            .namespace("ml")
            .connect()
            .await
    };
    let holder = client().await?;
    let keep = Options::new().lease(Duration::from_secs(10));
    let lease = holder.lock("x")?.with(keep).acquire().await?;
    let waiter = client().await?.lock("x")?;
    let next = tokio::spawn(async move { waiter.acquire().await });
    eventually("the waiter", SOON, async || {
        let seen = holder
            .control()
            .look(lease.object(), 1)
            .await?
            .context("it is gone")?;
        ensure!(seen.waiting == 1, "{seen:?}");
        Ok(())
    })
    .await?;
    pods.settled().await?;
    let stopped = Instant::now();
    pods.nodes[0].stop_redis().await?;
    pods.promoted(0).await?;
    eventually("a renewal at the new master", SOON, async || {
        Ok(lease.renew().await?)
    })
    .await?;
    println!("a renewal {:?} after the request to stop", stopped.elapsed());
    ensure!(!next.is_finished(), "held by two");
    let token = lease.fencing_token();
    lease.release().await?;
    let next = next.await??;
    ensure!(next.fencing_token() > token, "{next:?}");
    next.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_password_that_its_configuration_could_not_hold_is_refused() -> Result {
    let pods = Pods::new("redis-server", &[]).await?;
    let pod = &pods.nodes[0];
    for name in ["password", "previous-password"] {
        for password in ["", "two words", "quo\"te", "back\\slash", "pässword"] {
            let path = pod.folder.join("secrets").join(name);
            std::fs::write(&path, password)?;
            let mut redis = pod.spawn("refused", &pod.containers[0]["command"])?;
            let status = redis.wait(SOON).await?;
            let refusal = format!("the key {name} must be of printable ASCII");
            ensure!(
                !status.success() && redis.log()?.contains(&refusal),
                "{password:?}: {}",
                redis.tail()
            );
            std::fs::write(&path, PASSWORD)?;
        }
    }
    Ok(())
}

/// While a password is replaced, both are valid.
#[tokio::test]
async fn the_previous_password_is_valid_too() -> Result {
    let mut pods = Pods::new("redis-server", &[]).await?;
    for pod in &pods.nodes {
        std::fs::write(pod.folder.join("secrets/previous-password"), "before")?;
    }
    pods.start_all()?;
    pods.ready().await?;
    for password in [PASSWORD, "before"] {
        let credentials = format!("tenure-controller:{password}@");
        let mut connection = pods
            .connection(&credentials, &pods.nodes[1].host, pods.redis_port)
            .await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_access_the_password_is_that_of_the_default_user() -> Result {
    let mut pods = Pods::new("redis-server", &["access.enabled=false"]).await?;
    pods.start_all()?;
    pods.ready().await?;
    let client = Client::builder(pods.url("", PASSWORD))
        .namespace("ml")
        .connect()
        .await?;
    client.lock("x")?.acquire().await?.release().await?;
    Ok(())
}
