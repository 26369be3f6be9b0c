//! The workspace's own programs, as cargo has built them.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, ensure};

use crate::Result;

/// The program `name` in the target folder that the running test comes from.
pub fn find(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("finding the running program")?;
    let folder = this
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("no target folder")?;
    let program = folder.join(name);
    ensure!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --bins`",
        program.display()
    );
    if let Some(newer) = newer_source(&program) {
        // Shown by a test that fails: the reason may be this.
        eprintln!("{name} is older than {newer}: run `cargo build --workspace --bins`");
    }
    Ok(program)
}

/// A source of `program` that was changed after it was built. Cargo lists them in a file beside it.
fn newer_source(program: &std::path::Path) -> Option<String> {
    let built = fs::metadata(program).ok()?.modified().ok()?;
    let rule = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = rule.split_once(": ")?;
    let newer = |source: &&str| {
        fs::metadata(source)
            .and_then(|m| m.modified())
            .is_ok_and(|changed| changed > built)
    };
    sources.split_whitespace().find(newer).map(str::to_owned)
}
