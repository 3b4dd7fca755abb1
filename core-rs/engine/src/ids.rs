//! The names of held packets, and what became of those that are held no more.
//!
//! An id's low bits are the packet's slot, the others a sequence number: looking an id up is reading
//! its slot. The v1 interface knows an id's low 32 bits, which no two held packets share.

use kext_types::{Capacities, PacketId, VerdictOutcome};

use crate::memory::{OutOfMemory, Vec, filled};

/// Ends remembered for each slot (fewer in the largest cache), to tell a verdict that comes too late
/// what became of its packet.
const ENDS_EACH: usize = 4;

/// Why a verdict, or a question about an id, found no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld {
    /// What became of the packet.
    pub outcome: VerdictOutcome,
    /// The number of the verdict that had decided it, for
    /// [`VerdictOutcome::AlreadyDecided`]; else 0.
    pub first: i8,
}

/// How a packet that was held ended.
#[derive(Clone, Copy)]
struct Ended {
    /// 0 where none was.
    id: u64,
    how: NotHeld,
}

const NEVER_GIVEN: NotHeld = NotHeld {
    outcome: VerdictOutcome::UnknownId,
    first: 0,
};

pub(crate) struct Ids {
    ends: Vec<Ended>,
    sequence: u64,
    slot_bits: u32,
}

impl Ids {
    pub(crate) fn try_new(capacities: &Capacities) -> Result<Self, OutOfMemory> {
        let slots = capacities.packets.next_power_of_two();
        let slot_bits = slots.trailing_zeros();
        // An end is found by the sequence number in its id, of which v1 knows the low bits only.
        let ends = (slots as usize * ENDS_EACH).min(1 << (32 - slot_bits));
        Ok(Self {
            ends: filled("ended packets", ends, || Ended {
                id: 0,
                how: NEVER_GIVEN,
            })?,
            sequence: 0,
            slot_bits,
        })
    }

    /// A fresh id for a packet in this slot.
    pub(crate) fn fresh(&mut self, slot: u32) -> Option<PacketId> {
        self.sequence += 1;
        self.in_slot(slot).or_else(|| {
            // The low 32 bits came out as zero, which the next one's cannot.
            self.sequence += 1;
            self.in_slot(slot)
        })
    }

    fn in_slot(&self, slot: u32) -> Option<PacketId> {
        PacketId::new(self.sequence << self.slot_bits | u64::from(slot))
    }

    /// The slot of an id, or of its low 32 bits.
    pub(crate) fn slot(&self, id: u64) -> u32 {
        (id & ((1 << self.slot_bits) - 1)) as u32
    }

    /// The number of the last id that was given.
    pub(crate) fn last(&self) -> u64 {
        self.sequence
    }

    /// The number of an id: later ones have higher numbers.
    pub(crate) fn number(&self, id: PacketId) -> u64 {
        id.get() >> self.slot_bits
    }

    fn end_index(&self, id: u64) -> usize {
        (id >> self.slot_bits) as usize & self.ends.len().saturating_sub(1)
    }

    /// Remembers how a packet ended, and with which verdict's number.
    pub(crate) fn remember(&mut self, id: PacketId, outcome: VerdictOutcome, first: i8) {
        let index = self.end_index(id.get());
        if let Some(end) = self.ends.get_mut(index) {
            *end = Ended {
                id: id.get(),
                how: NotHeld { outcome, first },
            };
        }
    }

    /// What became of a packet that is not held, if that is remembered.
    pub(crate) fn end(&self, id: PacketId) -> NotHeld {
        self.end_where(id.get(), |ended| ended == id.get())
    }

    /// The same by the name in the v1 interface.
    pub(crate) fn end_v1(&self, id: u32) -> NotHeld {
        self.end_where(id.into(), |ended| ended as u32 == id)
    }

    fn end_where(&self, id: u64, same: impl Fn(u64) -> bool) -> NotHeld {
        match self.ends.get(self.end_index(id)) {
            Some(end) if end.id != 0 && same(end.id) => end.how,
            _ => NEVER_GIVEN,
        }
    }
}
