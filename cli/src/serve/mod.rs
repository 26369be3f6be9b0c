//! `tenure serve`: a sidecar that holds leases for a program in any language, over HTTP on a socket.
//!
//! | module | contents |
//! |---|---|
//! | [`listen`] | the socket, and who may use it |
//! | [`api`] | requests and answers |
//! | [`closed`] | connections end when their client has closed them |
//! | [`held`] | the leases, each with a task that keeps it |

use std::time::Duration;

use crate::{
    connect::Connection,
    exec,
    exit::{Code, Failure},
    report,
};

mod api;
mod closed;
mod held;
mod listen;

use listen::Address;

/// The time for answers that are under way at the end.
const PATIENCE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "Examples:
  # Listens on a socket that only processes of the same user can open; the
  # folder has to exist
  tenure serve --listen unix:/run/tenure/tenure.sock

  # Takes a lease that is released when curl ends. curl prints a line when it is
  # granted, and another one if it is lost
  curl --no-buffer --unix-socket /run/tenure/tenure.sock \\
    http://localhost/v1/leases \\
    --json '{\"object\": \"lock/migration\", \"stream\": true}'";

/// Holds leases for a program in any language, over HTTP on a Unix socket or a port of the loopback interface.
///
/// The program acquires, watches and releases leases by requests; tenure renews them. A lease ends with its owner: with the connection of
/// the request, or when no request has named it for its heartbeat. At SIGTERM all leases are released. docs/sidecar.md
/// describes the requests, and has a container that does this for a pod.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address to listen on: unix:PATH or 127.0.0.1:PORT. Every process that can reach a port can use it: prefer a socket
    #[arg(long, default_value = "unix:/run/tenure/tenure.sock", value_name = "ADDRESS")]
    listen: Address,
    /// Mode of the Unix socket, in octal: 0660 for a group that several containers share
    #[arg(long, default_value = "0600", value_parser = mode, value_name = "MODE")]
    socket_mode: u32,
    /// Checks that another `tenure serve` listens there, as a probe, and ends
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(connection: &Connection, args: Args) -> Result<u8, Failure> {
    let failed = |error| Failure::new(Code::Failed, format!("--listen {}: {error}", args.listen));
    if args.check {
        args.listen.check().await.map_err(failed)?;
        return Ok(0);
    }
    let mut signals = exec::listen()?;
    let (client, _) = exec::connect(connection, None, &mut signals).await?;
    let leases = held::Leases::new(client.clone());
    // From now on, requests are answered: a probe that connects finds a program that works.
    let server = args
        .listen
        .serve(args.socket_mode, &leases)
        .await
        .map_err(failed)?;
    report(format_args!("listens on {}", args.listen));
    let signal = signals.ending().await;
    // While this process still listens: the next one would make its own there, and lose it.
    args.listen.remove();
    report(format_args!(
        "all leases are released: signal {}",
        signal.as_raw()
    ));
    tokio::select! {
        () = leases.close() => {}
        // The leases run out.
        _ = signals.ending() => return Err(Failure::signal(signal.as_raw())),
    }
    let _ = tokio::time::timeout(PATIENCE, server).await;
    client.close().await;
    Ok(0)
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("{text:?} is no mode: use octal digits, such as 0600 or 0660"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        assert_eq!((mode("0660"), mode("600")), (Ok(0o660), Ok(0o600)));
        for bad in ["0999", "1777", "rw", ""] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
