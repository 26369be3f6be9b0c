//! The Helm chart: its refusals, its manifests in each mode, and the answer of a real API server to them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tenure_tests::{
    Context, ControlPlane, Controller, Process, Result, assets, ensure,
    process::{folder, free_port, unique},
};
use tokio::task::spawn_blocking;

mod access;
mod backup;
mod cluster;
mod gitops;
mod metadata;
mod monitoring;
mod notes;
mod probes;
mod refusals;
mod releases;
mod replicated;
mod scopes;
mod tls;
mod values;

const RELEASE: &str = "tenure";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn lint_finds_nothing() -> Result {
    helm(&["lint", "--strict", &chart()]).await?;
    Ok(())
}

#[tokio::test]
async fn each_mode_renders_its_snapshot() -> Result {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(&chart()).join("tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (mode, values) in modes()? {
        let manifest = comparable(&render(&values, &[]).await?);
        settings.bind(|| insta::assert_snapshot!(mode, manifest));
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_takes_each_mode_without_a_warning() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart").await?;
    let restricted = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    let label = ["label", "namespace", &namespace, &restricted[0], &restricted[1]];
    plane.kubectl(&label).await?;
    for (mode, values) in modes()? {
        let manifest = render(&values, &["--namespace", &namespace]).await?;
        // Their definitions are not installed: `monitoring` decodes those of the Prometheus Operator.
        let (manifest, _) = without_operators(&manifest);
        let said = dry_run(plane, &manifest).await.context(mode.clone())?;
        ensure!(said.stderr.is_empty(), "{mode}: {}", said.stderr);
        let deployment = said
            .stdout
            .lines()
            .find(|line| line.starts_with("deployment.apps/"));
        ensure!(
            deployment.is_some_and(|line| line.ends_with("-controller serverside-applied (server dry run)")),
            "{mode}: {}",
            said.stdout
        );
    }
    Ok(())
}

/// The test above would pass without any warnings.
#[tokio::test]
async fn the_api_server_warns_of_a_pod_that_may_do_too_much() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-warns").await?;
    let label = [
        "label",
        "namespace",
        &namespace,
        "pod-security.kubernetes.io/warn=restricted",
    ];
    plane.kubectl(&label).await?;
    let manifest = render(&mode_file("default"), &["--namespace", &namespace]).await?;
    let broken = manifest.replace(
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
    );
    let said = dry_run(plane, &broken).await?;
    ensure!(
        said.stderr.contains("would violate PodSecurity"),
        "{}",
        said.stderr
    );
    Ok(())
}

#[tokio::test]
async fn only_a_spread_constraint_without_a_selector_gets_the_one_of_the_controller() -> Result {
    let objects = objects(&render(&mode_file("every-value"), &[]).await?)?;
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
    let deployment = deployment.context("no Deployment")?;
    let spread = &deployment["spec"]["template"]["spec"]["topologySpreadConstraints"];
    let selector = |at: usize| &spread[at]["labelSelector"];
    assert_eq!(selector(0), &deployment["spec"]["selector"]);
    assert_eq!(
        selector(1),
        &serde_json::json!({"matchLabels": {"team": "platform"}})
    );
    Ok(())
}

#[tokio::test]
async fn the_test_runs_under_a_quota_for_cpu() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-quota").await?;
    let kubectl = async |args: &[&str]| {
        plane
            .kubectl(&[&["--namespace", &namespace], args].concat())
            .await
    };
    kubectl(&["create", "quota", "cpu", "--hard=limits.cpu=1,limits.memory=1Gi"]).await?;
    // A controller that is not part of this control plane does this.
    let counted = r#"{"status": {"hard": {"limits.cpu": "1", "limits.memory": "1Gi"}, "used": {"limits.cpu": "0", "limits.memory": "0"}}}"#;
    kubectl(&[
        "patch",
        "quota",
        "cpu",
        "--subresource=status",
        "--type=merge",
        "--patch",
        counted,
    ])
    .await?;
    let objects = objects(&render(&mode_file("default"), &["--namespace", &namespace]).await?)?;
    let pod = objects.iter().find(|object| object["kind"] == "Pod");
    let mut pod = pod.context("no Pod")?.clone();
    dry_run(plane, &pod.to_string()).await?;
    let limits = pod["spec"]["containers"][0]["resources"]["limits"].as_object_mut();
    limits.context("no limits")?.remove("cpu");
    let error = dry_run(plane, &pod.to_string())
        .await
        .err()
        .context("no quota is in force")?;
    ensure!(
        format!("{error:#}").contains("must specify limits.cpu"),
        "{error:#}"
    );
    Ok(())
}

/// With `controller.listenAddress=[::]`.
#[tokio::test]
async fn the_address_for_ipv6_serves_ipv4_as_well() -> Result {
    let plane = ControlPlane::shared().await?;
    let port = free_port()?;
    let _controller = Controller::start_with(plane, &["--listen", &format!("[::]:{port}")]).await?;
    for host in ["127.0.0.1", "[::1]"] {
        let response = reqwest::get(format!("http://{host}:{port}/livez")).await?;
        ensure!(response.status() == 200, "{host}: {}", response.status());
    }
    Ok(())
}

/// "Changing the volume" in README.md quotes the error, and describes the way around it.
#[tokio::test]
async fn the_api_server_refuses_another_volume_for_redis() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-volume").await?;
    let stateful_set = async |size: &str| {
        let objects = objects(&render(&mode_file("default"), &["--set", size]).await?)?;
        let found = objects.into_iter().find(|object| object["kind"] == "StatefulSet");
        let mut found = found.context("no StatefulSet")?;
        found["metadata"]["namespace"] = namespace.clone().into();
        plane.apply(&found.to_string()).await
    };
    stateful_set("redis.persistence.size=1Gi").await?;
    let larger = stateful_set("redis.persistence.size=2Gi").await;
    let error = format!("{:#}", larger.err().context("it is changed")?);
    let message = "updates to statefulset spec for fields other than";
    ensure!(error.contains(message), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_definitions_are_the_generated_ones_and_outlive_the_release() -> Result {
    let objects = objects(&render(&mode_file("default"), &[]).await?)?;
    let rendered: Vec<Value> = objects
        .into_iter()
        .filter(|object| object["kind"] == "CustomResourceDefinition")
        .collect();
    let mut generated = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml"))? {
        let mut expected: Value = serde_saphyr::from_str(&fs::read_to_string(entry?.path())?)?;
        let name = expected["metadata"]["name"].clone();
        let found = rendered.iter().find(|found| found["metadata"]["name"] == name);
        let mut found = found.with_context(|| format!("{name} is missing"))?.clone();
        let annotations = &found["metadata"]["annotations"];
        ensure!(
            annotations["helm.sh/resource-policy"] == "keep",
            "{name}: {annotations}"
        );
        for definition in [&mut expected, &mut found] {
            definition["metadata"] = Value::Null;
        }
        ensure!(
            found == expected,
            "{name} is not as generated: run `make generate`"
        );
        generated += 1;
    }
    assert_eq!(rendered.len(), generated);
    Ok(())
}

/// The controller's rights are those that its documentation lists, which a test of the controller proves to be enough.
#[tokio::test]
async fn the_controllers_role_is_the_documented_one() -> Result {
    let documented: BTreeSet<(String, String, String)> = include_str!("../../controller/src/main.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter(|row| row.contains('`'))
        .flat_map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let quoted = |cell: &str| -> Vec<String> {
                cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
            };
            let group = quoted(cells[0])
                .pop()
                .unwrap_or_else(|| cells[0].trim().to_owned());
            let (resources, verbs) = (quoted(cells[1]), quoted(cells[2]));
            triples(&[group], &resources, &verbs)
        })
        .collect();
    let objects = objects(&render(&mode_file("default"), &[]).await?)?;
    let roles = objects.iter().filter(|object| {
        let is_role = object["kind"] == "ClusterRole" || object["kind"] == "Role";
        let name = &object["metadata"]["name"];
        is_role && (name == "tenure-controller" || name == "tenure-access")
    });
    let mut granted = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().into_iter().flatten()) {
        if rule["resources"][0] == "configmaps" {
            assert_eq!(rule["resourceNames"], serde_json::json!(["tenure-epoch"]));
        }
        if rule["resources"][0] == "secrets" {
            let names = &rule["resourceNames"];
            ensure!(
                names == &serde_json::json!(["tenure-access"])
                    || names == &serde_json::json!(["tenure-redis"]),
                "{names}"
            );
        }
        let list = |key: &str| -> Vec<String> {
            let items = rule[key].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        granted.extend(triples(&list("apiGroups"), &list("resources"), &list("verbs")));
    }
    assert_eq!(granted, documented);
    assert!(!granted.is_empty());
    Ok(())
}

/// Argo CD and Flux render at each sync. A Secret with data would take the place of what the controller has written.
#[tokio::test]
async fn each_rendering_is_the_same_and_has_no_secret_data() -> Result {
    for (mode, values) in modes()? {
        let manifest = render(&values, &[]).await?;
        ensure!(
            manifest == render(&values, &[]).await?,
            "{mode}: two renderings differ"
        );
        for object in objects(&manifest)? {
            let is_empty = object["data"].is_null() && object["stringData"].is_null();
            ensure!(object["kind"] != "Secret" || is_empty, "{mode}: {object}");
        }
    }
    Ok(())
}

fn chart() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tenure").to_owned()
}

fn read(file: &str) -> Result<String> {
    let path = Path::new(&chart()).join(file);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn mode_file(mode: &str) -> PathBuf {
    Path::new(&chart()).join(format!("tests/values/{mode}.yaml"))
}

/// The files of `tests/values`, by name.
fn modes() -> Result<Vec<(String, PathBuf)>> {
    let mut modes = Vec::new();
    for entry in fs::read_dir(Path::new(&chart()).join("tests/values"))? {
        let path = entry?.path();
        let mode = path.file_stem().context("a file without name")?.to_string_lossy();
        modes.push((mode.into_owned(), path));
    }
    modes.sort();
    ensure!(!modes.is_empty(), "there are no modes");
    Ok(modes)
}

async fn render(values: &Path, args: &[&str]) -> Result<String> {
    let values = values.to_str().context("the checkout's path is not UTF-8")?;
    let chart = chart();
    let all = [&["template", RELEASE, &chart, "--values", values], args].concat();
    Ok(helm(&all).await?.stdout)
}

/// The manifest without the definitions, which are compared with what they are generated from, and without the dashboard, which is a
/// file.
fn comparable(manifest: &str) -> String {
    let mut text = String::new();
    for document in manifest.split("---\n") {
        let copied = ["crds", "dashboard"]
            .iter()
            .any(|name| document.starts_with(&format!("# Source: tenure/templates/{name}.yaml\n")));
        if !document.is_empty() && !copied {
            text += "---\n";
            text += document;
        }
    }
    text
}

/// A manifest without the objects of the Prometheus Operator and of cert-manager, and these objects.
fn without_operators(manifest: &str) -> (String, String) {
    let is_theirs = |document: &&str| {
        ["monitoring.coreos.com", "cert-manager.io"]
            .iter()
            .any(|group| document.contains(&format!("\napiVersion: {group}/v1\n")))
    };
    let (theirs, ours): (Vec<&str>, Vec<&str>) = manifest.split("---\n").partition(is_theirs);
    (ours.join("---\n"), theirs.join("---\n"))
}

/// The objects of a manifest.
fn objects(manifest: &str) -> Result<Vec<Value>> {
    let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(manifest)?;
    Ok(objects.into_iter().flatten().collect())
}

/// Output of a program.
struct Said {
    stdout: String,
    stderr: String,
}

async fn helm(args: &[&str]) -> Result<Said> {
    let program = spawn_blocking(|| assets::path("helm")).await??;
    run("helm", &program, args, &[]).await
}

/// Renders with the answers of a cluster, as an installation does.
async fn helm_with(plane: &ControlPlane, args: &[&str]) -> Result<Said> {
    let program = spawn_blocking(|| assets::path("helm")).await??;
    let config = plane
        .kubeconfig()
        .to_str()
        .context("the kubeconfig's path is not UTF-8")?;
    run("helm", &program, args, &[("KUBECONFIG", config)]).await
}

async fn dry_run(plane: &ControlPlane, manifest: &str) -> Result<Said> {
    let kubectl = spawn_blocking(|| assets::path("kubectl")).await??;
    let file = folder("manifest")?.join("manifest.yaml");
    fs::write(&file, manifest)?;
    let file = file
        .to_str()
        .context("the temporary folder's path is not UTF-8")?;
    let config = plane
        .kubeconfig()
        .to_str()
        .context("the kubeconfig's path is not UTF-8")?;
    let args = ["apply", "--server-side", "--dry-run=server", "--filename", file];
    run("kubectl", &kubectl, &args, &[("KUBECONFIG", config)]).await
}

/// Runs a program with folders of its own; if it fails, the error is its output.
async fn run(name: &str, program: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Said> {
    let folder = folder(&unique(name))?;
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).env("HOME", &folder);
    for variable in [
        "KUBECACHEDIR",
        "HELM_CACHE_HOME",
        "HELM_CONFIG_HOME",
        "HELM_DATA_HOME",
    ] {
        command.env_remove(variable);
    }
    let mut process = Process::spawn(name, &folder, &command)?;
    let status = process.wait(PATIENCE).await?;
    ensure!(
        status.success(),
        "{name} {}: {}{}",
        args.join(" "),
        process.output()?,
        process.log()?
    );
    Ok(Said {
        stdout: process.output()?,
        stderr: process.log()?,
    })
}

fn triples(groups: &[String], resources: &[String], verbs: &[String]) -> BTreeSet<(String, String, String)> {
    let mut triples = BTreeSet::new();
    for group in groups {
        // The documentation's name of the unnamed group.
        let group = if group.is_empty() { "core" } else { group };
        for resource in resources {
            for verb in verbs {
                triples.insert((group.to_owned(), resource.clone(), verb.clone()));
            }
        }
    }
    triples
}
