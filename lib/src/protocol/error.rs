//! The one error type of the crate.

use crate::protocol::object::ObjectRef;

/// What a URL would take for its own in a user name or password.
pub(crate) const ESCAPES: &str = "write % # / ? @ : in them as %25 %23 %2F %3F %40 %3A";

/// What can go wrong, apart from a place being taken: that is `Ok(None)`.
///
/// Busy, not declared, lost and unreachable are different answers, because the caller does something else about each.
///
/// ```
/// # fn handle(error: tenure::Error) {
/// match error {
///     tenure::Error::Lost { object, cause } => eprintln!("stop: {object} is not ours any more ({cause})"),
///     tenure::Error::Unreachable { reason } => eprintln!("try again later: {reason}"),
///     other => eprintln!("{other}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, option or environment variable is not usable. Nothing was sent.
    #[error("{field} {problem}: {fix}")]
    InvalidInput {
        /// Which argument or option.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        fix: String,
    },
    /// Redis wants other credentials.
    #[error(
        "Redis at {address} refuses the credentials ({reason}): check user name and password; in a URL, {ESCAPES}"
    )]
    Authentication {
        /// Host and port.
        address: String,
        /// The user, and Redis' own words.
        reason: String,
    },
    /// The server is not one that Tenure can work on.
    #[error("the server at {address} cannot be used: {found}")]
    UnsupportedServer {
        /// Host and port.
        address: String,
        /// What answered there, what it lacks, and what to do about it.
        found: String,
    },
    /// Redis did not answer in time. Whether the operation took place is not known; what it may have taken ends by
    /// itself with its lease.
    #[error("Redis cannot be reached: {reason}")]
    Unreachable {
        /// What was tried, and how it failed.
        reason: String,
    },
    /// The tokio runtime in which the client was made has ended, and its connection with it: nothing works any more, and
    /// what is held ends by itself. Make another client, in a runtime that lives as long as it.
    #[error(
        "the client cannot be used any more: the tokio runtime in which it was made has ended; make another client"
    )]
    Closed,
    /// Redis answered, but refuses the operation: no rights, no memory, keys of another program.
    #[error("Redis refuses: {reason}")]
    Refused {
        /// Redis' own words.
        reason: String,
    },
    /// What Redis has of the object is not what Tenure has written: a key or a value was overwritten, by hand or by another
    /// program. Other objects are not affected. Until it is mended, leases of it cannot be renewed, and end with their
    /// deadlines. To mend it, stop its holders or let their leases run out, and then remove its keys: whoever waits may be
    /// granted at once. The controller declares a declared object again, which then recovers for one lease.
    #[error("{object} is damaged in Redis: {reason}")]
    Damaged {
        /// Which object.
        object: ObjectRef,
        /// Which key, what is wrong with it, and how to mend it.
        reason: String,
    },
    /// What Redis has of the object was written by a client or controller that speaks another protocol. Nothing of it was read
    /// or changed.
    #[error(
        "{object} was written by protocol {written}, and this client speaks {spoken}: {}",
        if written > spoken { "upgrade the client" } else { "upgrade the clients and the controller that wrote it" }
    )]
    VersionMismatch {
        /// Which object.
        object: ObjectRef,
        /// The protocol that it was written in; 0 is the one of before there were versions.
        written: u32,
        /// The protocol of this client.
        spoken: u32,
    },
    /// No custom resource has declared the object, or it has been deleted.
    #[error("{}", not_declared(object))]
    NotDeclared {
        /// Which object.
        object: ObjectRef,
    },
    /// The server was restarted, or has lost data, since the object was observed: what was planned then may not be declared
    /// now. See [`Control::declare_in`](crate::Control::declare_in).
    #[error("Redis was restarted, or has lost data, since {object} was observed: observe it again")]
    OtherLife {
        /// Which object.
        object: ObjectRef,
    },
    /// More was asked for at once than the object has.
    #[error("{asked} asked for at once, but {object} has {limit}: ask for at most {limit}, or declare more")]
    TooLarge {
        /// Which object.
        object: ObjectRef,
        /// Permits or resources asked for.
        asked: u64,
        /// What the object has in all.
        limit: u64,
    },
    /// Not as many replicas as asked for have acknowledged the lease in time. It was given back.
    #[error(
        "{reached} of {asked} replicas have acknowledged the lease of {object}: add replicas, or ask for fewer"
    )]
    NotReplicated {
        /// Which object.
        object: ObjectRef,
        /// Replicas asked for.
        asked: u8,
        /// Replicas that have it.
        reached: u64,
    },
    /// The pool has no such resource in service.
    #[error("{object} has no resource {resource} in service: see its list for those that it has")]
    NoSuchResource {
        /// Which pool.
        object: ObjectRef,
        /// Which resource.
        resource: String,
    },
    /// The lease is not held any more: it ran out, or was taken back.
    #[error("the lease of {object} is lost: {cause}")]
    Lost {
        /// Which object.
        object: ObjectRef,
        /// Why.
        cause: String,
    },
    /// A fence has seen a newer fencing token than the one that was offered: whoever offered it lost its lease, and must
    /// not write any more. See [`Register::advance`](crate::Register::advance).
    #[error(
        "{object} has seen fencing token {newest}, and refuses the older {token}: another holder was granted it since"
    )]
    Fenced {
        /// Which register.
        object: ObjectRef,
        /// The token that was offered.
        token: u64,
        /// The newest token that it has seen.
        newest: u64,
    },
    /// The reply is none that this version knows: library and scripts do not match.
    #[error("Redis replied what this version of Tenure does not understand: {reply}")]
    Protocol {
        /// What came.
        reply: String,
    },
}

/// Input may be of any length, and an error shows only as much of it as helps.
fn shortened(text: String) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn not_declared(object: &ObjectRef) -> String {
    match object.kind().resource() {
        Some(resource) => format!(
            "{object} is not declared: apply a {resource} named {} in namespace {}, and check that the controller runs",
            object.name(),
            object.namespace()
        ),
        None => format!("{object} is gone: its first user makes it, so ask for it again"),
    }
}

impl Error {
    /// Whether Redis could not be reached, so that trying again may help.
    ///
    /// ```
    /// let error = tenure::Error::Unreachable { reason: "connection refused".into() };
    /// assert!(error.is_unreachable());
    /// ```
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// As it reads within another one of its kind, or beside a condition that says the kind.
    pub(crate) fn bare(&self) -> String {
        match self {
            Self::Unreachable { reason } => reason.clone(),
            other => other.to_string(),
        }
    }

    pub(crate) fn invalid(field: &'static str, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::InvalidInput {
            field,
            problem: shortened(problem.into()),
            fix: fix.into(),
        }
    }

    pub(crate) fn protocol(reply: impl std::fmt::Debug) -> Self {
        Self::Protocol {
            reply: format!("{reply:?}"),
        }
    }
}
