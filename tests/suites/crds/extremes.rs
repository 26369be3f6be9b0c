//! Every field of the definitions, and every name, with extreme values. The fields are read from the schemas, so that a new
//! one is covered. The API server accepts a value or refuses it with a message that names the field; an accepted object can be
//! read by the controller, and its declaration is accepted by Redis or refused with an error that names the field.

use kube::{
    Client,
    api::{Api, DynamicObject, PostParams, Request},
};
use serde_json::{Map, Value, json};
use tenure::{
    Error, Kind, Memory, ObjectRef,
    control::{Capacity, Declaration, Kept, Order, Resource, plan},
};
use tenure_crds::{CommonStatus, LeasePolicy, LockPool, Semaphore};
use tenure_tests::{Context, ControlPlane, Result, bail, ensure};

/// A step from a schema or a value to one below it.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Item,
    Key,
}

/// The key that a path with a [`Step::Key`] goes through.
const KEY: &str = "key";

struct Field {
    path: Vec<Step>,
    schema: Value,
}

impl Field {
    /// The name that an error message has to contain.
    fn name(&self) -> &str {
        let names = self.path.iter().rev().filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::Item | Step::Key => None,
        });
        names.into_iter().next().unwrap_or("spec")
    }
}

/// Collects every field below a schema, inner ones included.
fn collect(path: &[Step], schema: &Value, found: &mut Vec<Field>) {
    if !path.is_empty() {
        found.push(Field {
            path: path.to_vec(),
            schema: schema.clone(),
        });
    }
    let mut below = |step, schema: &Value| collect(&[path, &[step]].concat(), schema, found);
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        below(Step::Field(name.clone()), schema);
    }
    if schema["items"].is_object() {
        below(Step::Item, &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        below(Step::Key, &schema["additionalProperties"]);
    }
}

/// A bound of a number, which a schema writes with a fraction.
#[allow(clippy::cast_possible_truncation)] // they are whole, and no conversion from a float checks it
fn bound(schema: &Value, name: &str) -> Option<i64> {
    schema[name].as_f64().map(|bound| bound as i64)
}

/// A bound of a length or of a number of items.
fn length(schema: &Value, name: &str) -> Option<usize> {
    usize::try_from(schema[name].as_u64()?).ok()
}

/// A small valid value.
fn minimal(schema: &Value) -> Value {
    if let Some(value) = schema.get("default").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten();
            let names = required.filter_map(Value::as_str);
            let fields = names.map(|name| (name.to_owned(), minimal(&schema["properties"][name])));
            Value::Object(fields.collect())
        }
        Some("array") => {
            let least = length(schema, "minItems").unwrap_or(0);
            (0..least).map(|_| minimal(&schema["items"])).collect()
        }
        Some("string") if schema["format"] == "date-time" => json!("2026-01-02T03:04:05Z"),
        Some("string") => json!("a".repeat(length(schema, "minLength").unwrap_or(1).max(1))),
        Some("boolean") => json!(false),
        _ => json!(bound(schema, "minimum").unwrap_or(0)),
    }
}

/// Sets the value at a path and makes what is missing on the way.
fn put(target: &mut Value, schema: &Value, path: &[Step], value: Value) {
    let Some((step, rest)) = path.split_first() else {
        *target = value;
        return;
    };
    let (below, schema) = match step {
        Step::Field(name) => (&mut target[name.as_str()], &schema["properties"][name.as_str()]),
        Step::Key => (&mut target[KEY], &schema["additionalProperties"]),
        Step::Item => {
            if target.get(0).is_none() {
                *target = json!([null]);
            }
            (&mut target[0], &schema["items"])
        }
    };
    if below.is_null() {
        *below = minimal(schema);
    }
    put(below, schema, rest, value);
}

fn texts() -> Vec<String> {
    let mut texts = [
        "",
        " ",
        "\0",
        "\n",
        "a\r\nb",
        "\u{1b}[31m",
        "\u{7f}",
        "ä",
        "\u{1f512}",
        "{",
        "}",
        "-",
        ".",
        ",",
        "/",
        "%",
        "\"",
        "null",
        "NaN",
        "-1",
        "0",
        "A",
        "a_b",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([63, 64, 253, 254, 1 << 20].map(|length| "x".repeat(length)));
    texts.extend([63, 256, 1 << 18].map(|length| "\u{1f512}".repeat(length)));
    texts.push("\n".repeat(1 << 20));
    texts
}

fn times() -> Vec<&'static str> {
    vec![
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05.123456789123456789Z",
        "2026-01-02t03:04:05z",
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05+23:59",
        "2026-01-02T24:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-02",
    ]
}

/// The extremes of every type: a field gets those of the others, too.
fn values(schema: &Value) -> Vec<Value> {
    let numbers = [
        0,
        1,
        -1,
        i64::from(i32::MAX),
        i64::from(u32::MAX),
        1 << 53,
        i64::MIN,
        i64::MAX,
    ];
    let mut values = numbers.map(Value::from).to_vec();
    values.extend([
        u64::MAX.into(),
        json!(0.5),
        json!(-0.0),
        json!(1e308),
        json!(f64::MIN_POSITIVE),
    ]);
    values.extend([
        json!(null),
        json!(true),
        json!({}),
        json!([]),
        json!([null]),
        json!({"": ""}),
    ]);
    values.extend(texts().into_iter().map(Value::from));
    values.extend(times().into_iter().map(Value::from));
    for bound in ["minimum", "maximum"]
        .iter()
        .filter_map(|name| bound(schema, name))
    {
        values.extend([bound - 1, bound, bound + 1].map(Value::from));
    }
    if schema["type"] != "string" {
        // A long text of the wrong type is as wrong as a short one.
        values.retain(|value| value.as_str().is_none_or(|text| text.len() < 1 << 10));
    }
    if schema["format"] == "date-time" {
        // The API server does not check the type of what has a format.
        values.retain(|value| !value.is_array());
    }
    if let Some(most) = length(schema, "maxItems") {
        values.push(Value::Array(vec![minimal(&schema["items"]); most + 1]));
    }
    let below = &schema["additionalProperties"];
    if below.is_object() {
        values.extend(texts().into_iter().map(|key| json!({key: minimal(below)})));
        let many =
            (0..=length(schema, "maxProperties").unwrap_or(0)).map(|key| (format!("k{key}"), minimal(below)));
        values.push(Value::Object(many.collect::<Map<_, _>>()));
    }
    values
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    format!(
        "{} ({} bytes)",
        text.chars().take(60).collect::<String>(),
        text.len()
    )
}

/// A definition: its names, its schema, and an object that it accepts.
struct Definition {
    kind: String,
    plural: String,
    schema: Value,
    spec: Value,
}

fn definitions() -> Result<Vec<Definition>> {
    let samples = [
        include_str!("../../../crds/samples/lockpool.yaml"),
        include_str!("../../../crds/samples/semaphore.yaml"),
    ];
    let crds = tenure_crds::all();
    let definition = |crd: &_| {
        let crd = serde_json::to_value::<
            &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >(crd)?;
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .context("no kind")?
            .to_owned();
        let mut spec = Value::Null;
        for sample in samples {
            let object: Value = serde_saphyr::from_str(sample)?;
            if object["kind"] == kind.as_str() {
                spec = object["spec"].clone();
            }
        }
        ensure!(spec.is_object(), "crds/samples has no {kind}");
        Ok(Definition {
            plural: crd["spec"]["names"]["plural"]
                .as_str()
                .context("no plural")?
                .to_owned(),
            schema: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone(),
            kind,
            spec,
        })
    };
    crds.iter().map(definition).collect()
}

impl Definition {
    fn object(&self, name: &Value, spec: &Value) -> Value {
        json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": self.kind, "metadata": {"name": name}, "spec": spec,
        })
    }

    fn path(&self, namespace: &str) -> String {
        format!("/apis/tenure.dev/v1alpha1/namespaces/{namespace}/{}", self.plural)
    }

    /// Creates an object in a dry run: the object with its defaults, or the refusal.
    async fn create(&self, client: &Client, object: &Value) -> Result<std::result::Result<Value, String>> {
        let mut request =
            Request::new(self.path("default")).create(&dry_run(), serde_json::to_vec(object)?)?;
        *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse()?;
        answer(client.request(request).await)
    }

    /// The problem of an object that was accepted and cannot be used, or of a refusal that does not name the field.
    async fn problem(
        &self,
        outcome: std::result::Result<Value, String>,
        name: &str,
    ) -> Result<Option<String>> {
        match outcome {
            Ok(object) => used(&self.kind, &object).await,
            Err(message) => Ok((!message.contains(name)).then_some(message)),
        }
    }

    /// The same, with the field and its value.
    async fn problem_of(
        &self,
        field: &Field,
        value: &Value,
        outcome: std::result::Result<Value, String>,
    ) -> Result<Option<String>> {
        let problem = self.problem(outcome, field.name()).await?;
        Ok(problem.map(|problem| {
            let (kind, path) = (&self.kind, &field.path);
            format!("{kind} {path:?} {}: {problem:.400}", shown(value))
        }))
    }

    /// A spec in which this field is set, or the refusals of all that were tried.
    async fn base(&self, client: &Client, field: &Field) -> Result<Value> {
        let mut candidates = vec![minimal(&field.schema)];
        candidates.extend(bound(&field.schema, "maximum").map(Value::from));
        // A field that excludes this one has to go.
        let names = self.spec.as_object().into_iter().flatten();
        let without = std::iter::once(None).chain(names.map(|(name, _)| Some(name)));
        let mut refusals = Vec::new();
        for without in without {
            for candidate in &candidates {
                let mut spec = self.spec.clone();
                if let (Some(without), Some(fields)) = (without, spec.as_object_mut()) {
                    fields.remove(without);
                }
                put(&mut spec, &self.schema["spec"], &field.path, candidate.clone());
                match self.create(client, &self.object(&"base".into(), &spec)).await? {
                    Ok(_) => return Ok(spec),
                    Err(refusal) => refusals.push(refusal),
                }
            }
        }
        bail!(
            "{}: no valid object has {:?}: {refusals:?}",
            self.kind,
            field.path
        )
    }
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

fn answer(outcome: kube::Result<Value>) -> Result<std::result::Result<Value, String>> {
    match outcome {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message)),
        Err(error) => Err(error.into()),
    }
}

fn declaration(lease: &LeasePolicy, capacity: Capacity) -> Declaration {
    Declaration {
        floor: 1,
        recovery: None,
        lease: lease.lease_duration(),
        max_hold: lease.max_hold(),
        capacity,
    }
}

/// Reads an object as the controller does.
fn read(kind: &str, object: &Value) -> serde_json::Result<(Kind, Declaration, Option<CommonStatus>)> {
    if kind == "Semaphore" {
        let semaphore: Semaphore = serde_json::from_value(object.clone())?;
        let capacity = Capacity::Permits(semaphore.spec.permits.into());
        let declaration = declaration(&semaphore.spec.lease, capacity);
        return Ok((Kind::Semaphore, declaration, semaphore.status.map(|s| s.common)));
    }
    let pool: LockPool = serde_json::from_value(object.clone())?;
    let order = Order::LeastRecentlyUsed;
    let capacity = match pool.spec.generate {
        Some(generate) => Capacity::Generated {
            order,
            prefix: generate.prefix,
            count: generate.count.into(),
        },
        None => Capacity::Resources {
            order,
            resources: pool
                .spec
                .resources
                .into_iter()
                .map(|resource| Resource {
                    name: resource.name,
                    properties: resource.properties,
                    disabled: resource.disabled,
                })
                .collect(),
        },
    };
    let declaration = declaration(&pool.spec.lease, capacity);
    Ok((Kind::Pool, declaration, pool.status.map(|s| s.common)))
}

fn names_a_field(error: &Error) -> bool {
    matches!(error, Error::InvalidInput { field, problem, fix } if ![*field, problem, fix].contains(&""))
}

/// Declares and uses an accepted object, and returns the problem if there is one.
async fn used(kind: &str, object: &Value) -> Result<Option<String>> {
    let (kind, mut declaration, status) = match read(kind, object) {
        Ok(read) => read,
        Err(error) => return Ok(Some(format!("the controller cannot read it: {error}"))),
    };
    let client = Memory::seeded(1).client().namespace("test").connect().await?;
    let name = object["metadata"]["name"].as_str().context("no name")?;
    let target = match ObjectRef::new(kind, "test", name) {
        Ok(target) => target,
        Err(error) => return Ok(Some(error.to_string())),
    };
    if let Some(status) = status {
        let kept = status.fencing_floor.map(|floor| Kept {
            floor,
            current_at: status.fencing_floor_time.map(|time| time.0.into()),
            newest: 0,
            longest_lease: std::time::Duration::from_secs(status.lease_duration_seconds.unwrap_or(1).into()),
        });
        let seen = client.control().inspect(&target, 1, 0).await?;
        let now = std::time::SystemTime::now();
        if let Some(plan) = plan(kept.as_ref(), &seen, "extreme", declaration.lease, now) {
            declaration.floor = plan.floor;
            declaration.recovery = plan.declared_before.then_some(plan.longest_lease);
        }
    }
    if let Err(error) = client.control().declare(&target, &declaration).await {
        return Ok((!names_a_field(&error)).then(|| error.to_string()));
    }
    let Capacity::Resources { resources, .. } = &declaration.capacity else {
        return Ok(None);
    };
    if let Some(wanted) = resources.iter().find(|resource| !resource.disabled)
        && declaration.recovery.is_none()
    {
        let pool = client.lock_pool(name)?.named([&wanted.name])?;
        let lease = pool.try_acquire().await?.context("not free")?;
        if lease.properties() != &wanted.properties {
            return Ok(Some(format!("a holder gets {:?}", lease.properties())));
        }
    }
    Ok(None)
}

#[tokio::test]
async fn every_field_of_a_spec_takes_extreme_values_or_is_named_in_the_refusal() -> Result {
    let client = ControlPlane::shared().await?.client().await?;
    let mut wrong = Vec::new();
    for definition in definitions()? {
        let mut fields = Vec::new();
        collect(&[], &definition.schema["spec"], &mut fields);
        for field in &fields {
            let base = definition.base(&client, field).await?;
            for value in values(&field.schema) {
                let mut spec = base.clone();
                put(&mut spec, &definition.schema["spec"], &field.path, value.clone());
                let object = definition.object(&"extreme".into(), &spec);
                let outcome = definition.create(&client, &object).await?;
                wrong.extend(definition.problem_of(field, &value, outcome).await?);
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn every_field_of_a_status_takes_extreme_values_or_is_named_in_the_refusal() -> Result {
    let plane = ControlPlane::shared().await?;
    let (namespace, client) = (plane.namespace("extremes").await?, plane.client().await?);
    let mut wrong = Vec::new();
    for definition in definitions()? {
        let path = definition.path(&namespace);
        let object = definition.object(&"extreme".into(), &definition.spec);
        let create = Request::new(&path).create(&PostParams::default(), serde_json::to_vec(&object)?)?;
        let object: Value = client.request(create).await?;
        let mut fields = Vec::new();
        collect(&[], &definition.schema["status"], &mut fields);
        for field in &fields {
            for value in values(&field.schema) {
                // A floor makes the controller plan with the rest.
                let mut status = json!({"fencingFloor": 1});
                put(
                    &mut status,
                    &definition.schema["status"],
                    &field.path,
                    value.clone(),
                );
                let mut changed = object.clone();
                changed["status"] = status;
                let update = Request::new(&path).replace_subresource(
                    "status",
                    "extreme",
                    &dry_run(),
                    serde_json::to_vec(&changed)?,
                )?;
                let outcome = answer(client.request(update).await)?;
                wrong.extend(definition.problem_of(field, &value, outcome).await?);
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn every_name_that_the_api_server_accepts_can_be_declared() -> Result {
    let client = ControlPlane::shared().await?.client().await?;
    let mut wrong = Vec::new();
    for definition in definitions()? {
        for name in texts() {
            let object = definition.object(&name.clone().into(), &definition.spec);
            let outcome = definition.create(&client, &object).await?;
            let problem = definition.problem(outcome, "name").await?;
            wrong.extend(problem.map(|problem| format!("{} {:.60}: {problem:.400}", definition.kind, name)));
        }
    }
    for name in texts() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let resource = kube::discovery::ApiResource::erase::<k8s_openapi::api::core::v1::Namespace>(&());
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        match api.create(&dry_run(), &serde_json::from_value(namespace)?).await {
            Ok(_) => wrong.extend(
                ObjectRef::new(Kind::Pool, &name, "x")
                    .err()
                    .map(|error| error.to_string()),
            ),
            Err(kube::Error::Api(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
