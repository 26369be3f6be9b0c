//! Real servers to try something on by hand, until Ctrl-C.

use clap::{Parser, ValueEnum};
use tenure_tests::{ControlPlane, Redis, Result};

/// Starts servers on free loopback ports, prints how to reach them, and stops them when it ends.
#[derive(Debug, Parser)]
struct Args {
    /// Servers to start; all if there is none.
    servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Server {
    /// A redis-server.
    Redis,
    /// etcd and kube-apiserver, with Tenure's resource definitions installed.
    ControlPlane,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let servers = Args::parse().servers;
    let wanted = |server| servers.is_empty() || servers.contains(&server);
    if wanted(Server::Redis) {
        println!("export TENURE_REDIS_URL={}", Redis::shared().await?.url());
    }
    if wanted(Server::ControlPlane) {
        println!(
            "export KUBECONFIG={}",
            ControlPlane::shared().await?.kubeconfig().display()
        );
    }
    println!(
        "# Ctrl-C stops them. No controller runs: with these variables, `cargo run --bin tenure-controller` starts one. With --access \
         it makes the Secret tenure-access in each namespace with the label tenure.dev/access=true, by which `kubectl tenure` needs no \
         TENURE_REDIS_URL."
    );
    loop {
        std::thread::park();
    }
}
