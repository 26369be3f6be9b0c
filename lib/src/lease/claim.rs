//! The claim of a token on a lease or a queue entry, while its request is under way.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::debug;

use crate::{
    Error, Lease,
    lease::{
        hold::{Hold, Request},
        machine::{
            held::Status,
            queue_entry::WaiterEvent,
            request::{Action, Event, Granted, RequestState, Wait},
        },
        object_keys::ObjectKeys,
        releaser::Job,
        session::Session,
    },
    protocol::{
        calls::{self, Acquired, Ending, Release},
        message::{End, Grant, How},
        refusal,
        secret::{Secret, Token},
    },
    transport::{
        clock::{self, SentAt},
        later,
        router::Failed,
        uptime::Moment,
    },
};

/// The additional time in which a lease is given back after a timeout, which is within the bound that is documented for
/// timeouts.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(20);
/// Far enough to be for ever.
pub(crate) const AGES: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A guard of a request under way. From [`Claim::enter_token`] on, dropping it gives back the lease or queue entry that the
/// server may have for its token, until [`Claim::disarm`].
pub(crate) struct Claim {
    pub(crate) session: Arc<Session>,
    pub(crate) target: Arc<ObjectKeys>,
    pub(crate) token: Token,
    /// The secret from which the token is computed.
    secret: Secret,
    armed: bool,
    in_queue: Option<Arc<watch::Sender<bool>>>,
}

impl Claim {
    /// Draws a token. `in_queue` becomes true when the request has got a queue entry.
    pub(crate) fn new(
        session: Arc<Session>,
        target: Arc<ObjectKeys>,
        in_queue: Option<Arc<watch::Sender<bool>>>,
    ) -> Self {
        let secret = Secret::new(session.link.draw());
        Self {
            session,
            target,
            token: secret.token(),
            secret,
            armed: false,
            in_queue,
        }
    }

    /// Requests a lease until there is one, the time is over, or there is an error.
    pub(crate) async fn run(mut self, request: Request, wait: Wait) -> Result<Option<Lease>, Error> {
        let patience = later(self.session.link.response_timeout());
        let mut state = RequestState::new(wait, patience, self.armed);
        loop {
            // Also without a wait: a lease that ends before it is returned must be noticed.
            let mut events = self.enter_token();
            let mut event = self.ask(&request, wait).await;
            loop {
                match state.on(event, Instant::now()) {
                    Action::Listen => event = self.hear(&mut events, wait.end(), request.permits).await,
                    Action::Ask { after } => {
                        if !after.is_zero() {
                            tokio::time::sleep(after).await;
                        }
                        break;
                    }
                    Action::TakeUp(granted) => return Ok(Some(self.take_up(granted, request))),
                    Action::Leave => return self.leave().await.map(|()| None),
                    Action::End {
                        outcome,
                        took_nothing,
                    } => {
                        if took_nothing {
                            self.disarm();
                        }
                        return outcome.map(|()| None);
                    }
                }
            }
        }
    }

    /// Enters the token for pushes, and arms the guard. To be called before anything is sent.
    pub(crate) fn enter_token(&mut self) -> oneshot::Receiver<WaiterEvent> {
        self.armed = true;
        self.session.registry.enter(&self.token, &self.target)
    }

    /// The server has nothing for the token, or a lease that another guard gives back.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    /// Waits for a push, or for the outcome of a renewal of the queue entry.
    pub(crate) async fn hear(
        &self,
        events: &mut oneshot::Receiver<WaiterEvent>,
        end: Option<Instant>,
        asked: u64,
    ) -> Event {
        let event = match end {
            Some(end) => tokio::time::timeout_at(end, events).await,
            None => Ok(events.await),
        };
        match event {
            Ok(Ok(WaiterEvent::Granted(Granted { grant, deadline }))) => self.granted(grant, deadline),
            Ok(Ok(WaiterEvent::AskAgain) | Err(_)) => Event::InDoubt,
            Ok(Ok(WaiterEvent::Removed(end))) => Event::Removed(self.removed(&end, asked)),
            Err(_elapsed) => Event::TimeOver,
        }
    }

    /// The error of a request whose queue entry the server has removed.
    fn removed(&self, end: &End, asked: u64) -> Error {
        debug!(object = %self.target.object, ?end, "removed from the queue");
        let object = self.target.object.clone();
        match end.how {
            How::Withdrawn => Error::NotDeclared { object },
            How::Refused => refusal::error(&object, &self.target.keys, asked, end.why.clone()),
            _ => Error::Lost {
                object,
                cause: format!("its queue entry was removed: {end}"),
            },
        }
    }

    /// Notes a queue entry, so that it is renewed.
    pub(crate) fn queued(&self, now: u64, expires: u64, wake: u64) {
        let ttl = Duration::from_millis(expires.saturating_sub(now));
        let registry = &self.session.registry;
        registry.queued(&self.token, ttl, Duration::from_millis(wake));
        if let Some(in_queue) = &self.in_queue {
            in_queue.send_replace(true);
        }
    }

    /// Sends one command, and notes what its reply shows of the object and of the queue entry.
    async fn ask(&self, request: &Request, wait: Wait) -> Event {
        let session = &self.session;
        let entry_ms = match wait {
            Wait::Not => 0,
            Wait::Until(_) | Wait::Forever => session.registry.queue_entry_ttl_ms(),
        };
        let until = match wait {
            Wait::Not => later(session.link.response_timeout()),
            Wait::Until(at) => at,
            Wait::Forever => later(AGES),
        };
        let call = calls::Acquire {
            token: &self.token,
            permits: request.permits,
            lease_ms: request.lease_ms,
            max_hold_ms: request.max_hold_ms,
            first_limit: request.first_limit,
            entry_ms,
            client: &session.client,
            holder: &request.holder,
            grace_ms: request.grace_ms,
            priority: request.priority,
            selector: request.selector.as_str(),
            takeover: request.takeover.as_deref(),
            seen: self.target.newest(),
        };
        let reply = match session.link.call(&call, &self.target.keys, until).await {
            Ok(reply) => reply,
            Err(failed) => {
                let is_connected =
                    failed.error.is_unreachable() && session.link.health_of(&self.target.keys).is_ok();
                let failed = self.named(failed, request.permits);
                return Event::Failed { failed, is_connected };
            }
        };
        if let Acquired::Queued { newest, .. } | Acquired::Busy { newest, .. } = reply.value {
            self.target.saw_newest(newest);
        }
        match reply.value {
            Acquired::Granted(grant) => self.granted_by_reply(grant, &reply.asked),
            Acquired::Queued {
                now,
                expires,
                wake,
                parts,
                ..
            } => {
                self.queued(now, expires, wake);
                Event::Queued { parts }
            }
            Acquired::Busy { parts, .. } => Event::Busy { parts },
            Acquired::Again => Event::Unfinished,
        }
    }

    /// Returns the same failure, with the protocol's named errors in place of their texts.
    pub(crate) fn named(&self, failed: Failed, asked: u64) -> Failed {
        let Failed { error, repeated } = failed;
        let error = refusal::named(error, &self.target.object, asked);
        Failed { error, repeated }
    }

    pub(crate) fn granted_by_reply(&self, grant: Grant, asked: &SentAt) -> Event {
        let deadline = clock::deadline(asked.answered_at(grant.now), grant.expires);
        self.granted(grant, deadline)
    }

    fn granted(&self, grant: Grant, deadline: Moment) -> Event {
        self.target.saw(&grant);
        let registry = &self.session.registry;
        let has_run_out = deadline <= registry.uptime.now() || registry.has_run_out(&self.token);
        debug!(object = %self.target.object, fence = grant.fence, has_run_out, "granted");
        Event::Granted {
            granted: Granted { grant, deadline },
            has_run_out,
        }
    }

    /// Makes the lease, which gives itself back from now on.
    pub(crate) fn take_up(&mut self, granted: Granted, request: Request) -> Lease {
        self.disarm();
        let Granted { grant, deadline } = granted;
        let (status, _) = watch::channel(Status::granted(deadline));
        let hold = Hold {
            token: self.token.clone(),
            secret: self.secret.clone(),
            target: self.target.clone(),
            grant,
            request,
            status,
        };
        Lease::new(self.session.clone(), Arc::new(hold))
    }

    /// The time is over: leaves the queue, and is out of it when this returns, unless Redis does not answer at once. Then
    /// dropping the claim does it in the background.
    async fn leave(&mut self) -> Result<(), Error> {
        let session = self.session.clone();
        session.registry.forget(&self.token);
        let release = Release {
            how: Ending::Owner,
            tokens: vec![&self.token],
        };
        match session
            .link
            .call(&release, &self.target.keys, later(AT_ONCE))
            .await
        {
            Ok(_) => self.disarm(),
            Err(failed) if failed.error.is_unreachable() => {}
            Err(failed) => return Err(failed.error),
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.session.registry.forget_waiting(&self.token);
        if self.armed {
            let job = Job::Release {
                token: self.token.clone(),
                target: self.target.clone(),
                how: Ending::Dropped,
                ends: None,
            };
            // An error means that the runtime is gone: lease and queue entry end by themselves.
            let _ = self.session.jobs.send(job);
        }
    }
}
