//! The selector of a pool request: which resources match it, as one text without spaces.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

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

/// The resources that must be granted, and the properties that a resource must have: the parts of a selector's text. A text of
/// another form, and one that prefers a resource, has neither.
pub(crate) fn read(text: &str) -> (Vec<String>, BTreeMap<String, String>) {
    if let Some(names) = text.strip_prefix('=') {
        return (names.split(',').map(str::to_owned).collect(), BTreeMap::new());
    }
    let pairs = text
        .strip_prefix('?')
        .into_iter()
        .flat_map(|pairs| pairs.split('&'));
    let property = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((unescaped(key)?, unescaped(value)?))
    };
    (Vec::new(), pairs.filter_map(property).collect())
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
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
    fn a_selector_reads_as_it_was_written() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(read(Selector::named(&names).as_str()).0, names);
        let properties = [("zone", "b"), ("a&b", "c =d"), ("é", "%")];
        let (names, seen) = read(Selector::matching(properties).as_str());
        assert_eq!((names.len(), seen.len()), (0, 3));
        for (key, value) in properties {
            assert_eq!(seen[key], value);
        }
        for other in ["-", "~a", "", "?a=%Z", "?a=%f", "?a=%FF"] {
            assert_eq!(read(other), (vec![], BTreeMap::new()), "{other}");
        }
    }

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
