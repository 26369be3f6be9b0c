//! The conventions of Kubernetes' own API linter, held against the generated definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_cel::{CompiledSchema, compile_schema, estimate_rule_cost};
use serde_json::{Map, Value};

use crate::{
    CommonStatus, Condition, LockPool, LockPoolStatus, MAX_HELD_BY, MAX_LISTED, MAX_MESSAGE, MAX_POD,
    MAX_REASON, Semaphore, SemaphoreStatus, all, condition::merge,
};

/// The schema of `crd`'s one version.
pub(crate) fn schema(crd: &CustomResourceDefinition) -> Value {
    let [version] = &crd.spec.versions[..] else {
        panic!("{} has not one version", crd.spec.names.kind)
    };
    let schema = version.schema.as_ref().unwrap();
    serde_json::to_value(schema.open_api_v3_schema.as_ref().unwrap()).unwrap()
}

/// Calls `visit` with the path of every schema and the schema.
pub(crate) fn each(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    visit(path, schema.as_object().unwrap());
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        each(&format!("{path}.{name}"), property, visit);
    }
    for (mark, below) in [("[]", &schema["items"]), ("{}", &schema["additionalProperties"])] {
        if below.is_object() {
            each(&format!("{path}{mark}"), below, visit);
        }
    }
}

/// Fails with everything that `check` finds in the definitions.
fn lint(check: impl Fn(&str, &Map<String, Value>) -> Option<&'static str>) {
    let mut found = Vec::new();
    for crd in all() {
        each(&crd.spec.names.kind, &schema(&crd), &mut |path, schema| {
            if let Some(complaint) = check(path, schema) {
                found.push(format!("{path}: {complaint}"));
            }
        });
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn everything_is_described_in_one_line_that_is_a_sentence() {
    lint(|path, schema| {
        let Some(text) = schema.get("description").and_then(Value::as_str) else {
            return (!path.ends_with("{}")).then_some("has no description");
        };
        let fits = !text.contains('\n') && text.starts_with(char::is_uppercase) && text.ends_with('.');
        (!fits).then_some("has a description that is not one line with a sentence")
    });
}

#[test]
fn every_text_list_and_map_is_bounded() {
    lint(|_, schema| match schema["type"].as_str() {
        Some("string")
            if !["maxLength", "enum"]
                .iter()
                .any(|bound| schema.contains_key(*bound)) =>
        {
            (schema.get("format") != Some(&"date-time".into())).then_some("has no maxLength")
        }
        Some("array") if !schema.contains_key("maxItems") => Some("has no maxItems"),
        Some("object")
            if schema.contains_key("additionalProperties") && !schema.contains_key("maxProperties") =>
        {
            Some("has no maxProperties")
        }
        Some("object")
            if !["properties", "additionalProperties"]
                .iter()
                .any(|key| schema.contains_key(*key)) =>
        {
            Some("takes anything")
        }
        _ => None,
    });
}

#[test]
fn every_list_says_how_it_is_merged_and_by_a_key_that_is_always_there() {
    lint(|_, schema| {
        if schema["type"] != "array" {
            return None;
        }
        match schema.get("x-kubernetes-list-type")?.as_str()? {
            "atomic" => None,
            "map" => {
                let keys = schema.get("x-kubernetes-list-map-keys")?.as_array()?;
                let required = schema["items"]["required"].as_array()?;
                (keys.is_empty() || !keys.iter().all(|key| required.contains(key)))
                    .then_some("has an optional key")
            }
            _ => Some("has another list type"),
        }
    });
    lint(|_, schema| {
        (schema["type"] == "array" && !schema.contains_key("x-kubernetes-list-type"))
            .then_some("has no list type")
    });
}

#[test]
fn integers_have_a_format_that_kubernetes_knows_and_a_smallest_value() {
    lint(|_, schema| {
        if schema["type"] != "integer" {
            return None;
        }
        let format = schema.get("format").and_then(Value::as_str);
        if !matches!(format, Some("int32" | "int64")) {
            return Some("has neither int32 nor int64 as its format");
        }
        (!schema.contains_key("minimum")).then_some("has no minimum")
    });
}

#[test]
fn there_are_no_floats_nulls_titles_phases_and_no_booleans_but_two() {
    lint(|path, schema| {
        let name = path.rsplit('.').next();
        let boolean = schema["type"] == "boolean" && !matches!(name, Some("disabled" | "truncated"));
        [
            (schema["type"] == "number", "is a float"),
            (boolean, "is a boolean, which no third value can ever join"),
            (schema.contains_key("nullable"), "takes null"),
            (schema.contains_key("title"), "has a title"),
            (name == Some("phase"), "is a phase: use a condition"),
        ]
        .into_iter()
        .find_map(|(bad, complaint)| bad.then_some(complaint))
    });
}

#[test]
fn a_status_has_no_defaults_and_optional_spec_fields_with_a_choice_have_one() {
    lint(|path, schema| {
        let default = schema.contains_key("default");
        if path.contains(".status") {
            return default.then_some("is in a status and has a default");
        }
        (schema.contains_key("enum") && !default).then_some("has no default")
    });
}

#[test]
fn conditions_come_first() {
    let common = CommonStatus {
        conditions: vec![condition()],
        ..CommonStatus::default()
    };
    let pool = LockPoolStatus {
        common: common.clone(),
        ..LockPoolStatus::default()
    };
    let semaphore = SemaphoreStatus {
        common,
        ..SemaphoreStatus::default()
    };
    for text in [
        serde_json::to_string(&pool).unwrap(),
        serde_json::to_string(&semaphore).unwrap(),
    ] {
        assert!(text.starts_with(r#"{"conditions":[{"#), "{text}");
    }
}

fn condition() -> Condition {
    use crate::{Assessment, ConditionReason, ConditionStatus, ConditionType};
    let found = Assessment {
        type_: ConditionType::Ready,
        status: ConditionStatus::True,
        reason: ConditionReason::Synced,
        message: String::new(),
    };
    merge(&[], &[found], Some(1), jiff::Timestamp::UNIX_EPOCH).remove(0)
}

#[test]
fn the_bounds_that_code_uses_are_those_of_the_schemas() {
    for crd in all() {
        let status = &schema(&crd)["properties"]["status"]["properties"];
        let bound = |schema: &Value, key: &str| usize::try_from(schema[key].as_u64().unwrap()).unwrap();
        assert_eq!(bound(&status["holders"], "maxItems"), MAX_LISTED);
        assert_eq!(bound(&status["waiters"], "maxItems"), MAX_LISTED);
        assert!(bound(&status["heldBy"], "maxLength") >= MAX_HELD_BY);
        for list in ["holders", "waiters"] {
            let item = &status[list]["items"]["properties"];
            assert_eq!(bound(&item["pod"], "maxLength"), MAX_POD);
            assert_eq!(bound(&item["reason"], "maxLength"), MAX_REASON);
        }
        let message = &status["conditions"]["items"]["properties"]["message"];
        assert_eq!(bound(message, "maxLength"), MAX_MESSAGE);
    }
}

#[test]
fn names_are_the_ones_that_are_promised() {
    let found: Vec<_> = all()
        .into_iter()
        .map(|crd| {
            let names = crd.spec.names;
            (
                crd.spec.group,
                crd.spec.scope,
                names.plural,
                names.short_names.unwrap(),
                names.categories.unwrap(),
            )
        })
        .collect();
    let promised = |plural: &str, short: &str| {
        let texts = |text: &str| vec![text.to_owned()];
        (
            crate::GROUP.to_owned(),
            "Namespaced".to_owned(),
            plural.to_owned(),
            texts(short),
            texts("tenure"),
        )
    };
    assert_eq!(
        found,
        [promised("lockpools", "lp"), promised("semaphores", "sem")]
    );
    assert!(
        all()
            .iter()
            .all(|crd| crd.spec.versions[0].name == crate::VERSION)
    );
}

#[test]
fn every_column_is_described_and_shows_a_field_that_exists() {
    for crd in all() {
        let schema = schema(&crd);
        for column in crd.spec.versions[0].additional_printer_columns.as_ref().unwrap() {
            assert!(column.description.is_some(), "{} has no description", column.name);
            let mut at = &schema;
            let path = column
                .json_path
                .split('[')
                .filter_map(|part| part.rsplit(']').next())
                .collect::<String>();
            for field in path.split('.').filter(|field| !field.is_empty()) {
                if field == "metadata" {
                    break;
                }
                let fields = if at["items"].is_object() {
                    &at["items"]["properties"]
                } else {
                    &at["properties"]
                };
                at = &fields[field];
                assert!(
                    at.is_object(),
                    "{}: {} has no {field}",
                    crd.spec.names.kind,
                    column.json_path
                );
            }
        }
    }
}

#[test]
fn a_definition_stays_small() {
    for crd in all() {
        let size = serde_json::to_string(&crd).unwrap().len();
        assert!(size < 64 * 1024, "{} takes {size} bytes", crd.spec.names.kind);
    }
}

#[test]
fn every_rule_compiles_and_is_cheap() {
    fn check(schema: &CompiledSchema, seen: &mut usize) {
        for rule in &schema.validations {
            let rule = rule.as_ref().unwrap();
            let warnings = estimate_rule_cost(&rule.rule.rule, schema);
            assert!(warnings.is_empty(), "{warnings:#?}");
            *seen += 1;
        }
        let below = schema
            .items
            .iter()
            .chain(&schema.additional_properties)
            .map(|schema| &**schema);
        schema
            .properties
            .values()
            .chain(below)
            .for_each(|schema| check(schema, seen));
    }
    let mut seen = 0;
    for crd in all() {
        check(&compile_schema(&schema(&crd)), &mut seen);
    }
    assert_eq!(seen, 8, "the walk finds every rule");
}

#[test]
fn a_spec_of_nothing_but_what_is_required_gets_the_defaults() {
    let pool: LockPool = serde_json::from_value(serde_json::json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool", "metadata": {"name": "gpu-seats"},
        "spec": {"resources": [{"name": "seat-a"}]},
    }))
    .unwrap();
    let semaphore: Semaphore = serde_json::from_value(serde_json::json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "Semaphore", "metadata": {"name": "api-callers"},
        "spec": {"permits": 3},
    }))
    .unwrap();
    assert_eq!(pool.spec.lease, crate::LeasePolicy::default());
    assert_eq!(semaphore.spec.lease, crate::LeasePolicy::default());
    for crd in all() {
        let spec = &schema(&crd)["properties"]["spec"]["properties"];
        for (field, default) in serde_json::to_value(crate::LeasePolicy::default())
            .unwrap()
            .as_object()
            .unwrap()
        {
            assert_eq!(
                &spec[field]["default"], default,
                "{field} of {}",
                crd.spec.names.kind
            );
        }
    }
}
