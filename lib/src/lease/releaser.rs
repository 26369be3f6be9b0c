//! Gives back, in the background, dropped leases and the queue entries of dropped futures.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::debug;

use crate::{
    lease::object_keys::ObjectKeys,
    protocol::{
        calls::{Ending, Release},
        secret::Token,
    },
    transport::{later, router::Router},
};

/// The time for which a lease without a known end is given back; after that it expires.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) enum Job {
    Release {
        token: Token,
        target: Arc<ObjectKeys>,
        how: Ending<'static>,
        /// When the server has ended it, at the latest.
        ends: Option<Instant>,
    },
    /// Answered when all jobs before it are done.
    Flush(oneshot::Sender<()>),
}

/// Runs until the client is gone and all is given back.
pub(crate) async fn run(mut jobs: mpsc::UnboundedReceiver<Job>, link: Router) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(Job::Release { token, target, how, ends }) => {
                    let link = link.clone();
                    running.spawn(async move { release(&link, &token, &target, how, ends).await });
                }
                Some(Job::Flush(done)) => {
                    let mut before = std::mem::take(&mut running);
                    // Later jobs do not wait for it.
                    running.spawn(async move {
                        while before.join_next().await.is_some() {}
                        // The caller may be gone.
                        let _ = done.send(());
                    });
                }
                None => break,
            },
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

async fn release(link: &Router, token: &Token, target: &ObjectKeys, how: Ending<'_>, ends: Option<Instant>) {
    let until = ends.unwrap_or_else(|| later(PATIENCE));
    let release = Release {
        how,
        tokens: vec![token],
    };
    if let Err(failed) = link.repeat(&release, &target.keys, until).await {
        debug!(error = %failed.error, object = %target.object, "could not give back; it ends with its lease");
    }
}
