//! A lease: what an acquisition gives.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    Error, ObjectRef,
    lease::session::Session,
    lease::{hold::Hold, machine::held::LeaseState, releaser::Job, renewer, telemetry},
    protocol::calls::{Call, Ending, Release, Released},
};

/// A lease of a lock or of a semaphore's permit; [`PoolLease`](crate::PoolLease) of a pool's resource.
///
/// It is renewed in the background for as long as it lives, by one task for all leases of the client. Dropping it gives
/// it back in the background; [`Lease::release`] does so and waits for the answer.
///
/// # What it promises
/// Until [`Lease::deadline`], no other client is granted the permits or resources of this lease: the deadline is kept
/// by this machine's own clock, and lies before the server's expiry however long replies took. After it the lease
/// counts as lost, even if the process has not noticed it. A process that is paused between [`Lease::check`] and its
/// next step cannot know: let the protected system refuse a smaller [`Lease::fencing_token`] than it has seen
/// (Kleppmann, "How to do distributed locking", 2016).
///
/// # When the machine is suspended
/// The time of the suspend counts: the first [`Lease::check`] after it knows, and [`Lease::lost`] within a second. On Linux,
/// Android, Apple's systems and Windows, that is; elsewhere, a lease seems to last longer by the suspend, and only the
/// fencing token protects.
///
/// # When Redis is gone
/// The state is [`LeaseState::Unsure`] until Redis answers again or the deadline passes.
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let lease = client.lock("migration")?.acquire().await?;
/// for step in 0..10 {
///     lease.check()?;
///     println!("step {step} under fencing token {}", lease.fencing_token());
/// }
/// lease.release().await?;
/// # Ok(()) }
/// ```
#[must_use = "dropping a lease gives it back at once"]
pub struct Lease {
    session: Arc<Session>,
    hold: Arc<Hold>,
    held_since: Instant,
    released: bool,
}

impl Lease {
    pub(crate) fn new(session: Arc<Session>, hold: Arc<Hold>) -> Self {
        session.registry.hold(&hold);
        Self {
            session,
            hold,
            held_since: Instant::now(),
            released: false,
        }
    }

    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }

    pub(crate) fn token(&self) -> &str {
        &self.hold.token
    }

    /// Calls a script on behalf of this lease, until its end.
    pub(crate) async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, Error> {
        let link = &self.session.link;
        let answered = link
            .call(call, &self.hold.target.keys, self.deadline())
            .await
            .map_err(Error::from);
        if answered.as_ref().is_err_and(Error::is_unreachable) {
            self.check()?;
        }
        Ok(answered?.value)
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.session.link.response_timeout()
    }

    /// Notes the outcome of a script: the lease has ended.
    pub(crate) fn lose(&self, cause: &str) -> Error {
        self.session.registry.lost(&self.hold, cause);
        Error::Lost {
            object: self.object().clone(),
            cause: cause.to_owned(),
        }
    }

    /// Renews it no more.
    pub(crate) fn retire(&self) {
        self.session.registry.forget(&self.hold.token);
    }

    /// It has been given back: dropping it need not do so.
    pub(crate) fn given_back(&mut self) {
        self.released = true;
    }

    /// The object that is held.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease) {
    /// println!("{}", lease.object()); // ml/lock/migration
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.hold.target.object
    }

    /// A number that is larger for every later lease of the same object. Hand it to the protected system, which refuses a
    /// smaller one than it has seen.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease, newest: &mut u64) -> bool {
    /// // In the store: refuse what is late.
    /// if lease.fencing_token() < *newest {
    ///     return false;
    /// }
    /// *newest = lease.fencing_token();
    /// true
    /// # }
    /// ```
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.hold.grant.fence
    }

    /// When it was granted, by the server's clock.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease) {
    /// println!("held since {:?}", lease.acquired_at());
    /// # }
    /// ```
    #[must_use]
    pub fn acquired_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.hold.grant.since)
    }

    /// Until when it is ours without another renewal. Renewals move it. By tokio's clock, so that
    /// [`tokio::time::sleep_until`] takes it as it is; a suspend of the machine, which tokio's clock may not count, moves it
    /// nearer.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease) {
    /// let left = lease.deadline().saturating_duration_since(tokio::time::Instant::now());
    /// println!("ours for another {left:?} at least, unless it is lost");
    /// # }
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let deadline = self.hold.status.borrow().deadline();
        self.session.registry.uptime.instant(deadline)
    }

    /// Returns the time that is left until [`Lease::deadline`]: zero when the deadline has passed. A lost lease may have some
    /// time left.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease) {
    /// println!("{} s left", lease.remaining().as_secs());
    /// # }
    /// ```
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.hold.status.borrow().deadline() - self.session.registry.uptime.now()
    }

    /// Returns the state of the lease now.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease) {
    /// match lease.state() {
    ///     tenure::LeaseState::Held => {}
    ///     tenure::LeaseState::Unsure { reason } => eprintln!("begin nothing new: {reason}"),
    ///     tenure::LeaseState::Lost { cause } => eprintln!("stop: {cause}"),
    ///     _ => {}
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> LeaseState {
        let now = self.session.registry.uptime.now();
        self.hold.status.borrow().at(now)
    }

    /// An error if the lease is lost: for use before each step that needs it.
    ///
    /// # Errors
    /// [`Error::Lost`] with the cause.
    ///
    /// ```no_run
    /// # fn run(lease: &tenure::Lease, steps: Vec<fn()>) -> Result<(), tenure::Error> {
    /// for step in steps {
    ///     lease.check()?;
    ///     step();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        match self.state() {
            LeaseState::Lost { cause } => Err(Error::Lost {
                object: self.object().clone(),
                cause,
            }),
            LeaseState::Held | LeaseState::Unsure { .. } => Ok(()),
        }
    }

    /// Waits until the lease is lost, and returns the cause. For use in `select!` beside the work.
    ///
    /// # Cancel safety
    /// Cancel safe: it only watches.
    ///
    /// ```no_run
    /// # async fn work() {}
    /// # async fn run(lease: tenure::Lease) {
    /// tokio::select! {
    ///     () = work() => {}
    ///     cause = lease.lost() => eprintln!("stopped: {cause}"),
    /// }
    /// # }
    /// ```
    pub async fn lost(&self) -> String {
        let mut changes = self.hold.status.subscribe();
        loop {
            if let LeaseState::Lost { cause } = self.state() {
                return cause;
            }
            let deadline = changes.borrow_and_update().deadline();
            tokio::select! {
                () = tokio::time::sleep_until(self.session.registry.uptime.instant(deadline)) => {}
                // The sender lives as long as this hold. A suspend of the machine, which the timer does not count, is
                // reported here, too.
                _ = changes.changed() => {}
            }
        }
    }

    /// Runs `work` while the lease is held, and then releases the lease. If the lease is lost meanwhile, the future of `work`
    /// is dropped where it awaits, and the error has the cause.
    ///
    /// The work has the lease, for [`Lease::fencing_token`] and [`Lease::check`]. The release is waited for until the
    /// [response timeout](crate::ClientBuilder::response_timeout), and then continues in the background. A release that has no
    /// answer is no error of the work.
    ///
    /// # Errors
    /// [`Error::Lost`] when the lease was lost before the work had ended, or before it was released.
    ///
    /// # Cancel safety
    /// Dropping the future drops the work, and releases the lease in the background.
    ///
    /// ```no_run
    /// # async fn import(fencing_token: u64) -> Result<u64, std::io::Error> { Ok(fencing_token) }
    /// # async fn run(client: tenure::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let lease = client.lock("nightly-import")?.acquire().await?;
    /// let rows = lease.while_held(async |lease| import(lease.fencing_token()).await).await??;
    /// # Ok(()) }
    /// ```
    pub async fn while_held<T>(self, work: impl AsyncFnOnce(&Self) -> T) -> Result<T, Error> {
        let outcome = unless_lost(&self, work(&self)).await?;
        let patience = self.response_timeout();
        released(patience, self.release()).await?;
        Ok(outcome)
    }

    /// The number of its permits: 1 of a lock, or the number that was requested.
    ///
    /// ```no_run
    /// # fn run(lease: tenure::Lease) {
    /// println!("{} permits", lease.permits());
    /// # }
    /// ```
    #[must_use]
    pub fn permits(&self) -> u64 {
        self.hold.grant.permits
    }

    /// Renews it now, without waiting for the background to do so: one command, after which it is known to be ours.
    ///
    /// # Errors
    /// [`Error::Lost`] when it is lost; [`Error::Unreachable`] when Redis did not answer in time: the lease still runs.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// ```no_run
    /// # async fn run(lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// lease.renew().await
    /// # }
    /// ```
    pub async fn renew(&self) -> Result<(), Error> {
        self.check()?;
        let inner = &self.session;
        renewer::renew_one(&inner.registry, &inner.link, &inner.jobs, &self.hold, None).await?;
        self.check()
    }

    /// Renews it, and returns how many replicas have acknowledged that: up to `replicas`, until then.
    pub(crate) async fn renew_replicated(&self, replicas: u8, until: Instant) -> Result<u64, Error> {
        self.check()?;
        let inner = &self.session;
        let asked = Some((replicas, until));
        let reached =
            renewer::renew_one(&inner.registry, &inner.link, &inner.jobs, &self.hold, asked).await?;
        self.check()?;
        Ok(reached)
    }

    /// Stops renewing it without giving it back, and returns the secret by which another process, or this one, can take it
    /// over with `adopt` on the same object: [`Lock::adopt`](crate::Lock::adopt). If none does, it runs out at its
    /// [`Lease::deadline`], or a little later.
    ///
    /// The secret is 32 hexadecimal digits. A program that knows it can take the lease, once: pass it on as a password,
    /// and do not log it. The id that is shown elsewhere ([`HolderView::token`](crate::control::HolderView::token), the
    /// status of the resource) is another text, from which the secret cannot be computed.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let lock = client.lock("migration")?;
    /// let secret = lock.acquire().await?.detach();
    /// // ... in the process that continues the work:
    /// let lease = lock.adopt(&secret).await?;
    /// # Ok(()) }
    /// ```
    #[must_use = "without the secret no client can take the lease over"]
    pub fn detach(mut self) -> String {
        self.retire();
        self.released = true;
        self.hold.secret.reveal().to_owned()
    }

    /// Gives the lease back, which grants it to the next in the queue in the same step. One command.
    ///
    /// # Errors
    /// [`Error::Lost`] when it was lost before: another client may have held since. [`Error::Unreachable`] when Redis
    /// did not answer before the lease's end: it expires.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the release to the background.
    ///
    /// ```no_run
    /// # async fn run(lease: tenure::Lease) -> Result<(), tenure::Error> {
    /// lease.release().await
    /// # }
    /// ```
    pub async fn release(mut self) -> Result<(), Error> {
        let inner = &self.session;
        inner.registry.forget(&self.hold.token);
        let lost = self.check();
        let until = self.deadline();
        let release = Release {
            how: Ending::Owner,
            tokens: vec![&self.hold.token],
        };
        let reply = inner
            .link
            .call(&release, &self.hold.target.keys, until)
            .await
            .map_err(Error::from);
        let reply = match (reply, lost) {
            (Err(Error::Unreachable { .. }), Err(lost)) => return Err(lost),
            (reply, _) => reply?,
        };
        self.released = true;
        match reply.value.first() {
            Some(Released::Held) => Ok(()),
            // Sent before over a connection that broke: then it was that one which released it.
            Some(Released::Neither) if reply.repeated && Instant::now() < until => Ok(()),
            // Left: it ran out, and a late copy of its request has made a queue entry, which is given up now.
            Some(Released::Neither | Released::Waited) => {
                let cause = match self.state() {
                    LeaseState::Lost { cause } => cause,
                    _ => "Redis does not have it any more".to_owned(),
                };
                Err(Error::Lost {
                    object: self.object().clone(),
                    cause,
                })
            }
            None => Err(Error::protocol("no outcome of a release")),
        }
    }
}

/// Runs the work until its end, or until the lease is lost.
pub(crate) async fn unless_lost<T>(lease: &Lease, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        biased;
        cause = lease.lost() => Err(Error::Lost { object: lease.object().clone(), cause }),
        outcome = work => Ok(outcome),
    }
}

/// Releases a lease after its work, and returns an error if it was lost before. A release without an answer for so long
/// continues in the background.
pub(crate) async fn released(
    patience: Duration,
    release: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    match tokio::time::timeout(patience, release).await {
        Ok(Err(lost @ Error::Lost { .. })) => Err(lost),
        _ => Ok(()),
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        telemetry::held(self.object().kind(), self.held_since.elapsed());
        if self.released {
            return;
        }
        self.session.registry.forget(&self.hold.token);
        let job = Job::Release {
            token: self.hold.token.clone(),
            target: self.hold.target.clone(),
            how: Ending::Owner,
            ends: Some(self.hold.ends_at_the_latest()),
        };
        // An error means that the runtime has ended: the lease expires.
        let _ = self.session.jobs.send(job);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("object", &self.object().to_string())
            .field("fencing_token", &self.fencing_token())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
