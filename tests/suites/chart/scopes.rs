//! `watchNamespaces`: an installation without any object of the cluster, with which the controller does all of its work.

use std::{fs, process::Command, time::Duration};

use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tenure_tests::{
    Context, ControlPlane, Process, Redis, Result, binaries, ensure, eventually, process::folder,
};

use super::{mode_file, objects, render};

const SOON: Duration = Duration::from_secs(30);
/// Kinds that need rights in the whole cluster, of those that the chart has.
const OF_THE_CLUSTER: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];

#[tokio::test]
async fn each_watched_namespace_has_the_rules_of_the_cluster_role() -> Result {
    let everywhere = objects(&render(&mode_file("default"), &[]).await?)?;
    let cluster_role = everywhere
        .iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "tenure-controller");
    let rules = &cluster_role.context("no ClusterRole")?["rules"];
    let watched = objects(&render(&mode_file("watched"), &[]).await?)?;
    let in_namespaces: Vec<&Value> = watched
        .iter()
        .filter(|object| object["kind"] == "Role" && object["metadata"]["name"] == "tenure-watched")
        .collect();
    let namespaces: Vec<&Value> = in_namespaces
        .iter()
        .map(|role| &role["metadata"]["namespace"])
        .collect();
    assert_eq!(namespaces, ["default", "kube-public"]);
    assert!(in_namespaces.iter().all(|role| role["rules"] == *rules));
    let kinds = watched.iter().filter_map(|object| object["kind"].as_str());
    let of_the_cluster: Vec<&str> = kinds.filter(|kind| OF_THE_CLUSTER.contains(kind)).collect();
    ensure!(of_the_cluster.is_empty(), "{of_the_cluster:?}");
    Ok(())
}

/// The controller reports problems of the Secret of its Redis, whose namespace need not be watched.
#[tokio::test]
async fn the_controller_may_publish_events_about_its_own_secrets() -> Result {
    let args = ["--namespace", "kube-system"];
    let rendered = objects(&render(&mode_file("watched"), &args).await?)?;
    let found = rendered
        .iter()
        .find(|object| object["kind"] == "Role" && object["metadata"]["namespace"] == "kube-system");
    let rules = found.context("no Role")?["rules"]
        .as_array()
        .context("no rules")?;
    let events = rules.iter().find(|rule| rule["resources"] == json!(["events"]));
    let events = events.context("no right to events")?;
    assert_eq!(events["apiGroups"], json!(["events.k8s.io"]));
    assert_eq!(events["verbs"], json!(["create", "patch"]));
    Ok(())
}

#[tokio::test]
async fn the_test_is_left_out_where_the_controller_would_not_declare_its_semaphore() -> Result {
    for (namespace, tests) in [("default", 1), ("kube-system", 0)] {
        let rendered = objects(&render(&mode_file("watched"), &["--namespace", namespace]).await?)?;
        let pods = rendered.iter().filter(|object| object["kind"] == "Pod");
        assert_eq!(pods.count(), tests, "{namespace}");
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_works_in_the_watched_namespaces_with_the_rights_of_the_chart() -> Result {
    let plane = ControlPlane::shared().await?;
    let (home, other, closed) = (
        plane.namespace("chart-home").await?,
        plane.namespace("chart-other").await?,
        plane.namespace("chart-closed").await?,
    );
    let watch = format!("watchNamespaces={{{home},{other}}}");
    let args = ["--namespace", &home, "--set", &watch];
    let rendered = objects(&render(&mode_file("watched"), &args).await?)?;
    for object in &rendered {
        if ["Role", "RoleBinding", "ConfigMap", "Lease"]
            .iter()
            .any(|kind| object["kind"] == **kind)
        {
            plane.apply(&object.to_string()).await?;
        }
    }
    for namespace in [&home, &other, &closed] {
        plane
            .apply(&format!(
                "apiVersion: tenure.dev/v1alpha1\nkind: Semaphore\n\
                 metadata: {{name: calls, namespace: {namespace}}}\nspec: {{permits: 1}}\n"
            ))
            .await?;
    }
    let redis = Redis::start().await?;
    let mut controller = controller(plane, &rendered, &home, &redis.url())?;
    for namespace in [&home, &other] {
        let wait = [
            "wait",
            "--for=condition=Ready",
            "semaphore/calls",
            "--timeout=30s",
            "--namespace",
            namespace,
        ];
        plane.kubectl(&wait).await.with_context(|| controller.tail())?;
    }
    let status = [
        "get",
        "semaphore",
        "calls",
        "--namespace",
        &closed,
        "-o",
        "jsonpath={.status}",
    ];
    let status = plane.kubectl(&status).await?;
    ensure!(status.is_empty(), "a namespace that is not in the list: {status}");
    // The record of epochs is written after a loss of data.
    redis.cli(&["FLUSHALL"]).await?;
    let client = tenure::Client::builder(redis.url())
        .namespace(&home)
        .connect()
        .await?;
    client.semaphore("calls")?.acquire().await?.release().await?;
    eventually("the record of epochs", SOON, async || {
        let record = [
            "get",
            "configmap",
            "tenure-epoch",
            "--namespace",
            &home,
            "-o",
            "jsonpath={.data.from}",
        ];
        ensure!(!plane.kubectl(&record).await?.is_empty(), "it is empty");
        Ok(())
    })
    .await
    .with_context(|| controller.tail())?;
    ensure!(controller.exited()?.is_none(), "{}", controller.tail());
    let log = controller.log()?;
    ensure!(!log.contains("orbidden"), "{log}");
    Ok(())
}

/// The controller with the arguments of the rendered Deployment, as its service account, on another address and another Redis.
fn controller(plane: &ControlPlane, rendered: &[Value], namespace: &str, redis: &str) -> Result<Process> {
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment");
    let pod = &deployment.context("no Deployment")?["spec"]["template"]["spec"];
    let account = pod["serviceAccountName"].as_str().context("no service account")?;
    let mut config = Kubeconfig::read_from(plane.kubeconfig())?;
    for auth in config
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        auth.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
    }
    let folder = folder("watched")?;
    let kubeconfig = folder.join("kubeconfig");
    fs::write(&kubeconfig, serde_json::to_string(&config)?)?;
    let args: Vec<String> = serde_json::from_value(pod["containers"][0]["args"].clone())?;
    let mut command = Command::new(binaries::find("tenure-controller")?);
    command
        // The Redis of the test has no password.
        .args(args.iter().filter(|arg| !arg.starts_with("--redis-secret")))
        .args(["--listen=127.0.0.1:0", "--redis-url", redis])
        .env("KUBECONFIG", kubeconfig);
    Process::spawn("tenure-controller", &folder, &command)
}
