//! The bundled Redis: the Secrets of the server that the chart runs for the controller. The chart makes them without data, so that no
//! rendering has a password or a key, and the controller fills them.
//!
//! | module | contents |
//! |---|---|
//! | [`password`] | the password of the controller's own Redis user: made, replaced on demand, and the same on all servers |
//! | [`credentials`] | the credentials with which the controller connects |
//! | [`node_password`] | the password that the servers of a replicated Redis share: made once |
//! | [`certificate`] | the certificate of the server, with its authority: made and renewed |
//! | [`task`] | the loop that they share |
//! | [`followed`] | a Secret, as the watch delivers it, and its writes |

mod certificate;
pub(crate) mod credentials;
mod followed;
mod node_password;
mod password;
mod task;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::FutureExt;
use kube::Client;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    bundled::{
        certificate::Certificates, credentials::OwnPasswords, followed::Followed,
        node_password::NodePassword, password::OwnPassword,
    },
    config::Config,
    events::Publisher,
    http::Health,
    run::{RunError, stopped},
};

/// The time that the API server has for the first answer about the authority, without which no client of Redis can be made.
const FIRST_AUTHORITY: Duration = Duration::from_secs(20);

/// The Secrets that the flags name.
pub(crate) struct Bundled {
    password: Option<(Followed, Arc<OwnPasswords>)>,
}

impl Bundled {
    /// Starts to follow the Secrets. Returns when the file with the authority is there, if the controller keeps it.
    pub(crate) async fn start(
        config: &Config,
        client: &Client,
        health: &Arc<Health>,
        stop: &watch::Receiver<bool>,
        background: &mut JoinSet<&'static str>,
    ) -> Result<Self, RunError> {
        let mut follow = |place: &(String, String)| {
            let (followed, watching) = Followed::new(client, place, health);
            background.spawn(watching);
            followed
        };
        let password = config.redis_secret.as_ref().map(|place| {
            let username = config.redis_username.as_deref();
            (follow(place), Arc::new(OwnPasswords::of(username)))
        });
        let nodes = config.redis_node_secret.as_ref().map(&mut follow);
        let certificate = config
            .redis_tls_secret
            .as_ref()
            .map(|place| (place, follow(place)));
        if let Some(secret) = nodes {
            let kept = task::keep(NodePassword(secret), health, stop.clone());
            background.spawn(kept.map(|()| "the password of the servers of Redis"));
        }
        if let Some((place, secret)) = certificate {
            let file = config.redis_ca_file.clone().unwrap_or_default();
            let certificates = Certificates::new(secret, file.clone(), config.redis_tls_names.clone());
            let kept = task::keep(certificates, health, stop.clone());
            background.spawn(kept.map(|()| "the certificates of Redis"));
            wait_for(&file, place, stop).await?;
        }
        Ok(Self { password })
    }

    /// The credentials for Redis, if they stand in a Secret.
    pub(crate) fn credentials(&self) -> Option<Arc<OwnPasswords>> {
        self.password.as_ref().map(|(_, passwords)| passwords.clone())
    }

    /// Starts to keep the password.
    pub(crate) fn keep_password(
        self,
        config: &Config,
        (control, events): (&tenure::Control, &Publisher),
        health: &Arc<Health>,
        stop: &watch::Receiver<bool>,
        (parts, background): (&mut JoinSet<&'static str>, &mut JoinSet<&'static str>),
    ) {
        if let Some((secret, passwords)) = self.password {
            background.spawn(password::follow_connections(control.clone(), passwords.clone()));
            let own = OwnPassword::new(secret, passwords, config.access_overlap, (control, events));
            let kept = task::keep(own, health, stop.clone());
            parts.spawn(kept.map(|()| "the password of Redis"));
        }
    }
}

async fn wait_for(
    file: &PathBuf,
    place: &(String, String),
    stop: &watch::Receiver<bool>,
) -> Result<(), RunError> {
    let there = async {
        while !tokio::fs::try_exists(file).await.unwrap_or_default() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut stop = stop.clone();
    tokio::select! {
        () = there => Ok(()),
        () = stopped(&mut stop) => Ok(()),
        () = tokio::time::sleep(FIRST_AUTHORITY) => Err(RunError::Authority {
            secret: format!("{}/{}", place.0, place.1),
            file: file.clone(),
        }),
    }
}
