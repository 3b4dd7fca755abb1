//! Which process a flow belongs to, where the host learns it apart from the flow's packets.
//!
//! On Windows a connection is authorised, with its process, before its first packet is sent or after it
//! came. What is learned before waits here until a packet of the flow is held; the oldest make room.

use kext_types::{FlowKey, ProcessId, Timestamp};

use crate::ANY_FLOW;
use crate::memory::OutOfMemory;
use crate::table::Table;
use crate::tags;

/// Flows whose process is remembered: connections that are begun and have not sent a packet, of which
/// there are few at a time; datagram sockets are told of again.
const OWNERS: usize = 4_096;

struct Owner {
    process_id: Option<ProcessId>,
    told: Timestamp,
}

pub(crate) struct Owners(Table<FlowKey, Owner>);

impl Owners {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        let entries = tags::buckets_for(OWNERS) * tags::WAYS;
        let table = Table::try_new("owners of flows", OWNERS, entries, || {
            let none = Owner {
                process_id: None,
                told: Timestamp::from_nanos(0),
            };
            (ANY_FLOW, none)
        })?;
        Ok(Self(table))
    }

    /// Remembers whose a flow is.
    pub(crate) fn set(&mut self, hash: u64, flow: &FlowKey, process_id: ProcessId, now: Timestamp) {
        let owner = Owner {
            process_id: Some(process_id),
            told: now,
        };
        if let Some(known) = self.0.find_mut(hash, flow) {
            *known = owner;
        } else if let Some((_, place)) = self
            .0
            .insert(hash, flow, |owner| Some(owner.told.as_nanos()))
        {
            *place = owner;
        }
    }

    /// Whose a flow is.
    pub(crate) fn get(&self, hash: u64, flow: &FlowKey) -> Option<ProcessId> {
        self.0.get(self.0.find(hash, flow)?)?.process_id
    }

    /// Forgets a flow, which has ended.
    pub(crate) fn forget(&mut self, hash: u64, flow: &FlowKey) {
        if let Some(handle) = self.0.find(hash, flow) {
            self.0.remove(handle);
        }
    }
}
