//! The protocol's scripts, built in. Each is the shared part and its own.

use std::sync::LazyLock;

const CORE: &str = include_str!("../../lua/core.lua");

/// A script, ready to be called by its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    hashed: redis::Script,
    text: String,
}

impl Script {
    fn new(name: &'static str, own: &str) -> Self {
        // A shebang (flags for the server) has to stay the first line of the whole.
        let (shebang, body) = match own.split_once('\n') {
            Some((first, rest)) if first.starts_with("#!") => (first, rest),
            _ => ("", own),
        };
        let text = if shebang.is_empty() {
            format!("{CORE}{body}")
        } else {
            format!("{shebang}\n{CORE}{body}")
        };
        Self {
            name,
            hashed: redis::Script::new(&text),
            text,
        }
    }

    pub(crate) fn hash(&self) -> &str {
        self.hashed.get_hash()
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

macro_rules! scripts {
    ($($name:ident $file:literal),* $(,)?) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($file, include_str!(concat!("../../lua/", $file, ".lua"))));)*
    };
}

scripts! {
    ACQUIRE "acquire",
    DECLARE "declare",
    DOWNGRADE "downgrade",
    LIST "list",
    MEMBERS "members",
    NOTIFY "notify",
    OBSERVE "observe",
    READMIT "readmit",
    REGISTER "register",
    REJOIN "rejoin",
    RELEASE "release",
    RENEW "renew",
    WAIT "wait",
    WITHDRAW "withdraw",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shebang_stays_the_first_line_and_stands_once() {
        assert!(RELEASE.text().starts_with("#!lua flags=allow-oom\n-- core.lua"));
        assert!(ACQUIRE.text().starts_with("-- core.lua"));
        for script in [
            &*ACQUIRE,
            &*DECLARE,
            &*DOWNGRADE,
            &*LIST,
            &*MEMBERS,
            &*NOTIFY,
            &*OBSERVE,
            &*READMIT,
            &*REGISTER,
            &*REJOIN,
            &*RELEASE,
            &*RENEW,
            &*WAIT,
            &*WITHDRAW,
        ] {
            assert!(script.text().matches("#!lua").count() <= 1, "{}", script.name);
        }
    }
}
