//! The docs are whole: what they should name is named, and what they name is there.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tenure::control::acl;

/// Tests that the docs name and that are not merged yet.
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

/// The texts of all Rust files under these folders, by the names of their modules.
fn sources(folders: &[PathBuf]) -> Vec<(String, String)> {
    folders
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|file| (stem(&file), fs::read_to_string(&file).unwrap()))
        .collect()
}

#[test]
fn the_protocol_names_every_script_and_every_field() {
    let page = read("docs/protocol.md");
    let scripts: BTreeSet<String> = files(&root().join("lua/dist"), "lua")
        .iter()
        .map(|f| stem(f))
        .collect();
    let described: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("#### ").map(str::to_owned))
        .collect();
    for script in &scripts {
        assert!(
            described.contains(script),
            "docs/protocol.md has no heading `#### {script}`: describe the script there"
        );
    }
    for script in &described {
        assert!(
            scripts.contains(script),
            "docs/protocol.md describes {script}, which is not in lua/"
        );
    }
    let fields: BTreeSet<String> = files(&root().join("lua/dist"), "lua")
        .iter()
        .flat_map(|file| fields(&fs::read_to_string(file).unwrap()))
        .collect();
    assert!(fields.len() > 25, "the fields are not found any more: {fields:?}");
    for field in fields {
        assert!(
            page.contains(&format!("`{field}`")),
            "docs/protocol.md does not name the field `{field}` of `obj`"
        );
    }
}

/// The command that makes a user, in lines of at most 100 characters. The quotes are for a shell, and redis-cli takes them, too.
fn set_user(user: &str, rules: &[String]) -> String {
    let mut lines = vec![format!("redis-cli ACL SETUSER {user} reset on '>PASSWORD'")];
    for rule in rules {
        let is_pattern = rule.starts_with(['~', '&']);
        let rule = if is_pattern || rule.contains('|') {
            format!("'{rule}'")
        } else {
            rule.clone()
        };
        match lines.last_mut() {
            Some(line) if line.len() + rule.len() < 96 => *line = format!("{line} {rule}"),
            _ => lines.push(format!("  {rule}")),
        }
    }
    lines.join(" \\\n")
}

#[test]
fn the_page_on_redis_shows_the_rules_of_each_user() {
    let page = read("docs/redis.md");
    for (user, rules) in [
        ("team-a", acl::tenant_rules("tenure", "team-a").unwrap()),
        ("team-a", acl::cluster_tenant_rules("tenure", "team-a").unwrap()),
        ("tenure-controller", acl::controller_rules("tenure").unwrap()),
        (
            "tenure-controller",
            acl::cluster_controller_rules("tenure").unwrap(),
        ),
    ] {
        let block = format!("```\n{}\n```\n", set_user(user, &rules));
        assert!(
            page.contains(&block),
            "docs/redis.md differs from lib/src/control/acl.rs; it should have:\n{block}"
        );
    }
    let more = acl::access_rules().join(" ");
    assert!(
        page.contains(&format!("`{more}`")),
        "docs/redis.md does not have `{more}`"
    );
}

/// Fields that a script reads and writes in the hash `obj`: the quoted strings after it, but for `t:<token>`.
fn fields(script: &str) -> Vec<String> {
    let mut found = Vec::new();
    // The formatter breaks long calls into lines.
    let words: Vec<&str> = script.split_whitespace().collect();
    let script = words.join(" ").replace("( ", "(");
    for call in script.split("call('H").skip(1) {
        let Some((_, call)) = call.split_once("', ") else {
            continue;
        };
        let Some(rest) = call
            .strip_prefix("object.obj,")
            .or_else(|| call.strip_prefix("obj,"))
        else {
            continue;
        };
        let mut open = 1;
        let end = rest.find(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open == 0
        });
        let arguments = &rest[..end.unwrap_or(rest.len())];
        let words = arguments.split('\'').skip(1).step_by(2);
        let is_field = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        found.extend(words.filter(is_field).map(str::to_owned));
    }
    found
}

/// The anchors of the sentences of docs/protocol.md that promise something.
fn promises(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in page.split("<a id=\"").skip(1) {
        let (id, rest) = part.split_once('"').unwrap();
        assert!(
            rest.starts_with("></a>"),
            "docs/protocol.md: {id} is no empty anchor"
        );
        assert!(
            found.insert(id.to_owned()),
            "docs/protocol.md has two anchors {id}"
        );
    }
    found
}

/// The tests that name an anchor in their doc comments, by anchor: the page and `#acq-1`.
fn named_in_tests() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "../tests/suites"] {
        let sources = sources(&[root().join(folder)]);
        for (module, text) in &sources {
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let Some(comment) = line.trim_start().strip_prefix("///") else {
                    continue;
                };
                let ids: Vec<&str> = comment.split("docs/protocol.md#").skip(1).collect();
                if ids.is_empty() {
                    continue;
                }
                let function = lines[number..]
                    .iter()
                    .find_map(|line| line.split_once("fn "))
                    .unwrap()
                    .1;
                let test = format!("{module}::{}", function.split('(').next().unwrap());
                assert!(is_there(&sources, &test), "{test} is no test");
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let ids = ids.iter().map(|id| id.split(|c| !is_part(c)).next().unwrap());
                found.extend(ids.map(|id| (id.to_owned(), test.clone())));
            }
        }
    }
    found
}

#[test]
fn every_promise_of_the_protocol_has_a_scenario_or_a_test() {
    let vectors = root().join("../conformance");
    if !vectors.exists() {
        return; // the published crate alone, without its repository
    }
    let promises = promises(&read("docs/protocol.md"));
    assert!(
        promises.len() > 120,
        "the promises are not found any more: {promises:?}"
    );
    let mut shown = named_in_tests();
    assert!(
        shown.len() > 10,
        "the tests that name promises are not found any more"
    );
    for file in files(&vectors, "json") {
        let topic: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for scenario in topic["scenarios"].as_array().unwrap() {
            let ids = scenario["shows"].as_array().unwrap();
            assert!(
                !ids.is_empty(),
                "{}: {} shows nothing",
                file.display(),
                scenario["name"]
            );
            let place = format!("{}: {}", file.display(), scenario["name"]);
            shown.extend(
                ids.iter()
                    .map(|id| (id.as_str().unwrap().to_owned(), place.clone())),
            );
        }
    }
    for (id, place) in &shown {
        assert!(
            promises.contains(id),
            "{place} names {id}, which is no anchor in docs/protocol.md"
        );
    }
    let shown: BTreeSet<&String> = shown.iter().map(|(id, _)| id).collect();
    let open: Vec<_> = promises.iter().filter(|id| !shown.contains(id)).collect();
    assert!(
        open.is_empty(),
        "promises in docs/protocol.md without a scenario in lib/src/memory/tests/conformance/ and without a test whose doc \
         comment names them: {open:?}"
    );
}

/// A public item, as it stands in the source.
struct Item {
    place: String,
    /// The name of its file.
    module: String,
    kind: &'static str,
    name: String,
    is_async: bool,
    documentation: String,
}

/// The public items of the crate, by their lines. Items that are hidden from outside are `pub(crate)`: a lint sees to it.
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
                module: stem(&file),
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
fn every_file_that_a_page_for_contributors_names_is_there() {
    let mut missing = Vec::new();
    let mut count = 0;
    for page in [
        "docs/recipes.md",
        "docs/testing.md",
        "docs/promises.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    ] {
        let text = read(Path::new("..").join(page));
        let quoted = text.split('`').skip(1).step_by(2);
        let folders = [
            "lib/",
            "lua/",
            "crds/",
            "controller/",
            "charts/",
            "tests/",
            "docs/",
            "examples/",
        ];
        let named = quoted.filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
        for name in named.filter(|name| !name.contains(['{', ' ', '*', '…'])) {
            count += 1;
            if !root().join("..").join(name).exists() {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(count > 60, "the names are not found any more");
    assert!(
        missing.is_empty(),
        "there is no such file:\n{}",
        missing.join("\n")
    );
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
        let is_there = match item.kind {
            "struct" | "enum" => words.contains(item.name.as_str()),
            _ if item.is_async => table.contains(&format!("\"{}::{}\" =>", item.module, item.name)),
            _ => true,
        };
        assert!(
            is_there,
            "{} {} is not in lib/tests/send_sync.rs",
            item.place, item.name
        );
    }
}

/// The lines of the table: its groups, and how many there are of each.
const LINES: [(&str, u32); 8] = [
    ("L", 16),
    ("S", 14),
    ("C", 13),
    ("K", 12),
    ("W", 8),
    ("R", 13),
    ("P", 7),
    ("10.", 16),
];

#[test]
fn every_line_of_the_predecessors_is_answered_by_a_test_that_is_there() {
    let suites = root().join("../tests/suites");
    if !suites.exists() {
        return; // the published crate alone, without its repository
    }
    let folders = [suites, root().join("src"), root().join("tests")];
    let sources = sources(&folders);
    let page = read("docs/seeds.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .map(|row| row.trim_end_matches(" |").split(" | ").collect())
        .collect();
    for (group, count) in LINES {
        for number in 1..=count {
            let line = format!("{group}{number}");
            let answers: Vec<&str> = rows
                .iter()
                .filter(|row| row[0] == line)
                .filter_map(|row| row.last().copied())
                .collect();
            let [answer] = answers[..] else {
                panic!("docs/seeds.md has {} rows for {line}", answers.len());
            };
            let tests: Vec<&str> = answer.split('`').filter(|word| word.contains("::")).collect();
            assert!(
                !tests.is_empty() || answer == "open" || answer.starts_with("docs: "),
                "docs/seeds.md, {line}: name a test, or say why there is none: {answer}"
            );
            for test in tests {
                assert!(
                    is_there(&sources, test) || TO_COME.contains(&test),
                    "docs/seeds.md, {line}: there is no test {test}"
                );
            }
        }
    }
}

/// True if a file of that name has a test of that name: under an attribute, listed for both servers, or in a table.
fn is_there(sources: &[(String, String)], test: &str) -> bool {
    let (module, name) = test.split_once("::").unwrap();
    let call = format!("fn {name}(");
    let listed = |text: &str| {
        let blocks = text.split("on_both! {").skip(1);
        let mut names = blocks.flat_map(|block| block.split('}').next().unwrap_or_default().split(','));
        text.contains(&call) && names.any(|listed| listed.trim() == name)
    };
    let tabled = |text: &str| {
        let line = format!("\n    {name} [");
        text.split("table! {")
            .nth(1)
            .is_some_and(|table| table.contains(&line))
    };
    let annotated = |text: &str| {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.windows(2).any(|pair| {
            let [above, line] = pair else { return false };
            line.trim_start_matches("async ").starts_with(&call)
                && above.starts_with("#[")
                && above.contains("test")
        })
    };
    sources
        .iter()
        .any(|(stem, text)| stem == module && (annotated(text) || listed(text) || tabled(text)))
}
