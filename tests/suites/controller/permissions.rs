//! The controller needs the permissions that its documentation lists, and no others.

use std::{fs, process::Command};

use kube::config::Kubeconfig;
use tenure_crds::Semaphore;
use tenure_tests::{
    Context, ControlPlane, Process, Redis, Result, binaries, ensure, eventually,
    process::{folder, unique},
};

use super::support::{SOON, expect};

/// The table at the head of `controller/src/main.rs`.
const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: controller, namespace: NAMESPACE}
rules:
- {apiGroups: [tenure.dev], resources: [lockpools, semaphores], verbs: [list, watch, patch]}
- {apiGroups: [tenure.dev], resources: [lockpools/status, semaphores/status], verbs: [patch]}
- {apiGroups: [''], resources: [pods], verbs: [list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [epoch], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: controller, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: controller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: epoch, namespace: NAMESPACE}
---
apiVersion: tenure.dev/v1alpha1
kind: Semaphore
metadata: {name: calls, namespace: NAMESPACE}
spec: {permits: 3, leaseDurationSeconds: 1}
";

#[tokio::test]
async fn a_whole_life_of_an_object_takes_no_more_than_the_listed_permissions() -> Result {
    let plane = ControlPlane::shared().await?;
    let (namespace, user, redis) = (
        plane.namespace("permissions").await?,
        unique("user"),
        Redis::start().await?,
    );
    plane
        .apply(&ROLE.replace("NAMESPACE", &namespace).replace("USER", &user))
        .await?;

    let mut config = Kubeconfig::read_from(plane.kubeconfig())?;
    for auth in config
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        auth.impersonate = Some(user.clone());
    }
    let folder = folder("permissions")?;
    let kubeconfig = folder.join("kubeconfig");
    fs::write(&kubeconfig, serde_json::to_string(&config)?)?;
    let mut command = Command::new(binaries::find("tenure-controller")?);
    command
        .env("KUBECONFIG", kubeconfig)
        .args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--redis-url", &redis.url(), "--watch-namespaces", &namespace]);
    command.args(["--epoch-record", &format!("{namespace}/epoch")]);
    let controller = Process::spawn("tenure-controller", &folder, &command)?;

    let api = kube::Api::<Semaphore>::namespaced(plane.client().await?, &namespace);
    let ready = eventually("the semaphore to be ready", SOON, async || {
        expect(&api.get("calls").await?, "Ready", "True", "Synced")
    });
    ready.await.with_context(|| controller.tail())?;
    // A loss of data, which the record of epochs is for.
    redis.cli(&["FLUSHALL"]).await?;
    let client = tenure::Client::builder(redis.url())
        .namespace(&namespace)
        .connect()
        .await?;
    client.semaphore("calls")?.acquire().await?.release().await?;
    let written = eventually("the record of epochs", SOON, async || {
        let path = "jsonpath={.data.open}";
        let found = plane
            .kubectl(&["-n", &namespace, "get", "configmap", "epoch", "-o", path])
            .await?;
        ensure!(found.trim() == "false", "{found:?}");
        Ok(())
    });
    written.await.with_context(|| controller.tail())?;
    let in_namespace = ["-n", &namespace];
    plane
        .kubectl(
            &[
                &in_namespace[..],
                &["delete", "--wait=false", "semaphore", "calls"],
            ]
            .concat(),
        )
        .await?;
    let gone = eventually("the semaphore to be gone", SOON, async || {
        ensure!(api.get_opt("calls").await?.is_none(), "it is there");
        Ok(())
    });
    gone.await.with_context(|| controller.tail())?;
    let told = eventually("the event", SOON, async || {
        let events = plane
            .kubectl(&[&in_namespace[..], &["get", "events", "-o", "name"]].concat())
            .await?;
        ensure!(events.contains("calls"), "{events:?}");
        Ok(())
    });
    told.await.with_context(|| controller.tail())?;
    let log = controller.log()?;
    ensure!(
        !log.contains("forbidden") && !log.contains("\"WARN\"") && !log.contains("\"ERROR\""),
        "{log}"
    );
    Ok(())
}
