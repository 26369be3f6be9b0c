//! The password of the controller's own Redis user.
//!
//! The Secret is the truth, and each server gets its passwords: the current one, and the one before it while it stands in the Secret. A
//! Redis that starts reads the same Secret. A new password is given to Redis before it stands in the Secret, so that it works as
//! soon as it can be read there. So a password changes without a moment in which a controller or a starting Redis has one that the
//! other side does not have.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     tenure.dev/rotate: "after the leak"                   # the user's: a new value asks for another password
//!     tenure.dev/rotated-for: "after the leak"              # the last request that was carried out
//!     tenure.dev/rotated-at: "2026-11-28T09:17:28Z"         # when the password was made
//!     tenure.dev/previous-until: "2026-11-29T09:17:28Z"     # previous-password is removed then
//! data: {password: ..., previous-password: ...}
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use tenure::{Control, control::Server};
use tokio::time::Instant;

use crate::{
    access::secret::{ROTATE, ROTATED_AT, ROTATED_FOR},
    bundled::{credentials::OwnPasswords, followed::Followed, task::Task},
    events::{ObjectEvent, Publisher},
    password::{NoRandomness, Password},
};

const PASSWORD: &str = "password";
const PREVIOUS: &str = "previous-password";
const PREVIOUS_UNTIL: &str = "tenure.dev/previous-until";

/// The task that keeps the password.
pub(crate) struct OwnPassword {
    secret: Followed,
    passwords: Arc<OwnPasswords>,
    overlap: Duration,
    control: Control,
    events: Publisher,
    /// A new password that is not written yet.
    draft: Option<Password>,
    /// The last request for a rotation that the API server did not let the controller carry out.
    refused: Option<String>,
}

/// The state of the Secret.
struct Facts<'a> {
    secret: &'a Secret,
    now: Timestamp,
    /// A replaced password stays valid for this long.
    overlap: Duration,
    /// The password that the controller uses, which a Secret may have lost.
    known: Option<&'a Password>,
    /// The request for a rotation that cannot be carried out.
    refused: Option<&'a str>,
}

/// The target.
#[derive(Debug, Eq, PartialEq)]
enum Decision {
    /// Redis has these passwords, the current one first, and the Secret stays.
    Keep {
        passwords: Vec<Password>,
        next: Option<Timestamp>,
    },
    /// Redis gets these passwords, and then the Secret these fields.
    Write {
        passwords: Vec<Password>,
        fields: Box<Fields>,
    },
    /// The Secret has a password that cannot be used.
    Unusable,
}

/// The fields that the controller writes.
#[derive(Debug, Eq, PartialEq)]
struct Fields {
    password: Password,
    since: Timestamp,
    previous: Option<(Password, Timestamp)>,
    answered: Option<String>,
}

fn decide(
    facts: &Facts<'_>,
    draw: impl FnOnce() -> Result<Password, NoRandomness>,
) -> Result<Decision, NoRandomness> {
    let Facts {
        secret,
        now,
        overlap,
        known,
        refused,
    } = *facts;
    let value = |key: &str| {
        let data = secret.data.as_ref()?.get(key)?;
        Some(data.0.strip_suffix(b"\n").unwrap_or(&data.0)).filter(|value| !value.is_empty())
    };
    let annotation = |key: &str| secret.annotations().get(key);
    let time = |key: &str| annotation(key)?.parse::<Timestamp>().ok();
    let until = now
        .saturating_add(SignedDuration::try_from(overlap).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX);
    let request = annotation(ROTATE).cloned();
    let replaced = |new: Password, previous: Option<Password>| Decision::Write {
        passwords: [Some(new.clone()), previous.clone()]
            .into_iter()
            .flatten()
            .collect(),
        fields: Box::new(Fields {
            password: new,
            since: now,
            previous: previous.map(|previous| (previous, until)),
            answered: request.clone(),
        }),
    };
    let Some(current) = value(PASSWORD) else {
        return Ok(replaced(draw()?, known.cloned()));
    };
    let Some(current) = Password::read(current) else {
        return Ok(Decision::Unusable);
    };
    let is_answered = request.as_ref() == annotation(ROTATED_FOR) || request.as_deref() == refused;
    if request.is_some() && !is_answered {
        return Ok(replaced(draw()?, Some(current)));
    }
    let previous = value(PREVIOUS).and_then(Password::read);
    let ends = previous.as_ref().and_then(|_| time(PREVIOUS_UNTIL));
    if ends.is_some_and(|ends| ends <= now) {
        return Ok(Decision::Write {
            passwords: vec![current.clone()],
            fields: Box::new(Fields {
                password: current,
                since: time(ROTATED_AT).unwrap_or(now),
                previous: None,
                answered: annotation(ROTATED_FOR).cloned(),
            }),
        });
    }
    Ok(Decision::Keep {
        passwords: [Some(current), previous].into_iter().flatten().collect(),
        next: ends,
    })
}

impl Fields {
    fn render(&self) -> Secret {
        let value = |password: &Password| ByteString(password.0.as_bytes().to_vec());
        let mut data = BTreeMap::from([(PASSWORD.to_owned(), value(&self.password))]);
        let mut annotations = BTreeMap::from([(ROTATED_AT.to_owned(), self.since.to_string())]);
        if let Some((previous, until)) = &self.previous {
            data.insert(PREVIOUS.to_owned(), value(previous));
            annotations.insert(PREVIOUS_UNTIL.to_owned(), until.to_string());
        }
        if let Some(answered) = &self.answered {
            annotations.insert(ROTATED_FOR.to_owned(), answered.clone());
        }
        Secret {
            metadata: ObjectMeta {
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..Secret::default()
        }
    }
}

impl OwnPassword {
    pub(crate) fn new(
        secret: Followed,
        passwords: Arc<OwnPasswords>,
        overlap: Duration,
        (control, events): (&Control, &Publisher),
    ) -> Self {
        Self {
            secret,
            passwords,
            overlap,
            control: control.clone(),
            events: events.clone(),
            draft: None,
            refused: None,
        }
    }

    /// Gives each server the passwords.
    async fn give(&self, passwords: &[Password]) -> Result<(), tenure::Error> {
        let hashes: Vec<String> = passwords.iter().map(Password::hash).collect();
        if self.control.set_passwords(self.passwords.user(), &hashes).await? {
            tracing::info!(
                passwords = hashes.len(),
                "gave Redis the passwords of the controller's user"
            );
        }
        Ok(())
    }
}

/// Notes whether there is a connection, by which the next password is chosen. Never ends.
pub(crate) async fn follow_connections(control: Control, passwords: Arc<OwnPasswords>) -> &'static str {
    let mut server = control.server();
    loop {
        passwords.set_connected(!matches!(server, Server::Disconnected { .. }));
        server = control.server_changed(&server).await;
    }
}

impl Task for OwnPassword {
    const CHECK: &'static str = "redis password";
    const PROBLEM: &'static str = "the password for Redis is not as it should be";

    fn secret(&mut self) -> &mut Followed {
        &mut self.secret
    }

    async fn reach_target(&mut self, secret: &Secret) -> Result<Option<Instant>, String> {
        let now = Timestamp::now();
        let known = self.passwords.known();
        let facts = Facts {
            secret,
            now,
            overlap: self.overlap,
            known: known.first(),
            refused: self.refused.as_deref(),
        };
        let draft = &mut self.draft;
        let decision = decide(&facts, || match draft {
            Some(draft) => Ok(draft.clone()),
            None => Ok(draft.insert(Password::random()?).clone()),
        });
        match decision.map_err(|error| error.to_string())? {
            Decision::Unusable => Err(format!(
                "the key {PASSWORD} of the Secret {} is no password: use printable ASCII characters without spaces",
                self.secret.shown
            )),
            Decision::Keep { passwords, next } => {
                self.draft = None;
                self.passwords.set(passwords.clone());
                match self.give(&passwords).await {
                    // The check `redis` reports it.
                    Err(error) if error.is_unreachable() => {}
                    outcome => outcome.map_err(|error| refused(&error))?,
                }
                let span = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
                Ok(span.map(|span| Instant::now() + span))
            }
            Decision::Write { passwords, fields } => {
                // Without a password there is nothing that a connection could be made with.
                if !known.is_empty() {
                    self.give(&passwords).await.map_err(|error| refused(&error))?;
                } else if let Some((current, _)) = &fields.previous {
                    self.passwords.set(vec![current.clone()]);
                    return Ok(Some(Instant::now()));
                }
                let what = "the password for Redis";
                match self.secret.write(secret, fields.render(), what).await {
                    Ok(true) => {
                        self.passwords.set(passwords);
                        self.draft = None;
                    }
                    Ok(false) => {}
                    // A Secret that the user keeps: Redis gets its passwords again, and loses the new one.
                    Err(failure) if failure.lacks_permission() && fields.previous.is_some() => {
                        tracing::warn!(secret = self.secret.shown, error = %failure, "the controller may not write the password that the \
                            annotation {ROTATE} asks for");
                        let event = ObjectEvent::RotationRefused;
                        self.events.publish(&self.secret.reference(), &event).await;
                        self.refused.clone_from(&fields.answered);
                        return Ok(Some(Instant::now()));
                    }
                    Err(failure) => return Err(self.secret.unwritten(&failure)),
                }
                // The Secret as it is written now is looked at next.
                Ok(None)
            }
        }
    }
}

fn refused(error: &tenure::Error) -> String {
    format!("Redis does not get the passwords of the controller's user: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(60);

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    fn secret(data: &[(&str, &str)], annotations: &[(&str, &str)]) -> Secret {
        let own = |text: &&str| (*text).to_owned();
        let data = data
            .iter()
            .map(|(key, value)| (own(key), ByteString(value.as_bytes().to_vec())));
        let annotations = annotations.iter().map(|(key, value)| (own(key), own(value)));
        let mut secret = Secret {
            data: Some(data.collect()),
            ..Secret::default()
        };
        secret.metadata.annotations = Some(annotations.collect());
        secret
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn decided(secret: &Secret, known: Option<&Password>) -> Decision {
        let facts = Facts {
            secret,
            now: at(1000),
            overlap: OVERLAP,
            known,
            refused: Some("not allowed"),
        };
        decide(&facts, || Ok(password("new"))).unwrap()
    }

    fn written(decision: Decision) -> (Vec<Password>, Secret) {
        match decision {
            Decision::Write { passwords, fields } => (passwords, fields.render()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_secret_gets_a_password() {
        for empty in [
            secret(&[], &[]),
            secret(&[(PASSWORD, "")], &[]),
            Secret::default(),
        ] {
            let (passwords, secret) = written(decided(&empty, None));
            assert_eq!(passwords, [password("new")]);
            assert_eq!(secret.data.unwrap().len(), 1);
        }
    }

    #[test]
    fn a_secret_that_was_emptied_gets_another_password_beside_the_one_in_use() {
        let (passwords, secret) = written(decided(&secret(&[], &[]), Some(&password("used"))));
        assert_eq!(passwords, [password("new"), password("used")]);
        assert_eq!(secret.data.as_ref().unwrap()[PREVIOUS].0, b"used");
        assert_eq!(secret.annotations()[PREVIOUS_UNTIL], at(1060).to_string());
    }

    #[test]
    fn a_password_that_is_there_stays_whoever_made_it() {
        let found = secret(&[(PASSWORD, "theirs\n")], &[]);
        let keep = |passwords: &[&str], next| Decision::Keep {
            passwords: passwords.iter().map(|text| password(text)).collect(),
            next,
        };
        assert_eq!(decided(&found, None), keep(&["theirs"], None));
        // Both are valid for as long as the user leaves the second one there.
        let found = secret(&[(PASSWORD, "b"), (PREVIOUS, "a")], &[]);
        assert_eq!(decided(&found, None), keep(&["b", "a"], None));
        let found = secret(
            &[(PASSWORD, "b"), (PREVIOUS, "a")],
            &[(PREVIOUS_UNTIL, &at(1001).to_string())],
        );
        assert_eq!(decided(&found, None), keep(&["b", "a"], Some(at(1001))));
        assert_eq!(
            decided(&secret(&[(PASSWORD, "two words")], &[]), None),
            Decision::Unusable
        );
    }

    #[test]
    fn each_request_is_answered_once() {
        let asked = secret(&[(PASSWORD, "old")], &[(ROTATE, "one")]);
        let (passwords, secret) = written(decided(&asked, Some(&password("old"))));
        assert_eq!(passwords, [password("new"), password("old")]);
        let mut answered = secret;
        answered
            .annotations_mut()
            .insert(ROTATE.to_owned(), "one".to_owned());
        assert!(matches!(
            decided(&answered, None),
            Decision::Keep { next: Some(_), .. }
        ));
        let refused = self::secret(&[(PASSWORD, "old")], &[(ROTATE, "not allowed")]);
        assert!(matches!(
            decided(&refused, None),
            Decision::Keep { next: None, .. }
        ));
    }

    #[test]
    fn the_previous_password_ends_at_its_time() {
        let found = secret(
            &[(PASSWORD, "b"), (PREVIOUS, "a")],
            &[
                (PREVIOUS_UNTIL, &at(1000).to_string()),
                (ROTATED_FOR, "one"),
                (ROTATE, "one"),
            ],
        );
        let (passwords, secret) = written(decided(&found, None));
        assert_eq!(passwords, [password("b")]);
        assert_eq!(secret.data.as_ref().unwrap().len(), 1);
        assert_eq!(secret.annotations()[ROTATED_FOR], "one");
        assert!(!secret.annotations().contains_key(PREVIOUS_UNTIL));
    }
}
