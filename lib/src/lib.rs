//! Coordination over Redis.
