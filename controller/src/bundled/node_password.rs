//! The password that the servers of a replicated Redis share. No client has it, and it is made once: servers with different ones do not
//! reach one another.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use tokio::sync::watch;

use crate::{bundled::followed::Followed, http::Health, password::Password, run::stopped};

const KEY: &str = "node-password";
/// The name of the check in `/readyz`.
const CHECK: &str = "redis node password";

/// Keeps a password in the Secret until the controller stops.
pub(crate) async fn keep(
    mut secret: Followed,
    health: Arc<Health>,
    mut stop: watch::Receiver<bool>,
) -> &'static str {
    health.bad(CHECK, "the Secret is not read yet");
    let passes = async {
        loop {
            match pass(&mut secret).await {
                Ok(()) => health.good(CHECK),
                Err(problem) => {
                    if health.bad(CHECK, &problem) {
                        tracing::warn!(problem, "the servers of Redis do not get a password, trying on");
                    }
                }
            }
            secret.changed(None).await;
        }
    };
    tokio::select! {
        () = stopped(&mut stop) => {}
        () = passes => {}
    }
    "the password of the servers of Redis"
}

async fn pass(secret: &mut Followed) -> Result<(), String> {
    let shown = secret.shown.clone();
    let Some(seen) = secret.seen() else {
        return Err(format!("the Secret {shown} is not read yet"));
    };
    let found =
        seen.ok_or_else(|| format!("the Secret {shown} is missing: make it, as `helm upgrade` does"))?;
    if has_password(&found) {
        return Ok(());
    }
    let password = Password::random().map_err(|error| error.to_string())?;
    let fields = Secret {
        data: Some(BTreeMap::from([(
            KEY.to_owned(),
            ByteString(password.0.into_bytes()),
        )])),
        ..Secret::default()
    };
    match secret.write(&found, fields).await {
        Ok(()) => {
            tracing::info!(secret = shown, "wrote the password of the servers of Redis");
            Ok(())
        }
        // Another controller was faster, or the watch lags behind.
        Err(failure) if failure.is_outdated() => Ok(()),
        Err(failure) => Err(format!("the Secret {shown} cannot be written: {failure}")),
    }
}

fn has_password(secret: &Secret) -> bool {
    let value = secret.data.as_ref().and_then(|data| data.get(KEY));
    value.is_some_and(|value| !value.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_there_stays() {
        let with = |value: &str| Secret {
            data: Some(BTreeMap::from([(
                KEY.to_owned(),
                ByteString(value.as_bytes().to_vec()),
            )])),
            ..Secret::default()
        };
        assert!(has_password(&with("theirs")));
        assert!(!has_password(&with("")) && !has_password(&Secret::default()));
    }
}
