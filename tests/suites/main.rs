//! The end-to-end suites, on real servers: a module a topic.

// Clippy's allowance for tests reaches only functions that are marked as such, and not those that run on Redis and on
// the twin alike.
#![allow(clippy::panic, clippy::unwrap_used)]

mod chart;
mod cli;
mod controller;
mod crds;
mod examples;
mod harness;
mod library;
