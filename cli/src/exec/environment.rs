//! The environment that a command gets.

use std::collections::BTreeMap;

use crate::{acquire::Held, object::Object};

/// The variables, for `--help`.
pub(crate) const TABLE: &str = "\
Environment of the command:
  TENURE_OBJECT           the object, as KIND/NAME
  TENURE_NAMESPACE        its namespace
  TENURE_FENCING_TOKEN    a number that is larger for every later holder
  TENURE_RESOURCE         lockpool: the name of the resource; the first, if there are several
  TENURE_RESOURCES        lockpool: all names, with commas
  TENURE_PROPERTY_<NAME>  lockpool: each property of the first resource; <NAME> in capitals, with _ for
                          other characters than A-Z and 0-9. A name that two properties share is left out
  TENURE_PROPERTIES       lockpool: all properties of all resources, as JSON: {\"seat-a\":{\"host\":\"gpu-1\"}}";

pub(crate) fn of(object: &Object, held: &Held) -> Vec<(String, String)> {
    let mut variables = vec![
        ("TENURE_OBJECT".to_owned(), object.to_string()),
        (
            "TENURE_NAMESPACE".to_owned(),
            held.lease.object().namespace().to_owned(),
        ),
        (
            "TENURE_FENCING_TOKEN".to_owned(),
            held.lease.fencing_token().to_string(),
        ),
    ];
    variables.extend(of_resources(&held.resources));
    variables
}

fn of_resources(resources: &[(String, BTreeMap<String, String>)]) -> Vec<(String, String)> {
    let Some((first, properties)) = resources.first() else {
        return Vec::new();
    };
    let names: Vec<&str> = resources.iter().map(|(name, _)| name.as_str()).collect();
    let all: BTreeMap<_, _> = resources
        .iter()
        .map(|(name, properties)| (name, properties))
        .collect();
    let mut variables = vec![
        ("TENURE_RESOURCE".to_owned(), first.clone()),
        ("TENURE_RESOURCES".to_owned(), names.join(",")),
    ];
    // Texts and maps of texts are always JSON.
    if let Ok(json) = serde_json::to_string(&all) {
        variables.push(("TENURE_PROPERTIES".to_owned(), json));
    }
    let mut by_variable: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for (key, value) in properties {
        by_variable.entry(variable(key)).or_default().push(value);
    }
    for (name, values) in by_variable {
        match values[..] {
            // A variable cannot hold it.
            [value] if !value.contains('\0') => variables.push((name, value.clone())),
            _ => {}
        }
    }
    variables
}

fn variable(property: &str) -> String {
    let name = property.chars().map(|c| match c.to_ascii_uppercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '_',
    });
    format!("TENURE_PROPERTY_{}", name.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_variables_unless_two_share_a_name() {
        let properties = [("host", "gpu-1"), ("a.b", "1"), ("a-b", "2"), ("nul", "x\0")];
        let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let resources = [
            ("seat-a".to_owned(), BTreeMap::from(properties)),
            ("seat-b".to_owned(), BTreeMap::new()),
        ];
        let variables: BTreeMap<_, _> = of_resources(&resources).into_iter().collect();
        let shown: Vec<_> = variables
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            shown,
            [
                r#"TENURE_PROPERTIES={"seat-a":{"a-b":"2","a.b":"1","host":"gpu-1","nul":"x\u0000"},"seat-b":{}}"#,
                "TENURE_PROPERTY_HOST=gpu-1",
                "TENURE_RESOURCE=seat-a",
                "TENURE_RESOURCES=seat-a,seat-b",
            ]
        );
        assert_eq!(of_resources(&[]), []);
    }
}
