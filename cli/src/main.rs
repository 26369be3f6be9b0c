//! The command `tenure`, also `kubectl tenure`: a thin program over the library.
//!
//! | module | contents |
//! |---|---|
//! | [`args`] | the command line |
//! | [`connect`] | the way to Redis: flags, environment and kubeconfig |
//! | [`kubernetes`] | the API server: the Secret with the credentials, and connections into the cluster |
//! | [`object`], [`duration`] | the grammar of arguments |
//! | [`acquire`] | the request for a lease that the subcommands share |
//! | [`exec`] | runs a command under a lease |
//! | [`lease`] | leases that scripts keep without a process of their own |
//! | [`view`] | holders, waiters, and the reason of a wait |
//! | [`drain`] | takes resources of a lockpool out of service |
//! | [`changes`] | waits for the next change of objects |
//! | [`once`] | runs a command once, of many who start it |
//! | [`serve`] | holds leases for another program, over HTTP |
//! | [`reference`] | completion, manual pages and `docs/cli.md`, from the definition of the command line |
//! | [`doctor`] | checks Redis and the objects |
//! | [`install`] | copies the program into a folder |
//! | [`exit`] | exit codes |
//! | [`file`] | files that other programs read |

use std::process::ExitCode;

mod acquire;
mod args;
mod changes;
mod connect;
mod doctor;
mod drain;
mod duration;
mod exec;
mod exit;
mod file;
mod install;
mod kubernetes;
mod lease;
mod object;
mod once;
mod reference;
mod serve;
mod view;

fn main() -> ExitCode {
    // These are started by `tenure exec` itself, before each command, so that they come before all that takes time.
    if let Some(code) = exec::internal() {
        return code;
    }
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // A process gets the death signal of its parent when the thread ends that has started it: this one is the last to end.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(args::run(cli)),
        Err(error) => Err(exit::Failure::new(exit::Code::Failed, error)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(message) = failure.message {
                report(message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Writes a line to standard error. A reader that has gone is no reason to lose a lease.
fn report(line: impl std::fmt::Display) {
    use std::io::Write as _;
    // Texts of Redis may contain anything, and a terminal would obey it.
    let line = line.to_string();
    let plain = line.replace(|c: char| c.is_control() && c != '\n', " ");
    let _ = writeln!(std::io::stderr(), "tenure: {plain}");
}
