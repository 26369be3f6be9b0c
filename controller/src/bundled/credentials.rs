//! Credentials: the passwords with which the controller connects to Redis.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use tenure::Credentials;

use crate::{lock::lock, password::Password};

/// A live connection gets a new password within this time.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The passwords of the controller's user that the Secret has.
pub(crate) struct OwnPasswords {
    username: Option<String>,
    /// The current one first.
    known: Mutex<Vec<Password>>,
    connected: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("the Secret with the password for Redis has no password yet")]
pub(crate) struct NoPassword;

impl OwnPasswords {
    pub(crate) fn of(username: Option<&str>) -> Self {
        Self {
            username: username.map(str::to_owned),
            known: Mutex::default(),
            connected: AtomicBool::new(false),
        }
    }

    /// The user in Redis.
    pub(crate) fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }

    pub(crate) fn known(&self) -> Vec<Password> {
        lock(&self.known).clone()
    }

    pub(crate) fn set(&self, passwords: Vec<Password>) {
        *lock(&self.known) = passwords;
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// The credentials for the next attempt. A Redis that was restarted from an older state of the Secret has the previous password
    /// alone: while there is no connection, each password is tried. The choice is random, because attempts at several servers
    /// alternate.
    pub(crate) fn next(&self) -> Result<Credentials, NoPassword> {
        let known = lock(&self.known);
        let at = if self.connected.load(Ordering::Relaxed) {
            0
        } else {
            fastrand::usize(..known.len().max(1))
        };
        let password = known.get(at).ok_or(NoPassword)?;
        Ok(Credentials::new(self.username.as_deref(), &password.0).refresh_after(ASK_AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_connection_each_password_is_tried_and_with_one_the_current_one() {
        let own = OwnPasswords::of(Some("tenure-controller"));
        assert!(own.next().is_err());
        own.set(["new", "old"].map(|text| Password(text.to_owned())).into());
        let with = |text| Credentials::new(Some("tenure-controller"), text).refresh_after(ASK_AGAIN);
        let tried: Vec<Credentials> = (0..100).map(|_| own.next().unwrap()).collect();
        assert!(tried.contains(&with("new")) && tried.contains(&with("old")));
        own.set_connected(true);
        assert!((0..100).all(|_| own.next().unwrap() == with("new")));
    }
}
