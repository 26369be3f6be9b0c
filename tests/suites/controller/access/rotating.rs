//! Passwords change under held leases.

use std::{path::Path, time::Duration};

use tenure::{FileCredentials, Lease, Options, control::acl};
use tenure_tests::{Context, Result, ensure, eventually};

use super::{Credentials, World, client};
use crate::controller::support::SOON;

const OVERLAP: &str = "--access-overlap=12s";

/// Writes the Secret as a kubelet mounts it.
fn mount(folder: &Path, secret: &Credentials) -> Result {
    for (key, value) in secret {
        std::fs::write(folder.join(key), value)?;
    }
    Ok(())
}

/// Ends all connections of the namespace, and waits until the leases were renewed over other ones.
async fn reconnects(world: &World, user: &str, leases: &[&Lease]) -> Result {
    world.redis.cli(&["CLIENT", "KILL", "USER", user]).await?;
    for lease in leases {
        eventually("a renewal", SOON, async || Ok(lease.renew().await?)).await?;
        lease.check()?;
    }
    Ok(())
}

#[tokio::test]
async fn no_lease_is_lost_over_a_rotation_and_the_old_password_ends() -> Result {
    let world = World::start("access-rotate", 1, &[OVERLAP]).await?;
    let namespace = &world.namespaces[0];
    let first = world.grant(namespace).await?;
    let (user, folder) = (acl::tenant_user("tenure", namespace)?, tempfile::tempdir()?);
    mount(folder.path(), &first)?;
    let with_environment = client(&first).await?;
    let files =
        FileCredentials::new(folder.path().join("password")).username_file(folder.path().join("username"));
    let with_files = tenure::Client::builder(&first["uri"])
        .namespace(namespace)
        .credentials(files);
    let with_files = with_files.connect().await?;
    let keep = || Options::new().lease(Duration::from_secs(30));
    let by_environment = with_environment.lock("a")?.with(keep()).acquire().await?;
    let by_files = with_files.lock("b")?.with(keep()).acquire().await?;
    let both = [&by_environment, &by_files];

    world.rotate(namespace, "one").await?;
    let second = world.secret_that(namespace, |secret| {
        ensure!(secret["password"] != first["password"], "not yet");
        Ok(())
    });
    let second = second.await?;
    world.event(namespace, "AccessRotated").await?;
    // Each password opens Redis, and the second one from the moment at which it can be read.
    for secret in [&first, &second] {
        world.connection(secret).await?;
    }
    reconnects(&world, &user, &both).await?;
    mount(folder.path(), &second)?;
    reconnects(&world, &user, &both).await?;
    let hashes = async || -> Result<usize> {
        let line = world.acl(&["LIST"]).await?;
        let line = line
            .lines()
            .find(|line| line.contains(&user))
            .context("it is gone")?
            .to_owned();
        Ok(line.matches('#').count())
    };
    ensure!(hashes().await? == 2, "not both passwords are valid");
    eventually("the old password to end", SOON, async || {
        world.is_refused(&first).await
    })
    .await?;
    let secret = world.secret_that(namespace, |_| Ok(())).await?;
    ensure!(secret == second && hashes().await? == 1, "it was rotated again");
    let found = world.found(namespace).await?.context("it is gone")?;
    let annotations = found.metadata.annotations.unwrap_or_default();
    ensure!(
        annotations
            .get("tenure.dev/rotated-for")
            .is_some_and(|value| value == "one"),
        "{annotations:?}"
    );
    ensure!(
        !annotations.contains_key("tenure.dev/previous-passwords"),
        "{annotations:?}"
    );
    // The client with the file has followed, the other one keeps its connection.
    by_environment.renew().await?;
    reconnects(&world, &user, &[&by_files]).await?;
    ensure!(
        world.metric("tenure_access_rotations_total").await? == 1,
        "rotated more than once"
    );
    by_files.release().await?;
    Ok(())
}

#[tokio::test]
async fn several_rotations_within_one_overlap_keep_each_password_for_its_time() -> Result {
    let world = World::start("access-rotate-often", 1, &["--access-overlap=1h"]).await?;
    let namespace = &world.namespaces[0];
    let mut secrets = vec![world.grant(namespace).await?];
    for value in ["one", "two", "three"] {
        world.rotate(namespace, value).await?;
        let next = world.secret_that(namespace, |secret| {
            ensure!(
                secrets
                    .iter()
                    .all(|known| known["password"] != secret["password"]),
                "not yet"
            );
            Ok(())
        });
        secrets.push(next.await?);
    }
    for secret in &secrets {
        world.connection(secret).await?;
    }
    // The same request is answered once.
    world.rotate(namespace, "three").await?;
    ensure!(
        world.secret(namespace).await?["password"] == secrets[3]["password"],
        "rotated again"
    );
    Ok(())
}

#[tokio::test]
async fn a_password_is_replaced_at_its_age() -> Result {
    let world = World::start("access-old", 1, &["--access-max-age=6s", "--access-overlap=5s"]).await?;
    let namespace = &world.namespaces[0];
    let first = world.grant(namespace).await?;
    let next = world.secret_that(namespace, |secret| {
        ensure!(secret["password"] != first["password"], "not yet");
        Ok(())
    });
    world.connection(&next.await?).await?;
    eventually("the old password to end", SOON, async || {
        world.is_refused(&first).await
    })
    .await?;
    Ok(())
}
