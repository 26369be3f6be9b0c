//! Monitors, alerts, runbooks and the dashboard, as Prometheus and its operator take them, and the real controller's series.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tenure::Identity;
use tenure_tests::{
    Context, ControlPlane, Controller, Redis, Result, assets, bail, ensure, eventually, process::folder,
};
use tokio::task::spawn_blocking;

use super::{Said, mode_file, objects, read, render, run, without_operators};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_operator_knows_all_fields_of_the_monitors_and_the_rules() -> Result {
    for (mode, kinds) in [
        ("monitoring", &["ServiceMonitor", "PrometheusRule"][..]),
        ("pod-monitor", &["PodMonitor"]),
    ] {
        let (_, theirs) = without_operators(&render(&mode_file(mode), &[]).await?);
        let decoded: BTreeSet<String> = decode(&theirs).await?.stdout.lines().map(str::to_owned).collect();
        assert_eq!(
            decoded,
            kinds.iter().map(|&kind| kind.to_owned()).collect(),
            "{mode}"
        );
        let broken = theirs.replace("matchLabels:", "matchLabel:");
        let error = format!("{:#}", decode(&broken).await.err().context("a typo is taken")?);
        ensure!(error.contains("unknown field"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_not_before() -> Result {
    let folder = folder("alerts")?;
    fs::write(folder.join("rules.yaml"), rules().await?.to_string())?;
    fs::write(folder.join("alerts.yaml"), read("tests/alerts.yaml")?)?;
    promtool(&[
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        &path(&folder, "rules.yaml")?,
    ])
    .await?;
    promtool(&["test", "rules", &path(&folder, "alerts.yaml")?]).await?;
    Ok(())
}

#[tokio::test]
async fn each_alert_has_a_test_that_fires_and_one_that_does_not() -> Result {
    let tests: Value = serde_saphyr::from_str(&read("tests/alerts.yaml")?)?;
    let cases: Vec<&Value> = list(&tests["tests"])
        .flat_map(|test| list(&test["alert_rule_test"]))
        .collect();
    for alert in alerts(&rules().await?)? {
        let of_alert = cases.iter().filter(|case| case["alertname"] == *alert);
        let (silent, firing): (Vec<_>, Vec<_>) =
            of_alert.partition::<Vec<&&Value>, _>(|case| list(&case["exp_alerts"]).next().is_none());
        ensure!(
            !silent.is_empty() && !firing.is_empty(),
            "{alert}: {silent:?} {firing:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn each_alert_has_a_runbook_and_each_runbook_an_alert() -> Result {
    let runbooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks");
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(&runbooks)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .context("a file without name")?
            .to_string_lossy()
            .into_owned();
        pages.insert(name, fs::read_to_string(&path)?);
    }
    let index = pages
        .remove("README")
        .context("docs/runbooks/README.md is missing")?;
    let rules = rules().await?;
    assert_eq!(
        pages.keys().cloned().collect::<BTreeSet<_>>(),
        alerts(&rules)?.into_iter().collect()
    );
    for (name, page) in &pages {
        ensure!(
            page.starts_with(&format!("# {name}\n")),
            "{name} has another title"
        );
        let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(sections, ["Symptom", "Causes", "Commands", "Mend"], "{name}");
        ensure!(
            index.contains(&format!("]({name}.md)")),
            "the index has no {name}"
        );
    }
    for rule in rule_list(&rules) {
        let annotations = &rule["annotations"];
        let page = format!("{}.md", rule["alert"].as_str().unwrap_or_default());
        assert_eq!(annotations["runbook"], format!("docs/runbooks/{page}"));
        assert_eq!(
            annotations["runbook_url"],
            format!("https://example.com/runbooks/{page}")
        );
    }
    Ok(())
}

/// Prometheus evaluates the panels on series as the controller exposes them, and each shows something.
#[tokio::test]
async fn each_query_of_the_dashboard_finds_series_of_the_controller() -> Result {
    let exposed = exposed().await?;
    let dashboard: Value = serde_json::from_str(&read("files/dashboard.json")?)?;
    let queries: Vec<String> = list(&dashboard["panels"])
        .flat_map(|panel| list(&panel["targets"]))
        .filter_map(|target| target["expr"].as_str())
        .map(|query| {
            let query = query.replace("$__rate_interval", "5m");
            query
                .replace("\"$job\"", "\"tenure-.+\"")
                .replace("\"$namespace\"", "\".*\"")
        })
        .collect();
    ensure!(queries.len() > 10, "{queries:?}");
    let folder = folder("dashboard")?;
    let series: Vec<Value> = exposed
        .iter()
        .map(|series| json!({"series": series.scraped(), "values": format!("{}x30", series.value)}))
        .chain([json!({"series": "up{job=\"tenure-controller\"}", "values": "1x30"})])
        .collect();
    let evaluated = async |queries: &[String]| {
        let absent = queries
            .iter()
            .map(|query| json!({"expr": format!("absent({query})"), "eval_time": "10m", "exp_samples": []}));
        let tests = json!({"tests": [{
            "interval": "1m", "input_series": series, "promql_expr_test": absent.collect::<Vec<_>>(),
        }]});
        fs::write(folder.join("queries.yaml"), tests.to_string())?;
        promtool(&["test", "rules", &path(&folder, "queries.yaml")?]).await
    };
    evaluated(&queries).await?;
    // The test would fail for a series or a label that the controller does not have.
    for unknown in ["tenure_hold", "tenure_held{kinds=\"LockPool\"}"] {
        if evaluated(&[unknown.to_owned()]).await.is_ok() {
            bail!("{unknown} finds something");
        }
    }
    // Dashboards choose by these.
    for variable in list(&dashboard["templating"]["list"]) {
        let Some(query) = variable["query"]["query"].as_str() else {
            continue;
        };
        let values = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = values
            .and_then(|values| values.rsplit_once(", "))
            .context("no query of labels")?;
        let name = selector.split('{').next().unwrap_or_default();
        ensure!(
            exposed
                .iter()
                .any(|s| s.name == name && (label == "job" || s.labels.contains(label))),
            "{query}"
        );
    }
    Ok(())
}

/// The series of the tests of the alerts have names and labels of the controller, or of what else the alerts name.
#[tokio::test]
async fn the_alerts_are_about_series_of_the_controller() -> Result {
    const OF_OTHERS: [&str; 4] = [
        "up",
        "kube_statefulset_status_replicas_ready",
        "kubelet_volume_stats_available_bytes",
        "kubelet_volume_stats_capacity_bytes",
    ];
    /// Labels that a scrape adds.
    const OF_TARGETS: [&str; 3] = ["job", "namespace", "pod"];
    let exposed = exposed().await?;
    let tests: Value = serde_saphyr::from_str(&read("tests/alerts.yaml")?)?;
    for series in list(&tests["tests"]).flat_map(|test| list(&test["input_series"])) {
        let series = Series::parse(series["series"].as_str().context("no series")?, "")?;
        if OF_OTHERS.contains(&&*series.name) {
            continue;
        }
        let known = exposed.iter().find(|exposed| exposed.name == series.name);
        let known = known.with_context(|| format!("the controller does not expose {}", series.name))?;
        for label in &series.labels {
            let known = known.labels.contains(label) || OF_TARGETS.contains(&&**label);
            ensure!(known, "{} has no label {label}", series.name);
        }
    }
    Ok(())
}

/// A line of `/metrics`.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeSet<String>,
    text: String,
    value: String,
}

impl Series {
    fn parse(text: &str, value: &str) -> Result<Self> {
        let (name, labels) = text.split_once('{').unwrap_or((text, "}"));
        let labels = labels.strip_suffix('}').with_context(|| format!("odd: {text}"))?;
        // No value of a label here has a comma or an equals sign.
        let labels = labels.split(',').filter_map(|pair| pair.split('=').next());
        Ok(Self {
            name: name.to_owned(),
            labels: labels
                .map(|label| label.trim().to_owned())
                .filter(|l| !l.is_empty())
                .collect(),
            text: text.to_owned(),
            value: value.to_owned(),
        })
    }

    /// As Prometheus stores it: with the labels of the target, of which those of the series have precedence.
    fn scraped(&self) -> String {
        let mut target = "job=\"tenure-controller\",pod=\"a\"".to_owned();
        if !self.labels.contains("namespace") {
            target += ",namespace=\"default\"";
        }
        match self.text.strip_suffix('}') {
            Some(labelled) => format!("{labelled},{target}}}"),
            None => format!("{}{{{target}}}", self.text),
        }
    }
}

const OBJECTS: &str = "
apiVersion: tenure.dev/v1alpha1
kind: Semaphore
metadata: {name: calls, namespace: NAMESPACE}
spec: {permits: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: holder, namespace: NAMESPACE}
spec: {containers: [{name: main, image: example.com/none}]}
";

/// The series of a controller that has reconciled, reclaimed and failed.
async fn exposed() -> Result<Vec<Series>> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-series").await?;
    let mut redis = Redis::start().await?;
    let controller = Controller::start(plane, &redis.url(), &[&namespace]).await?;
    plane.apply(&OBJECTS.replace("NAMESPACE", &namespace)).await?;
    let kubectl = async |args: &[&str]| {
        plane
            .kubectl(&[&["--namespace", &namespace], args].concat())
            .await
    };
    kubectl(&[
        "wait",
        "--for=condition=Ready",
        "semaphore/calls",
        "--timeout=60s",
    ])
    .await?;
    let mut identity = Identity::default();
    identity.pod = Some("holder".to_owned());
    identity.namespace.clone_from(&namespace);
    identity.uid = Some(kubectl(&["get", "pod", "holder", "-o", "jsonpath={.metadata.uid}"]).await?);
    let client = tenure::Client::builder(redis.url())
        .namespace(&namespace)
        .identity(identity);
    let _lease = client.connect().await?.semaphore("calls")?.acquire().await?;
    let ended = [
        "patch",
        "pod",
        "holder",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"phase":"Failed"}}"#,
    ];
    kubectl(&ended).await?;
    until_exposed(&controller, "tenure_reclaimed_leases_total{").await?;
    redis.stop().await?;
    kubectl(&[
        "patch",
        "semaphore",
        "calls",
        "--type=merge",
        "-p",
        r#"{"spec":{"permits":2}}"#,
    ])
    .await?;
    let text = until_exposed(&controller, "tenure_reconcile_failures_total{").await?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("odd: {line}"))?;
            Series::parse(series, value)
        })
        .collect()
}

async fn until_exposed(controller: &Controller, series: &str) -> Result<String> {
    eventually(series, SOON, async || {
        let (_, text) = controller.get("/metrics").await?;
        ensure!(text.lines().any(|line| line.starts_with(series)), "{text}");
        Ok(text)
    })
    .await
}

/// The groups of the rendered `PrometheusRule`, as a file of rules.
async fn rules() -> Result<Value> {
    let objects = objects(&render(&mode_file("monitoring"), &[]).await?)?;
    let rule = objects.iter().find(|object| object["kind"] == "PrometheusRule");
    Ok(rule.context("no PrometheusRule")?["spec"].clone())
}

fn rule_list(rules: &Value) -> impl Iterator<Item = &Value> {
    list(&rules["groups"]).flat_map(|group| list(&group["rules"]))
}

fn alerts(rules: &Value) -> Result<Vec<String>> {
    let name = |rule: &Value| Some(rule["alert"].as_str()?.to_owned());
    let alerts: Option<Vec<String>> = rule_list(rules).map(name).collect();
    let alerts = alerts.context("a rule is no alert")?;
    ensure!(!alerts.is_empty(), "there are no alerts");
    Ok(alerts)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn path(folder: &Path, file: &str) -> Result<String> {
    let path = folder.join(file);
    Ok(path
        .to_str()
        .context("the temporary folder's path is not UTF-8")?
        .to_owned())
}

async fn decode(manifest: &str) -> Result<Said> {
    let folder = folder("monitors")?;
    fs::write(folder.join("monitors.yaml"), manifest)?;
    let program: PathBuf = spawn_blocking(|| assets::path("monitoring-decode")).await??;
    run(
        "monitoring-decode",
        &program,
        &[&path(&folder, "monitors.yaml")?],
        &[],
    )
    .await
}

async fn promtool(args: &[&str]) -> Result<Said> {
    let program = spawn_blocking(|| assets::path("promtool")).await??;
    run("promtool", &program, args, &[]).await
}
