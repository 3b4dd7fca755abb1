//! Flows that have left the verdict cache, for whoever wants to know.
//!
//! A ring of fixed size. Off until somebody asks; an event that finds it full is lost and counted,
//! since nobody may wait here: it is filled under the lock of the flow that leaves.

use kext_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kext_sync::{Lock, RawLock};
use kext_types::FlowEnded;

use crate::memory::{OutOfMemory, Vec, filled};

/// How many events wait at most.
const CAPACITY: usize = 1_024;

struct Ring {
    events: Vec<Option<FlowEnded>>,
    first: usize,
    len: usize,
}

pub(crate) struct FlowEvents<R> {
    /// Read without the lock, so that events that nobody wants cost nothing.
    keep: AtomicU32,
    lost: AtomicU64,
    ring: Lock<R, Ring>,
}

impl<R: RawLock> FlowEvents<R> {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        Ok(Self {
            keep: AtomicU32::new(0),
            lost: AtomicU64::new(0),
            ring: Lock::new(Ring {
                events: filled("flow events", CAPACITY, || None)?,
                first: 0,
                len: 0,
            }),
        })
    }

    /// Whether somebody wants events, as far as can be told without the lock.
    pub(crate) fn are_wanted(&self) -> bool {
        self.keep.load(Ordering::Relaxed) != 0
    }

    /// Keeps an event, if somebody wants events and there is room.
    pub(crate) fn push(&self, event: FlowEnded) {
        let mut ring = self.ring.lock();
        // Set under this lock, so that none is kept after those that waited were forgotten.
        if !self.are_wanted() {
            return;
        }
        let Ring { events, first, len } = &mut *ring;
        let at = first.wrapping_add(*len) % CAPACITY;
        match events.get_mut(at) {
            Some(place) if *len < CAPACITY => {
                *place = Some(event);
                *len += 1;
            }
            _ => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether events are kept from now on. If not, those that wait are forgotten.
    pub(crate) fn keep(&self, keep: bool) {
        let mut ring = self.ring.lock();
        self.keep.store(keep.into(), Ordering::Relaxed);
        if !keep {
            ring.len = 0;
        }
    }

    /// Takes the oldest event.
    pub(crate) fn take(&self) -> Option<FlowEnded> {
        let mut ring = self.ring.lock();
        let Ring { events, first, len } = &mut *ring;
        if *len == 0 {
            return None;
        }
        let event = events.get_mut(*first)?.take();
        *first = first.wrapping_add(1) % CAPACITY;
        *len -= 1;
        event
    }

    /// How many wait, and how many were lost since the start.
    pub(crate) fn waiting_and_lost(&self) -> (u32, u64) {
        let waiting = self.ring.lock().len as u32;
        (waiting, self.lost.load(Ordering::Relaxed))
    }
}
