//! Two releases on one API server: the second one is refused if it watches a namespace of the first one.

use tenure_tests::{Context, ControlPlane, Result, assets, ensure, process::unique};
use tokio::task::spawn_blocking;

use super::{Said, chart, run};

/// Runs helm with the API server.
async fn helm(plane: &ControlPlane, args: &[&str]) -> Result<Said> {
    let program = spawn_blocking(|| assets::path("helm")).await??;
    let config = plane
        .kubeconfig()
        .to_str()
        .context("the kubeconfig's path is not UTF-8")?;
    run("helm", &program, args, &[("KUBECONFIG", config)]).await
}

/// `helm install`; the definitions are there already.
async fn install(plane: &ControlPlane, release: &str, namespace: &str, set: &str) -> Result<Said> {
    let chart = chart();
    let args = ["install", release, &chart, "--namespace", namespace];
    let set = format!("crds.install=false,{set}");
    helm(plane, &[&args[..], &["--set", &set]].concat()).await
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
    helm(
        plane,
        &["upgrade", one, &chart, "--namespace", &first, "--set", &set],
    )
    .await?;
    helm(plane, &["uninstall", one, "--namespace", &first]).await?;

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
    helm(plane, &["uninstall", all, "--namespace", &first]).await?;
    let lease = plane
        .kubectl(&["get", "leases", "--namespace", &first, "-o", "name"])
        .await?;
    ensure!(lease.trim().is_empty(), "{lease}");
    Ok(())
}
