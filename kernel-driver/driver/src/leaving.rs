//! Packets on their way out of the driver: injected at once, or a moment later where that would nest.
//!
//! A packet that is injected may be answered by this machine before the call returns, and the answer be
//! shown to us inside of it. If that is injected at once as well, and so on, all of it is on one stack,
//! which is small. So what would be injected inside of an injection waits for a deferred call, which has a
//! stack of its own.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, Ordering};

use kext_nt::blocks::Block;
use kext_nt::deferred::Deferred;
use kext_nt::injection::{Injector, Target};
use kext_nt::layer::Family;
use kext_nt::{Lock, Result, Status};
use kext_nt_sys::status::STATUS_INSUFFICIENT_RESOURCES;

use crate::kext::{KEXT, Kext};

/// How many packets one deferred call injects; the rest is left to the next.
const INJECTED_AT_ONCE: usize = 64;

/// A packet that leaves.
pub(crate) struct Leaving {
    pub(crate) block: Block,
    pub(crate) len: usize,
    pub(crate) family: Family,
    pub(crate) target: Target,
    pub(crate) compartment: u32,
    pub(crate) passes: usize,
}

impl Leaving {
    /// Another packet that goes the same way.
    pub(crate) fn with_block(&self, block: Block) -> Self {
        Self {
            len: block.as_ref().len(),
            block,
            ..*self
        }
    }

    pub(crate) fn inject(self, injector: &Injector) -> Result<()> {
        let Self {
            block,
            len,
            family,
            target,
            compartment,
            passes,
        } = self;
        injector.inject(block, len, family, target, compartment, passes)
    }
}

/// Packets that leave a moment later, in their order.
pub(crate) struct Later {
    /// Its memory is allocated at the start. Under this lock only that of the blocks is taken.
    queue: Lock<VecDeque<Leaving>>,
    /// How many wait, readable without the lock.
    waiting: AtomicU32,
    run: Deferred<Kext>,
}

impl Later {
    /// At most `limit` can wait at once.
    pub(crate) fn try_new(limit: usize) -> Result<Self> {
        let mut queue = VecDeque::new();
        queue
            .try_reserve_exact(limit)
            .map_err(|_| Status::NO_MEMORY)?;
        Ok(Self {
            queue: Lock::new(queue),
            waiting: AtomicU32::new(0),
            run: Deferred::try_new(&KEXT, |kext, _| kext.host().inject_some())?,
        })
    }

    /// Keeps a packet.
    #[cold]
    pub(crate) fn push(&self, leaving: Leaving) -> Result<()> {
        let mut queue = self.queue.lock();
        if queue.len() == queue.capacity() {
            drop(queue);
            return Err(Status(STATUS_INSUFFICIENT_RESOURCES));
        }
        queue.push_back(leaving);
        self.waiting.store(queue.len() as u32, Ordering::Relaxed);
        drop(queue);
        self.run.queue();
        Ok(())
    }

    /// Keeps the packets that `make` makes of the numbers below `count`: all of them, or none. It is called
    /// under a lock, and may do no more than take blocks and fill them.
    #[cold]
    pub(crate) fn push_all(
        &self,
        count: usize,
        mut make: impl FnMut(usize) -> Option<Leaving>,
    ) -> Result<()> {
        let mut queue = self.queue.lock();
        let before = queue.len();
        let has_room = count <= queue.capacity() - before;
        // Bound: count, which is at most MAX_FRAGMENTS.
        let all = has_room
            && (0..count).all(|number| match make(number) {
                Some(leaving) => {
                    queue.push_back(leaving);
                    true
                }
                None => false,
            });
        if !all {
            queue.truncate(before);
            drop(queue);
            return Err(Status(STATUS_INSUFFICIENT_RESOURCES));
        }
        self.waiting.store(queue.len() as u32, Ordering::Relaxed);
        drop(queue);
        self.run.queue();
        Ok(())
    }

    /// Gives the packets to whoever injects them, some of them at once.
    pub(crate) fn take_some(&self, mut inject: impl FnMut(Leaving)) {
        // Bound: INJECTED_AT_ONCE.
        for _ in 0..INJECTED_AT_ONCE {
            let Some(leaving) = self.pop() else {
                return;
            };
            inject(leaving);
        }
        self.run.queue();
    }

    /// The first.
    pub(crate) fn pop(&self) -> Option<Leaving> {
        let mut queue = self.queue.lock();
        let first = queue.pop_front();
        self.waiting.store(queue.len() as u32, Ordering::Relaxed);
        first
    }

    /// Whether none waits: others should not overtake those that do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }
}
