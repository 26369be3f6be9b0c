//! The protocol's scripts, built in, from the bundles of `lua/dist`.

use std::{borrow::Cow, sync::LazyLock};

/// The version of the protocol that the scripts speak: it stands in them, too.
pub(crate) const PROTOCOL: u32 = 2;
/// A script, ready to be called by its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    hashed: redis::Script,
    text: Cow<'static, str>,
}

impl Script {
    pub(crate) fn new(name: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
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
            LazyLock::new(|| Script::new($file, include_str!(concat!("../../lua/dist/", $file, ".lua"))));)*

        #[cfg(test)]
        pub(crate) const ALL: &[&LazyLock<Script>] = &[$(&$name),*];
    };
}

scripts! {
    ACQUIRE "acquire",
    ADOPT "adopt",
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
    fn each_script_is_whole_and_speaks_this_version() {
        let version = format!("local PROTOCOL = {PROTOCOL}\n");
        for script in ALL {
            let text = script.text();
            assert!(!text.contains("---- include"), "{}", script.name);
            assert!(text.rfind("#!lua").is_none_or(|at| at == 0), "{}", script.name);
            assert_eq!(text.matches(&version).count(), 1, "{}", script.name);
        }
        let lane = format!("string.sub(ARGV[1], 1, 2) == '{PROTOCOL} '");
        for script in [&ACQUIRE, &RELEASE, &RENEW] {
            assert!(script.text().contains(&lane) && script.text().contains(&format!("v{PROTOCOL} ")));
        }
        // The second character of a lease alone.
        let byte = format!("byte(alone, 2) == {}", u32::from(b'0') + PROTOCOL);
        assert!(RELEASE.text().contains(&byte));
        assert!(RENEW.text().contains(&byte.replace("alone", "text")));
        assert!(RELEASE.text().starts_with("#!lua flags=allow-oom\n-- release"));
        assert!(ACQUIRE.text().starts_with("-- acquire"));
    }
}
