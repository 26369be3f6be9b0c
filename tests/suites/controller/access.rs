//! A Redis user for each namespace that is allowed, whose credentials the controller keeps in a Secret `tenure-access`.
//!
//! The controller of each test has a Redis user with the documented rights and no more. The administrator of the tests is the
//! default user.
//!
//! | module | what it shows |
//! |---|---|
//! | [`granting`] | the namespaces that get access, its extent, and the contents of the Secret |
//! | [`ending`] | the end of the permission ends users, connections and Secrets within five seconds |
//! | [`losing`] | users that Redis has lost are made again, and leases stay |
//! | [`rotating`] | passwords change under held leases |
//! | [`pods`] | programs that have nothing but the Secret |
//! | [`together`] | two controllers agree on one password |
//! | [`everywhere`] | each server of a cluster, and behind Sentinels, has the users |

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tenure::control::acl;
use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually};

use super::support::SOON;

mod ending;
mod everywhere;
mod granting;
mod losing;
mod pods;
mod rotating;
mod together;

/// The name of the Secret.
const NAME: &str = "tenure-access";
/// The limit for the end of a permission.
const END: Duration = Duration::from_secs(5);

/// Redis, a controller with access on, and namespaces of the test's own.
struct World<R = Redis> {
    plane: &'static ControlPlane,
    kube: Client,
    redis: R,
    url: String,
    namespaces: Vec<String>,
    args: Vec<String>,
    controller: Controller,
}

/// The rights of the controller's user, as arguments of a server.
fn controller_user() -> Result<Vec<String>> {
    let head = ["--user", "controller", "on", ">secret"].map(str::to_owned);
    let own = ["+client|id", "+client|kill"].map(str::to_owned);
    Ok([
        &head[..],
        &acl::controller_rules("tenure")?,
        &acl::access_rules(),
        &own,
    ]
    .concat())
}

/// A Redis that has the controller's user after each start.
fn redis() -> Result<tenure_tests::redis::Builder> {
    let user = controller_user()?;
    let user: Vec<&str> = user.iter().map(String::as_str).collect();
    Ok(Redis::builder().args(&user))
}

fn url_of_controller(redis: &Redis) -> String {
    format!("redis://controller:secret@127.0.0.1:{}", redis.port())
}

impl World {
    /// With so many namespaces, of which none is labelled.
    async fn start(test: &str, namespaces: usize, args: &[&str]) -> Result<Self> {
        let redis = redis()?.start().await?;
        let url = url_of_controller(&redis);
        Self::at(test, redis, url, namespaces, args).await
    }

    /// An answer of Redis to its administrator.
    async fn acl(&self, words: &[&str]) -> Result<String> {
        self.redis.cli(&[&["ACL"], words].concat()).await
    }

    /// A connection with the credentials of a Secret.
    async fn connection(&self, secret: &Credentials) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(&*secret["TENURE_REDIS_URL"])?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// Redis refuses the credentials.
    async fn is_refused(&self, secret: &Credentials) -> Result {
        match self.connection(secret).await {
            Ok(_) => tenure_tests::bail!("{} is let in", secret["username"]),
            Err(error) => ensure!(
                format!("{error:#}").contains("AuthenticationFailed")
                    || format!("{error:#}").contains("WRONGPASS"),
                "{error:#}"
            ),
        }
        Ok(())
    }
}

/// The values of a Secret.
type Credentials = BTreeMap<String, String>;

impl<R> World<R> {
    async fn at(test: &str, redis: R, url: String, namespaces: usize, args: &[&str]) -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let mut made = Vec::new();
        for _ in 0..namespaces {
            made.push(plane.namespace(test).await?);
        }
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let controller = start(plane, &url, &made, &args).await?;
        let world = Self {
            plane,
            kube: plane.client().await?,
            redis,
            url,
            namespaces: made,
            args,
            controller,
        };
        world.ready().await?;
        Ok(world)
    }

    async fn ready(&self) -> Result {
        self.controller.until_ready(SOON).await
    }

    /// One more controller with the same settings.
    async fn another_controller(&self) -> Result<Controller> {
        start(self.plane, &self.url, &self.namespaces, &self.args).await
    }

    /// Sets or changes the label of a namespace; `None` removes it.
    async fn label(&self, namespace: &str, value: Option<&str>) -> Result {
        let label = value.map_or_else(
            || "tenure.dev/access-".to_owned(),
            |value| format!("tenure.dev/access={value}"),
        );
        let args = ["label", "namespace", namespace, "--overwrite", &label];
        self.plane.kubectl(&args).await.map(drop)
    }

    /// Asks for a rotation by a new value of the annotation.
    async fn rotate(&self, namespace: &str, value: &str) -> Result {
        let annotation = format!("tenure.dev/rotate={value}");
        let args = [
            "-n",
            namespace,
            "annotate",
            "secret",
            NAME,
            "--overwrite",
            &annotation,
        ];
        self.plane.kubectl(&args).await.map(drop)
    }

    async fn found(&self, namespace: &str) -> Result<Option<Secret>> {
        Ok(Api::<Secret>::namespaced(self.kube.clone(), namespace)
            .get_opt(NAME)
            .await?)
    }

    /// Labels a namespace, and waits for its Secret.
    async fn grant(&self, namespace: &str) -> Result<Credentials> {
        self.label(namespace, Some("true")).await?;
        self.secret(namespace).await
    }

    /// Waits for the Secret of a namespace.
    async fn secret(&self, namespace: &str) -> Result<Credentials> {
        self.secret_that(namespace, |_| Ok(())).await
    }

    /// Waits for a Secret that is as `check` wants it.
    async fn secret_that(
        &self,
        namespace: &str,
        check: impl Fn(&Credentials) -> Result,
    ) -> Result<Credentials> {
        eventually("the Secret", SOON, async || {
            let secret = self.found(namespace).await?.context("there is none")?;
            let values = values(&secret)?;
            check(&values)?;
            Ok(values)
        })
        .await
        .with_context(|| self.controller.logs().unwrap_or_default())
    }

    async fn no_secret(&self, namespace: &str, within: Duration) -> Result {
        eventually("the Secret to be gone", within, async || {
            ensure!(self.found(namespace).await?.is_none(), "it is there");
            Ok(())
        })
        .await
        .with_context(|| self.controller.logs().unwrap_or_default())
    }

    /// Waits for an event about the Secret of a namespace, and returns its note.
    async fn event(&self, namespace: &str, reason: &str) -> Result<String> {
        eventually(&format!("an event {reason}"), SOON, async || {
            let selector = format!("reason={reason},involvedObject.name={NAME}");
            let args = ["-n", namespace, "get", "events", "--field-selector", &selector];
            let path = ["-o", "jsonpath={.items[*].message}"];
            let notes = self.plane.kubectl(&[&args[..], &path].concat()).await?;
            ensure!(!notes.trim().is_empty(), "there is none");
            Ok(notes)
        })
        .await
    }

    async fn metric(&self, series: &str) -> Result<u64> {
        metric(&self.controller, series).await
    }
}

/// A counter of a controller, 0 if it has not counted yet.
async fn metric(controller: &Controller, series: &str) -> Result<u64> {
    let found = super::support::metric(controller, series).await?;
    Ok(found.unwrap_or_default().to_string().parse()?)
}

async fn start(
    plane: &ControlPlane,
    url: &str,
    namespaces: &[String],
    args: &[String],
) -> Result<Controller> {
    let watched = namespaces.join(",");
    let own = ["--redis-url", url, "--watch-namespaces", &watched, "--access"];
    let args: Vec<&str> = own.into_iter().chain(args.iter().map(String::as_str)).collect();
    Controller::start_with(plane, &args).await
}

fn values(secret: &Secret) -> Result<Credentials> {
    let data = secret.data.clone().unwrap_or_default();
    data.into_iter()
        .map(|(key, value)| Ok((key, String::from_utf8(value.0)?)))
        .collect()
}

/// A client of a pod that has the values of the Secret in its environment.
async fn client(secret: &Credentials) -> Result<tenure::Client> {
    let builder = tenure::Client::builder(&secret["TENURE_REDIS_URL"])
        .key_prefix(&secret["TENURE_REDIS_KEY_PREFIX"])
        .namespace(&secret["TENURE_NAMESPACE"]);
    Ok(builder.connect().await?)
}

/// A pod with the values of the Secret holds a lock, and releases it.
async fn holds(secret: &Credentials, lock: &str) -> Result {
    client(secret)
        .await?
        .lock(lock)?
        .acquire()
        .await?
        .release()
        .await?;
    Ok(())
}
