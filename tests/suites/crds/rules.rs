//! Objects that the API server accepts and refuses, and its messages.

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tenure_tests::{Context, ControlPlane, Result, bail, ensure};

/// A row of the table that also runs without a server, in `crds/src/rules.rs`.
#[derive(Deserialize)]
struct Case {
    rule: String,
    kind: String,
    names: Option<[String; 2]>,
    accepted: Value,
    refused: Value,
    says: Vec<String>,
}

/// Creates an object as `kubectl create --dry-run=server` does; unknown fields are refused. `None` if it is accepted.
async fn refusal(client: &Client, kind: &str, name: &str, spec: &Value) -> Result<Option<String>> {
    let plural = match kind {
        "LockPool" => "lockpools",
        "Semaphore" => "semaphores",
        other => bail!("there is no kind {other}"),
    };
    let object = json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    });
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let path = format!("/apis/tenure.dev/v1alpha1/namespaces/default/{plural}");
    let mut request = Request::new(path).create(&dry_run, serde_json::to_vec(&object)?)?;
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse()?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message)),
        Err(error) => Err(error.into()),
    }
}

/// The API server's message about a string that is too long is another one before Kubernetes 1.32.
fn too_long(part: &str, minor: u32) -> String {
    let (old, new) = (
        "Too long: may not be longer than",
        "Too long: may not be more than",
    );
    if minor < 32 {
        part.replace(new, old)
    } else {
        part.to_owned()
    }
}

#[tokio::test]
async fn every_rule_accepts_one_object_and_refuses_another_with_the_field_and_the_fix() -> Result {
    let plane = ControlPlane::shared().await?;
    let (client, minor) = (plane.client().await?, plane.minor_version().await?);
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("../../../crds/testdata/rules.yaml"))?;
    let mut wrong = Vec::new();
    for Case {
        rule,
        kind,
        names,
        accepted,
        refused,
        says,
    } in &cases
    {
        let [good, bad] = names
            .clone()
            .unwrap_or_else(|| ["good".to_owned(), "bad".to_owned()]);
        if let Some(message) = refusal(&client, kind, &good, accepted).await? {
            wrong.push(format!("{kind}: {rule}: {accepted} is refused: {message}"));
        }
        match refusal(&client, kind, &bad, refused).await? {
            None => wrong.push(format!("{kind}: {rule}: {refused} is accepted")),
            Some(message) => {
                let says = says.iter().map(|part| too_long(part, minor));
                let missing = says.filter(|part| !message.contains(part));
                wrong.extend(missing.map(|part| format!("{kind}: {rule}: {part:?} is not in {message:?}")));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(cases.len() > 50, "the table has only {} rows", cases.len());
    Ok(())
}

#[tokio::test]
async fn a_pool_has_at_most_1024_listed_resources() -> Result {
    let client = ControlPlane::shared().await?.client().await?;
    let spec = |count: usize| {
        let resources: Vec<_> = (0..count)
            .map(|number| json!({"name": format!("seat-{number}")}))
            .collect();
        json!({"resources": resources})
    };
    assert_eq!(refusal(&client, "LockPool", "many", &spec(1024)).await?, None);
    let message = refusal(&client, "LockPool", "more", &spec(1025))
        .await?
        .context("1025 are accepted")?;
    assert!(
        message.contains("spec.resources") && message.contains("at most 1024 items"),
        "{message}"
    );
    Ok(())
}

#[tokio::test]
async fn the_rules_take_less_than_half_of_the_cost_budget() -> Result {
    fn double(schema: &mut Value) {
        match schema {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match value.as_u64() {
                Some(bound) if matches!(name.as_str(), "maxItems" | "maxLength" | "maxProperties") => {
                    *value = (bound * 2).into();
                }
                _ => double(value),
            }),
            Value::Array(items) => items.iter_mut().for_each(double),
            _ => {}
        }
    }
    let client = ControlPlane::shared().await?.client().await?;
    for crd in tenure_crds::all() {
        let name = crd.metadata.name.clone().context("no name")?;
        let mut doubled = serde_json::to_value(&crd)?;
        double(&mut doubled);
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let dry_run = PatchParams::apply("test").dry_run().force();
        let request = Request::new(path).patch(&name, &dry_run, &Patch::Apply(doubled))?;
        client
            .request::<Value>(request)
            .await
            .with_context(|| format!("{name} with doubled bounds"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_definitions_are_taken_without_a_warning() -> Result {
    let client = ControlPlane::shared().await?.client().await?;
    for crd in tenure_crds::all() {
        let name = crd.metadata.name.clone().context("no name")?;
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let dry_run = PatchParams::apply("test").dry_run().force().validation_strict();
        let request = Request::new(path).patch(&name, &dry_run, &Patch::Apply(&crd))?;
        let response = client.send(request.map(Into::into)).await?;
        let warnings: Vec<_> = response.headers().get_all("warning").iter().collect();
        ensure!(warnings.is_empty(), "{name}: {warnings:?}");
        ensure!(response.status().is_success(), "{name}: {}", response.status());
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_names_the_resource_that_is_there_twice() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("twice").await?;
    let twice = format!(
        "apiVersion: tenure.dev/v1alpha1\nkind: LockPool\nmetadata: {{name: twice, namespace: {namespace}}}\n\
         spec: {{resources: [{{name: seat-a}}, {{name: seat-a}}]}}\n"
    );
    let message = format!("{:#}", plane.apply(&twice).await.unwrap_err());
    assert!(
        message.contains(".spec.resources: duplicate entries for key") && message.contains("seat-a"),
        "{message}"
    );
    Ok(())
}
