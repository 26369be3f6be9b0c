//! The values of the chart: each has an effect, an entry in the schema and a row in the README.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use tenure_tests::{Context, Result, ensure, process::folder};

use super::{mode_file, modes, objects, read, render};

/// Helm itself holds `values.yaml` against the schema, so a key that is in neither of them is refused.
#[test]
fn the_schema_is_closed_but_for_the_keys_of_users_and_of_kubernetes() -> Result {
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    let mut open = Vec::new();
    open_objects(&schema, "", &mut open);
    assert_eq!(
        open,
        [
            // Selectors and sources of variables, which the API server checks.
            "/definitions/kubernetes",
            // Labels and annotations.
            "/definitions/stringMap",
            // A chart of charts hands its globals down.
            "/properties/global",
        ]
    );
    Ok(())
}

/// A mode sets each value, and its manifest is another one without.
#[tokio::test]
async fn each_value_has_an_effect() -> Result {
    let keys = keys_of_the_chart()?;
    let mut effects = BTreeSet::new();
    for (mode, file) in modes()? {
        let set: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
        let whole = render(&file, &[]).await?;
        let file = folder("values")?.join("values.yaml");
        for key in &keys {
            let mut less = set.clone();
            if !remove(&mut less, key) {
                continue;
            }
            fs::write(&file, less.to_string())?;
            // A mode that makes no sense without the value is refused.
            if let Ok(manifest) = render(&file, &[]).await {
                ensure!(manifest != whole, "{key} of the mode {mode} changes nothing");
            }
            effects.insert(key);
        }
    }
    let without: Vec<_> = keys.iter().filter(|key| !effects.contains(key)).collect();
    ensure!(without.is_empty(), "no file of tests/values sets {without:?}");
    Ok(())
}

/// Server-side apply refuses a list in which a name is there twice.
#[tokio::test]
async fn a_variable_of_the_chart_gives_way_to_one_of_the_user() -> Result {
    let rendered = objects(&render(&mode_file("every-value"), &[]).await?)?;
    let is_controller = |object: &&Value| {
        object["kind"] == "Deployment"
            && !object["spec"]["template"]["spec"]["containers"][0]["env"].is_null()
    };
    let deployment = rendered.iter().find(is_controller).context("no Deployment")?;
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    let env = env.as_array().context("no variables")?;
    let named = |name: &str| env.iter().filter(|one| one["name"] == name).collect::<Vec<_>>();
    assert_eq!(
        named("MALLOC_ARENA_MAX"),
        [&json!({"name": "MALLOC_ARENA_MAX", "value": "2"})]
    );
    assert_eq!(named("MALLOC_TRIM_THRESHOLD_").len(), 1, "{env:?}");
    Ok(())
}

#[test]
fn the_table_in_the_readme_has_each_value_and_no_other() -> Result {
    let readme = read("README.md")?;
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Values\n"));
    let rows: BTreeSet<&str> = section
        .context("README.md has no section Values")?
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(key, _)| key)
        .collect();
    let keys = keys_of_the_chart()?;
    for key in &keys {
        ensure!(
            ancestors(key).any(|key| rows.contains(key)),
            "the table does not have {key}"
        );
    }
    for row in rows {
        ensure!(
            keys.iter().any(|key| ancestors(key).any(|key| key == row)),
            "values.yaml does not have {row}"
        );
    }
    Ok(())
}

/// The keys of `values.yaml`, as `a.b.c`, down to what is no object or an empty one.
fn keys_of_the_chart() -> Result<Vec<String>> {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")?)?;
    let mut keys = Vec::new();
    leaves(&values, "", &mut keys);
    Ok(keys)
}

fn leaves(value: &Value, path: &str, keys: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
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

/// `a`, `a.b` and `a.b.c` for `a.b.c`.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    let dots = key.match_indices('.').map(|(at, _)| &key[..at]);
    dots.chain([key])
}

/// Returns false if there is no such key.
fn remove(values: &mut Value, key: &str) -> bool {
    let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
    let pointer = if path.is_empty() {
        String::new()
    } else {
        format!("/{}", path.replace('.', "/"))
    };
    let parent = values.pointer_mut(&pointer).and_then(Value::as_object_mut);
    parent.is_some_and(|parent| parent.remove(last).is_some())
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
