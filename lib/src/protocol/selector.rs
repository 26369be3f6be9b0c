//! The selector of a pool request: which resources match it, as one text without spaces.

use std::{fmt::Write, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector(Arc<str>);

impl Selector {
    pub(crate) fn any() -> Self {
        Self("-".into())
    }

    /// These resources, all of them.
    pub(crate) fn named(names: &[String]) -> Self {
        Self(format!("={}", names.join(",")).into())
    }

    /// Resources with all of these properties.
    pub(crate) fn matching<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = properties.into_iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{}={}", escaped(key), escaped(value)))
            .collect();
        Self(format!("?{}", pairs.join("&")).into())
    }

    /// This resource if it is free, and otherwise any.
    pub(crate) fn preferring(name: &str) -> Self {
        Self(format!("~{name}").into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// As in the query of a URL, so that it contains no space and its special characters keep their meaning.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_selector_has_its_form() {
        let names = ["a".to_owned(), "b".to_owned()];
        for (selector, text) in [
            (Selector::any(), "-"),
            (Selector::named(&names), "=a,b"),
            (Selector::preferring("a"), "~a"),
            (
                Selector::matching([("zone", "b"), ("a&b", "c =d")]),
                "?zone=b&a%26b=c%20%3Dd",
            ),
        ] {
            assert_eq!(selector.as_str(), text);
        }
        assert_eq!(escaped("a&b=c d%é,"), "a%26b%3Dc%20d%25%C3%A9%2C");
    }
}
