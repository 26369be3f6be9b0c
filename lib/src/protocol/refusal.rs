//! The named errors of the scripts, and the errors of the library that follow from them.

use std::sync::Arc;

use crate::{Error, ObjectRef, protocol::unusable};

/// A named error of the scripts. [`unusable`] reads `DAMAGED` and `VERSION`, which any call may get.
#[derive(Debug, PartialEq, Eq)]
enum Refusal<'a> {
    NotDeclared,
    NotHeld,
    NoResource {
        name: &'a str,
    },
    /// Properties were selected of generated resources.
    NoProperties,
    TooLarge {
        limit: u64,
    },
    OtherLife,
    /// A custom resource declares the pool.
    Declared,
    /// The staged resources are not those that the commit expects.
    Stale,
}

impl<'a> Refusal<'a> {
    fn parse(reason: &'a str) -> Option<Self> {
        let (name, rest) = reason.split_once(' ').unwrap_or((reason, ""));
        Some(match name {
            "NOTDECLARED" => Self::NotDeclared,
            "NOTHELD" => Self::NotHeld,
            "NORESOURCE" => Self::NoResource { name: rest },
            "NOPROPERTIES" => Self::NoProperties,
            "TOOLARGE" => Self::TooLarge {
                limit: rest.parse().ok()?,
            },
            "OTHERLIFE" => Self::OtherLife,
            "DECLARED" => Self::Declared,
            "STALE" => Self::Stale,
            _ => return None,
        })
    }

    fn error(self, object: &ObjectRef, asked: u64) -> Error {
        let object = object.clone();
        match self {
            Self::NotDeclared => Error::NotDeclared { object },
            Self::NotHeld => Error::Lost {
                object,
                cause: "it is not held".to_owned(),
            },
            Self::NoResource { name } => Error::NoSuchResource {
                object,
                resource: name.to_owned(),
            },
            Self::NoProperties => Error::invalid(
                "properties",
                format!("are asked for, and the resources of {object} are generated, which have none"),
                "leave `matching` out, or name the resources in the spec",
            ),
            Self::TooLarge { limit } => Error::TooLarge { object, asked, limit },
            Self::OtherLife => Error::OtherLife { object },
            Self::Declared => Error::Refused {
                reason: format!("a custom resource declares {object}: change its resources there"),
            },
            Self::Stale => Error::Refused {
                reason: format!(
                    "the staged resources of {object} have expired or were changed: assign them again"
                ),
            },
        }
    }
}

/// Returns the error of a refused request for `asked` permits of an object with these keys.
pub(crate) fn error(object: &ObjectRef, keys: &[Arc<str>], asked: u64, reason: String) -> Error {
    match Refusal::parse(&reason) {
        Some(refusal) => refusal.error(object, asked),
        None => unusable::error(keys, reason),
    }
}

/// Returns the error of a failed call about an object, with the scripts' named errors in place of their texts.
pub(crate) fn named(error: Error, object: &ObjectRef, asked: u64) -> Error {
    match &error {
        Error::Refused { reason } => Refusal::parse(reason).map(|refusal| refusal.error(object, asked)),
        _ => None,
    }
    .unwrap_or(error)
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn each_named_error_has_an_error_of_the_library() {
        let object = ObjectRef::new(Kind::Pool, "ml", "seats").unwrap();
        for (reason, expected) in [
            ("NOTDECLARED ml/pool/seats", "not declared"),
            ("NOTHELD ml/pool/seats", "it is not held"),
            ("NORESOURCE seat-a", "seat-a"),
            ("NOPROPERTIES ml/pool/seats", "properties are asked for"),
            ("TOOLARGE 3", "ask for at most 3"),
            ("OTHERLIFE ml/pool/seats", "observe it again"),
            ("DECLARED ml/pool/seats", "a custom resource declares"),
            ("STALE 7", "assign them again"),
            ("OOM command not allowed", "OOM command not allowed"),
            ("TOOLARGE x", "TOOLARGE x"),
        ] {
            let text = error(&object, &[], 7, reason.to_owned()).to_string();
            assert!(text.contains(expected), "{reason}: {text}");
        }
    }
}
