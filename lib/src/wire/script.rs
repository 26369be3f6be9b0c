//! The protocol's scripts, built in. Each is its own file, in which the shared part stands where it says.

use std::sync::LazyLock;

use super::admission::Class;

const CORE: &str = include_str!("../../lua/core.lua");
/// The version of the protocol that the scripts speak: it stands in them, too.
pub(crate) const PROTOCOL: u32 = 1;
/// The line in whose place the shared part stands. Before it: flags for the server, and a fast lane that needs nothing of
/// what the shared part makes.
const CORE_STANDS_HERE: &str = "---- core.lua\n";

/// A script, ready to be called by its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    hashed: redis::Script,
    text: String,
}

impl Script {
    pub(crate) fn new(name: &'static str, own: &str) -> Self {
        let text = own.replacen(CORE_STANDS_HERE, CORE, 1);
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

    pub(crate) fn class(&self) -> Class {
        match self.name {
            "renew" | "readmit" => Class::Renewal,
            "release" => Class::Release,
            _ => Class::Other,
        }
    }
}

macro_rules! scripts {
    ($($name:ident $file:literal),* $(,)?) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($file, include_str!(concat!("../../lua/", $file, ".lua"))));)*

        #[cfg(test)]
        const ALL: &[&LazyLock<Script>] = &[$(&$name),*];
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
    fn the_shared_part_stands_once_in_each_script_and_a_shebang_in_the_first_line() {
        for script in ALL {
            let text = script.text();
            assert_eq!(text.matches(CORE).count(), 1, "{}", script.name);
            assert!(!text.contains(CORE_STANDS_HERE), "{}", script.name);
            assert!(text.rfind("#!lua").is_none_or(|at| at == 0), "{}", script.name);
        }
        let version = format!("local PROTOCOL = {PROTOCOL}\n");
        assert!(CORE.contains(&version), "{version}");
        let lane = format!("string.sub(ARGV[2], 1, 2) == '{PROTOCOL}@'");
        for script in [&ACQUIRE, &RELEASE, &RENEW] {
            assert!(script.text().contains(&lane) && script.text().contains(&format!("v{PROTOCOL} ")));
        }
        assert!(RELEASE.text().starts_with("#!lua flags=allow-oom\n-- release"));
        assert!(ACQUIRE.text().starts_with("-- acquire"));
    }
}
