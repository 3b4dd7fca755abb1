//! The lock under a model checker: the same interface over the checker's own mutex.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use shuttle::sync::{Mutex, MutexGuard, PoisonError};

use crate::RawLock;

/// Data that can only be reached by holding its lock. `R` names the host's lock, which is not used.
pub struct Lock<R, T> {
    checked: Mutex<T>,
    host: PhantomData<fn() -> R>,
}

/// The right to use the data of a [`Lock`]; letting it go unlocks.
pub struct Guard<'a, R: RawLock, T> {
    checked: MutexGuard<'a, T>,
    host: PhantomData<fn() -> R>,
}

impl<R, T> Lock<R, T> {
    /// Puts `value` under a lock.
    pub const fn new(value: T) -> Self {
        Self {
            checked: Mutex::new(value),
            host: PhantomData,
        }
    }
}

impl<R: RawLock, T> Lock<R, T> {
    /// Waits for the lock. The checker fails a schedule in which a thread waits for itself, or
    /// threads wait for each other.
    pub fn lock(&self) -> Guard<'_, R, T> {
        Guard {
            // Poisoned only after a panic, which has failed the schedule already.
            checked: self.checked.lock().unwrap_or_else(PoisonError::into_inner),
            host: PhantomData,
        }
    }
}

impl<R: RawLock, T> Deref for Guard<'_, R, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.checked
    }
}

impl<R: RawLock, T> DerefMut for Guard<'_, R, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.checked
    }
}

impl<R, T> fmt::Debug for Lock<R, T> {
    /// Never waits and never shows the data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}
