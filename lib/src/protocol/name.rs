//! Names: which ones objects, namespaces and what belongs to them may have.

use crate::{Error, Kind, ObjectRef};

const NAME_FIX: &str = "use 1 to 253 ASCII letters, digits and the characters - _ . : / @";
const NAMESPACE_FIX: &str = "use a Kubernetes namespace: 1 to 63 lower-case letters, digits and -";

impl ObjectRef {
    /// Names an object. The name is checked, the object need not exist.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] on `namespace` or `name`.
    ///
    /// ```
    /// use tenure::{Kind, ObjectRef};
    ///
    /// assert!(ObjectRef::new(Kind::Lock, "ml", "migration/42").is_ok());
    /// assert!(ObjectRef::new(Kind::Lock, "Not A Namespace", "migration").is_err());
    /// ```
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Result<Self, Error> {
        check_namespace(namespace)?;
        check_name(name)?;
        Ok(Self::checked(kind, namespace, name))
    }

    /// Reads what `Display` writes. Names may hold slashes, namespaces and kinds cannot.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (namespace, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind)?;
        Self::new(kind, namespace, name).ok()
    }
}

/// Names of objects, and of what belongs to them.
pub(crate) const LONGEST_NAME: usize = 253;

pub(crate) fn allowed_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.:/@".contains(c)
}

/// The prefix of all keys and channels.
const LONGEST_PREFIX: usize = 64;

pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.chars().all(is_allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        "key_prefix",
        format!("{prefix:?} cannot begin a key"),
        "use 1 to 64 ASCII letters, digits and - _ . :",
    ))
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(Error::invalid(
            "name",
            format!("has {} characters", name.len()),
            NAME_FIX,
        ));
    }
    if let Some(c) = name.chars().find(|&c| !allowed_in_name(c)) {
        return Err(Error::invalid(
            "name",
            format!("{name:?} has the character {c:?}"),
            NAME_FIX,
        ));
    }
    Ok(())
}

pub(crate) fn check_namespace(namespace: &str) -> Result<(), Error> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
    if namespace.len() <= 63
        && namespace.chars().all(inner)
        && edge(namespace.chars().next())
        && edge(namespace.chars().last())
    {
        return Ok(());
    }
    Err(Error::invalid(
        "namespace",
        format!("{namespace:?} is not a namespace's name"),
        NAMESPACE_FIX,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/protocol.md#name-1: no other characters.
    #[test]
    fn names_that_could_break_keys_are_refused_with_the_field_and_the_fix() {
        for bad in ["", "a}b", "a{b", "a b", "a\nb", "ä", "a\0"] {
            let error = ObjectRef::new(Kind::Lock, "default", bad)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("name ") && error.contains("letters, digits"),
                "{bad:?}: {error}"
            );
        }
        assert!(ObjectRef::new(Kind::Lock, "default", &"x".repeat(254)).is_err());
        for bad in ["", "Default", "-a", "a-", "a/b", "a_b"] {
            let error = ObjectRef::new(Kind::Lock, bad, "x").unwrap_err().to_string();
            assert!(error.starts_with("namespace "), "{bad:?}: {error}");
        }
    }

    #[test]
    fn names_with_slashes_do_not_collide_and_read_back() {
        let one = ObjectRef::new(Kind::Lock, "a", "b/c").unwrap();
        assert_eq!(ObjectRef::parse(&one.to_string()), Some(one.clone()));
        assert_eq!(&*one.keys("tenure")[0], "tenure:{a/lock/b/c}:obj");
        assert_eq!(ObjectRef::parse("a/cow/b"), None);
    }

    /// docs/protocol.md#keys-1: one hash tag.
    #[test]
    fn all_keys_of_an_object_share_one_hash_tag() {
        for kind in Kind::ALL {
            let object = ObjectRef::new(kind, "ns", "x").unwrap();
            let tag = format!("{{{object}}}");
            assert!(
                object
                    .keys("p")
                    .iter()
                    .all(|k| k.matches('{').count() == 1 && k.contains(&tag))
            );
        }
    }
}
