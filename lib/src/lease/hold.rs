//! The data that a client keeps of a lease, and of the request that got it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    lease::{machine::held::Status, object_keys::ObjectKeys},
    protocol::{
        message::Grant,
        secret::{Secret, Token},
        selector::Selector,
    },
    transport::later,
};

/// A lease as this client knows it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) token: Token,
    /// The secret from which the token is computed.
    pub(crate) secret: Secret,
    pub(crate) target: Arc<ObjectKeys>,
    pub(crate) grant: Grant,
    /// The request that got it, for a readmission after a loss of data.
    pub(crate) request: Request,
    pub(crate) status: watch::Sender<Status>,
}

impl Hold {
    /// When the server has ended it, if nothing is sent any more. A renewal that is under way may have prolonged it there
    /// by a whole lease, of which its holder has not heard.
    pub(crate) fn ends_at_the_latest(&self) -> Instant {
        later(Duration::from_millis(self.grant.lease))
    }
}

/// The arguments of an acquisition, as the scripts expect them.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) permits: u64,
    pub(crate) lease_ms: u64,
    pub(crate) max_hold_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) priority: i8,
    /// The permits of an object that its first user makes; 0: it must be declared.
    pub(crate) first_limit: u64,
    /// Of a pool's resources.
    pub(crate) selector: Selector,
    /// The reason of a takeover, for the former holders; absent: no takeover.
    pub(crate) takeover: Option<Arc<str>>,
    pub(crate) holder: Arc<str>,
}
