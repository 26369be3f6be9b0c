//! The bundled Redis: the Secrets of the server that the chart runs for the controller. The chart makes them without data, so that no
//! rendering has a password or a key, and the controller fills them.
//!
//! | module | contents |
//! |---|---|
//! | [`password`] | the password of the controller's own Redis user: made, replaced on demand, and the same on all servers |
//! | [`credentials`] | the credentials with which the controller connects |
//! | [`node_password`] | the password that the servers of a replicated Redis share: made once |
//! | [`certificate`] | the certificate of the server, with its authority: made and renewed |
//! | [`followed`] | a Secret, as the watch delivers it, and its writes |

mod certificate;
pub(crate) mod credentials;
mod followed;
mod node_password;
mod password;

use std::{path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    bundled::{
        certificate::Certificates, credentials::OwnPasswords, followed::Followed, password::OwnPassword,
    },
    config::Config,
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
            background.spawn(node_password::keep(secret, health.clone(), stop.clone()));
        }
        if let Some((place, secret)) = certificate {
            let file = config.redis_ca_file.clone().unwrap_or_default();
            let certificates =
                Certificates::new(secret, file.clone(), config.redis_tls_names.clone(), health);
            background.spawn(certificates.run(stop.clone()));
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
        control: &tenure::Control,
        health: &Arc<Health>,
        stop: &watch::Receiver<bool>,
        parts: &mut JoinSet<&'static str>,
    ) {
        if let Some((secret, passwords)) = self.password {
            let own = OwnPassword::new(secret, passwords, config.access_overlap, control, health);
            parts.spawn(own.run(stop.clone()));
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
