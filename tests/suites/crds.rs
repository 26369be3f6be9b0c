//! The resource definitions on a real API server.

mod rules;
mod shown;
