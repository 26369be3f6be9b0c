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
    Context, ControlPlane, Process, Result, assets, bail, ensure,
    process::{folder, unique},
};
use tokio::task::spawn_blocking;

mod access;
mod probes;

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
        let said = dry_run(plane, &manifest).await.context(mode.clone())?;
        ensure!(said.stderr.is_empty(), "{mode}: {}", said.stderr);
        ensure!(
            said.stdout
                .contains("deployment.apps/tenure-controller serverside-applied (server dry run)"),
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
async fn a_typo_or_a_bad_value_is_refused_with_a_message_that_names_it() -> Result {
    for (set, message) in [
        (
            "redis.persistance.enabled=false",
            "at '/redis': additional properties 'persistance' not allowed",
        ),
        ("colour=red", "additional properties 'colour' not allowed"),
        (
            "image.name=x",
            "at '/image': additional properties 'name' not allowed",
        ),
        (
            "controller.logformat=json",
            "at '/controller': additional properties 'logformat' not allowed",
        ),
        (
            "crds.keep=true",
            "at '/crds': additional properties 'keep' not allowed",
        ),
        (
            "redis.auth.password=secret",
            "at '/redis/auth': additional properties 'password' not allowed",
        ),
        (
            "externalRedis.url=redis://r",
            "at '/externalRedis': additional properties 'url' not allowed",
        ),
        (
            "redis.resources.limit.memory=1Gi",
            "at '/redis/resources': additional properties 'limit' not allowed",
        ),
        ("imagePullSecrets[0].secret=x", "at '/imagePullSecrets/0': "),
        (
            "controller.logFormat=xml",
            "at '/controller/logFormat': value must be one of 'json', 'human'",
        ),
        (
            "controller.drainTimeout=300",
            "at '/controller/drainTimeout': got number, want string",
        ),
        (
            "controller.cleanupTimeout=soon",
            "at '/controller/cleanupTimeout': 'soon' does not match",
        ),
        (
            "redis.appendFsync=never",
            "at '/redis/appendFsync': value must be one of 'everysec', 'always'",
        ),
        (
            "redis.maxMemory=lots",
            "at '/redis/maxMemory': 'lots' does not match",
        ),
        (
            "redis.persistence.size=big",
            "at '/redis/persistence/size': 'big' does not match",
        ),
        (
            "redis.networkPolicy.clients=Some",
            "value must be one of 'Labelled', 'All'",
        ),
        (
            "redis.enabled=no",
            "at '/redis/enabled': got string, want boolean",
        ),
        (
            "redis.enabled=false",
            "externalRedis.existingSecret is empty: name a Secret",
        ),
        (
            "externalRedis.existingSecret=mine",
            "set redis.enabled=false to use a Redis of yours",
        ),
        (
            "externalRedis.tls.existingSecret=mine",
            "externalRedis.tls.existingSecret is set, but redis.enabled is true",
        ),
        (
            "externalRedis.tls.certKey=",
            "a certificate and its private key go together",
        ),
        (
            "externalRedis.tls.caKey=a/b",
            "at '/externalRedis/tls/caKey': 'a/b' does not match",
        ),
        (
            "externalRedis.tls.key=x",
            "at '/externalRedis/tls': additional properties 'key' not allowed",
        ),
    ] {
        is_refused(set, message).await?;
    }
    Ok(())
}

/// Checks that Helm refuses a value with this message.
async fn is_refused(set: &str, message: &str) -> Result {
    let error = match helm(&["template", RELEASE, &chart(), "--set", set]).await {
        Ok(_) => bail!("{set} is taken"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains(message), "{set}: {error}");
    Ok(())
}

/// Helm itself holds `values.yaml` against the schema, so a key that is in neither of them is refused.
#[test]
fn the_schema_is_closed_everywhere() -> Result {
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    let mut open = Vec::new();
    open_objects(&schema, "", &mut open);
    assert_eq!(
        open,
        ["/properties/global"],
        "a chart of charts hands its globals down"
    );
    Ok(())
}

#[test]
fn every_value_is_used_and_explained() -> Result {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")?)?;
    let (mut templates, readme) = (String::new(), read("README.md")?);
    for folder in ["templates", "templates/tests"] {
        for entry in fs::read_dir(Path::new(&chart()).join(folder))? {
            let path = entry?.path();
            if path.is_file() {
                templates += &fs::read_to_string(path)?;
            }
        }
    }
    let mut keys = Vec::new();
    leaves(&values, "", &mut keys);
    for key in keys {
        // It, or something around it that is handed on as a whole.
        let around: Vec<&str> = key
            .match_indices('.')
            .map(|(at, _)| &key[..at])
            .chain([&*key])
            .collect();
        let used = |key: &&str| {
            let name = format!(".Values.{key}");
            templates
                .split(&name)
                .skip(1)
                .any(|rest| rest.starts_with([' ', ')', '\n']))
        };
        ensure!(around.iter().any(used), "no template uses {key}");
        let explained = around.iter().any(|key| readme.contains(&format!("| `{key}` |")));
        ensure!(explained, "the table in README.md does not have {key}");
    }
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
            assert_eq!(rule["resourceNames"], serde_json::json!(["tenure-access"]));
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

#[tokio::test]
async fn the_password_stands_in_a_secret_alone() -> Result {
    let objects = objects(&render(&mode_file("default"), &[]).await?)?;
    let secret = objects
        .iter()
        .find(|object| object["kind"] == "Secret")
        .context("no secret")?;
    let encoded = secret["data"]["password"].as_str().context("no password")?;
    ensure!(encoded.len() >= 40, "{encoded}");
    let uses = objects
        .iter()
        .filter(|object| object.to_string().contains(encoded));
    assert_eq!(uses.count(), 1);
    let again = render(&mode_file("default"), &[]).await?;
    ensure!(!again.contains(encoded), "the password is always the same");
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

/// The manifest without what differs each time, the password, and without the definitions, which are compared with what
/// they are generated from.
fn comparable(manifest: &str) -> String {
    let mut text = String::new();
    for document in manifest.split("---\n") {
        if document.is_empty() || document.starts_with("# Source: tenure/templates/crds.yaml\n") {
            continue;
        }
        text += "---\n";
        for line in document.lines() {
            text += if line.starts_with("  password: ") {
                "  password: [random]"
            } else {
                line
            };
            text += "\n";
        }
    }
    text
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

/// The places of a schema that let unknown keys pass.
fn open_objects(schema: &Value, path: &str, open: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if map.get("type") == Some(&Value::from("object"))
                && map.get("additionalProperties") != Some(&Value::from(false))
            {
                open.push(path.to_owned());
            }
            for (key, value) in map {
                open_objects(value, &format!("{path}/{key}"), open);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| open_objects(item, path, open)),
        _ => {}
    }
}

/// The keys of objects, down to what is no object.
fn leaves(value: &Value, path: &str, keys: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                leaves(value, &path, keys);
            }
        }
        _ => keys.push(path.to_owned()),
    }
}
