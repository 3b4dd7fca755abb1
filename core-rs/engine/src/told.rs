//! What the host tells of flows apart from their packets: the process, and payload.
//!
//! On Windows a connection is authorised, with its process, before its first packet is sent or after it
//! came, and a datagram's payload is seen before its packet is sent. What is told of a flow that is not
//! cached waits here; the oldest make room.

use kext_types::{FlowKey, ProcessId, Timestamp};

use crate::ANY_FLOW;
use crate::memory::OutOfMemory;
use crate::table::Table;
use crate::tags;

/// Flows of which something is remembered: connections that are begun and have not sent a packet, and
/// flows that wait for their verdict, of which there are few at a time; datagram sockets are told of
/// again.
const FLOWS: usize = 4_096;

#[derive(Clone, Copy)]
struct Known {
    process_id: Option<ProcessId>,
    /// Bytes outbound and inbound that were not added to a cached flow yet.
    payload: [u64; 2],
    told: Timestamp,
}

impl Known {
    const NOTHING: Self = Self {
        process_id: None,
        payload: [0; 2],
        told: Timestamp::from_nanos(0),
    };

    /// What payload there is, unless it is of a flow that has been idle for longer than this since.
    fn payload(&self, now: Timestamp, idle_limit: u64) -> [u64; 2] {
        let idle = now.as_nanos().saturating_sub(self.told.as_nanos());
        if idle > idle_limit {
            [0; 2]
        } else {
            self.payload
        }
    }
}

pub(crate) struct Told(Table<FlowKey, Known>);

impl Told {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        let entries = tags::buckets_for(FLOWS) * tags::WAYS;
        let table = Table::try_new("what is told of flows", FLOWS, entries, || {
            (ANY_FLOW, Known::NOTHING)
        })?;
        Ok(Self(table))
    }

    /// What is known of a flow, of which nothing may be yet; `None` if there is no room for it.
    fn place(&mut self, hash: u64, flow: &FlowKey) -> Option<&mut Known> {
        if let Some(handle) = self.0.find(hash, flow) {
            return self.0.get_mut(handle);
        }
        let rank = |known: &Known| Some(known.told.as_nanos());
        let (_, place) = self.0.insert(hash, flow, rank)?;
        *place = Known::NOTHING;
        Some(place)
    }

    /// Remembers whose a flow is.
    pub(crate) fn set_owner(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        process_id: ProcessId,
        now: Timestamp,
        idle_limit: u64,
    ) {
        if let Some(known) = self.place(hash, flow) {
            known.payload = known.payload(now, idle_limit);
            known.process_id = Some(process_id);
            known.told = now;
        }
    }

    /// Whose a flow is.
    pub(crate) fn owner(&self, hash: u64, flow: &FlowKey) -> Option<ProcessId> {
        self.0.get(self.0.find(hash, flow)?)?.process_id
    }

    /// Remembers payload of a flow that is not cached.
    pub(crate) fn add_payload(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        [outbound, inbound]: [u64; 2],
        now: Timestamp,
        idle_limit: u64,
    ) {
        if let Some(known) = self.place(hash, flow) {
            let [sent, received] = known.payload(now, idle_limit);
            known.payload = [
                sent.saturating_add(outbound),
                received.saturating_add(inbound),
            ];
            known.told = now;
        }
    }

    /// Takes the payload of a flow that is cached now.
    pub(crate) fn take_payload(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        now: Timestamp,
        idle_limit: u64,
    ) -> [u64; 2] {
        self.0.find_mut(hash, flow).map_or([0; 2], |known| {
            let payload = known.payload(now, idle_limit);
            known.payload = [0; 2];
            payload
        })
    }

    /// Forgets a flow, which has ended.
    pub(crate) fn forget(&mut self, hash: u64, flow: &FlowKey) {
        if let Some(handle) = self.0.find(hash, flow) {
            self.0.remove(handle);
        }
    }
}
