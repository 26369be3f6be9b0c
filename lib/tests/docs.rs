//! The docs are whole: what they should name is named, and what they name is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What is being written on other branches, and named in the docs already. A name that has come is checked like all others.
const TO_COME: [&str; 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files under a folder with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    let named = if path
        .file_stem()
        .is_some_and(|stem| stem == "mod" || stem == "main")
    {
        path.parent().unwrap()
    } else {
        path
    };
    named.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_protocol_names_every_script_and_every_field() {
    let page = read("docs/protocol.md");
    let scripts: BTreeSet<String> = files(&root().join("lua"), "lua")
        .iter()
        .map(|f| stem(f))
        .collect();
    let described: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("#### ").map(str::to_owned))
        .collect();
    for script in scripts.iter().filter(|script| *script != "core") {
        assert!(
            described.contains(script),
            "docs/protocol.md has no heading `#### {script}`: describe the script there"
        );
    }
    for script in &described {
        assert!(
            scripts.contains(script) || TO_COME.contains(&script.as_str()),
            "docs/protocol.md describes {script}, which is not in lua/"
        );
    }
    let core = read("lua/core.lua");
    let fields = core.split_once("local FIELDS = {").unwrap().1;
    let fields = fields.split_once('}').unwrap().0;
    let mut count = 0;
    for field in fields.split('\'').skip(1).step_by(2) {
        assert!(
            page.contains(&format!("`{field}`")),
            "docs/protocol.md does not name the field `{field}` of core.lua"
        );
        count += 1;
    }
    assert!(count > 10, "no fields found in core.lua");
}

/// A public item, as it stands in the source.
struct Item {
    place: String,
    kind: &'static str,
    name: String,
    is_async: bool,
    documentation: String,
}

/// The public items of the crate, by their lines. What is not to be seen from outside is `pub(crate)`: a lint sees to it.
fn items() -> Vec<Item> {
    let mut items = Vec::new();
    for file in files(&root().join("src"), "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("pub ") else {
                continue;
            };
            let is_async = rest.starts_with("async ");
            let rest = rest.trim_start_matches("async ").trim_start_matches("const fn ");
            let kinds = ["fn", "struct", "enum", "trait", "const"];
            let Some((kind, rest)) = kinds
                .iter()
                .find_map(|kind| Some((*kind, rest.strip_prefix(kind)?.strip_prefix(' ')?)))
            else {
                continue;
            };
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            let above = lines[..number].iter().rev().map(|line| line.trim_start());
            let ends_an_item = |line: &&str| {
                line.is_empty() || !line.starts_with("///") && line.ends_with(['{', '}', ';', ','])
            };
            let documentation: Vec<&str> = above.take_while(|line| !ends_an_item(line)).collect();
            items.push(Item {
                place: format!("{}:{}", file.display(), number + 1),
                kind,
                name: name.unwrap_or_default().to_owned(),
                is_async,
                documentation: documentation.join("\n"),
            });
        }
    }
    assert!(items.len() > 50, "the public items are not found any more");
    items
}

#[test]
fn every_public_item_has_an_example() {
    let without: Vec<String> = items()
        .iter()
        .filter(|item| !item.documentation.contains("```"))
        .map(|item| format!("{} {} {}", item.place, item.kind, item.name))
        .collect();
    assert!(
        without.is_empty(),
        "without an example in its doc comment:\n{}",
        without.join("\n")
    );
}

#[test]
fn every_public_type_and_future_is_in_the_table_of_send_and_sync() {
    let table = read("tests/send_sync.rs");
    let words: BTreeSet<&str> = table.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for item in items() {
        let checked = matches!(item.kind, "struct" | "enum") || item.is_async;
        assert!(
            !checked || words.contains(item.name.as_str()),
            "{} {} is not in lib/tests/send_sync.rs",
            item.place,
            item.name
        );
    }
}
