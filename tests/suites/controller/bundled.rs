//! The Secrets of the Redis that the chart runs: the password of the controller's own user, and the certificate of the server.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tenure::{Options, control::acl};
use tenure_tests::{
    Context, ControlPlane, Controller, Redis, Result, ensure, eventually, process::free_port,
    redis::Persistence,
};

use super::support::SOON;

const NAME: &str = "tenure-redis";

/// A namespace with an empty Secret, as the chart makes it.
struct World {
    plane: &'static ControlPlane,
    kube: Client,
    namespace: String,
}

impl World {
    async fn new(test: &str) -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let world = Self {
            plane,
            kube: plane.client().await?,
            namespace: plane.namespace(test).await?,
        };
        world.kubectl(&["create", "secret", "generic", NAME]).await?;
        Ok(world)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let all = [&["--namespace", &self.namespace], args].concat();
        self.plane.kubectl(&all).await
    }

    /// Changes the Secret.
    async fn patch(&self, fields: &str) -> Result {
        let args = ["patch", "secret", NAME, "--patch", fields];
        self.kubectl(&args).await.map(drop)
    }

    /// Starts a controller for the Redis at this port.
    async fn controller(&self, port: u16, args: &[&str]) -> Result<Controller> {
        let url = format!("redis://127.0.0.1:{port}");
        let secret = format!("{}/{NAME}", self.namespace);
        let own = [
            "--redis-url",
            &url,
            "--redis-username",
            "controller",
            "--redis-secret",
            &secret,
            "--watch-namespaces",
            &self.namespace,
        ];
        Controller::start_with(self.plane, &[&own[..], args].concat()).await
    }

    async fn secret(&self) -> Result<BTreeMap<String, String>> {
        let secret = Api::<Secret>::namespaced(self.kube.clone(), &self.namespace)
            .get(NAME)
            .await?;
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, value)| Ok((key, String::from_utf8(value.0)?)))
            .collect()
    }

    /// Waits for the password, which a controller makes before there is a Redis.
    async fn first_password(&self) -> Result<String> {
        let port = free_port()?;
        let controllers = [
            self.controller(port, &[]).await?,
            self.controller(port, &[]).await?,
        ];
        eventually("a password", SOON, async || {
            let secret = self.secret().await?;
            Ok(secret.get("password").context("there is none")?.clone())
        })
        .await
        .with_context(|| controllers[0].logs().unwrap_or_default())
    }

    async fn rotate(&self, value: &str) -> Result {
        let annotation = format!("tenure.dev/rotate={value}");
        self.kubectl(&["annotate", "secret", NAME, "--overwrite", &annotation])
            .await
            .map(drop)
    }

    /// Waits until the Secret is as `check` wants it.
    async fn until(&self, what: &str, check: impl Fn(&BTreeMap<String, String>) -> bool) -> Result {
        eventually(what, SOON, async || {
            let secret = self.secret().await?;
            ensure!(check(&secret), "not yet");
            Ok(())
        })
        .await
    }
}

/// A Redis with the controller's user, as the pod of the chart starts it from the Secret.
async fn redis(password: &str) -> Result<Redis> {
    let password = format!(">{password}");
    let own = ["+client|id", "+client|kill"].map(str::to_owned);
    let rules = [&acl::controller_rules("tenure")?, &acl::access_rules(), &own[..]].concat();
    let rules = rules.iter().map(String::as_str);
    let user: Vec<&str> = ["--user", "controller", "on", &password]
        .into_iter()
        .chain(rules)
        .collect();
    Redis::builder()
        .persistence(Persistence::Aof)
        .args(&user)
        .start()
        .await
}

/// Passwords that open the user in Redis.
async fn opens(redis: &Redis, password: &str) -> Result<bool> {
    let answer = redis.cli(&["AUTH", "controller", password]).await;
    match answer {
        Ok(answer) => Ok(answer.trim() == "OK"),
        Err(error) if format!("{error:#}").contains("WRONGPASS") => Ok(false),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn two_controllers_make_one_password_and_a_controller_connects_with_it() -> Result {
    let world = World::new("bundled-make").await?;
    let password = world.first_password().await?;
    ensure!(password.len() == 64, "{password}");
    let redis = redis(&password).await?;
    let controller = world.controller(redis.port(), &[]).await?;
    controller.until_ready(SOON).await?;
    ensure!(
        world.secret().await? == BTreeMap::from([("password".to_owned(), password.clone())]),
        "it changed"
    );
    ensure!(
        !controller.logs()?.contains(&password),
        "the log has the password"
    );
    Ok(())
}

#[tokio::test]
async fn a_rotation_leaves_no_moment_in_which_controller_or_redis_lacks_a_password() -> Result {
    let world = World::new("bundled-rotate").await?;
    let first = world.first_password().await?;
    let mut redis = redis(&first).await?;
    let mut controllers = [
        world.controller(redis.port(), &["--access-overlap=12s"]).await?,
        world.controller(redis.port(), &["--access-overlap=12s"]).await?,
    ];
    for controller in &controllers {
        controller.until_ready(SOON).await?;
    }
    let client = tenure::Client::builder(redis.url())
        .namespace(&world.namespace)
        .connect()
        .await?;
    let options = Options::new().lease(Duration::from_secs(30));
    let lease = client.lock("held")?.with(options).acquire().await?;

    world.rotate("one").await?;
    world
        .until("the rotation", |secret| secret["password"] != first)
        .await?;
    let second = world.secret().await?;
    ensure!(second["previous-password"] == first, "the first password is gone");
    for password in [&first, &second["password"]] {
        ensure!(opens(&redis, password).await?, "it does not open Redis");
    }
    // A controller that starts, and a Redis that starts from the Secret as it was before.
    controllers[0].kill9()?;
    controllers[0] = world.controller(redis.port(), &["--access-overlap=12s"]).await?;
    controllers[0].until_ready(SOON).await?;
    redis.stop().await?;
    redis.start_again().await?;
    eventually("Redis to have the new password", SOON, async || {
        ensure!(
            opens(&redis, &second["password"]).await?,
            "it does not open Redis"
        );
        Ok(())
    })
    .await
    .with_context(|| controllers[0].logs().unwrap_or_default())?;
    for controller in &controllers {
        controller.until_ready(SOON).await?;
    }
    eventually("the first password to end", SOON, async || {
        ensure!(!opens(&redis, &first).await?, "it opens Redis");
        Ok(())
    })
    .await?;
    // Redis loses it first.
    let alone = BTreeMap::from([("password".to_owned(), second["password"].clone())]);
    world
        .until("the Secret with the new password alone", |secret| {
            *secret == alone
        })
        .await?;
    redis.cli(&["CLIENT", "KILL", "USER", "controller"]).await?;
    for controller in &controllers {
        controller.until_ready(SOON).await?;
    }
    lease.check()?;
    lease.release().await?;
    Ok(())
}

/// Helm removes data that it has rendered once, and an administrator may do so too.
#[tokio::test]
async fn a_secret_that_loses_its_password_gets_another_one_beside_the_one_in_use() -> Result {
    let world = World::new("bundled-emptied").await?;
    let first = world.first_password().await?;
    let redis = redis(&first).await?;
    let controller = world.controller(redis.port(), &[]).await?;
    controller.until_ready(SOON).await?;
    world.patch("data: null").await?;
    world
        .until("another password", |secret| {
            secret.get("password").is_some_and(|password| *password != first)
        })
        .await
        .with_context(|| controller.logs().unwrap_or_default())?;
    let second = world.secret().await?;
    for password in [&first, &second["password"]] {
        ensure!(opens(&redis, password).await?, "it does not open Redis");
    }
    controller.until_ready(SOON).await
}

/// As with `redis.auth.existingSecret`.
#[tokio::test]
async fn a_password_that_its_owner_replaces_is_given_to_redis() -> Result {
    let world = World::new("bundled-theirs").await?;
    world.patch("stringData: {password: one}").await?;
    let redis = redis("one").await?;
    let controller = world.controller(redis.port(), &[]).await?;
    controller.until_ready(SOON).await?;
    let both = "stringData: {password: two, previous-password: one}";
    world.patch(both).await?;
    eventually("both passwords", SOON, async || {
        ensure!(
            opens(&redis, "one").await? && opens(&redis, "two").await?,
            "not yet"
        );
        Ok(())
    })
    .await?;
    world.patch("data: {previous-password: null}").await?;
    eventually("the first password to end", SOON, async || {
        ensure!(!opens(&redis, "one").await?, "it opens Redis");
        Ok(())
    })
    .await?;
    controller.until_ready(SOON).await
}

#[tokio::test]
async fn a_password_that_redis_does_not_take_keeps_the_controller_from_being_ready() -> Result {
    let world = World::new("bundled-wrong").await?;
    world.patch("stringData: {password: wrong}").await?;
    let redis = redis("right").await?;
    let controller = world.controller(redis.port(), &[]).await?;
    eventually("the denial to show", SOON, async || {
        let (code, text) = controller.get("/readyz").await?;
        ensure!(code == 503 && text.contains("WRONGPASS"), "{code} {text}");
        Ok(())
    })
    .await?;
    world.patch("stringData: {password: right}").await?;
    controller.until_ready(SOON).await
}

#[tokio::test]
async fn the_servers_get_a_password_of_their_own_once() -> Result {
    const NODE: &str = "tenure-redis-node";
    let (world, port) = (World::new("nodes").await?, free_port()?);
    world.kubectl(&["create", "secret", "generic", NODE]).await?;
    let place = format!("{}/{NODE}", world.namespace);
    let args = ["--redis-node-secret", &place];
    let shown = async || -> Result<String> {
        let path = "jsonpath={.data.node-password}";
        world.kubectl(&["get", "secret", NODE, "--output", path]).await
    };
    let _both = [
        world.controller(port, &args).await?,
        world.controller(port, &args).await?,
    ];
    let first = eventually("a password", SOON, async || {
        let shown = shown().await?;
        ensure!(
            shown.len() == 88,
            "64 digits have 88 characters in base64: {shown}"
        );
        Ok(shown)
    })
    .await?;
    let third = world.controller(port, &args).await?;
    eventually("the third controller to have seen it", SOON, async || {
        let (_, body) = third.get("/readyz?verbose").await?;
        ensure!(body.contains("\"redis node password\":{\"ok\":true"), "{body}");
        Ok(())
    })
    .await?;
    ensure!(shown().await? == first, "it was replaced");
    Ok(())
}
