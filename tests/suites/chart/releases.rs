//! Two releases on one API server: the second one is refused if it watches a namespace of the first one.

use tenure_tests::{Context, ControlPlane, Result, ensure, process::unique};

use super::{Said, chart, helm_with};

/// `helm install`; the definitions are there already.
async fn install(plane: &ControlPlane, release: &str, namespace: &str, set: &str) -> Result<Said> {
    let chart = chart();
    let args = ["install", release, &chart, "--namespace", namespace];
    let set = format!("crds.install=false,{set}");
    helm_with(plane, &[&args[..], &["--set", &set]].concat()).await
}

async fn is_refused(
    plane: &ControlPlane,
    release: &str,
    namespace: &str,
    set: &str,
    message: &str,
) -> Result {
    let outcome = install(plane, release, namespace, set).await;
    let error = format!("{:#}", outcome.err().context("it is installed")?);
    ensure!(error.contains(message), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_release_that_watches_namespaces_of_another_one_is_refused() -> Result {
    let plane = ControlPlane::shared().await?;
    let (first, second, watched) = (
        plane.namespace("release-first").await?,
        plane.namespace("release-second").await?,
        plane.namespace("release-watched").await?,
    );
    let names = ["all", "again", "one", "two"].map(unique);
    let [all, again, one, two] = &names;
    let watch = format!("watchNamespaces={{{watched}}}");
    install(plane, one, &first, &watch).await?;
    let of_one = format!("the release {one} in the namespace {first} manages the objects of {watched}");
    is_refused(plane, two, &second, &watch, &of_one).await?;
    is_refused(plane, all, &second, "rbac.aggregate=false", &of_one).await?;
    // The own release is no other one.
    let chart = chart();
    let set = format!("crds.install=false,{watch}");
    helm_with(
        plane,
        &["upgrade", one, &chart, "--namespace", &first, "--set", &set],
    )
    .await?;
    helm_with(plane, &["uninstall", one, "--namespace", &first]).await?;

    install(plane, all, &first, "rbac.aggregate=false").await?;
    let of_all = format!(
        "the release {all} in the namespace {first} manages the objects of all namespaces: two releases with a Redis each would \
         grant each seat twice. Upgrade that release, uninstall it (helm uninstall {all} --namespace {first}), or give each release"
    );
    is_refused(plane, again, &second, "rbac.aggregate=false", &of_all).await?;
    let lease = plane
        .kubectl(&["get", "leases", "--namespace", &first, "-o", "name"])
        .await?;
    ensure!(
        lease.trim() == format!("lease.coordination.k8s.io/{all}-tenure"),
        "{lease}"
    );
    helm_with(plane, &["uninstall", all, "--namespace", &first]).await?;
    let lease = plane
        .kubectl(&["get", "leases", "--namespace", &first, "-o", "name"])
        .await?;
    ensure!(lease.trim().is_empty(), "{lease}");
    Ok(())
}

#[tokio::test]
async fn a_release_is_refused_while_a_definition_is_being_deleted() -> Result {
    let plane = ControlPlane::start_without_definitions().await?;
    plane.install_definitions().await?;
    let namespace = plane.namespace("release-definition").await?;
    let object = "apiVersion: tenure.dev/v1alpha1\nkind: LockPool\n\
        metadata: {name: seats, namespace: NAMESPACE, finalizers: [tenure.dev/redis-keys]}\n\
        spec: {resources: [{name: a}]}\n";
    plane.apply(&object.replace("NAMESPACE", &namespace)).await?;
    plane
        .kubectl(&["delete", "crd", "lockpools.tenure.dev", "--wait=false"])
        .await?;
    let chart = chart();
    let args = ["install", "tenure", &chart, "--namespace", &namespace];
    let error = format!(
        "{:#}",
        helm_with(&plane, &args).await.err().context("it is installed")?
    );
    let message = "the definition lockpools.tenure.dev is being deleted, and waits for its objects";
    ensure!(error.contains(message), "{error}");
    // The way out in README.md of the chart.
    let patch = r#"--patch={"metadata":{"finalizers":null}}"#;
    plane
        .kubectl(&[
            "-n",
            &namespace,
            "patch",
            "lockpool",
            "seats",
            "--type=merge",
            patch,
        ])
        .await?;
    plane
        .kubectl(&[
            "wait",
            "--for=delete",
            "crd/lockpools.tenure.dev",
            "--timeout=60s",
        ])
        .await?;
    Ok(())
}
