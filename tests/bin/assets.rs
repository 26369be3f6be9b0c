//! Prints the paths of the external programs that the suites run, and gets those that are missing.

use clap::Parser;
use tenure_tests::Result;
use tenure_tests::assets::{ASSETS, find};

/// Finds, installs, downloads or builds the programs that the suites run, and prints their paths.
#[derive(Debug, Parser)]
struct Args {
    /// Programs to look for; all that are known if there is none.
    names: Vec<String>,
}

fn main() -> Result {
    let mut names = Args::parse().names;
    if names.is_empty() {
        names = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
    }
    for name in names {
        let found = find(&name)?;
        println!("{name:<16} {:<10} {}", found.version, found.path.display());
    }
    Ok(())
}
