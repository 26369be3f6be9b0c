//! A kubeconfig as the only way to Redis: the Secret `tenure-access` is read from the API server. `make e2e` has the port-forward,
//! which takes a kubelet.

use std::{path::Path, process::Command};

use serde_json::json;
use tenure_tests::{ControlPlane, Redis, Result, ensure};

use super::{Bench, code, output, text};

/// `tenure` without any setting of Redis.
fn tenure(bench: &Bench, kubeconfig: &Path, args: &str) -> Result<Command> {
    let mut command = bench.tenure(args)?;
    command
        .env_remove("TENURE_REDIS_URL")
        .env_remove("TENURE_NAMESPACE")
        .env("KUBECONFIG", kubeconfig);
    Ok(command)
}

/// A bench whose namespace is one of Kubernetes, too.
async fn bench(plane: &ControlPlane) -> Result<Bench> {
    let bench = Bench::on(Redis::shared().await?).await?;
    plane.kubectl(&["create", "namespace", &bench.namespace]).await?;
    Ok(bench)
}

/// Makes the Secret of the namespace, as the controller does.
async fn give_access(plane: &ControlPlane, bench: &Bench, url: &str) -> Result {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "tenure-access", "namespace": bench.namespace},
        "stringData": {"TENURE_REDIS_URL": url, "TENURE_NAMESPACE": bench.namespace},
    });
    plane.apply(&secret.to_string()).await.map(drop)
}

#[tokio::test]
async fn a_kubeconfig_alone_leads_to_redis() -> Result {
    let plane = ControlPlane::shared().await?;
    let bench = bench(plane).await?;
    let args = format!("get lock/x -o json -n {}", bench.namespace);
    let none = output(tenure(&bench, plane.kubeconfig(), &args)?).await?;
    ensure!(
        code(&none)? == 77 && text(&none.stderr).contains("kubectl label namespace"),
        "{none:?}"
    );
    give_access(plane, &bench, &bench.url).await?;
    let lease = bench.client.lock("x")?.acquire().await?;
    let held = format!("\"fencingToken\": {}", lease.fencing_token());
    let by_environment = output(tenure(&bench, plane.kubeconfig(), &args)?).await?;
    ensure!(text(&by_environment.stdout).contains(&held), "{by_environment:?}");
    let file = plane.kubeconfig().display();
    let by_flag = format!("{args} --kubeconfig {file} --context tests");
    let by_flag = output(tenure(&bench, Path::new("/nowhere"), &by_flag)?).await?;
    ensure!(text(&by_flag.stdout).contains(&held), "{by_flag:?}");
    // A flag has precedence over the environment, and the environment over a kubeconfig that no flag names.
    let of_environment = |args: &str| -> Result<Command> {
        let mut command = tenure(&bench, Path::new("/nowhere"), args)?;
        command
            .env("TENURE_REDIS_URL", "redis://127.0.0.1:1")
            .env("TENURE_NAMESPACE", "other");
        Ok(command)
    };
    let flags = format!("{args} --kubeconfig {file}");
    let by_flag = output(of_environment(&flags)?).await?;
    ensure!(text(&by_flag.stdout).contains(&held), "{by_flag:?}");
    let without_namespace = format!("get lock/x --kubeconfig {file}");
    let of_context = output(of_environment(&without_namespace)?).await?;
    ensure!(
        text(&of_context.stderr).contains("the namespace default has no Secret"),
        "{of_context:?}"
    );
    for (args, part) in [
        (format!("{flags} --context none"), "the kubeconfig cannot be used"),
        (
            "release lock/x --force --yes --reason x --kubeconfig /nowhere".to_owned(),
            "the kubeconfig cannot be used",
        ),
        (format!("{flags} --redis-url {}", bench.url), "two ways to Redis"),
    ] {
        let ended = output(of_environment(&args)?).await?;
        ensure!(
            code(&ended)? == 77 && text(&ended.stderr).contains(part),
            "{args}: {ended:?}"
        );
    }
    let mut other = tenure(&bench, plane.kubeconfig(), &args)?;
    other.env("TENURE_REDIS_URL", "redis://127.0.0.1:1");
    other.arg("--connect-timeout=100ms");
    let other = output(other).await?;
    ensure!(code(&other)? == 74, "{other:?}");
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_cluster_the_error_names_each_way() -> Result {
    let bench = Bench::shared().await?;
    for (args, part) in [
        ("get lock/x", "TENURE_REDIS_URL is not set"),
        ("get lock/x --context other", "the kubeconfig cannot be used"),
        (
            "get lock/x --kubeconfig /nowhere",
            "the kubeconfig cannot be used",
        ),
    ] {
        let ended = output(tenure(&bench, Path::new("/nowhere"), args)?).await?;
        ensure!(
            code(&ended)? == 77 && text(&ended.stderr).contains(part),
            "{args}: {ended:?}"
        );
    }
    Ok(())
}

/// The rights in `docs/kubectl.md`, from none to all but the last.
#[tokio::test]
async fn each_missing_right_is_named() -> Result {
    let plane = ControlPlane::shared().await?;
    let bench = bench(plane).await?;
    let namespace = &bench.namespace;
    give_access(
        plane,
        &bench,
        &format!("redis://redis.{namespace}.svc.cluster.local:6379"),
    )
    .await?;
    let redis = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis", "namespace": namespace},
         "spec": {"clusterIP": "None", "ports": [{"name": "redis", "port": 6379}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis-0", "namespace": namespace},
         "spec": {"containers": [{"name": "redis", "image": "redis"}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {"name": "redis-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "redis"}},
         "addressType": "IPv4", "ports": [{"name": "redis", "port": 6379}],
         "endpoints": [{"addresses": ["10.1.2.3"], "targetRef": {"kind": "Pod", "name": "redis-0"}}]},
    ]});
    plane.apply(&redis.to_string()).await?;
    let kubeconfig = plane.kubeconfig_as(namespace)?;
    let args = format!("get lock/x -n {namespace}");
    for (missing, verb, resource) in [
        ("get the Secret tenure-access", "get", "secrets"),
        ("get the Service redis", "get", "services"),
        (
            "list the EndpointSlices",
            "list",
            "endpointslices.discovery.k8s.io",
        ),
        ("create pods/portforward", "get,create", "pods/portforward"),
    ] {
        let ended = output(tenure(&bench, &kubeconfig, &args)?).await?;
        let error = text(&ended.stderr);
        ensure!(
            code(&ended)? == 76 && error.contains(missing) && error.contains("docs/kubectl.md"),
            "{missing}: {ended:?}"
        );
        let role = format!("{namespace}-{}", resource.replace('/', "-"));
        let (verbs, resources) = (format!("--verb={verb}"), format!("--resource={resource}"));
        plane
            .kubectl(&["create", "role", &role, &verbs, &resources, "-n", namespace])
            .await?;
        let (to, who) = (format!("--role={role}"), format!("--user={namespace}"));
        plane
            .kubectl(&["create", "rolebinding", &role, &to, &who, "-n", namespace])
            .await?;
    }
    // No kubelet runs the pod.
    let ended = output(tenure(
        &bench,
        &kubeconfig,
        &format!("{args} --connect-timeout 1s"),
    )?)
    .await?;
    ensure!(code(&ended)? == 74, "{ended:?}");
    Ok(())
}
