//! Lock: the mutexes of the controller, whose data is whole at any moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex. Every change of its data is complete at any moment, so the data is good even after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
