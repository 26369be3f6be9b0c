//! A semaphore: a number of permits.

use std::{sync::Arc, time::Duration};

use crate::{
    Control, Error, Lease, ObjectRef, Options,
    lease::session::Session,
    lease::{
        acquire::{Handle, acquired},
        machine::request::Wait,
        object_keys::ObjectKeys,
    },
};

/// A semaphore that a `Semaphore` resource declares, or its first user makes: as many leases at a time as it has permits.
///
/// The number of permits lives in the object, never in a caller's argument, and can be changed while it is in use: more
/// permits are granted at once, fewer drain: holders keep theirs. Every permit is a lease, so a crash gives it back, and
/// no permit can be released twice. Fair like [`Lock`](crate::Lock).
///
/// ```no_run
/// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
/// let callers = client.semaphore("api-callers")?;
/// let permit = callers.acquire().await?;
/// // ... call the API that takes five callers ...
/// permit.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore {
    handle: Handle,
}

/// The permits of a semaphore at one moment. Made by [`Semaphore::available_permits`].
///
/// ```
/// # fn show(permits: tenure::Permits) {
/// println!("{} of {} are available", permits.available, permits.total);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permits {
    /// The permits that could be granted.
    pub available: u64,
    /// All permits, those that are held included.
    pub total: u64,
}

impl Semaphore {
    pub(crate) fn new(session: Arc<Session>, target: Arc<ObjectKeys>) -> Self {
        Self {
            handle: Handle::new(session, target, 0),
        }
    }

    /// The same semaphore, acquired with these options.
    ///
    /// ```no_run
    /// # fn run(callers: tenure::Semaphore) -> tenure::Semaphore {
    /// callers.with(tenure::Options::new().reason("import"))
    /// # }
    /// ```
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.handle.options = options;
        self
    }

    /// Returns the same semaphore, which its first user makes with this many permits if no resource declares it. It is
    /// gone with its last user. Only the number of the client that makes it counts: the limit is stored in the object,
    /// and other clients use it as it is. Its fencing tokens are a [`Lock`](crate::Lock)'s.
    ///
    /// If exclusion must survive a loss of Redis' data, declare the semaphore and do not use this option: between
    /// the loss and the new declaration, a client that has not seen the declared semaphore makes it anew, beside the
    /// former holders. Its fencing tokens are larger than theirs, and where there is not room for both, the former
    /// holders are notified of the loss. A handle (with its clones) that has seen the declared semaphore, held it or
    /// waited for it does not make it: it waits for the declaration, and returns [`Error::NotDeclared`] if that does
    /// not follow, also if the resource was deleted on purpose.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when `permits` is 0.
    ///
    /// ```no_run
    /// # async fn run(client: tenure::Client) -> Result<(), tenure::Error> {
    /// let permit = client.semaphore("imports")?.or_permits(3)?.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn or_permits(mut self, permits: u32) -> Result<Self, Error> {
        if permits == 0 {
            return Err(Error::invalid("permits", "is 0", "make it with at least 1"));
        }
        self.handle.first_limit = permits.into();
        Ok(self)
    }

    /// The semaphore's full name.
    ///
    /// ```no_run
    /// # fn run(callers: tenure::Semaphore) {
    /// println!("{}", callers.object());
    /// # }
    /// ```
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.handle.target.object
    }

    /// Returns the number of permits that could be granted now, and of all permits, as of the moment at which Redis
    /// answers. One command. A semaphore that its first user would make has the number of
    /// [`Semaphore::or_permits`].
    ///
    /// # Errors
    /// [`Error::NotDeclared`] where its first user does not make it, [`Error::Unreachable`], [`Error::Refused`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let permits = callers.available_permits().await?;
    /// println!("{} of {} are available", permits.available, permits.total);
    /// # Ok(()) }
    /// ```
    pub async fn available_permits(&self) -> Result<Permits, Error> {
        let object = self.object();
        let snapshot = Control::new(self.handle.session.clone()).look(object, 0).await?;
        let (available, total) = match snapshot {
            Some(snapshot) => (snapshot.free, snapshot.limit),
            None if self.handle.first_limit > 0 => (self.handle.first_limit, self.handle.first_limit),
            None => {
                let object = object.clone();
                return Err(Error::NotDeclared { object });
            }
        };
        Ok(Permits { available, total })
    }

    /// Takes over the lease that [`Lease::detach`](crate::Lease::detach) has left: see [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// # Errors
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// # Cancel safety
    /// As [`Lock::adopt`](crate::Lock::adopt).
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore, secret: String) -> Result<(), tenure::Error> {
    /// let permit = callers.adopt(&secret).await?;
    /// # Ok(()) }
    /// ```
    pub async fn adopt(&self, secret: &str) -> Result<Option<Lease>, Error> {
        self.handle.adopt(secret).await
    }

    /// Waits for a permit, as long as it takes, outages of Redis included.
    ///
    /// One command when a permit is free. With zero permits declared it waits until there are some.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] when the semaphore is not declared within five seconds, or is deleted meanwhile;
    /// [`Error::InvalidInput`] names the option, [`Error::Refused`] has the error reply of Redis.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and gives back what had been granted meanwhile, in the background. Its
    /// position in the queue is lost.
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let permit = callers.acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<Lease, Error> {
        self.acquire_many(1).await
    }

    /// Waits for `permits` permits at once, in one lease: all or nothing. Later requests wait behind it, so that small
    /// requests do not starve a large one.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the semaphore has fewer permits in all, unless it has none; else as
    /// [`Semaphore::acquire`].
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let three = callers.acquire_many(3).await?;
    /// assert_eq!(three.permits(), 3);
    /// # Ok(()) }
    /// ```
    pub async fn acquire_many(&self, permits: u32) -> Result<Lease, Error> {
        acquired(self.handle.acquire(permits.into(), Wait::Forever).await)
    }

    /// Waits for at most `timeout`; then leaves the queue and returns `None`. Zero is one attempt.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`], and [`Error::Unreachable`] when Redis does not answer up to the timeout.
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let within = std::time::Duration::from_secs(1);
    /// let permit = callers.acquire_timeout(within).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Lease>, Error> {
        self.acquire_many_timeout(1, timeout).await
    }

    /// [`Semaphore::acquire_many`] with a timeout, like [`Semaphore::acquire_timeout`].
    ///
    /// # Errors
    /// As both.
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let within = std::time::Duration::from_secs(1);
    /// let two = callers.acquire_many_timeout(2, within).await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire_many_timeout(
        &self,
        permits: u32,
        timeout: Duration,
    ) -> Result<Option<Lease>, Error> {
        self.handle
            .acquire(permits.into(), Wait::for_up_to(timeout))
            .await
    }

    /// Takes a permit if one is free and there is no waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// [`Error::NotDeclared`] at once, [`Error::Unreachable`] when Redis does not answer within the response timeout;
    /// else as [`Semaphore::acquire`].
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let permit = callers.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<Lease>, Error> {
        self.try_acquire_many(1).await
    }

    /// Takes `permits` permits if they are free and there is no waiter, else returns `None`. One command.
    ///
    /// # Errors
    /// As [`Semaphore::acquire_many`], but [`Error::NotDeclared`] at once.
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```no_run
    /// # async fn run(callers: tenure::Semaphore) -> Result<(), tenure::Error> {
    /// let two = callers.try_acquire_many(2).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_many(&self, permits: u32) -> Result<Option<Lease>, Error> {
        self.handle.acquire(permits.into(), Wait::Not).await
    }
}
