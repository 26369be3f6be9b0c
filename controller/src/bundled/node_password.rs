//! The password that the servers of a replicated Redis share. No client has it, and it is made once: servers with different ones do not
//! reach one another.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use tokio::time::Instant;

use crate::{
    bundled::{followed::Followed, task::Task},
    password::Password,
};

const KEY: &str = "node-password";

/// The task that keeps the password.
pub(crate) struct NodePassword(pub(crate) Followed);

impl Task for NodePassword {
    const CHECK: &'static str = "redis node password";
    const PROBLEM: &'static str = "the servers of Redis do not get a password";

    fn secret(&mut self) -> &mut Followed {
        &mut self.0
    }

    async fn reach_target(&mut self, found: &Secret) -> Result<Option<Instant>, String> {
        if has_password(found) {
            return Ok(None);
        }
        let password = Password::random().map_err(|error| error.to_string())?;
        let fields = Secret {
            data: Some(BTreeMap::from([(
                KEY.to_owned(),
                ByteString(password.0.into_bytes()),
            )])),
            ..Secret::default()
        };
        self.0
            .write(found, fields, "the password of the servers of Redis")
            .await
            .map_err(|failure| self.0.unwritten(&failure))?;
        Ok(None)
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
