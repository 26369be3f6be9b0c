//! Gives numbers and times in a schema the ranges of the types that read them.
//!
//! A list of objects cannot be read at all if one of them cannot: without these bounds one status that was edited or restored
//! with a count of 2^53, or a time in the year 9999, would hide every object of its kind from the controller.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Years that every reader knows.
const TIME: &str = "^[0-8][0-9]{3}-";
/// A time with nanoseconds.
const LONGEST_TIME: i64 = 30;

/// `crd` with a range for every number and time that has none.
pub(crate) fn set(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let versions = crd.spec.versions.iter_mut();
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(bound);
    crd
}

fn bound(schema: &mut JSONSchemaProps) {
    match schema.format.as_deref() {
        Some("uint32") => schema.maximum = schema.maximum.or(Some(f64::from(u32::MAX))),
        Some("date-time") => {
            schema.pattern = Some(TIME.to_owned());
            schema.max_length = Some(LONGEST_TIME);
        }
        _ => {}
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|below| below.values_mut())
        .for_each(bound);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        bound(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        bound(values);
    }
}
