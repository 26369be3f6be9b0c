//! The grammar of KIND/NAME.

use std::{fmt, str::FromStr};

use tenure::{Client, Error, Kind, ObjectRef};

/// An object as it stands on the command line. Its namespace is that of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

const KINDS: &str = "lockpool (lp, pool), semaphore (sem), lock or rwlock";

/// The kind of that name: singular, plural, short, or with the group, as kubectl accepts them.
pub(crate) fn kind(text: &str) -> Option<Kind> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix(".tenure.dev").unwrap_or(&text);
    Some(match text {
        "lockpool" | "lockpools" | "lp" | "pool" | "pools" => Kind::Pool,
        "semaphore" | "semaphores" | "sem" => Kind::Semaphore,
        "lock" | "locks" => Kind::Lock,
        "rwlock" | "rwlocks" => Kind::RwLock,
        _ => return None,
    })
}

/// The name of a kind on the command line: that of its custom resource where there is one.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Pool => "lockpool",
        Kind::Semaphore => "semaphore",
        Kind::RwLock => "rwlock",
        _ => "lock",
    }
}

/// Returns whether objects of the kind need a declaration; others are created by their first users.
pub(crate) fn needs_declaration(kind: Kind) -> bool {
    matches!(kind, Kind::Pool | Kind::Semaphore)
}

/// An object as it stands on the command line.
pub(crate) fn shown(object: &ObjectRef) -> String {
    format!("{}/{}", kind_name(object.kind()), object.name())
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((before, name)) = text.split_once('/') else {
            if kind(text).is_some() {
                return Err(format!("the name is missing: write {text}/NAME"));
            }
            return Err(format!(
                "the kind is missing: write KIND/{text}, where KIND is {KINDS}"
            ));
        };
        let kind = kind(before).ok_or_else(|| format!("{before:?} is no kind: use {KINDS}"))?;
        // The namespace has been checked elsewhere, or will be.
        ObjectRef::new(kind, "default", name).map_err(|error| error.to_string())?;
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

impl Object {
    /// The object in the namespace of the client.
    pub(crate) fn of(&self, client: &Client) -> Result<ObjectRef, Error> {
        ObjectRef::new(self.kind, client.namespace(), &self.name)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", kind_name(self.kind), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_may_be_long_or_short_and_is_shown_as_kubectl_shows_it() {
        for (text, shown) in [
            ("lockpool/gpu", "lockpool/gpu"),
            ("lp/gpu", "lockpool/gpu"),
            ("LockPools/gpu", "lockpool/gpu"),
            ("lockpools.tenure.dev/gpu", "lockpool/gpu"),
            ("pool/gpu", "lockpool/gpu"),
            ("sem/api", "semaphore/api"),
            ("lock/migration/42", "lock/migration/42"),
            ("rwlock/index", "rwlock/index"),
        ] {
            assert_eq!(text.parse::<Object>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_bare_name_and_an_unknown_kind_are_errors_that_name_the_kinds() {
        for (text, problem) in [
            ("gpu", "write KIND/gpu"),
            ("register/x", "\"register\" is no kind"),
            ("/x", "\"\" is no kind"),
        ] {
            let error = text.parse::<Object>().unwrap_err();
            assert!(
                error.contains(problem) && error.contains("lockpool (lp"),
                "{text}: {error}"
            );
        }
        assert!("lp".parse::<Object>().unwrap_err().contains("write lp/NAME"));
        for text in ["lock/", "lock/a b", "lock/a}b"] {
            let error = text.parse::<Object>().unwrap_err();
            assert!(error.starts_with("name "), "{text}: {error}");
        }
    }
}
