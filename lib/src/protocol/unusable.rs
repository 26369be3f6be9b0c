//! Reads the error of a script about an object that is damaged or of another version, and adds the action that repairs
//! it.

use std::sync::Arc;

use crate::protocol::script::PROTOCOL;
use crate::{Error, ObjectRef};

/// The error reply of a script that came upon something that it cannot have written.
const CODE: &str = "DAMAGED ";
/// The beginning of an error of Lua itself, after its code: the data did not have the form that the script expects.
const IN_LUA: &str = "user_script:";

/// Returns whether an error, without its code, is that of a command within a script that the user has no right to. Its
/// code is `ERR`, while the code of a missing right to the script itself is `NOPERM`.
pub(crate) fn lacks_rights(error: &str) -> bool {
    // The text of Redis 7.0, and that of later versions and of Valkey.
    ["The user executing the script can't", "ACL failure in script: "]
        .iter()
        .any(|beginning| error.starts_with(beginning))
}

/// Returns the error of a refused call with these keys.
pub(crate) fn error(keys: &[Arc<str>], refusal: String) -> Error {
    newer(keys, &refusal)
        .or_else(|| damaged(keys, &refusal))
        .unwrap_or_else(|| Error::Refused {
            reason: with_rights(keys, refusal),
        })
}

/// Adds the missing rights to a refusal for want of rights, in which not every server names them.
fn with_rights(keys: &[Arc<str>], refusal: String) -> String {
    let is_forbidden =
        refusal.starts_with("NOPERM ") || refusal.strip_prefix("ERR ").is_some_and(lacks_rights);
    match keys.first().and_then(|key| key.split_once('/')) {
        Some((namespace, _)) if is_forbidden => format!(
            "{refusal}; the user needs the rights ~{namespace}/* and &{namespace}/* and the commands that docs/redis.md lists"
        ),
        _ => refusal,
    }
}

/// `VERSION`, the key, the version that it was written in, and the one of the script.
fn newer(keys: &[Arc<str>], refusal: &str) -> Option<Error> {
    let mut words = refusal.strip_prefix("VERSION ")?.split(' ');
    let key = words.next()?;
    let (_, object) = named(key).or_else(|| named(keys.first()?))?;
    Some(Error::VersionMismatch {
        object,
        written: words.next()?.parse().ok()?,
        spoken: PROTOCOL,
    })
}

fn damaged(keys: &[Arc<str>], refusal: &str) -> Option<Error> {
    let what = match refusal.strip_prefix(CODE) {
        Some(what) => what.to_owned(),
        None if refusal.starts_with("WRONGTYPE") => format!("- {refusal}"),
        // Refusals of the server itself, such as OOM, name the line of the script as well.
        None => {
            let error = refusal.strip_prefix("ERR ")?;
            if lacks_rights(error) || !error.contains(IN_LUA) {
                return None;
            }
            format!("- {refusal}")
        }
    };
    let key = what.split(' ').next().unwrap_or_default();
    let (prefix, object) = named(key).or_else(|| named(keys.first()?))?;
    Some(Error::Damaged {
        reason: reason(&object.removal_command(prefix), &what),
        object,
    })
}

/// Returns the problem and the action that repairs it, from a script's text: the key, or `-`, and the problem.
fn reason(removal: &str, what: &str) -> String {
    // The position in the script does not help a user.
    let what = what.split_once(" script: ").map_or(what, |(what, _)| what);
    match what.split_once(' ') {
        Some(("-", what)) if !what.contains(IN_LUA) && !what.starts_with("WRONGTYPE") => what.to_owned(),
        Some((key, what)) => {
            let at = if key == "-" {
                String::new()
            } else {
                format!("{key} ")
            };
            format!(
                "{at}{what}; to mend it, stop its holders or let their leases run out, and then remove its keys: {removal}"
            )
        }
        None => what.to_owned(),
    }
}

/// The prefix in a key, and its object.
fn named(key: &str) -> Option<(&str, ObjectRef)> {
    let (from, to) = (key.find(":{")?, key.rfind("}:")?);
    let object = ObjectRef::parse(key.get(from + 2..to)?)?;
    Some((key.get(..from)?, object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn keys() -> Vec<Arc<str>> {
        ObjectRef::new(Kind::Lock, "ml", "x").unwrap().keys("tenure")
    }

    #[test]
    fn a_damaged_object_is_named_with_its_key_and_the_command_that_mends_it() {
        for (refusal, expected) in [
            (
                "DAMAGED tenure:{ml/lock/x}:queue holds another type of value script: 0a, on @user_script:9.",
                "ml/lock/x is damaged in Redis: tenure:{ml/lock/x}:queue holds another type of value; to mend it",
            ),
            (
                "WRONGTYPE Operation against a key",
                "ml/lock/x is damaged in Redis: WRONGTYPE Operation against a key; to mend it",
            ),
            (
                "ERR user_script:87: attempt to compare nil with number script: 0a, on @user_script:87.",
                "ml/lock/x is damaged in Redis: ERR user_script:87: attempt to compare nil with number; to mend it",
            ),
        ] {
            let error = super::error(&keys(), refusal.to_owned()).to_string();
            assert!(error.starts_with(expected), "{error}");
            let command = ObjectRef::new(Kind::Lock, "ml", "x")
                .unwrap()
                .removal_command("tenure");
            assert!(error.ends_with(&command), "{error}");
        }
        let entry = error(
            &keys(),
            "DAMAGED - what it has of this lease cannot be read".to_owned(),
        );
        assert!(entry.to_string().ends_with("cannot be read"), "{entry}");
    }

    #[test]
    fn what_redis_refuses_for_another_reason_is_no_damage() {
        for refusal in [
            "OOM command not allowed when used memory > 'maxmemory'. script: 0a, on @user_script:9.",
            "NOREPLICAS Not enough good replicas to write. script: 0a, on @user_script:9.",
            "NOTDECLARED ml/lock/x",
        ] {
            let error = super::error(&keys(), refusal.to_owned());
            assert!(
                matches!(&error, Error::Refused { reason } if reason == refusal),
                "{error}"
            );
        }
    }

    #[test]
    fn a_refusal_for_want_of_rights_names_them_and_the_page_that_lists_them() {
        for refusal in [
            "NOPERM No permissions to access a key",
            "ERR ACL failure in script: No permissions to access a channel script: 0a, on @user_script:9.",
            "ERR The user executing the script can't run this command or subcommand script: 0a, on @user_script:9.",
        ] {
            let error = super::error(&keys(), refusal.to_owned());
            let Error::Refused { reason } = &error else {
                panic!("{error}")
            };
            assert!(reason.starts_with(refusal), "{error}");
            for named in ["~tenure:{ml/* and &tenure:{ml/*", "docs/redis.md"] {
                assert!(reason.contains(named), "{error}");
            }
        }
    }

    #[test]
    fn an_object_of_another_version_is_named_with_the_side_to_upgrade() {
        let refusal = "VERSION tenure:{ml/lock/x}:obj 7 2 script: 0a, on @user_script:9.";
        let error = error(&keys(), refusal.to_owned()).to_string();
        assert_eq!(
            error,
            "ml/lock/x was written by protocol 7, and this client speaks 2: upgrade the client"
        );
    }
}
