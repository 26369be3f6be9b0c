//! Programs that have nothing but the Secret: as environment variables (`envFrom`), or mounted.

use std::{path::Path, process::Command, time::Duration};

use tenure::{Client, control::acl};
use tenure_tests::{
    Context, Process, Result, binaries, ensure, eventually,
    process::folder,
    tls::{self, Authority},
};

use super::{Credentials, World, controller_user};
use crate::controller::support::{SOON, file};

/// The example worker, which takes a lock, with no other setting than these.
fn worker(name: &str, set: impl FnOnce(&mut Command)) -> Result<Process> {
    let mut command = Command::new(binaries::find("tenure-worker")?);
    command.args(["lock", "x", "--hold-ms", "50"]).env_clear();
    // As the downward API gives them.
    command
        .env("POD_NAME", name)
        .env("POD_UID", format!("uid of {name}"));
    set(&mut command);
    Process::spawn(name, &folder(name)?, &command)
}

async fn done(mut worker: Process) -> Result<String> {
    let status = worker.wait(SOON).await?;
    let output = worker.output()?;
    ensure!(
        status.success() && output.contains("released"),
        "{output}{}",
        worker.tail()
    );
    Ok(output)
}

/// Writes the Secret as a kubelet mounts it.
fn mount(root: &Path, secret: &Credentials) -> Result {
    let folder = root.join("tenure");
    std::fs::create_dir_all(&folder)?;
    for (key, value) in secret {
        std::fs::write(folder.join(key), value)?;
    }
    Ok(())
}

/// Runs the worker in each way.
async fn each_way_works(secret: &Credentials) -> Result {
    let by_environment = worker("by-environment", |command| {
        // A kubelet leaves a key out that is no name of a variable.
        let variables = secret.iter().filter(|(key, _)| !key.contains('.'));
        command.envs(variables);
    })?;
    done(by_environment).await?;
    let root = tempfile::tempdir()?;
    mount(root.path(), secret)?;
    let mounted = worker("mounted", |command| {
        command.env("SERVICE_BINDING_ROOT", root.path());
    })?;
    done(mounted).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_needs_nothing_but_its_secret() -> Result {
    let world = World::start("access-pods", 1, &[]).await?;
    let namespace = &world.namespaces[0];
    let secret = world.grant(namespace).await?;
    each_way_works(&secret).await?;
    let holder = super::client(&secret).await?;
    let gate = holder.lock("x")?.acquire().await?;
    let waits = worker("waits", |command| {
        command.envs(secret.iter());
    })?;
    eventually("the worker to wait", SOON, async || {
        let seen = holder
            .control()
            .look(gate.object(), 1)
            .await?
            .context("it is gone")?;
        let waiter = seen.waiters.first().context("none waits")?;
        ensure!(waiter.holder.pod.as_deref() == Some("waits"), "{waiter:?}");
        Ok(())
    })
    .await
    .with_context(|| waits.tail())?;
    gate.release().await?;
    done(waits).await.map(drop)
}

#[tokio::test]
async fn with_tls_the_secret_has_the_authorities() -> Result {
    let authority = Authority::new()?;
    let (redis, port) = tls::redis(&authority).await?;
    // Tenants have no certificate to show.
    redis.cli(&["CONFIG", "SET", "tls-auth-clients", "no"]).await?;
    let user = controller_user()?;
    let user: Vec<&str> = user.iter().skip(1).map(String::as_str).collect();
    redis.cli(&[&["ACL", "SETUSER"][..], &user].concat()).await?;
    let (ca_file, ca) = file(&authority.pem())?;
    let url = format!("rediss://controller:secret@localhost:{port}");
    let world = World::at("access-tls", redis, url, 1, &["--redis-ca-file", &ca]).await?;
    let namespace = &world.namespaces[0];
    let secret = world.grant(namespace).await?;
    ensure!(
        secret["ca.crt"] == authority.pem() && secret["TENURE_REDIS_CA"] == authority.pem(),
        "another one"
    );
    ensure!(
        secret["uri"].starts_with("rediss://"),
        "{}",
        acl::tenant_user("tenure", namespace)?
    );
    each_way_works(&secret).await?;
    let client = Client::builder(&secret["uri"])
        .namespace(namespace)
        .connect_timeout(Duration::from_millis(500));
    ensure!(
        client.connect().await.is_err(),
        "the authority is trusted without it"
    );

    // The Secret follows the file.
    let both = format!("{}{}", authority.pem(), Authority::new()?.pem());
    std::fs::write(ca_file.path(), &both)?;
    let changed = world.secret_that(namespace, |secret| {
        ensure!(secret["ca.crt"] == both, "not yet");
        Ok(())
    });
    ensure!(
        changed.await?["password"] == secret["password"],
        "another password"
    );
    Ok(())
}
