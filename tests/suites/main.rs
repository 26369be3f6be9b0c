//! The end-to-end suites, on real servers: a module a topic.

mod chart;
mod controller;
mod crds;
mod harness;
mod library;
