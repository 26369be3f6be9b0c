//! `/readyz` is red within a bounded time after the controller cannot work any more, has the reason and the fix, and is green again by
//! itself; `/livez` stays green, because a restart would not help.

use std::time::Duration;

use tenure_tests::{Context, ControlPlane, Controller, Redis, Result, ensure, eventually, process::unique};

use super::support::World;

/// The bound that `controller/src/http.rs` promises.
const WITHIN: Duration = Duration::from_secs(30);

/// Waits until `/readyz` is green, or red with these words. `/livez` is green.
async fn until_readyz(controller: &Controller, code: u16, words: &[&str]) -> Result {
    let what = format!("/readyz to be {code}");
    let turned = eventually(&what, WITHIN, async || {
        let (found, text) = controller.get("/readyz").await?;
        ensure!(found == code, "{found}: {text}");
        let missing = words.iter().find(|word| !text.contains(**word));
        ensure!(missing.is_none(), "{missing:?} is missing: {text}");
        for dump in ["Status {", "ErrorResponse", "Some("] {
            ensure!(!text.contains(dump), "it shows the structure of an error: {text}");
        }
        Ok(())
    });
    turned
        .await
        .with_context(|| controller.logs().unwrap_or_default())?;
    let (code, text) = controller.get("/livez").await?;
    ensure!(code == 200, "/livez: {code}: {text}");
    Ok(())
}

/// The lines of the log that have this text.
fn logged(controller: &Controller, text: &str) -> Result<usize> {
    Ok(controller
        .logs()?
        .lines()
        .filter(|line| line.contains(text))
        .count())
}

const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: USER, namespace: NAMESPACE}
rules:
- {apiGroups: [tenure.dev], resources: [lockpools, semaphores], verbs: [list, watch, patch]}
- {apiGroups: [tenure.dev], resources: [lockpools/status, semaphores/status], verbs: [patch]}
- {apiGroups: [''], resources: [pods], verbs: [list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: USER, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: USER}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
";

#[tokio::test]
async fn a_removed_permission_turns_readyz_red_although_the_watches_run_on() -> Result {
    let plane = ControlPlane::shared().await?;
    let (namespace, user) = (plane.namespace("health-rights").await?, unique("user"));
    let role = ROLE.replace("USER", &user).replace("NAMESPACE", &namespace);
    plane.apply(&role).await?;
    let redis = Redis::start().await?;
    let url = redis.url();
    let args = ["--redis-url", &url, "--watch-namespaces", &namespace];
    let controller = Controller::start_as(plane, &user, &args).await?;
    until_readyz(&controller, 200, &[]).await?;

    plane
        .kubectl(&["-n", &namespace, "delete", "rolebinding", &user])
        .await?;
    let words = [
        "watch lockpools",
        "watch semaphores",
        "cannot list resource \"pods\"",
        "grant the controller the rights of its role again",
    ];
    until_readyz(&controller, 503, &words).await?;
    plane.apply(&role).await?;
    until_readyz(&controller, 200, &[]).await
}

#[tokio::test]
async fn a_frozen_api_server_and_missing_definitions_turn_readyz_red() -> Result {
    let plane = ControlPlane::start_without_definitions().await?;
    plane.install_definitions().await?;
    let redis = Redis::start().await?;
    let controller = Controller::start_with(&plane, &["--redis-url", &redis.url()]).await?;
    until_readyz(&controller, 200, &[]).await?;

    plane.pause()?;
    let red = until_readyz(
        &controller,
        503,
        &["the API server does not answer", "check whether it runs"],
    )
    .await;
    plane.resume()?;
    red?;
    until_readyz(&controller, 200, &[]).await?;

    plane
        .kubectl(&["delete", "customresourcedefinition", "lockpools.tenure.dev"])
        .await?;
    let missing = "lockpools are not installed: apply Tenure's custom resource definitions";
    until_readyz(&controller, 503, &[missing]).await?;
    // The watch tries again meanwhile.
    tokio::time::sleep(Duration::from_secs(10)).await;
    ensure!(logged(&controller, missing)? == 1, "{}", controller.logs()?);
    for dump in ["404 page not found", "Failed to parse error data"] {
        ensure!(logged(&controller, dump)? == 0, "{}", controller.logs()?);
    }
    plane.install_definitions().await?;
    until_readyz(&controller, 200, &[]).await
}

#[tokio::test]
async fn reduced_rights_in_redis_turn_readyz_red_although_the_connection_stands() -> Result {
    let world = World::new("health-denied").await?;
    until_readyz(&world.controller, 200, &[]).await?;
    world
        .redis
        .cli(&["ACL", "SETUSER", "default", "-evalsha"])
        .await?;
    until_readyz(&world.controller, 503, &["redis: ", "evalsha"]).await?;
    world.until_metric("tenure_redis_connected", 0.0).await?;
    world
        .redis
        .cli(&["ACL", "SETUSER", "default", "+evalsha"])
        .await?;
    until_readyz(&world.controller, 200, &[]).await?;
    world.until_metric("tenure_redis_connected", 1.0).await
}
