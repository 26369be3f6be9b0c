//! Turns the derived schemas into those that an API server gets.
//!
//! Derived schemas set `nullable` for every `Option`, describe in several lines, put defaults into a status, use
//! integer formats that Kubernetes does not know, and allow counts and times that the types cannot read; [`finish`]
//! mends all five. One object that cannot be read hides every object of its kind from the controller, because a list is
//! read whole.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{
    condition::{ConditionReason, ConditionStatus, ConditionType},
    status::MAX_MESSAGE,
};

/// Years that every reader of a time accepts.
const READABLE_YEARS: &str = "^[0-8][0-9]{3}-";
/// Length of a time with nanoseconds.
const LONGEST_TIME: i64 = 30;

/// An object's name is a part of its keys in Redis; the API server alone would take 253 characters.
pub(crate) fn name_rule() -> Rule {
    Rule::new("self.metadata.name.size() <= 63").message(
        "metadata.name must have at most 63 characters, for it is a part of the names of keys: choose a shorter name",
    )
}

/// No hold is shorter than one lease.
pub(crate) fn max_hold_rule() -> Rule {
    Rule::new("!has(self.maxHoldSeconds) || self.maxHoldSeconds >= self.leaseDurationSeconds")
        .message(
            "spec.maxHoldSeconds must not be less than spec.leaseDurationSeconds: raise maxHoldSeconds or lower leaseDurationSeconds",
        )
        .field_path(".maxHoldSeconds")
}

/// A resource's properties, with the bounds that a derived map has not.
pub(crate) fn properties(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 256 },
        "x-kubernetes-validations": [{
            "rule": "self.all(key, key.size() >= 1 && key.size() <= 63)",
            "message": "properties must have keys of 1 to 63 characters: shorten the key",
        }],
    })
}

/// A truth value without a default: `kubectl apply` would take an item of a list to which the API server adds one for changed.
pub(crate) fn flag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "boolean" })
}

/// The conditions, with the bounds of Kubernetes' own `Condition`, which the derived one has not.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    let statuses = ConditionStatus::ALL.map(ConditionStatus::as_str);
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "State of one aspect of this object.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string",
                    "description": format!("The type of the condition: {}.", one_of(&ConditionType::ALL.map(ConditionType::as_str))),
                    "maxLength": 316,
                },
                "status": {
                    "type": "string",
                    "description": "The status of the condition: True, False, or Unknown.",
                    "enum": statuses,
                },
                "reason": {
                    "type": "string",
                    "description": format!("The reason for the last change, in CamelCase: {}.", one_of(&ConditionReason::ALL.map(ConditionReason::as_str))),
                    "minLength": 1,
                    "maxLength": 128,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "type": "string",
                    "description": "A message for people: what is wrong and what to do.",
                    "maxLength": MAX_MESSAGE,
                },
                "lastTransitionTime": {
                    "type": "string",
                    "description": "Time at which the status became what it is.",
                    "format": "date-time",
                },
                "observedGeneration": {
                    "type": "integer",
                    "description": "Generation of the spec that it is about.",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}

fn one_of(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// `crd` as it is installed.
pub(crate) fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(root) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        tidy(root);
        if let Some(status) = root
            .properties
            .as_mut()
            .and_then(|properties| properties.get_mut("status"))
        {
            walk(status, &mut |schema| schema.default = None);
        }
    }
    crd
}

fn tidy(root: &mut JSONSchemaProps) {
    walk(root, &mut |schema| {
        // An explicit null would pass `has()` and mean the same as an absent field.
        schema.nullable = None;
        schema.title = None;
        if let Some(description) = &mut schema.description {
            let first = description.split("\n\n").next().unwrap_or_default();
            *description = first.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        let fits = schema.maximum.is_some_and(|most| most <= f64::from(i32::MAX));
        match schema.format.as_deref() {
            Some("uint32") if fits => schema.format = Some("int32".to_owned()),
            Some("uint32") => {
                schema.maximum = schema.maximum.or(Some(f64::from(u32::MAX)));
                schema.format = Some("int64".to_owned());
            }
            Some("uint64") => schema.format = Some("int64".to_owned()),
            Some("date-time") => {
                schema.pattern = Some(READABLE_YEARS.to_owned());
                schema.max_length = Some(LONGEST_TIME);
            }
            _ => {}
        }
    });
}

/// Calls `change` on `schema` and everything below it.
fn walk(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        walk(property, change);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => walk(item, change),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(|item| walk(item, change)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        walk(value, change);
    }
}
