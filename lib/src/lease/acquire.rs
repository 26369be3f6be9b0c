//! The one way in: asks for a lease, waits in the queue, and leaves nothing behind when it is not wanted any more.
//!
//! One command requests a lease. It grants the lease, enqueues the request, or replies busy. A queued request is
//! granted by the script that frees its permits, which notifies the client by push; if the push is lost, the renewal of
//! the queue entry finds the lease. The token is drawn once, so that repeating the request is always safe, and a guard
//! gives back the lease of the token if the future is dropped.
//!
//! A grant takes time to arrive, and a future takes time to be polled. A lease whose deadline has passed by then is not
//! returned, for another client may hold it: the token asks again. The server may have the lease still; otherwise the
//! token queues again, at the end. A caller that does not wait gets an error, and what the server has is given back.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::{Instrument, debug};

use crate::{
    Error, Lease, Options,
    lease::session::Session,
    lease::{
        identity::Holder,
        options::check_text,
        registry::{Hold, ObjectKeys, Request, Standing, Status, WaiterEvent},
        releaser::Job,
        telemetry,
    },
    protocol::{
        calls::{self, Acquired, Ending, Release},
        message::{Grant, How},
        refusal,
        secret::{Secret, Token},
        selector::Selector,
    },
    transport::{
        clock::{self, SentAt},
        later,
        router::Failed,
        uptime::Moment,
    },
};

/// The time for which a request waits.
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

    pub(crate) fn end(self) -> Option<Instant> {
        match self {
            Self::Until(at) => Some(at),
            Self::Not | Self::Forever => None,
        }
    }

    /// Returns whether there is no time for another attempt, after the first.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Not => true,
            Self::Until(at) => at <= Instant::now(),
            Self::Forever => false,
        }
    }
}

/// The lease of a request without a timeout, which is never refused as busy.
pub(crate) fn acquired<T>(result: Result<Option<T>, Error>) -> Result<T, Error> {
    result.and_then(|lease| lease.ok_or_else(|| Error::protocol("busy, to a request that waits")))
}

/// An object as a user holds it: which one, and how to ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) session: Arc<Session>,
    pub(crate) place: Arc<ObjectKeys>,
    pub(crate) options: Options,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
    /// Of a pool's resources.
    pub(crate) selector: Selector,
    /// Becomes true when a request of this handle has got a place in the queue.
    pub(crate) in_queue: Option<Arc<watch::Sender<bool>>>,
}

/// The time for which a waiting request waits for an object to be declared.
const DECLARE_GRACE: Duration = Duration::from_secs(5);
const DECLARE_POLL: Duration = Duration::from_millis(100);
/// The additional time in which a lease is given back after a timeout, which is within the bound that is documented for
/// timeouts.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(20);
/// Far enough to be for ever.
pub(crate) const AGES: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Handle {
    /// The handle of an object that is not declared, or is, with the default options.
    pub(crate) fn new(session: Arc<Session>, place: Arc<ObjectKeys>, first_limit: u64) -> Self {
        Self {
            session,
            place,
            options: Options::new(),
            first_limit,
            selector: Selector::any(),
            in_queue: None,
        }
    }

    pub(crate) async fn acquire(&self, permits: u64, wait: Wait) -> Result<Option<Lease>, Error> {
        if permits == 0 {
            return Err(Error::invalid("permits", "is 0", "ask for at least 1"));
        }
        let request = self.request(permits)?;
        let kind = self.place.object.kind();
        let span = tracing::debug_span!("acquire", object = %self.place.object, permits);
        let started = Instant::now();
        let outcome = self.claim().run(request, wait).instrument(span).await;
        telemetry::waited(kind, &outcome, started.elapsed());
        self.replicated(outcome?, wait.end()).await
    }

    /// Takes the lease from its holders, and notifies them of the reason.
    pub(crate) async fn take_over(&self, why: &str) -> Result<Option<Lease>, Error> {
        check_text("why", why)?;
        let who = self.who();
        let request = Request {
            takeover: Some(format!("taken over by {who}: {why}").into()),
            ..self.request(1)?
        };
        let taken = self.claim().run(request, Wait::Not).await?;
        self.replicated(taken, None).await
    }

    /// This client, to those whose lease it takes.
    pub(crate) fn who(&self) -> String {
        let identity = &self.session.identity;
        identity.pod.as_deref().unwrap_or(&identity.process).to_owned()
    }

    /// Makes sure that as many replicas as the options require have the lease, if there is one; gives it back if they
    /// have not by `end`, or within half a response timeout.
    pub(crate) async fn replicated(
        &self,
        lease: Option<Lease>,
        end: Option<Instant>,
    ) -> Result<Option<Lease>, Error> {
        let asked = self.options.replicas_asked();
        let lease = match lease {
            Some(lease) if asked > 0 => lease,
            lease => return Ok(lease),
        };
        let patience = later(self.session.link.response_timeout() / 2);
        let until = end.map_or(patience, |end| end.min(patience));
        let reached = lease.renew_replicated(asked, until).await?;
        if reached >= u64::from(asked) {
            return Ok(Some(lease));
        }
        // A lease whose release has no answer at once is given back in the background.
        let _ = tokio::time::timeout(AT_ONCE, lease.release()).await;
        Err(Error::NotReplicated {
            object: self.place.object.clone(),
            asked,
            reached,
        })
    }

    pub(crate) fn claim(&self) -> Claim {
        let secret = Secret::new(self.session.link.draw());
        Claim {
            session: self.session.clone(),
            place: self.place.clone(),
            token: secret.token(),
            secret,
            open: false,
            in_queue: self.in_queue.clone(),
        }
    }

    pub(crate) fn request(&self, permits: u64) -> Result<Request, Error> {
        let options = self.options.check(self.first_limit == 0)?;
        let identity = self.session.identity.clone();
        let holder = Holder {
            identity,
            reason: options.reason.to_owned(),
        };
        let holder = serde_json::to_string(&holder)
            .map_err(|error| Error::invalid("identity", error.to_string(), "use plain text"))?;
        Ok(Request {
            permits,
            lease_ms: options.lease_ms,
            max_hold_ms: options.max_hold_ms,
            grace_ms: options.grace_ms,
            priority: options.priority,
            first_limit: self.first_limit,
            selector: self.selector.clone(),
            takeover: None,
            holder: holder.into(),
        })
    }
}

/// A request under way. Dropped before its end, it gives back what it may have got.
pub(crate) struct Claim {
    pub(crate) session: Arc<Session>,
    pub(crate) place: Arc<ObjectKeys>,
    pub(crate) token: Token,
    /// The secret from which the token is computed.
    secret: Secret,
    pub(crate) open: bool,
    in_queue: Option<Arc<watch::Sender<bool>>>,
}

/// The outcome of waiting for a push or a reply.
pub(crate) enum WaitOutcome {
    Granted { grant: Grant, deadline: Moment },
    AskAgain,
    TimeOver,
}

impl Claim {
    pub(crate) async fn run(mut self, request: Request, wait: Wait) -> Result<Option<Lease>, Error> {
        let waits = !matches!(wait, Wait::Not);
        let (mut undeclared_since, mut looks) = (None, 0);
        let patience = later(self.session.link.response_timeout());
        loop {
            // Also without a wait: a lease that ends before it is returned must be noticed.
            let mut word = self.listen();
            let asked_before = std::mem::replace(&mut self.open, true);
            let (reply, asked) = match self.ask(&request, wait).await {
                Ok(answer) => answer,
                Err(Failed {
                    error: Error::NotDeclared { .. },
                    ..
                }) if waits && Self::may_be_declared_yet(&mut undeclared_since, wait) => {
                    tokio::time::sleep(DECLARE_POLL).await;
                    continue;
                }
                // The server had answered before, and is connected: the time has ended while it was waited for.
                Err(failed)
                    if waits
                        && asked_before
                        && wait.is_over()
                        && failed.error.is_unreachable()
                        && self.session.link.health_of(&self.place.keys).is_ok() =>
                {
                    return Ok(None);
                }
                Err(failed) => {
                    let repeated = failed.repeated || asked_before;
                    self.open = !took_nothing(&failed.error, repeated);
                    return Err(failed.error);
                }
            };
            undeclared_since = None;
            if let Acquired::Queued { newest, .. } | Acquired::Busy { newest, .. } = reply {
                self.place.saw_newest(newest);
            }
            let lease = match reply {
                Acquired::Granted(grant) => self.granted_by_reply(grant, &asked, &request),
                // The work that this call has left may free permits.
                Acquired::Again if Instant::now() < patience => continue,
                Acquired::Busy { parts, .. } if looks + 1 < parts && Instant::now() < patience => {
                    looks += 1;
                    continue;
                }
                Acquired::Busy { .. } | Acquired::Again => {
                    self.open = false;
                    return Ok(None);
                }
                Acquired::Queued { .. } if !waits => {
                    return Err(Error::protocol("queued without having asked for it"));
                }
                Acquired::Queued {
                    now,
                    expires,
                    wake,
                    parts,
                    ..
                } => {
                    self.queued(now, expires, wake);
                    // Resources that were freed since it queued are offered to it; it must look at those that were free
                    // before at once.
                    if looks + 1 < parts {
                        looks += 1;
                        continue;
                    }
                    match self.hear(&mut word, wait.end(), request.permits).await? {
                        WaitOutcome::Granted { grant, deadline } => self.granted(grant, deadline, &request),
                        WaitOutcome::AskAgain => continue,
                        WaitOutcome::TimeOver => return self.leave().await.map(|()| None),
                    }
                }
            };
            if lease.is_some() {
                return Ok(lease);
            }
            if wait.is_over() {
                return Err(Error::Unreachable {
                    reason: "the grant arrived after the lease had run out: ask for a longer lease"
                        .to_owned(),
                });
            }
        }
    }

    /// Returns whether a wait continues although the object is not declared: it may be declared soon, for the first time,
    /// or again after a loss of data.
    fn may_be_declared_yet(since: &mut Option<Instant>, wait: Wait) -> bool {
        let now = Instant::now();
        let since = *since.get_or_insert(now);
        now < since + DECLARE_GRACE && wait.end().is_none_or(|end| now < end)
    }

    /// Enters the token for pushes. To be called before anything is sent.
    pub(crate) fn listen(&self) -> oneshot::Receiver<WaiterEvent> {
        self.session.registry.wait(&self.token, &self.place)
    }

    /// Waits for the push, or for what the renewal of the place found out.
    pub(crate) async fn hear(
        &mut self,
        word: &mut oneshot::Receiver<WaiterEvent>,
        end: Option<Instant>,
        asked: u64,
    ) -> Result<WaitOutcome, Error> {
        let word = match end {
            Some(end) => tokio::time::timeout_at(end, word).await,
            None => Ok(word.await),
        };
        match word {
            Ok(Ok(WaiterEvent::Granted { grant, deadline })) => Ok(WaitOutcome::Granted { grant, deadline }),
            Ok(Ok(WaiterEvent::AskAgain) | Err(_)) => Ok(WaitOutcome::AskAgain),
            Ok(Ok(WaiterEvent::Gone(end))) => {
                self.open = false;
                debug!(object = %self.place.object, ?end, "sent away from the queue");
                let object = self.place.object.clone();
                Err(match end.how {
                    How::Withdrawn => Error::NotDeclared { object },
                    How::Refused => refusal::error(&object, &self.place.keys, asked, end.why),
                    _ => Error::Lost {
                        object,
                        cause: format!("its place in the queue was taken back: {end}"),
                    },
                })
            }
            Err(_elapsed) => Ok(WaitOutcome::TimeOver),
        }
    }

    /// Notes a place in the queue, so that it is renewed.
    pub(crate) fn queued(&self, now: u64, expires: u64, wake: u64) {
        let registry = &self.session.registry;
        let place = Duration::from_millis(expires.saturating_sub(now));
        registry.queued(&self.token, place, Duration::from_millis(wake));
        if let Some(in_queue) = &self.in_queue {
            in_queue.send_replace(true);
        }
    }

    /// One command, whatever it is answered.
    async fn ask(&self, request: &Request, wait: Wait) -> Result<(Acquired, SentAt), Failed> {
        let inner = &self.session;
        let entry_ms = if matches!(wait, Wait::Not) {
            0
        } else {
            inner.registry.queue_entry_ttl_ms()
        };
        let until = match wait {
            Wait::Not => later(inner.link.response_timeout()),
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
            channel: &inner.channel,
            holder: &request.holder,
            grace_ms: request.grace_ms,
            priority: request.priority,
            selector: request.selector.as_str(),
            takeover: request.takeover.as_deref(),
            seen: self.place.newest(),
        };
        match inner.link.call(&call, &self.place.keys, until).await {
            Ok(reply) => Ok((reply.value, reply.asked)),
            Err(failed) => Err(self.named(failed, request.permits)),
        }
    }

    /// Returns the same failure, with the protocol's named errors in place of their texts.
    pub(crate) fn named(&self, failed: Failed, asked: u64) -> Failed {
        let Failed { error, repeated } = failed;
        let error = refusal::named(error, &self.place.object, asked);
        Failed { error, repeated }
    }

    pub(crate) fn granted_by_reply(
        &mut self,
        grant: Grant,
        asked: &SentAt,
        request: &Request,
    ) -> Option<Lease> {
        let deadline = clock::deadline(asked.answered_at(grant.now), grant.expires);
        self.granted(grant, deadline, request)
    }

    /// The lease. None: it has run out before it could be taken up, so that another client may hold it.
    pub(crate) fn granted(&mut self, grant: Grant, deadline: Moment, request: &Request) -> Option<Lease> {
        let (object, registry) = (&self.place.object, &self.session.registry);
        self.place.saw(&grant);
        if deadline <= registry.uptime.now() || registry.ran_out(&self.token) {
            debug!(%object, fence = grant.fence, "granted, and run out on the way");
            return None;
        }
        debug!(%object, fence = grant.fence, "granted");
        self.open = false;
        let (status, _) = watch::channel(Status {
            deadline,
            standing: Standing::Held,
        });
        let hold = Hold {
            token: self.token.clone(),
            secret: self.secret.clone(),
            place: self.place.clone(),
            grant,
            request: request.clone(),
            status,
        };
        Some(Lease::new(self.session.clone(), Arc::new(hold)))
    }

    /// The time is over: leaves the queue, and is out of it when this returns, unless Redis does not answer at once. Then
    /// dropping the claim does it in the background.
    async fn leave(&mut self) -> Result<(), Error> {
        let inner = &self.session;
        inner.registry.forget(&self.token);
        let release = Release {
            how: Ending::Owner,
            tokens: vec![&self.token],
        };
        match inner.link.call(&release, &self.place.keys, later(AT_ONCE)).await {
            Ok(_) => self.open = false,
            Err(failed) if failed.error.is_unreachable() => {}
            Err(failed) => return Err(failed.error),
        }
        Ok(())
    }
}

/// Returns whether an error proves that its request has taken nothing: a named error of the protocol does, and so does
/// a request that was not sent, and a server that refuses a script before it runs, if the request was not sent before
/// (`repeated`). Any other error may have followed the effects, or replaced the reply.
pub(crate) fn took_nothing(error: &Error, repeated: bool) -> bool {
    match error {
        Error::NotDeclared { .. }
        | Error::Lost { .. }
        | Error::NoSuchResource { .. }
        | Error::TooLarge { .. }
        | Error::InvalidInput { .. } => true,
        // For an error of a command within a script, the server names the script.
        Error::Refused { reason } => {
            let before = ["OOM ", "NOPERM ", "DENIED "]
                .iter()
                .any(|code| reason.starts_with(code));
            before && !repeated && !reason.contains("script: ")
        }
        _ => false,
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.session.registry.forget_waiting(&self.token);
        if self.open {
            let job = Job::Release {
                token: self.token.clone(),
                place: self.place.clone(),
                how: Ending::Dropped,
                ends: None,
            };
            // An error means that the runtime is gone: lease and place end by themselves.
            let _ = self.session.jobs.send(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_refusal_proves_that_nothing_was_taken() {
        let object = crate::ObjectRef::new(crate::Kind::Lock, "ml", "x").unwrap();
        let reason = || "ERR too many results to unpack".to_owned();
        for error in [
            Error::Refused { reason: reason() },
            Error::Unreachable { reason: reason() },
            Error::Protocol { reply: reason() },
            Error::Refused {
                reason: "NOPERM No permissions to access a channel script: 12ab, on @user_script:7."
                    .to_owned(),
            },
        ] {
            assert!(!took_nothing(&error, false), "{error}");
        }
        for error in [
            Error::Refused {
                reason: "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
            },
            Error::NotDeclared {
                object: object.clone(),
            },
            Error::TooLarge {
                object,
                asked: 5,
                limit: 3,
            },
        ] {
            assert!(took_nothing(&error, false), "{error}");
            let by_the_server = matches!(error, Error::Refused { .. });
            assert_eq!(took_nothing(&error, true), !by_the_server, "{error}");
        }
    }
}
