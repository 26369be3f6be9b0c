//! The command line.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    connect::Connection,
    doctor, drain, exec,
    exit::{self, Code, Failure},
    install, lease, once, reference, serve, view,
};

/// Runs commands under leases of locks, semaphores and pools, and shows who holds them and who waits.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, max_term_width = 100, after_long_help = exit::TABLE)]
pub(crate) struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Exec(exec::Args),
    Once(once::Args),
    Serve(serve::Args),
    Acquire(lease::Acquire),
    Renew(lease::Renew),
    Release(lease::Release),
    Get(view::Get),
    Holders(view::Holders),
    Queue(view::Queue),
    Why(view::why::Args),
    Describe(view::describe::Args),
    Watch(view::watch::Args),
    Drain(drain::Drain),
    Undrain(drain::Undrain),
    Doctor(doctor::Args),
    Install(install::Args),
    Completion(reference::Completion),
    Man(reference::Man),
}

/// Reads the arguments; or prints help, version or an error, and returns the exit code.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = Cli::command();
    // As a plugin of kubectl, it is a program of another name.
    if args.first().is_some_and(|name| is_plugin(Path::new(name))) {
        command = command.bin_name("kubectl tenure");
    }
    command
        .try_get_matches_from(args)
        .and_then(|matches| {
            let mut cli = Cli::from_arg_matches(&matches)?;
            cli.connection.prefer_flags(&matches)?;
            Ok(cli)
        })
        .map_err(|error| {
            // A reader that has gone needs no help.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { Code::Usage as u8 } else { 0 })
        })
}

fn is_plugin(program: &Path) -> bool {
    program
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("kubectl-tenure"))
}

pub(crate) async fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Exec(args) => exec::run(&cli.connection, args).await,
        Command::Once(args) => once::run(&cli.connection, args).await,
        Command::Serve(args) => serve::run(&cli.connection, args).await,
        Command::Acquire(args) => lease::acquire(&cli.connection, args).await,
        Command::Renew(args) => lease::renew(&cli.connection, args).await,
        Command::Release(args) => lease::release(&cli.connection, args).await,
        Command::Get(args) => view::get(&cli.connection, args).await,
        Command::Holders(args) => view::holders(&cli.connection, args).await,
        Command::Queue(args) => view::queue(&cli.connection, args).await,
        Command::Why(args) => view::why::run(&cli.connection, args).await,
        Command::Describe(args) => view::describe::run(&cli.connection, args).await,
        Command::Watch(args) => view::watch::run(&cli.connection, args).await,
        Command::Drain(args) => drain::drain(&cli.connection, args).await,
        Command::Undrain(args) => drain::undrain(&cli.connection, args).await,
        Command::Doctor(args) => doctor::run(&cli.connection, &args).await,
        Command::Install(args) => install::run(&args),
        Command::Completion(args) => reference::completion(&args, Cli::command()),
        Command::Man(args) => reference::man(&args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_about_objects_has_an_example() {
        let mut command = Cli::command();
        for one in command.get_subcommands_mut() {
            // Their usage line is the example.
            let is_plain = ["completion", "man", "install"].contains(&one.get_name());
            let help = one.render_long_help().to_string();
            assert!(is_plain || help.contains("Examples:"), "{}", one.get_name());
        }
    }

    #[test]
    fn examples_fit_a_terminal() {
        let mut command = Cli::command();
        for one in command.get_subcommands_mut() {
            let examples = one.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in examples.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn the_name_of_the_program_decides_whether_it_is_a_plugin() {
        assert!(is_plugin(Path::new("/usr/local/bin/kubectl-tenure")));
        assert!(!is_plugin(Path::new("./tenure")));
    }
}
