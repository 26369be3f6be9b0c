//! Runs the library's suites of real servers on every server of the matrix, one after the other, and prints a line for each.
//! The last line is of the usual server behind a strict proxy.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use tenure_tests::assets::{self, servers};
use tenure_tests::{Context, Result};

/// The name of the usual server behind a proxy that refuses what managed services refuse.
const STRICT: &str = "strict";

/// Runs the library's suites on every server of the matrix, and prints a line for each.
#[derive(Debug, Parser)]
struct Args {
    /// The suites: the beginning of the names of their tests.
    #[arg(long, default_value = "library::")]
    suites: String,
    /// The servers; all that are known if there is none.
    servers: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let names = if args.servers.is_empty() {
        servers::matrix().chain([STRICT]).map(str::to_owned).collect()
    } else {
        args.servers
    };
    let this = env::current_exe().context("finding the running program")?;
    let logs = this.with_file_name("matrix-logs");
    fs::create_dir_all(&logs)?;
    let mut good = true;
    for name in names {
        let server = if name == STRICT { "redis-server" } else { &name };
        let line = match assets::find(server) {
            Ok(found) => {
                let begun = Instant::now();
                let log = logs.join(&name);
                let outcome = run(server, name == STRICT, &args.suites, &log)?;
                good &= outcome.good;
                let tls = if servers::speaks_tls(&name) {
                    ""
                } else {
                    ", TLS on redis-server"
                };
                let failures = if outcome.good {
                    String::new()
                } else {
                    format!("; {}: {}", log.display(), outcome.failures.join(" "))
                };
                let (tests, seconds) = (outcome.summary, begun.elapsed().as_secs());
                format!("{:<10} {tests}, {seconds} s{tls}{failures}", found.version)
            }
            Err(error) => {
                good = false;
                format!("cannot be got: {error:#}")
            }
        };
        println!("{name:<14} {line}");
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Outcome {
    good: bool,
    summary: String,
    failures: Vec<String>,
}

fn run(server: &str, strict: bool, suites: &str, log: &Path) -> Result<Outcome> {
    let output = File::create(log)?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--test", "suites", "--", suites])
        .env("TENURE_TEST_SERVER", server)
        .envs(strict.then_some(("TENURE_TEST_STRICT", "1")))
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .context("running cargo")?;
    let text = fs::read_to_string(log)?;
    let summary = text.lines().find_map(|line| {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = counts.split("; ");
        Some(format!("{}, {}", counts.next()?, counts.next()?))
    });
    let failed = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.to_owned())
    };
    Ok(Outcome {
        good: status.success() && summary.is_some(),
        summary: summary.unwrap_or_else(|| "did not run".to_owned()),
        failures: text.lines().filter_map(failed).collect(),
    })
}
