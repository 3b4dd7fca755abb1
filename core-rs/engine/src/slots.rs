//! The places of held packets.
//!
//! What links packets stands apart from what is known of each: taking one out of its lists touches
//! its neighbours' links only, which are few cache lines.

use kext_types::RequestInfo;

use crate::blocks::Chain;
use crate::connects::ConnectId;
use crate::list::{Link, Links, List};
use crate::memory::{OutOfMemory, Vec, filled};
use crate::table::Handle;

/// The lists that a slot can stand in at once: all packets by age, those of its flow in order of
/// arrival, and those whose request waits for a reader. A free slot stands in the free list by its
/// age link.
pub(crate) const AGE: usize = 0;
pub(crate) const FLOW: usize = 1;
pub(crate) const REQUEST: usize = 2;

/// What a slot holds, and whether user mode has been asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Free,
    /// A packet that waits behind its flow's first packet.
    Unasked,
    /// A packet whose request waits for a reader.
    Queued,
    /// A packet whose request a reader has.
    Delivered,
    /// A packet that is being let go: it is in no list, and no id finds it.
    Leaving,
}

/// A slot's packet.
pub(crate) struct Held {
    pub(crate) info: RequestInfo,
    pub(crate) chain: Chain,
    pub(crate) pending: Handle,
    pub(crate) state: State,
    /// The connect that it stands for, if it is no packet.
    pub(crate) connect: Option<ConnectId>,
}

impl Held {
    /// Whether user mode has been asked about it.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.state, State::Queued | State::Delivered)
    }
}

pub(crate) struct Slots {
    links: Vec<[Link; 3]>,
    held: Vec<Held>,
    free: List<AGE>,
}

impl Links for Slots {
    #[inline]
    fn link(&mut self, list: usize, index: u32) -> Option<&mut Link> {
        self.links.get_mut(index as usize)?.get_mut(list)
    }
}

impl Slots {
    /// `empty` stands in slots that were never used.
    pub(crate) fn try_new(count: u32, empty: RequestInfo) -> Result<Self, OutOfMemory> {
        let mut slots = Self {
            links: filled("links of held packets", count as usize, || [Link::NONE; 3])?,
            held: filled("held packets", count as usize, || Held {
                info: empty,
                chain: Chain::EMPTY,
                pending: Handle::NONE,
                state: State::Free,
                connect: None,
            })?,
            free: List::EMPTY,
        };
        // Bound: the capacity, at start.
        for slot in (0..count).rev() {
            slots.give_back(slot);
        }
        Ok(slots)
    }

    /// The packet in a slot, unless it is free or its packet is being let go.
    #[inline]
    pub(crate) fn held(&self, slot: u32) -> Option<&Held> {
        let held = self.held.get(slot as usize)?;
        (!matches!(held.state, State::Free | State::Leaving)).then_some(held)
    }

    #[inline]
    pub(crate) fn held_mut(&mut self, slot: u32) -> Option<&mut Held> {
        let held = self.held.get_mut(slot as usize)?;
        (!matches!(held.state, State::Free | State::Leaving)).then_some(held)
    }

    /// What is in a slot, whatever its state.
    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> Option<&Held> {
        self.held.get(slot as usize)
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn slot_mut(&mut self, slot: u32) -> Option<&mut Held> {
        self.held.get_mut(slot as usize)
    }

    /// The free slot that is to be used next: the one that was freed last.
    pub(crate) fn free(&self) -> Option<u32> {
        self.free.front()
    }

    /// Takes the free slot that is to be used next.
    pub(crate) fn take_free(&mut self) {
        let mut free = self.free;
        if let Some(slot) = free.front() {
            free.remove(self, slot);
        }
        self.free = free;
    }

    /// Makes a slot free.
    pub(crate) fn give_back(&mut self, slot: u32) {
        if let Some(held) = self.held.get_mut(slot as usize) {
            held.state = State::Free;
        }
        let mut free = self.free;
        free.push_front(self, slot);
        self.free = free;
    }
}
