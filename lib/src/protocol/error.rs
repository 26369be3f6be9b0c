//! The one error type of the crate.

use crate::protocol::object::{Kind, ObjectRef};

/// The characters that have a meaning in a URL and must be percent-encoded in a user name or password.
pub(crate) const ESCAPES: &str = "write % # / ? @ : in them as %25 %23 %2F %3F %40 %3A";

/// The errors of the library. An object that is busy is no error: that is `Ok(None)`.
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, option or environment variable is not usable. Nothing was sent.
    #[error("{field} {problem}: {fix}")]
    InvalidInput {
        /// The name of the argument or option.
        field: &'static str,
        /// The reason.
        problem: String,
        /// The action that removes the problem.
        fix: String,
    },
    /// Redis wants other credentials.
    #[error(
        "Redis at {address} refuses the credentials ({reason}): check user name and password; in a URL, {ESCAPES}"
    )]
    Authentication {
        /// Host and port.
        address: String,
        /// The user, and the error reply of Redis.
        reason: String,
    },
    /// The server is not one that Tenure can work on.
    #[error("the server at {address} cannot be used: {found}")]
    UnsupportedServer {
        /// Host and port.
        address: String,
        /// The server that answered, the feature that it lacks, and the action that removes the problem.
        found: String,
    },
    /// Redis did not answer in time. It is unknown whether the operation took place; a lease that it may have taken
    /// expires. The error names the server and not the object: the caller knows the object and the operation.
    #[error("Redis cannot be reached: {reason}")]
    Unreachable {
        /// The address of the server, host and port, where one is known, and the reason of the failure.
        reason: String,
    },
    /// The tokio runtime in which the client was made has ended, and its connection with it: no operation succeeds any
    /// more, and the leases of the client expire. Make another client, in a runtime that lives as long as the client.
    #[error(
        "the client cannot be used any more: the tokio runtime in which it was made has ended; make another client"
    )]
    Closed,
    /// Redis answered, but refuses the operation: no rights, no memory, keys of another program.
    #[error("Redis refuses: {reason}")]
    Refused {
        /// The error reply of Redis.
        reason: String,
    },
    /// The data of the object differs from the data that Tenure has written: a key or a value was overwritten, by hand
    /// or by another program. Other objects are not affected. Until it is repaired, leases of the object cannot be
    /// renewed, and end with their deadlines. To repair it, stop its holders or let their leases expire, and then remove
    /// its keys: waiters may be granted at once. The controller declares a declared object again, which then recovers
    /// for one lease.
    #[error("{object} is damaged in Redis: {reason}")]
    Damaged {
        /// The object.
        object: ObjectRef,
        /// The key, the reason, and the action that removes the problem.
        reason: String,
    },
    /// The data of the object was written by a client or controller that speaks another protocol. None of it was read
    /// or changed.
    #[error(
        "{object} was written by protocol {written}, and this client speaks {spoken}: {}",
        if written > spoken { "upgrade the client" } else { "upgrade the clients and the controller that wrote it" }
    )]
    VersionMismatch {
        /// The object.
        object: ObjectRef,
        /// The protocol that it was written in; 0 is the one of before there were versions.
        written: u32,
        /// The protocol of this client.
        spoken: u32,
    },
    /// No custom resource has declared the object, or it has been deleted.
    #[error("{}", not_declared(object))]
    NotDeclared {
        /// The object.
        object: ObjectRef,
    },
    /// The server was restarted, or has lost data, since the object was observed: what was planned then may not be declared
    /// now. See [`Control::declare_in`](crate::Control::declare_in).
    #[error("Redis was restarted, or has lost data, since {object} was observed: observe it again")]
    OtherLife {
        /// The object.
        object: ObjectRef,
    },
    /// More was asked for at once than the object has.
    #[error("{asked} asked for at once, but {object} has {limit}: ask for at most {limit}, or declare more")]
    TooLarge {
        /// The object.
        object: ObjectRef,
        /// Permits or resources asked for.
        asked: u64,
        /// The permits or resources that the object has in total.
        limit: u64,
    },
    /// Not as many replicas as asked for have acknowledged the lease in time. It was given back.
    #[error(
        "{reached} of {asked} replicas have acknowledged the lease of {object}: add replicas, or ask for fewer"
    )]
    NotReplicated {
        /// The object.
        object: ObjectRef,
        /// Replicas asked for.
        asked: u8,
        /// Replicas that have it.
        reached: u64,
    },
    /// The pool has no such resource in service.
    #[error("{object} has no resource {resource} in service: see its list for those that it has")]
    NoSuchResource {
        /// The pool.
        object: ObjectRef,
        /// The name of the resource.
        resource: String,
    },
    /// The lease is not held any more: it ran out, or was taken back.
    #[error("the lease of {object} is lost: {cause}")]
    Lost {
        /// The object.
        object: ObjectRef,
        /// Why.
        cause: String,
    },
    /// A fence has seen a newer fencing token than the given one: the caller has lost its lease, and must not write any
    /// more. See [`Register::advance`](crate::Register::advance).
    #[error(
        "{object} has seen fencing token {newest}, and refuses the older {token}: another holder was granted it since"
    )]
    Fenced {
        /// The register.
        object: ObjectRef,
        /// The token that was offered.
        token: u64,
        /// The newest token that it has seen.
        newest: u64,
    },
    /// The reply is none that this version knows: library and scripts do not match.
    #[error("Redis replied what this version of Tenure does not understand: {reply}")]
    Protocol {
        /// The reply.
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
            "{object} is not declared: apply a {resource} named {} in namespace {}, and check that the controller runs; \
             without Kubernetes, {}",
            object.name(),
            object.namespace(),
            match object.kind() {
                Kind::Pool => "add resources with LockPool::extend",
                _ => "use Semaphore::or_permits",
            }
        ),
        None => format!("{object} is gone: its first user makes it, so ask for it again"),
    }
}

impl Error {
    /// Returns whether Redis could not be reached, so that another attempt may succeed.
    ///
    /// ```
    /// let error = tenure::Error::Unreachable { reason: "connection refused".into() };
    /// assert!(error.is_unreachable());
    /// ```
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The text without its heading, for use within another error of the same kind or beside a condition that names the
    /// kind.
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
