//! The definitions' own rules against the table of accepted and refused objects, and the samples.
//!
//! The same table runs against a real API server in `tests/suites/crds/rules.rs`.

use kube_cel::{ValidationErrors, Validator};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{LockPool, Semaphore, all, lint};

#[derive(Deserialize)]
struct Case {
    rule: String,
    kind: String,
    #[serde(default)]
    cel: bool,
    #[serde(default = "Case::default_names")]
    names: [String; 2],
    accepted: Value,
    refused: Value,
    says: Vec<String>,
}

impl Case {
    fn default_names() -> [String; 2] {
        ["accepted".to_owned(), "refused".to_owned()]
    }

    /// Validates the accepted and the refused object against the rules of the definition.
    fn run(&self) -> [Result<(), ValidationErrors>; 2] {
        let crd = all()
            .into_iter()
            .find(|crd| crd.spec.names.kind == self.kind)
            .unwrap();
        let schema = lint::schema(&crd);
        [(&self.names[0], &self.accepted), (&self.names[1], &self.refused)].map(|(name, spec)| {
            Validator::new().validate(&schema, &json!({"metadata": {"name": name}, "spec": spec}), None)
        })
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("../testdata/rules.yaml")).unwrap();
    cases.into_iter().filter(|case| case.cel).collect()
}

#[test]
fn every_rule_accepts_one_object_and_refuses_another_with_the_field_and_the_fix() {
    for case in cases() {
        let [accepted, refused] = case.run();
        assert!(accepted.is_ok(), "{}: {accepted:?}", case.rule);
        let refused = refused.expect_err(&case.rule).to_string();
        for part in &case.says {
            let part = part.trim_end_matches("[0].properties");
            assert!(
                refused.contains(part),
                "{}: {part:?} is not in {refused:?}",
                case.rule
            );
        }
    }
}

#[test]
fn no_rule_is_missing_in_the_table() {
    let mut refusals = Vec::new();
    for case in cases() {
        let [_, refused] = case.run();
        for error in refused.unwrap_err().into_vec() {
            refusals.push((case.kind.clone(), error.rule));
        }
    }
    for crd in all() {
        lint::each(&crd.spec.names.kind, &lint::schema(&crd), &mut |path, schema| {
            for rule in schema
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let text = rule["rule"].as_str().unwrap();
                let found = refusals
                    .iter()
                    .any(|(kind, rule)| *kind == crd.spec.names.kind && rule == text);
                assert!(
                    found,
                    "testdata/rules.yaml has no object that {text} of {path} refuses"
                );
                assert!(rule["message"].is_string(), "{text} of {path} has no message");
            }
        });
    }
}

#[test]
fn the_samples_are_what_the_types_take_and_the_rules_accept() {
    let pool: LockPool = serde_saphyr::from_str(include_str!("../samples/lockpool.yaml")).unwrap();
    let semaphore: Semaphore = serde_saphyr::from_str(include_str!("../samples/semaphore.yaml")).unwrap();
    assert_eq!(pool.metadata.name.as_deref(), Some("gpu-seats"));
    assert_eq!(semaphore.metadata.name.as_deref(), Some("api-callers"));
    assert_eq!(
        (
            pool.metadata.namespace.as_ref(),
            semaphore.metadata.namespace.as_ref()
        ),
        (None, None)
    );
    let objects = [
        serde_json::to_value(&pool).unwrap(),
        serde_json::to_value(&semaphore).unwrap(),
    ];
    for (crd, object) in all().iter().zip(&objects) {
        Validator::new()
            .validate(&lint::schema(crd), object, None)
            .unwrap();
    }
}
