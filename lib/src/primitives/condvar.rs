//! A condition: holders of a lock wait for something that another holder brings about.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    Error, Lease,
    lease::{
        acquire::{Handle, acquired},
        claim::{AGES, Claim},
        hold::Request,
        machine::request::{Event, Wait, took_nothing},
    },
    protocol::{
        calls::{self, Acquired, Notify, Rejoin, Rejoined},
        name::check_name,
        refusal,
    },
    transport::{later, router::Failed},
};

/// A condition of a [`Lock`](crate::Lock), made by [`Lock::condvar`](crate::Lock::condvar).
///
/// Waiting gives the lock back and enters the wait in one step, so no notification falls in between. A notification moves
/// the one who has waited longest into the queue of the lock; when the lock is granted to it, by push, the wait is over. So
/// there is no herd, and nothing to poll.
///
/// A notification without a waiter is not kept. If the notified waiter has died, or was dropped before it had taken up
/// its lease, the next waiter is notified instead. Check the awaited state after each wake-up, as
/// [`Condvar::wait_while`] does: another client may have held the lock in between, and after a loss of Redis' data a
/// wait ends early.
///
/// ```no_run
/// # async fn run(client: tenure::Client, queue_is_empty: impl AsyncFn() -> bool) -> Result<(), tenure::Error> {
/// let lock = client.lock("jobs")?;
/// let not_empty = lock.condvar("not-empty")?;
///
/// // The consumer:
/// let mut lease = lock.acquire().await?;
/// while queue_is_empty().await {
///     lease = not_empty.wait(lease).await?;
/// }
/// lease.release().await?;
///
/// // The producer:
/// let lease = lock.acquire().await?;
/// not_empty.notify(&lease, 1).await?;
/// lease.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Condvar {
    handle: Handle,
    /// As the scripts want it: behind an `@`.
    name: String,
}

impl Condvar {
    pub(crate) fn new(handle: Handle, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        Ok(Self {
            handle,
            name: format!("@{name}"),
        })
    }

    /// Gives the lock back, waits to be notified, and holds the lock again.
    ///
    /// # Errors
    /// The lock is **not** held after an error. [`Error::Lost`] when it was not held before; [`Error::Refused`] with
    /// the error reply of Redis. While Redis is unreachable the wait continues.
    ///
    /// # Cancel safety
    /// After dropping the future the lock is not held, and the wait has ended; the next waiter gets a notification that
    /// had arrived.
    ///
    /// ```no_run
    /// # async fn run(condition: tenure::Condvar, lease: tenure::Lease) -> Result<tenure::Lease, tenure::Error> {
    /// condition.wait(lease).await
    /// # }
    /// ```
    pub async fn wait(&self, lease: Lease) -> Result<Lease, Error> {
        Ok(self.wait_until(lease, None).await?.0)
    }

    /// As [`Condvar::wait`], for at most `timeout`. The lock is held again in either case, which may take longer than the
    /// timeout if others hold it. True: it was notified.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    ///
    /// # Cancel safety
    /// As [`Condvar::wait`].
    ///
    /// ```no_run
    /// # async fn run(condition: tenure::Condvar, lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// let (lease, notified) = condition.wait_timeout(lease, std::time::Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn wait_timeout(&self, lease: Lease, timeout: Duration) -> Result<(Lease, bool), Error> {
        self.wait_until(lease, Instant::now().checked_add(timeout)).await
    }

    /// Waits while `predicate` returns `true`. It is evaluated with the lock held, and before the first wait too.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    ///
    /// # Cancel safety
    /// As [`Condvar::wait`].
    ///
    /// ```no_run
    /// # async fn jobs() -> usize { 0 }
    /// # async fn run(condition: tenure::Condvar, lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// let lease = condition.wait_while(lease, || async { jobs().await == 0 }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn wait_while<F>(
        &self,
        mut lease: Lease,
        mut predicate: impl FnMut() -> F,
    ) -> Result<Lease, Error>
    where
        F: Future<Output = bool>,
    {
        while predicate().await {
            lease = self.wait(lease).await?;
        }
        Ok(lease)
    }

    /// Wakes up to `count` of those who wait, longest first. They run one after the other, once the lock is given back.
    /// Returns how many there were. One command for each fifty.
    ///
    /// # Errors
    /// [`Error::Lost`] when `lease` does not hold the lock: only its holder may notify. [`Error::Unreachable`] when Redis
    /// did not answer before the lease's end.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether they, or some of them, are notified.
    ///
    /// ```no_run
    /// # async fn run(condition: tenure::Condvar, lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// let woken = condition.notify(&lease, 1).await?;
    /// # Ok(()) }
    /// ```
    pub async fn notify(&self, lease: &Lease, count: u32) -> Result<u64, Error> {
        lease.check()?;
        if lease.object() != &self.handle.target.object {
            return Err(Error::invalid(
                "lease",
                format!("is of {}", lease.object()),
                format!("use one of {}", self.handle.target.object),
            ));
        }
        let mut woken = 0;
        loop {
            let left = u64::from(count) - woken;
            let (notified, more) = self.notify_some(lease, left).await?;
            woken += notified.min(left);
            if notified == 0 || !more || woken == u64::from(count) {
                return Ok(woken);
            }
        }
    }

    /// One command. Returns how many were notified, and whether more wait.
    async fn notify_some(&self, lease: &Lease, count: u64) -> Result<(u64, bool), Error> {
        let request = self.handle.session.link.draw().simple().to_string();
        let notify = Notify {
            token: lease.token(),
            condition: &self.name,
            count,
            request: &request,
        };
        let notified = lease.call(&notify).await;
        notified.map_err(|error| refusal::named(error, &self.handle.target.object, 1))
    }

    /// Wakes all who wait: see [`Condvar::notify`].
    ///
    /// # Errors
    /// As [`Condvar::notify`].
    ///
    /// # Cancel safety
    /// As [`Condvar::notify`].
    ///
    /// ```no_run
    /// # async fn run(condition: tenure::Condvar, lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// let woken = condition.notify_all(&lease).await?;
    /// # Ok(()) }
    /// ```
    pub async fn notify_all(&self, lease: &Lease) -> Result<u64, Error> {
        self.notify(lease, u32::MAX).await
    }

    /// The lease again, and whether it was a notification that ended the wait.
    async fn wait_until(&self, lease: Lease, end: Option<Instant>) -> Result<(Lease, bool), Error> {
        let (lease, notified) = self.wait_and_lock(lease, end).await?;
        let lease = self.handle.replicated(Some(lease), None).await?;
        let lease = lease.ok_or_else(|| Error::protocol("a lease that is none"))?;
        Ok((lease, notified))
    }

    async fn wait_and_lock(&self, mut lease: Lease, end: Option<Instant>) -> Result<(Lease, bool), Error> {
        lease.check()?;
        let request = self.handle.request(1)?;
        let mut claim = self.handle.claim();
        let mut events = claim.enter_token();
        // From here on the lease is the script's to give back; should the call fail, dropping it does.
        lease.retire();
        let inner = &claim.session;
        let wait = calls::Wait {
            lease: lease.token(),
            token: &claim.token,
            condition: &self.name,
            lease_ms: request.lease_ms,
            max_hold_ms: request.max_hold_ms,
            entry_ms: inner.registry.queue_entry_ttl_ms(),
            client: &inner.client,
            holder: &request.holder,
            grace_ms: request.grace_ms,
            priority: request.priority,
        };
        let reply = match inner.link.call(&wait, &claim.target.keys, later(AGES)).await {
            Ok(reply) => reply,
            Err(failed) => {
                let Failed { error, repeated } = claim.named(failed, 1);
                if took_nothing(&error, repeated) {
                    claim.disarm();
                }
                return Err(error);
            }
        };
        lease.given_back();
        match reply.value {
            Acquired::Granted(grant) => {
                let event = claim.granted_by_reply(grant, &reply.asked);
                return Ok((claim.lock(event, request).await?, true));
            }
            Acquired::Queued {
                now, expires, wake, ..
            } => claim.queued(now, expires, wake),
            Acquired::Busy { .. } | Acquired::Again => {
                return Err(Error::protocol("neither granted nor queued"));
            }
        }
        let mut notified = true;
        let mut event = claim.hear(&mut events, end, 1).await;
        if matches!(event, Event::TimeOver) {
            notified = self.rejoin(&claim.token).await?;
            event = claim.hear(&mut events, None, 1).await;
        }
        Ok((claim.lock(event, request).await?, notified))
    }

    /// The time is over: from the wait into the queue of the lock. True: a notification was faster.
    async fn rejoin(&self, token: &str) -> Result<bool, Error> {
        let link = &self.handle.session.link;
        let reply = link
            .call(&Rejoin { token }, &self.handle.target.keys, later(AGES))
            .await?;
        Ok(reply.value == Rejoined::Notified)
    }
}

impl Claim {
    /// The token has the lock by now, or requests it like any other: the push may be lost, or Redis' data.
    async fn lock(mut self, event: Event, request: Request) -> Result<Lease, Error> {
        match event {
            Event::Granted {
                granted,
                has_run_out: false,
            } => Ok(self.take_up(granted, request)),
            Event::Removed(error) => {
                self.disarm();
                Err(error)
            }
            _ => acquired(self.run(request, Wait::Forever).await),
        }
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar")
            .field("lock", &self.handle.target.object.to_string())
            .field("name", &self.name.trim_start_matches('@'))
            .finish_non_exhaustive()
    }
}
