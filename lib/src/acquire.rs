//! The one way in: asks for a lease, waits in the queue, and leaves nothing behind when it is not wanted any more.
//!
//! One command asks. It grants, or enqueues, or says busy. Whoever is enqueued is granted by the script that frees the
//! place, and told by push; should the push be lost, the renewal of the place in the queue finds out. The token is drawn
//! once, so that asking again is always safe, and a guard gives back whatever the token got if the future is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::Value;
use tokio::sync::watch;
use tracing::debug;

use crate::{
    Client, Error, Lease, Options,
    identity::Holder,
    wire::{
        clock::{self, Sample},
        ledger::{Hold, Place, Request, Standing, Status, Token, Word},
        message::{self, Acquired, Grant},
        releaser::Job,
        script,
    },
};

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Not,
    Until(Instant),
    Forever,
}

impl Wait {
    pub(crate) fn for_up_to(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            _ if timeout.is_zero() => Self::Not,
            Some(at) => Self::Until(at),
            None => Self::Forever,
        }
    }

    fn end(self) -> Option<Instant> {
        match self {
            Self::Until(at) => Some(at),
            Self::Not | Self::Forever => None,
        }
    }
}

/// An object as a user holds it: which one, and how to ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) client: Client,
    pub(crate) place: Arc<Place>,
    pub(crate) options: Options,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
}

/// A place in the queue lives this long unless renewed; a lease handed to its holder lives no longer until confirmed.
const PLACE_MS: u64 = 10_000;
/// An object that is not declared may be about to be: whoever waits anyway waits this long for it.
const DECLARE_GRACE: Duration = Duration::from_secs(5);
const DECLARE_POLL: Duration = Duration::from_millis(100);
/// Far enough to be for ever.
const AGES: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Handle {
    pub(crate) async fn acquire(&self, permits: u64, wait: Wait) -> Result<Option<Lease>, Error> {
        if permits == 0 {
            return Err(Error::invalid("permits", "is 0", "ask for at least 1"));
        }
        let (lease_ms, max_hold_ms, reason) = self.options.check(self.first_limit == 0)?;
        let identity = self.client.inner.identity.clone();
        let holder = serde_json::to_string(&Holder {
            identity,
            reason: reason.to_owned(),
        })
        .map_err(|error| Error::invalid("identity", error.to_string(), "use plain text"))?;
        let request = Request {
            permits,
            lease_ms,
            max_hold_ms,
            first_limit: self.first_limit,
            holder: holder.into(),
        };
        let claim = Claim::new(self.client.clone(), self.place.clone());
        claim.run(request, wait).await
    }
}

/// A request under way. Dropped before its end, it gives back what it may have got.
struct Claim {
    client: Client,
    place: Arc<Place>,
    token: Token,
    open: bool,
}

impl Claim {
    fn new(client: Client, place: Arc<Place>) -> Self {
        Self {
            client,
            place,
            token: uuid::Uuid::new_v4().simple().to_string().into(),
            open: false,
        }
    }

    async fn run(mut self, request: Request, wait: Wait) -> Result<Option<Lease>, Error> {
        let give_up_declared = Instant::now() + DECLARE_GRACE.min(remaining(wait));
        loop {
            let mut heard = match wait {
                Wait::Not => None,
                _ => Some(self.client.inner.ledger.wait(&self.token, &self.place)),
            };
            self.open = true;
            let (reply, sent) = match self.ask(&request, wait).await {
                Ok(answer) => answer,
                Err(Error::NotDeclared { .. }) if Instant::now() < give_up_declared && heard.is_some() => {
                    tokio::time::sleep(DECLARE_POLL).await;
                    continue;
                }
                Err(error) => {
                    // Without an answer the token may have got something; with a refusal it has not.
                    self.open = error.is_unreachable();
                    return Err(error);
                }
            };
            match reply {
                Acquired::Granted(grant) => {
                    let sample = Sample {
                        sent,
                        server_ms: grant.now,
                    };
                    self.client.inner.ledger.learn(sample);
                    let deadline = clock::deadline(sample, grant.expires);
                    return Ok(Some(self.granted(grant, deadline, request)));
                }
                Acquired::Busy { .. } => {
                    self.open = false;
                    return Ok(None);
                }
                Acquired::Queued { now, expires, wake } => {
                    let ledger = &self.client.inner.ledger;
                    ledger.learn(Sample { sent, server_ms: now });
                    let place = Duration::from_millis(expires.saturating_sub(now));
                    ledger.queued(&self.token, place, Duration::from_millis(wake));
                }
            }
            let Some(heard) = heard.as_mut() else {
                return Err(Error::protocol("queued without having asked for it"));
            };
            let word = match wait.end() {
                Some(end) => tokio::time::timeout_at(end.into(), heard).await,
                None => Ok(heard.await),
            };
            match word {
                Ok(Ok(Word::Granted { grant, deadline })) => {
                    return Ok(Some(self.granted(grant, deadline, request)));
                }
                Ok(Ok(Word::AskAgain) | Err(_)) => {}
                Ok(Ok(Word::Gone { cause })) => {
                    self.open = false;
                    debug!(object = %self.place.object, cause, "sent away from the queue");
                    return Err(Error::NotDeclared {
                        object: self.place.object.clone(),
                    });
                }
                Err(_elapsed) => return self.leave().await.map(|()| None),
            }
        }
    }

    /// One command, whatever it is answered.
    async fn ask(&self, request: &Request, wait: Wait) -> Result<(Acquired, Instant), Error> {
        let inner = &self.client.inner;
        let place_ms = if matches!(wait, Wait::Not) { 0 } else { PLACE_MS };
        let until = match wait {
            Wait::Not => Instant::now() + inner.link.response_timeout(),
            Wait::Until(at) => at,
            Wait::Forever => Instant::now() + AGES,
        };
        let numbers = [
            request.permits,
            request.lease_ms,
            request.max_hold_ms,
            request.first_limit,
            place_ms,
        ]
        .map(|n| n.to_string());
        let [permits, lease, max_hold, first_limit, place] = numbers.each_ref().map(String::as_str);
        let args = [
            &*self.token,
            permits,
            lease,
            max_hold,
            first_limit,
            place,
            &inner.channel,
            &request.holder,
        ];
        match inner
            .link
            .call(&script::ACQUIRE, &self.place.keys, &args, until)
            .await
        {
            Ok(reply) => Ok((message::acquired(&reply.value)?, reply.sent)),
            Err(Error::Refused { reason }) => Err(self.refusal(reason, request.permits)),
            Err(error) => Err(error),
        }
    }

    /// The protocol's named errors.
    fn refusal(&self, reason: String, asked: u64) -> Error {
        let object = self.place.object.clone();
        match reason.split_once(' ') {
            Some(("NOTDECLARED", _)) => Error::NotDeclared { object },
            Some(("TOOLARGE", limit)) => Error::TooLarge {
                object,
                asked,
                limit: limit.parse().unwrap_or(0),
            },
            _ => Error::Refused { reason },
        }
    }

    fn granted(mut self, grant: Grant, deadline: Instant, request: Request) -> Lease {
        debug!(object = %self.place.object, fence = grant.fence, "granted");
        self.open = false;
        let (status, _) = watch::channel(Status {
            deadline,
            standing: Standing::Held,
        });
        let hold = Hold {
            token: self.token.clone(),
            place: self.place.clone(),
            grant,
            request,
            status,
        };
        Lease::new(self.client.clone(), Arc::new(hold))
    }

    /// The time is over: leaves the queue, and is out of it when this returns, unless Redis does not answer.
    async fn leave(&mut self) -> Result<(), Error> {
        let inner = &self.client.inner;
        inner.ledger.forget(&self.token);
        let until = Instant::now() + inner.link.response_timeout();
        let left: Result<Value, Error> = inner
            .link
            .call(&script::RELEASE, &self.place.keys, &["", &self.token], until)
            .await
            .map(|r| r.value);
        self.open = left.is_err();
        left.map(drop)
    }
}

fn remaining(wait: Wait) -> Duration {
    wait.end()
        .map_or(AGES, |end| end.saturating_duration_since(Instant::now()))
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.client.inner.ledger.forget_waiting(&self.token);
        if self.open {
            let job = Job::Release {
                token: self.token.clone(),
                place: self.place.clone(),
                ends: None,
            };
            // An error means that the runtime is gone: lease and place end by themselves.
            let _ = self.client.inner.jobs.send(job);
        }
    }
}
