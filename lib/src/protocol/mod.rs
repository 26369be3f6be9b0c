//! The protocol: names and keys of objects, the scripts, their replies and pushes, and the errors that follow.
//!
//! | module | contents |
//! |---|---|
//! | [`object`] | kinds, names and keys of objects |
//! | [`name`] | names that objects may have |
//! | [`error`] | the error of the crate |
//! | [`script`] | the texts of the scripts, and their hashes |
//! | [`calls`] | the arguments and the reply of each script, as types |
//! | [`channel`] | the names of channels |
//! | [`slot`] | the slots of a cluster, and names that lie in them |
//! | [`message`] | grants and pushes, as types |
//! | [`refusal`] | the named errors of the scripts |
//! | [`selector`] | the selector of a pool request |
//! | [`secret`] | the secret of a lease, and the token that is derived from it |
//! | [`unusable`] | the errors of an object that is damaged or of another version, and how to repair it |

pub(crate) mod calls;
pub(crate) mod channel;
pub(crate) mod error;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod object;
pub(crate) mod refusal;
pub(crate) mod script;
pub(crate) mod secret;
pub(crate) mod selector;
pub(crate) mod slot;
pub(crate) mod unusable;
