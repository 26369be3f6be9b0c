//! The resource definitions on a real API server.

mod extremes;
mod rules;
mod shown;
