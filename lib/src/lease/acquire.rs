//! Requests for a lease.
//!
//! One command requests a lease. It grants the lease, enqueues the request, or replies busy. A queued request is
//! granted by the script that frees its permits, which notifies the client by push; if the push is lost, the renewal of
//! the queue entry finds the lease. The token is drawn once, so that repeating the request is always safe, and the
//! [`Claim`] gives back the lease of the token if the future is dropped. The [state machine of a
//! request](crate::lease::machine::request) decides what follows from a reply or a push.
//!
//! A grant takes time to arrive, and a future takes time to be polled. A lease whose deadline has passed by then is not
//! returned, for another client may hold it: the token asks again. The server may have the lease still; otherwise the
//! token queues again, at the end. A caller that does not wait gets an error, and what the server has is given back.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use crate::{
    Error, Lease, Options,
    lease::{
        claim::{AT_ONCE, Claim},
        hold::Request,
        machine::request::Wait,
        object_keys::ObjectKeys,
        options::check_text,
        session::Session,
        telemetry,
    },
    protocol::selector::Selector,
    transport::later,
};

impl Wait {
    pub(crate) fn for_up_to(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            _ if timeout.is_zero() => Self::Not,
            Some(at) => Self::Until(at),
            None => Self::Forever,
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
    pub(crate) target: Arc<ObjectKeys>,
    pub(crate) options: Options,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
    /// Of a pool's resources.
    pub(crate) selector: Selector,
    /// Becomes true when a request of this handle has got a queue entry.
    pub(crate) in_queue: Option<Arc<watch::Sender<bool>>>,
}

impl Handle {
    /// The handle of an object that is not declared, or is, with the default options.
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>, first_limit: u64) -> Self {
        Self {
            session,
            target,
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
        let kind = self.target.object.kind();
        let span = tracing::debug_span!("acquire", object = %self.target.object, permits);
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
            object: self.target.object.clone(),
            asked,
            reached,
        })
    }

    pub(crate) fn claim(&self) -> Claim {
        Claim::new(self.session.clone(), self.target.clone(), self.in_queue.clone())
    }

    pub(crate) fn request(&self, permits: u64) -> Result<Request, Error> {
        let options = self.options.check(self.first_limit == 0)?;
        let session = &self.session;
        let holder = match options.reason {
            "" => session.holder.clone(),
            reason => session.identity.holder(reason)?,
        };
        Ok(Request {
            permits,
            lease_ms: options.lease_ms,
            max_hold_ms: options.max_hold_ms,
            grace_ms: options.grace_ms,
            priority: options.priority,
            first_limit: self.first_limit,
            selector: self.selector.clone(),
            takeover: None,
            holder,
        })
    }
}
