//! Plan: the decisions of a reconciliation, as pure functions of what was observed.

pub(crate) mod declaration;
pub(crate) mod digest;
pub(crate) mod status;
pub(crate) mod withdrawal;
