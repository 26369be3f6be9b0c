//! `tenure describe`, `watch`, `drain`, `release --force` and `doctor`, with a real API server and a controller.

use serde_json::Value;
use tenure::{
    Client, Identity, Kind, ObjectRef, Options,
    control::{Capacity, Declaration},
};
use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually};

use super::{Bench, SOON, code, output, printed, text};

/// A pool of two seats, declared by a controller of its own.
struct Declared {
    bench: Bench,
    plane: &'static ControlPlane,
    _controller: Controller,
}

impl Declared {
    async fn new() -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let bench = Bench::on(Redis::shared().await?).await?;
        plane.kubectl(&["create", "namespace", &bench.namespace]).await?;
        let controller = Controller::start(plane, &bench.url, &[&bench.namespace]).await?;
        let pool = serde_json::json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool",
            "metadata": {"name": "seats", "namespace": bench.namespace},
            "spec": {"resources": [{"name": "a", "properties": {"zone": "1"}}, {"name": "b"}]},
        });
        plane.apply(&pool.to_string()).await?;
        let declared = Self {
            bench,
            plane,
            _controller: controller,
        };
        declared
            .kubectl(&["wait", "--for=condition=Ready", "lockpool/seats", "--timeout=60s"])
            .await?;
        Ok(declared)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args = [args, &["--namespace", &self.bench.namespace]].concat();
        self.plane.kubectl(&args).await
    }

    /// The output of `tenure` with Redis and the API server.
    async fn tenure(&self, args: &str) -> Result<String> {
        let ended = output(self.command(args)?).await?;
        ensure!(code(&ended)? == 0, "{args}: {ended:?}");
        Ok(text(&ended.stdout) + &text(&ended.stderr))
    }

    fn command(&self, args: &str) -> Result<std::process::Command> {
        let mut command = self.bench.tenure(args)?;
        command.env("KUBECONFIG", self.plane.kubeconfig());
        Ok(command)
    }

    /// A client that is a pod, which does not exist.
    async fn pod(&self, name: &str) -> Result<Client> {
        let mut identity = Identity::from_env();
        identity.pod = Some(name.to_owned());
        identity.namespace.clone_from(&self.bench.namespace);
        Ok(Client::builder(&self.bench.url)
            .namespace(&self.bench.namespace)
            .identity(identity)
            .connect()
            .await?)
    }
}

#[tokio::test]
async fn a_drained_resource_is_not_granted_and_its_holder_is_waited_for() -> Result {
    let declared = Declared::new().await?;
    let holder = declared.pod("holder").await?;
    let seat = holder.lock_pool("seats")?.named(["a"])?.acquire().await?;
    let drain = declared.command("drain lp/seats a --wait")?;
    let mut drain = declared.bench.start("drain", &drain)?;
    printed(
        &mut drain,
        "requested, for the controller: a of lockpool/seats is out of service",
    )
    .await?;
    eventually("the drain", SOON, async || {
        let shown = declared.tenure("describe lp/seats").await?;
        ensure!(
            shown.contains("1 of 1, and 1 of them drain") && shown.contains("Draining"),
            "{shown}"
        );
        Ok(())
    })
    .await?;
    ensure!(!drain.output()?.contains("is drained"), "{}", drain.output()?);
    seat.release().await?;
    printed(&mut drain, "is drained").await?;
    ensure!(drain.wait(SOON).await?.success(), "{}", drain.tail());
    eventually("the status", SOON, async || {
        let said = declared.tenure("drain lp/seats a").await?;
        ensure!(
            said.contains("a of lockpool/seats is already out of service"),
            "{said}"
        );
        Ok(())
    })
    .await?;
    ensure!(
        declared
            .tenure("describe lp/seats")
            .await?
            .contains("resources: a (disabled), b"),
        "describe"
    );
    declared.tenure("undrain lp/seats a").await?;
    eventually("the seat to be granted again", SOON, async || {
        let seat = holder.lock_pool("seats")?.named(["a"])?.try_acquire().await?;
        Ok(seat.context("it is held")?.release().await?)
    })
    .await?;
    let unknown = output(declared.command("drain lp/seats c")?).await?;
    ensure!(
        code(&unknown)? == 75 && text(&unknown.stderr).contains("it has a, b"),
        "{unknown:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_a_controller_nothing_is_drained_and_the_cause_is_named() -> Result {
    let Declared {
        bench,
        plane,
        _controller: controller,
    } = Declared::new().await?;
    drop(controller);
    let run = async |args: &str| {
        let mut command = bench.tenure(args)?;
        command.env("KUBECONFIG", plane.kubeconfig());
        output(command).await
    };
    let unknown = serde_json::json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool",
        "metadata": {"name": "unknown", "namespace": bench.namespace},
        "spec": {"resources": [{"name": "a", "disabled": true}]},
    });
    plane.apply(&unknown.to_string()).await?;
    let not_applied = "the controller has not applied the spec of";
    for (args, expected) in [
        ("drain lp/seats a", 0),
        ("drain lp/seats a --wait --timeout 1s", 72),
        ("drain lp/unknown a --wait --timeout 1s", 72),
    ] {
        let ended = run(args).await?;
        let is_first = expected == 0;
        ensure!(
            code(&ended)? == expected && text(&ended.stderr).contains(not_applied) != is_first,
            "{args}: {ended:?}"
        );
        ensure!(
            text(&ended.stdout).contains("requested") && !text(&ended.stdout).contains("drained"),
            "{args}: {ended:?}"
        );
    }
    for (object, problem) in [
        ("lp/seats", "has applied generation 1 of the spec, which has 2"),
        ("lp/unknown", "has not handled it"),
    ] {
        let ended = run(&format!("describe {object}")).await?;
        let shown = text(&ended.stdout);
        ensure!(
            code(&ended)? == 0 && shown.contains(problem) && shown.contains("disabled"),
            "{object}: {ended:?}"
        );
        ensure!(
            shown.contains("NotDeclared") == (object == "lp/unknown"),
            "{shown}"
        );
    }
    let ended = run("doctor").await?;
    let shown = text(&ended.stdout);
    for part in [
        "PROBLEM  lockpool/seats: the controller has applied generation 1",
        "PROBLEM  lockpool/unknown: is declared, and Redis does not have it",
        "0 of 2 are sound",
    ] {
        ensure!(code(&ended)? == 70 && shown.contains(part), "{part}: {ended:?}");
    }
    for (args, part) in [
        ("why job/typo", "has no job/typo"),
        ("why pod/typo", "has no pod/typo"),
        ("why process/vm/1", "neither holds nor waits"),
        ("watch lp/none", "is not declared"),
    ] {
        let ended = run(args).await?;
        ensure!(
            code(&ended)? == 75 && text(&ended.stderr).contains(part),
            "{args}: {ended:?}"
        );
    }
    Ok(())
}

/// Only an object that Redis does not have is described by its resource alone.
#[tokio::test]
async fn a_damaged_object_is_not_described_as_one_that_redis_does_not_have() -> Result {
    let declared = Declared::new().await?;
    let object = declared.bench.object(Kind::Pool, "seats")?;
    let key = format!("tenure:{{{object}}}:obj");
    Redis::shared().await?.cli(&["SET", &key, "no object"]).await?;
    let ended = output(declared.command("describe lp/seats")?).await?;
    let error = text(&ended.stderr);
    ensure!(
        code(&ended)? == 70 && error.contains(&key) && ended.stdout.is_empty(),
        "{ended:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_release_by_force_is_an_event_of_the_object() -> Result {
    let declared = Declared::new().await?;
    let holder = declared.pod("holder").await?;
    let seat = holder.lock_pool("seats")?.named(["b"])?.acquire().await?;
    let release = "release lp/seats --force --yes --holder holder --reason hangs";
    let said = declared.tenure(release).await?;
    ensure!(
        said.contains("the event ForcedRelease was written")
            && said.contains("1 lease of lockpool/seats was released"),
        "{said}"
    );
    let shown = declared.tenure("describe lp/seats").await?;
    for part in [
        "Ready",
        "leaseDurationSeconds: 30",
        "ForcedRelease",
        "released by force by admin: hangs",
    ] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    let json: Value = serde_json::from_str(&declared.tenure("describe lp/seats -o json").await?)?;
    ensure!(
        json["resources"][0]["properties"]["zone"] == "1" && json["events"][0]["reason"] == "ForcedRelease",
        "{json}"
    );
    drop(seat);
    // No resource declares a lock, and its holder is no pod.
    let lock = declared.bench.client.lock("by-hand")?.acquire().await?;
    let said = declared
        .tenure("release lock/by-hand --force --yes --reason hangs")
        .await?;
    ensure!(said.contains("no event was written: neither"), "{said}");
    drop(lock);
    Ok(())
}

#[tokio::test]
async fn doctor_finds_orphans_and_the_leases_of_pods_that_do_not_exist() -> Result {
    let declared = Declared::new().await?;
    let gone = declared.pod("gone").await?;
    let lease = gone.lock("x")?.acquire().await?;
    let orphan = ObjectRef::new(Kind::Semaphore, &declared.bench.namespace, "orphan")?;
    let declaration = Declaration::new(Capacity::Permits(2));
    declared
        .bench
        .client
        .control()
        .declare(&orphan, &declaration)
        .await?;
    let ended = output(declared.command("doctor")?).await?;
    let shown = text(&ended.stdout);
    ensure!(code(&ended)? == 70, "{ended:?}");
    for part in [
        "semaphore/orphan: no resource declares it any more",
        "redis-cli -u URL unlink",
        "lock/x: the pod gone holds it, and does not exist",
        "--force --holder gone",
        "1 of 3 are sound",
    ] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn changes_are_shown_as_they_happen() -> Result {
    let bench = Bench::shared().await?;
    let first = bench
        .client
        .lock("x")?
        .with(Options::new().reason("first"))
        .acquire()
        .await?;
    let command = bench.tenure("watch lock/x")?;
    let mut watch = bench.start("watch", &command)?;
    printed(&mut watch, "lock/x: Busy, 1 of 1 held, 0 waiting").await?;
    let lock = bench.client.lock("x")?.with(Options::new().reason("second"));
    let waiter = tokio::spawn(async move { lock.acquire().await });
    printed(&mut watch, "waits for lock/x, at position 1: second").await?;
    first.release().await?;
    let second = waiter.await??;
    printed(&mut watch, "holds lock/x no longer").await?;
    printed(&mut watch, "holds lock/x: second").await?;
    second.release().await?;
    printed(&mut watch, "lock/x: Free").await?;
    Ok(())
}
