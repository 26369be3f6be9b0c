//! The wire: one connection a client, on which scripts go out and pushes come in.
//!
//! | module | what it does |
//! |---|---|
//! | [`script`] | the texts of the protocol, and their hashes |
//! | [`link`] | the connection: made, kept and made again; calls scripts, and repeats them safely |
//! | [`message`] | what the server says: replies and pushes, read into types |
//! | [`clock`] | from the server's clock to this process' monotonic one, on the safe side |
//! | [`ledger`] | what this client holds and waits for; pushes arrive here |
//! | [`renewal`] | keeps what is in the ledger alive, in batches |
//! | [`releaser`] | gives back, in the background, what was dropped |

pub(crate) mod clock;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod releaser;
pub(crate) mod renewal;
pub(crate) mod script;
