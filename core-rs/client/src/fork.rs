//! Copies of a process: a session belongs to the process that opened it.
//!
//! After `fork` the child has a copy of every session, of locks that nobody will unlock, and of none of
//! the threads. It must not touch any of that. Looking at the process id costs a system call, so
//! whoever may fork says so instead.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// To be called in the child after `fork`, before anything else: sessions of the parent then refuse
/// every call with [`Error::Forked`](crate::Error::Forked), and dropping one does nothing.
pub fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process that something belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    /// This process.
    pub(crate) fn this() -> Self {
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether it is another one than this.
    pub(crate) fn is_another(self) -> bool {
        self.0 != GENERATION.load(Ordering::Relaxed)
    }
}
