//! Completion of shells, manual pages, and `docs/cli.md`: all from the definition of the command line.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Command;
use clap_complete::Shell;

use crate::exit::{Code, Failure};

/// Prints the completion of a shell: `source <(tenure completion bash)`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    shell: Shell,
}

/// Writes the manual pages into a folder: `man ./tenure-exec.1`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// An existing folder
    folder: PathBuf,
}

pub(crate) fn completion(args: &Completion, mut command: Command) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tenure", &mut script);
    io::stdout().write_all(&script).map_err(failed)?;
    Ok(0)
}

pub(crate) fn man(args: &Man, command: Command) -> Result<u8, Failure> {
    clap_mangen::generate_to(command, &args.folder)
        .map_err(|error| Failure::new(Code::Failed, format!("{}: {error}", args.folder.display())))?;
    // The pages about `help` describe nothing of tenure.
    for page in fs::read_dir(&args.folder).map_err(failed)?.flatten() {
        if page.file_name().to_string_lossy().starts_with("tenure-help") {
            fs::remove_file(page.path()).map_err(failed)?;
        }
    }
    Ok(0)
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Code::Failed, error)
}

/// The text of `docs/cli.md`.
#[cfg(test)]
fn markdown(command: Command) -> String {
    use std::fmt::Write as _;

    // Whatever the terminal is.
    let mut command = command.term_width(100);
    let mut page = String::from(HEAD);
    let _ = write!(page, "\n```text\n{}```\n", help(&mut command));
    let names: Vec<_> = command
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    for name in names.iter().filter(|name| *name != "help") {
        if let Some(one) = command.find_subcommand_mut(name) {
            let mut one = one.clone().bin_name(format!("tenure {name}")).term_width(100);
            // The settings of the connection are the same for each.
            let _ = write!(page, "\n## tenure {name}\n\n```text\n{}```\n", help(&mut one));
        }
    }
    page
}

#[cfg(test)]
fn help(command: &mut Command) -> String {
    let text = command.render_long_help().to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    format!("{}\n", lines.join("\n").trim_end())
}

#[cfg(test)]
const HEAD: &str = "# The command line\n\n\
    <!-- Written by `make generate` from the definition in `cli/src`. -->\n\n\
    The program `tenure` runs commands under leases, and shows who holds and who waits. As `kubectl-tenure` in the `PATH`, it is\n\
    `kubectl tenure`. `tenure completion bash` prints the completion of a shell, and `tenure man FOLDER` writes manual pages.\n";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_page_is_what_the_definition_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let page = markdown(Cli::command());
        if std::env::var_os("TENURE_GENERATE").is_some() {
            fs::write(path, &page).unwrap();
        }
        let written = fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page,
            "docs/cli.md differs from the command line: run `make generate`"
        );
    }

    #[test]
    fn there_is_a_completion_of_each_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tenure", &mut script);
            assert!(
                String::from_utf8(script).unwrap().contains("lease-file"),
                "{shell}"
            );
        }
    }
}
