//! Imports go down: facade, then primitives and control, lease, transport, protocol; and only the protocol
//! knows the scripts. See ARCHITECTURE.md.

// Clippy's allowance for tests reaches only functions that are marked as such, and not what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The floors from the bottom up. A module may import those below it, and its own.
const FLOORS: [&[&str]; 6] = [
    &["protocol"],
    &["transport"],
    &["memory"],
    &["lease"],
    &["control", "primitives"],
    &["builder", "client"],
];

fn floor(module: &str) -> usize {
    let top = module.split("::").next().unwrap();
    let at = FLOORS.iter().position(|floor| floor.contains(&top));
    at.unwrap_or_else(|| panic!("{module} stands on no floor: add it to FLOORS"))
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The text of each module without its comments and tests, by its path in the crate.
fn modules() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.is_file() && name != "tests" && name != "lib" {
                let text = fs::read_to_string(&path).unwrap();
                let product = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
                let lines = product
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                let code = lines.collect::<Vec<_>>().join("\n");
                assert!(
                    !code.contains("use super::"),
                    "{}: write `use crate::`",
                    path.display()
                );
                let path = path.strip_prefix(source()).unwrap().with_extension("");
                let module = path.to_str().unwrap().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module);
                found.insert(module.to_owned(), code);
            }
        }
    }
    found
}

/// The paths of a `use` tree, such as `a::{b, c::d}`.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.trim().trim_end_matches("::self").to_owned()];
    };
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    let inner = rest.trim().strip_suffix('}').unwrap();
    for (at, sign) in inner.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[from..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(leaves)
        .map(|leaf| {
            if leaf == "self" {
                head.trim_end_matches("::").to_owned()
            } else {
                format!("{head}{leaf}")
            }
        })
        .collect()
}

/// The paths of the crate that a text names, in `use` items and elsewhere.
fn paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let is_use = text[..at].trim_end().ends_with("use");
        let end = if is_use {
            rest.find(';')
        } else {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        };
        found.extend(leaves(&rest[..end.unwrap_or(rest.len())]));
    }
    found
}

/// The names that the root of the crate exports, and the paths of their items.
fn exports() -> BTreeMap<String, String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let items = text
        .split("pub use ")
        .skip(1)
        .map(|rest| rest.split(';').next().unwrap());
    let items = items.flat_map(leaves);
    items
        .map(|path| (path.rsplit("::").next().unwrap().to_owned(), path))
        .collect()
}

/// The modules that each module imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let (modules, exports) = (modules(), exports());
    let module_of = |path: &str| {
        let whole = exports.get(path.split("::").next().unwrap());
        let mut path = whole.cloned().unwrap_or_else(|| path.to_owned());
        while !modules.contains_key(&path) {
            match path.rsplit_once("::") {
                Some((parent, _)) => path = parent.to_owned(),
                None => return None,
            }
        }
        Some(path)
    };
    let imported = modules.iter().map(|(module, text)| {
        let named = paths(text);
        let mut found: BTreeSet<String> = named.iter().filter_map(|path| module_of(path)).collect();
        found.remove(module);
        (module.clone(), found)
    });
    imported.collect()
}

/// The names of the scripts' errors, and the constants of their arguments and replies that no other module uses.
const CONSTANTS: [&str; 34] = [
    "NOTDECLARED",
    "NOTHELD",
    "NORESOURCE",
    "NOPROPERTIES",
    "TOOLARGE",
    "OTHERLIFE",
    "DECLARED",
    "STALE",
    "DAMAGED",
    "VERSION",
    "queued",
    "again",
    "adopted",
    "gone",
    "held",
    "waiting",
    "recovering",
    "failed",
    "released",
    "left",
    "rejoined",
    "notified",
    "applied",
    "kept",
    "owner",
    "dropped",
    "reclaimed",
    "extend",
    "shrink",
    "stage",
    "commit",
    "drain",
    "retain",
    "changed",
];

#[test]
fn only_the_protocol_knows_the_scripts_and_their_constants() {
    let modules = modules();
    let mut found = Vec::new();
    for (module, text) in modules.iter().filter(|(module, _)| floor(module) > 0) {
        // A script is called by its name in `protocol::calls` alone.
        let names = text
            .match_indices("script::")
            .map(|(at, name)| &text[at + name.len()..]);
        let names = names.filter(|name| name.starts_with(|c: char| c.is_uppercase()));
        let scripts = names.filter(|name| !name.starts_with("Script") && !name.starts_with("PROTOCOL"));
        found.extend(scripts.map(|name| format!("{module}: script {}", name.lines().next().unwrap())));
        let constants = CONSTANTS.iter().filter(|constant| {
            let quoted = text.contains(&format!("\"{constant}\""));
            quoted || constant.starts_with(char::is_uppercase) && text.contains(&format!("\"{constant} "))
        });
        found.extend(constants.map(|constant| format!("{module}: {constant:?}")));
    }
    assert!(found.is_empty(), "belongs into protocol:\n{}", found.join("\n"));
    let calls = modules
        .keys()
        .filter(|module| module.starts_with("protocol::calls::"));
    assert_eq!(calls.count(), 16, "one module for each script, and the trait");
}

#[test]
fn the_state_machines_read_no_clock_and_do_no_io() {
    let modules = modules();
    let machines = modules
        .iter()
        .filter(|(module, _)| module.starts_with("lease::machine"));
    let mut count = 0;
    for (module, text) in machines {
        count += 1;
        for name in [
            "::now()",
            ".now()",
            "async ",
            ".await",
            "lock(",
            "tokio::spawn",
            "Sender",
        ] {
            assert!(!text.contains(name), "{module} has {name}");
        }
    }
    assert_eq!(count, 4, "the machines have moved");
}

#[test]
fn imports_go_down() {
    let imports = imports();
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    assert!(edges > 100, "the imports are not found any more: {imports:?}");
    assert!(
        imports["client"].contains("lease::session"),
        "{:?}",
        imports["client"]
    );
    let up: Vec<String> = imports
        .iter()
        .flat_map(|(from, to)| to.iter().map(move |to| (from, to)))
        .filter(|(from, to)| floor(to) > floor(from))
        .map(|(from, to)| format!("{from} imports {to}"))
        .collect();
    assert!(up.is_empty(), "{} imports go up:\n{}", up.len(), up.join("\n"));
}

/// Modules that import each other, directly or through others, as one list each.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<&String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for to in imports.get(module).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|from| (from, reach(from))).collect();
    let circles = reach.keys().map(|from| {
        let both = |to: &&&String| reach[*from].contains(**to) && reach[**to].contains(from);
        reach.keys().filter(both).copied().collect::<Vec<_>>()
    });
    let circles: BTreeSet<_> = circles.filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

#[test]
fn no_modules_import_each_other() {
    let imports = imports();
    let circles = circles(&imports);
    assert!(circles.is_empty(), "{circles:#?}");
}
