//! A lock that owns its data.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::RawLock;

/// Data that can only be reached by holding its lock.
pub struct Lock<R, T>(lock_api::Mutex<R, T>);

/// The right to use the data of a [`Lock`]; letting it go unlocks.
pub struct Guard<'a, R: RawLock, T>(lock_api::MutexGuard<'a, R, T>);

impl<R: RawLock, T> Lock<R, T> {
    /// Puts `value` under a lock.
    pub const fn new(value: T) -> Self {
        Self(lock_api::Mutex::new(value))
    }

    /// Waits for the lock. Not re-entrant: a thread that holds it already waits for ever.
    pub fn lock(&self) -> Guard<'_, R, T> {
        Guard(self.0.lock())
    }
}

impl<R: RawLock, T> Deref for Guard<'_, R, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<R: RawLock, T> DerefMut for Guard<'_, R, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<R, T> fmt::Debug for Lock<R, T> {
    /// Never waits and never shows the data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::thread;
    use std::vec::Vec;

    use super::Lock;

    #[test]
    fn increments_of_several_threads_are_not_lost() {
        let lock: Lock<parking_lot::RawMutex, u32> = Lock::new(0);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).for_each(|_| *lock.lock() += 1)))
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
        assert_eq!(*lock.lock(), 4_000);
    }
}
