//! Two controllers agree on one password.

use tenure_tests::{Result, ensure, eventually};

use super::{World, holds, metric};
use crate::controller::support::SOON;

#[tokio::test]
async fn two_controllers_agree_on_each_password() -> Result {
    let mut world = World::start("access-two", 6, &["--access-overlap=6s"]).await?;
    let other = world.another_controller().await?;
    other.until_ready(SOON).await?;
    let writes = async |world: &World| -> Result<u64> {
        let series = "tenure_access_secret_writes_total";
        Ok(world.metric(series).await? + metric(&other, series).await?)
    };
    let names: Vec<&str> = world.namespaces.iter().map(String::as_str).collect();
    let label = [&["label", "namespace"][..], &names, &["tenure.dev/access=true"]].concat();
    world.plane.kubectl(&label).await?;
    let mut secrets = Vec::new();
    for namespace in &world.namespaces {
        secrets.push(world.secret(namespace).await?);
    }
    for secret in &secrets {
        holds(secret, "x").await?;
    }
    ensure!(
        writes(&world).await? == 6,
        "{} writes of six Secrets",
        writes(&world).await?
    );
    for namespace in &world.namespaces {
        world.rotate(namespace, "now").await?;
    }
    let mut rotated = Vec::new();
    for (namespace, first) in world.namespaces.iter().zip(&secrets) {
        let next = world.secret_that(namespace, |secret| {
            ensure!(secret["password"] != first["password"], "not yet");
            Ok(())
        });
        rotated.push(next.await?);
    }
    for secret in rotated.iter().chain(&secrets) {
        world.connection(secret).await?;
    }
    for secret in &secrets {
        eventually("the old password to end", SOON, async || {
            world.is_refused(secret).await
        })
        .await?;
    }
    for (namespace, secret) in world.namespaces.iter().zip(&rotated) {
        ensure!(
            world.secret(namespace).await? == *secret,
            "{namespace} was rotated twice"
        );
        world.connection(secret).await?;
    }
    // Each Secret was made, rotated, and lost its old password.
    ensure!(
        writes(&world).await? <= 18,
        "{} writes of six Secrets",
        writes(&world).await?
    );

    // Either of them may go.
    world.controller.kill9()?;
    let namespace = world.namespaces[0].clone();
    world.label(&namespace, None).await?;
    world.no_secret(&namespace, super::END).await?;
    world.grant(&namespace).await.map(drop)
}
