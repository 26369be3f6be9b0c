//! `make bench`: what Tenure costs, on a real Redis of its own, as ratios and counts.
//!
//! Times depend on the machine and on who else uses it, so none is reported alone: each is divided by one that was taken in
//! turns with it, in the same process, and is a median. `target/bench/report.json` has the figures, the table also has
//! their inputs. With names of topics (`uncontended`, `pools`, `contended`, `queues`, `many`, `twin`, `killed`, `load`, `instructions`, `cli`, `controller`) as
//! arguments, only those run, and the file stays as it is.
//!
//! | module | figures |
//! |---|---|
//! | [`uncontended`] | acquire and release without other clients, one by one and 64 at once; small and large pools |
//! | [`contended`] | many clients, one lock: commands, fairness, handoff |
//! | [`cli`] | only by its name: the program `tenure`: start, hand-off, size |
//! | [`controller`] | only by its name, with the feature `kubernetes`: the controller with many objects |
//! | [`instructions`] | only by its name: instructions of the server and of a client, counted by callgrind |
//! | [`killed`] | only by its name, with the feature `kubernetes`: a controller that is killed every five seconds under a hundred clients |
//! | [`load`] | only by its name: 100,000 leases held and as many waited for, for five minutes |
//! | [`many`] | ten thousand locks of one client: renewal, connections |
//! | [`twin`] | the in-memory twin |
//! | [`raw`] | what it is compared with: a script that does nothing |
//! | [`report`] | the table and the file |

mod cli;
mod contended;
#[cfg(feature = "kubernetes")]
mod controller;
mod instructions;
#[cfg(feature = "kubernetes")]
mod killed;
mod load;
mod many;
mod raw;
mod report;
mod twin;
mod uncontended;

use std::time::Instant;

use report::Report;
use tenure::{Client, Kind, ObjectRef};
use tenure_tests::{Redis, Result};

const NAMESPACE: &str = "bench";

#[tokio::main]
async fn main() -> Result {
    let started = Instant::now();
    let only: Vec<String> = std::env::args().skip(1).collect();
    if let [first, url, pairs] = &only[..]
        && first == instructions::CLIENT
    {
        return instructions::client(url.clone(), pairs.parse()?).await;
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let mut report = Report::default();
    if wanted("uncontended") {
        uncontended::pairs(&mut report).await?;
        uncontended::pipelined(&mut report).await?;
    }
    if wanted("pools") {
        uncontended::pools(&mut report).await?;
    }
    if wanted("contended") {
        contended::twenty(&mut report).await?;
    }
    if wanted("queues") {
        contended::queues(&mut report).await?;
    }
    if wanted("many") {
        many::renewed(&mut report).await?;
        many::waited_for(&mut report).await?;
    }
    if wanted("twin") {
        twin::pairs(&mut report).await?;
    }
    #[cfg(feature = "kubernetes")]
    if only.iter().any(|only| only == "killed") {
        killed::every_five_seconds(&mut report).await?;
    }
    if only.iter().any(|only| only == "load") {
        load::held_and_waited_for(&mut report).await?;
    }
    if only.iter().any(|only| only == "cli") {
        cli::start(&mut report).await?;
        cli::handoff(&mut report).await?;
        cli::size(&mut report)?;
    }
    if only.iter().any(|only| only == "instructions") {
        instructions::of_the_server(&mut report).await?;
        instructions::of_a_client(&mut report).await?;
    }
    #[cfg(feature = "kubernetes")]
    if only.iter().any(|only| only == "controller") {
        controller::at_scale(&mut report).await?;
    }
    if only.is_empty() {
        report.write()?;
    }
    println!("In {:.0} s.", started.elapsed().as_secs_f32());
    Ok(())
}

/// A client with a connection of its own, as another process would have.
async fn connect(redis: &Redis) -> Result<Client> {
    Ok(Client::builder(redis.url())
        .namespace(NAMESPACE)
        .connect()
        .await?)
}

fn object(kind: Kind, name: &str) -> Result<ObjectRef> {
    Ok(ObjectRef::new(kind, NAMESPACE, name)?)
}
