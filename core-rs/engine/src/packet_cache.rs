//! The packet cache: held packets, their flows, and the queue of verdict requests.
//!
//! All of it is one state under one lock. A held packet stands in up to three lists at once: all
//! packets by age, those of its flow in order of arrival, and those whose request waits for a reader.

use kext_types::{
    Capacities, Decision, Event, FlowKey, PacketId, Reason, RequestInfo, Timestamp, VerdictOutcome,
};

use crate::action::Fate;
use crate::blocks::{BlockPool, Chain, MAX_CHAIN};
use crate::classify::Presented;
use crate::counters::Tally;
use crate::flow_stats::FlowStats;
use crate::list::{Link, Links, List};
use crate::memory::{OutOfMemory, Vec, filled};
use crate::table::{Handle, Inserted, Table};

/// Lists that a slot can stand in. A free slot stands in the free list by its age link.
const AGE: usize = 0;
const FLOW: usize = 1;
const REQUEST: usize = 2;

/// Room in the table of pending flows for each held packet: so sparse a table never lacks a place.
const PENDING_ROOM: usize = 4;
/// Ends remembered for each slot (fewer in the largest cache), to tell a verdict that comes too late what became of its packet.
const ENDS_EACH: usize = 4;

/// Whether user mode has been asked about a held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// It waits behind its flow's first packet.
    No,
    /// Its request waits for a reader.
    Queued,
    /// A reader has its request.
    Delivered,
}

struct Held {
    info: RequestInfo,
    chain: Chain,
    pending: Handle,
    request: Request,
}

struct Slot {
    links: [Link; 3],
    held: Option<Held>,
}

struct Slots(Vec<Slot>);

impl Slots {
    fn held(&self, slot: u32) -> Option<&Held> {
        self.0.get(slot as usize)?.held.as_ref()
    }

    fn held_mut(&mut self, slot: u32) -> Option<&mut Held> {
        self.0.get_mut(slot as usize)?.held.as_mut()
    }
}

impl Links for Slots {
    fn link(&mut self, list: usize, index: u32) -> Option<&mut Link> {
        self.0.get_mut(index as usize)?.links.get_mut(list)
    }
}

/// A flow that waits for its verdict, or whose held packets are being let go.
struct Pending {
    packets: List<FLOW>,
    /// Requests raised and not decided.
    asked: u32,
    /// Releases under way outside the lock, or left to the tick; while there are any, nobody else
    /// lets packets go by policy or asks, and the flow stays in the table. A decided flow always has
    /// one.
    releasing: u32,
    /// Set by a permanent verdict.
    decided: Option<Decided>,
    /// The next flow that was left to the tick.
    next_stalled: Option<Handle>,
    stats: FlowStats,
}

/// A permanent verdict for a flow whose packets are being let go.
#[derive(Clone, Copy)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    /// When it was given.
    pub(crate) time: Timestamp,
    /// What it means for the flow's packets.
    pub(crate) fate: Fate,
    /// The verdict cache's epoch when it was given: a verdict from before a clearing is not cached.
    pub(crate) epoch: u32,
}

/// A packet that was taken out of the cache, but for its bytes.
pub(crate) struct Taken {
    pub(crate) info: RequestInfo,
    chain: Chain,
    pub(crate) pending: Handle,
}

/// What is next for a flow whose packets are being let go.
pub(crate) enum Next {
    /// Let this one go, then ask again.
    Packet(Taken, Fate),
    /// All have gone: cache the flow's fate before anything else is held.
    Cache(FlowKey, Decided, FlowStats),
    /// Nothing.
    Done,
}

/// What became of a packet that was to be held.
pub(crate) enum Hold {
    /// It is held; whether a request was raised.
    Held { request_raised: bool },
    /// It cannot be held, for this reason.
    Refused(Reason),
    /// Nobody reads requests.
    NoReader,
}

/// What became of an attempt to deliver a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<T> {
    /// No request waits.
    Empty,
    /// The reader did not take the request; it stays first in the queue.
    Refused,
    /// The reader took it, and made this of it.
    Delivered(T),
}

/// How a packet that was held ended, for verdicts that come too late.
#[derive(Clone, Copy)]
struct Ended {
    id: u64,
    outcome: VerdictOutcome,
    decision: i8,
}

/// Why a verdict, or a question about an id, found no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld {
    /// What became of the packet.
    pub outcome: VerdictOutcome,
    /// The number of the verdict that had decided it, for
    /// [`VerdictOutcome::AlreadyDecided`]; else 0.
    pub first: i8,
}

pub(crate) struct PacketCache {
    slots: Slots,
    free: List<AGE>,
    by_age: List<AGE>,
    requests: List<REQUEST>,
    blocks: BlockPool,
    pending: Table<FlowKey, Pending>,
    /// First and last of the decided flows that nobody lets go any more: for the tick, in turn.
    stalled: Option<(Handle, Handle)>,
    ends: Vec<Ended>,
    sequence: u64,
    slot_bits: u32,
    flow_packets: u32,
    reader: bool,
    /// The last sequence number given while nobody read: what is held up to it is nobody's.
    abandoned: u64,
    /// What came up to then had reached the hold limit when it was last looked: nobody is asked about
    /// it any more.
    due_before: Option<Timestamp>,
}

/// What a request's reader can see of its packet.
pub struct HeldPacket<'a> {
    /// What is known of it.
    pub info: &'a RequestInfo,
    blocks: &'a BlockPool,
    chain: &'a Chain,
}

impl HeldPacket<'_> {
    /// Copies the packet's first bytes, as many as fit into `out`, and says how many.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        self.blocks.copy(self.chain, out)
    }
}

impl PacketCache {
    pub(crate) fn try_new(capacities: &Capacities) -> Result<Self, OutOfMemory> {
        let packets = capacities.packets as usize;
        let slot_bits = capacities.packets.next_power_of_two().trailing_zeros();
        // An end is found by the sequence number in its id, of which v1 knows the low bits only.
        let ends = (packets.next_power_of_two() * ENDS_EACH).min(1 << (32 - slot_bits));
        let mut slots = Slots(filled("held packets", packets, || Slot {
            links: [Link::NONE; 3],
            held: None,
        })?);
        let mut free = List::EMPTY;
        // Bound: the capacity, at start.
        for slot in 0..capacities.packets {
            free.push_back(&mut slots, slot);
        }
        Ok(Self {
            slots,
            free,
            by_age: List::EMPTY,
            requests: List::EMPTY,
            blocks: BlockPool::try_new(capacities.packet_bytes as usize)?,
            pending: Table::try_new("pending flows", packets.saturating_mul(PENDING_ROOM))?,
            stalled: None,
            ends: filled("ended packets", ends, || Ended {
                id: 0,
                outcome: VerdictOutcome::UnknownId,
                decision: 0,
            })?,
            sequence: 0,
            slot_bits,
            flow_packets: capacities.flow_packets,
            reader: false,
            abandoned: 0,
            due_before: None,
        })
    }

    pub(crate) fn set_reader(&mut self, reader: bool) {
        self.reader = reader;
        if !reader {
            self.abandoned = self.sequence;
        }
    }

    /// Whether a packet is held that a reader left behind.
    pub(crate) fn holds_abandoned(&self) -> bool {
        self.by_age
            .front()
            .is_some_and(|oldest| self.is_abandoned(oldest))
    }

    fn is_abandoned(&self, slot: u32) -> bool {
        self.slots
            .held(slot)
            .is_some_and(|held| held.info.id.get() >> self.slot_bits <= self.abandoned)
    }

    /// Whether there is somebody to ask about a held packet, and time to.
    fn may_ask(&self, slot: u32) -> bool {
        let is_due = |held: &Held| Some(held.info.time) <= self.due_before;
        self.reader && !self.is_abandoned(slot) && !self.slots.held(slot).is_some_and(is_due)
    }

    pub(crate) fn queued_requests(&self) -> u32 {
        self.requests.len()
    }

    // ---- ids ------------------------------------------------------------------------------------

    /// A fresh id whose low bits are the slot: looking an id up is reading its slot.
    fn next_id(&mut self, slot: u32) -> Option<PacketId> {
        self.sequence += 1;
        let id = |sequence: u64| PacketId::new(sequence << self.slot_bits | u64::from(slot));
        if let Some(id) = id(self.sequence) {
            return Some(id);
        }
        // The low 32 bits came out as zero, which the next one's cannot.
        self.sequence += 1;
        PacketId::new(self.sequence << self.slot_bits | u64::from(slot))
    }

    fn slot_of(&self, id: u64) -> u32 {
        (id & ((1 << self.slot_bits) - 1)) as u32
    }

    fn find(&self, id: PacketId) -> Option<(u32, &Held)> {
        let slot = self.slot_of(id.get());
        let held = self.slots.held(slot)?;
        (held.info.id == id).then_some((slot, held))
    }

    /// The packet with this name in the v1 interface.
    pub(crate) fn find_v1(&self, id: u32) -> Option<PacketId> {
        let held = self.slots.held(self.slot_of(id.into()))?;
        (held.info.id.v1() == id).then_some(held.info.id)
    }

    fn end_index(&self, id: u64) -> usize {
        (id >> self.slot_bits) as usize & (self.ends.len().saturating_sub(1))
    }

    fn remember(&mut self, id: PacketId, outcome: VerdictOutcome, decision: i8) {
        let index = self.end_index(id.get());
        if let Some(end) = self.ends.get_mut(index) {
            *end = Ended {
                id: id.get(),
                outcome,
                decision,
            };
        }
    }

    /// What became of a packet that is not held, if that is remembered. `same` compares ids.
    fn not_held(&self, id: u64, same: impl Fn(u64) -> bool) -> NotHeld {
        match self.ends.get(self.end_index(id)) {
            Some(end) if end.id != 0 && same(end.id) => NotHeld {
                outcome: end.outcome,
                first: end.decision,
            },
            _ => NotHeld {
                outcome: VerdictOutcome::UnknownId,
                first: 0,
            },
        }
    }

    pub(crate) fn not_held_v1(&self, id: u32) -> NotHeld {
        self.not_held(id.into(), |ended| ended as u32 == id)
    }

    /// The held packet of this id.
    pub(crate) fn look(&self, id: PacketId) -> Result<HeldPacket<'_>, NotHeld> {
        let (_, held) = self
            .find(id)
            .ok_or_else(|| self.not_held(id.get(), |ended| ended == id.get()))?;
        Ok(HeldPacket {
            info: &held.info,
            blocks: &self.blocks,
            chain: &held.chain,
        })
    }

    // ---- holding --------------------------------------------------------------------------------

    /// Holds a packet, at the cost of the oldest where there is no room.
    pub(crate) fn hold(
        &mut self,
        hash: u64,
        packet: &RequestInfo,
        presented: &Presented<'_>,
    ) -> Hold {
        let Presented {
            bytes,
            headers,
            policies,
            counters,
            ..
        } = presented;
        let (bytes, counters) = (*bytes, *counters);
        // What joins a flow of which packets are held must not overtake them, though nobody reads.
        if !self.reader && !self.is_pending(hash, &packet.flow) {
            return Hold::NoReader;
        }
        if !self.blocks.could_fit(bytes.len()) {
            return Hold::Refused(Reason::DroppedTooLarge);
        }
        let mut request_raised = false;
        // Bound: a slot or a block is won each time, and MAX_CHAIN blocks are enough.
        for _ in 0..=MAX_CHAIN {
            if !self.free.is_empty() && self.blocks.fits(bytes.len()) {
                break;
            }
            if let Some(oldest) = self.by_age.front()
                && let Some(flow) = self.evict(oldest, Reason::DroppedPacketCacheFull, counters)
            {
                request_raised |= self.follow_up(flow, counters);
            }
        }
        let Some(pending) = self.pending_flow(hash, packet) else {
            return Hold::Refused(Reason::DroppedPendingFull);
        };
        self.make_room_in_flow(pending, counters);
        let Some(slot) = self.store(pending, packet, bytes) else {
            self.follow_up(pending, counters);
            return Hold::Refused(Reason::DroppedTooLarge);
        };
        let Some(flow) = self.pending.get_mut(pending) else {
            return Hold::Refused(Reason::DroppedUnsettled);
        };
        flow.packets.push_back(&mut self.slots, slot);
        flow.stats.add(&packet.arrival, headers, packet.time);
        if !self.reader {
            self.abandoned = self.sequence;
        }
        let ask = if flow.decided.is_some() {
            None
        } else if policies.asks_each_packet() {
            Some(slot)
        } else if flow.asked == 0 && flow.releasing == 0 {
            flow.packets.front()
        } else {
            None
        };
        if let Some(slot) = ask
            && self.may_ask(slot)
        {
            self.raise(slot, counters);
            request_raised = true;
        }
        Hold::Held { request_raised }
    }

    /// Puts a packet into a slot; room was made before.
    fn store(&mut self, pending: Handle, packet: &RequestInfo, bytes: &[u8]) -> Option<u32> {
        let slot = self.free.front()?;
        let id = self.next_id(slot)?;
        let chain = self.blocks.store(bytes)?;
        self.free.remove(&mut self.slots, slot);
        self.slots.0.get_mut(slot as usize)?.held = Some(Held {
            info: RequestInfo { id, ..*packet },
            chain,
            pending,
            request: Request::No,
        });
        self.by_age.push_back(&mut self.slots, slot);
        Some(slot)
    }

    /// Whether packets of a flow are held.
    pub(crate) fn is_pending(&self, hash: u64, flow: &FlowKey) -> bool {
        self.pending.find(hash, flow).is_some()
    }

    fn pending_flow(&mut self, hash: u64, packet: &RequestInfo) -> Option<Handle> {
        if let Some(handle) = self.pending.find(hash, &packet.flow) {
            return Some(handle);
        }
        let pending = Pending {
            packets: List::EMPTY,
            asked: 0,
            releasing: 0,
            decided: None,
            next_stalled: None,
            stats: FlowStats::new(packet.time, packet.arrival.direction),
        };
        match self.pending.insert(hash, packet.flow, pending, |_| None) {
            Inserted::Free(handle) | Inserted::Evicted(handle, ..) => Some(handle),
            Inserted::Full => None,
        }
    }

    /// Drops the oldest packet of a flow that holds as many as it may. The packet that user mode was
    /// asked about stays as long as another can go, or its verdict would find nothing.
    fn make_room_in_flow(&mut self, flow: Handle, counters: Tally<'_>) {
        let Some(pending) = self.pending.get(flow) else {
            return;
        };
        if pending.packets.len() < self.flow_packets {
            return;
        }
        let Some(oldest) = pending.packets.front() else {
            return;
        };
        let second = List::<FLOW>::after(&mut self.slots, oldest);
        let asked = |slot| {
            self.slots
                .held(slot)
                .is_some_and(|held| held.request != Request::No)
        };
        let victim = match second {
            Some(second) if asked(oldest) && !asked(second) => second,
            _ => oldest,
        };
        self.evict(victim, Reason::DroppedFlowFull, counters);
    }

    /// Drops a held packet. Its flow is returned for a [`PacketCache::follow_up`].
    fn evict(&mut self, slot: u32, reason: Reason, counters: Tally<'_>) -> Option<Handle> {
        let taken = self.take(slot, VerdictOutcome::Evicted, 0)?;
        counters.unhold().end(reason);
        self.blocks.free(taken.chain);
        Some(taken.pending)
    }

    /// Raises a slot's verdict request.
    fn raise(&mut self, slot: u32, counters: Tally<'_>) {
        let Some(held) = self.slots.held_mut(slot) else {
            return;
        };
        held.request = Request::Queued;
        let pending = held.pending;
        self.requests.push_back(&mut self.slots, slot);
        if let Some(flow) = self.pending.get_mut(pending) {
            flow.asked += 1;
        }
        counters.count(Event::Requests);
    }

    // ---- delivering -----------------------------------------------------------------------------

    /// Shows the oldest undelivered request to `deliver`, which delivers it by giving something.
    pub(crate) fn deliver<T>(
        &mut self,
        deliver: impl FnOnce(&HeldPacket<'_>) -> Option<T>,
    ) -> Delivery<T> {
        let Some(slot) = self.requests.front() else {
            return Delivery::Empty;
        };
        let Some(held) = self.slots.held(slot) else {
            return Delivery::Empty;
        };
        let delivered = deliver(&HeldPacket {
            info: &held.info,
            blocks: &self.blocks,
            chain: &held.chain,
        });
        let Some(delivered) = delivered else {
            return Delivery::Refused;
        };
        self.requests.remove(&mut self.slots, slot);
        if let Some(held) = self.slots.held_mut(slot) {
            held.request = Request::Delivered;
        }
        Delivery::Delivered(delivered)
    }

    // ---- letting go -----------------------------------------------------------------------------

    /// The packet that a verdict names, if no verdict for its flow came before.
    pub(crate) fn decidable(&self, id: PacketId) -> Result<RequestInfo, NotHeld> {
        let held = self.look(id)?;
        let decided = self
            .find(id)
            .and_then(|(_, held)| self.pending.get(held.pending)?.decided);
        match decided {
            Some(decided) => Err(NotHeld {
                outcome: VerdictOutcome::AlreadyDecided,
                first: decided.decision.number(),
            }),
            None => Ok(*held.info),
        }
    }

    /// Decides a flow for good. `None` if its packets are already being let go, which then ends with
    /// this; else the caller has to let them go by [`PacketCache::next`].
    pub(crate) fn decide_flow(&mut self, id: PacketId, decided: Decided) -> Option<Handle> {
        let pending = self.find(id)?.1.pending;
        let flow = self.pending.get_mut(pending)?;
        flow.decided = Some(decided);
        if flow.releasing > 0 {
            return None;
        }
        flow.releasing = 1;
        Some(pending)
    }

    /// Takes the packet of a verdict for it alone. The caller lets it go, then calls
    /// [`PacketCache::next`].
    pub(crate) fn decide_packet(&mut self, id: PacketId, decision: Decision) -> Option<Taken> {
        let (slot, _) = self.find(id)?;
        let taken = self.take(slot, VerdictOutcome::AlreadyDecided, decision.number())?;
        self.begin_release(taken.pending);
        Some(taken)
    }

    /// Takes the oldest packet, or none if it came after `before` or if others of its flow are on
    /// their way: it must not overtake them. The caller lets it go, then calls [`PacketCache::next`].
    pub(crate) fn take_oldest(
        &mut self,
        before: Option<Timestamp>,
        outcome: VerdictOutcome,
    ) -> Option<Taken> {
        if before.is_some() {
            self.due_before = before;
        }
        let slot = self.by_age.front()?;
        let held = self.slots.held(slot)?;
        if before.is_some_and(|before| held.info.time > before) {
            return None;
        }
        if self.pending.get(held.pending)?.releasing > 0 {
            return None;
        }
        let taken = self.take(slot, outcome, 0)?;
        self.begin_release(taken.pending);
        Some(taken)
    }

    fn begin_release(&mut self, flow: Handle) {
        if let Some(flow) = self.pending.get_mut(flow) {
            flow.releasing += 1;
        }
    }

    /// What is next for a flow after its packet was let go.
    pub(crate) fn next(&mut self, handle: Handle, counters: Tally<'_>) -> Next {
        let Some(flow) = self.pending.get_mut(handle) else {
            return Next::Done;
        };
        if let Some(decided) = flow.decided
            && flow.releasing == 1
        {
            let Some(front) = flow.packets.front() else {
                return match self.pending.remove(handle) {
                    Some((key, pending)) => Next::Cache(key, decided, pending.stats),
                    None => Next::Done,
                };
            };
            let number = decided.decision.number();
            return match self.take(front, VerdictOutcome::AlreadyDecided, number) {
                Some(taken) => Next::Packet(taken, decided.fate),
                None => Next::Done,
            };
        }
        flow.releasing = flow.releasing.saturating_sub(1);
        self.follow_up(handle, counters);
        Next::Done
    }

    /// Leaves the rest of a decided flow's packets to the tick, or ends a release without more ado.
    pub(crate) fn stall(&mut self, handle: Handle, counters: Tally<'_>) {
        let Some(flow) = self.pending.get_mut(handle) else {
            return;
        };
        if flow.releasing > 1 || flow.decided.is_none() {
            flow.releasing = flow.releasing.saturating_sub(1);
            self.follow_up(handle, counters);
            return;
        }
        // The list takes the release over, so that nobody else lets the flow's packets go.
        self.stalled = Some(match self.stalled {
            None => (handle, handle),
            Some((first, last)) => {
                if let Some(last) = self.pending.get_mut(last) {
                    last.next_stalled = Some(handle);
                }
                (first, handle)
            }
        });
    }

    /// A flow that was left to the tick, to be let go by [`PacketCache::next`].
    pub(crate) fn unstall(&mut self) -> Option<Handle> {
        let (first, last) = self.stalled.take()?;
        let next = self.pending.get_mut(first)?.next_stalled.take();
        self.stalled = next.map(|next| (next, last));
        Some(first)
    }

    /// Copies a packet's bytes into a buffer, if they are wanted, and frees them here. `allocate`
    /// runs under this cache's lock: it must not wait and must not call back.
    pub(crate) fn carry<B: AsMut<[u8]>>(
        &mut self,
        taken: Taken,
        wanted: bool,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<B> {
        let buffer = if wanted {
            allocate(taken.chain.len()).and_then(|mut buffer| {
                let copied = self.blocks.copy(&taken.chain, buffer.as_mut());
                (copied == taken.chain.len()).then_some(buffer)
            })
        } else {
            None
        };
        self.blocks.free(taken.chain);
        buffer
    }

    /// Takes a packet out of its slot and lists. The caller owes its end, its bytes' release, and
    /// what is next for its flow.
    fn take(&mut self, slot: u32, outcome: VerdictOutcome, decision: i8) -> Option<Taken> {
        let held = self.slots.0.get_mut(slot as usize)?.held.take()?;
        self.by_age.remove(&mut self.slots, slot);
        if held.request == Request::Queued {
            self.requests.remove(&mut self.slots, slot);
        }
        if let Some(flow) = self.pending.get_mut(held.pending) {
            flow.packets.remove(&mut self.slots, slot);
            if held.request != Request::No {
                flow.asked = flow.asked.saturating_sub(1);
            }
        }
        self.free.push_back(&mut self.slots, slot);
        self.remember(held.info.id, outcome, decision);
        Some(Taken {
            info: held.info,
            chain: held.chain,
            pending: held.pending,
        })
    }

    /// After a packet of a flow has gone: asks for the next one, or forgets the flow. Says whether a
    /// request was raised.
    fn follow_up(&mut self, flow: Handle, counters: Tally<'_>) -> bool {
        let Some(pending) = self.pending.get(flow) else {
            return false;
        };
        if pending.releasing > 0 || pending.decided.is_some() {
            return false;
        }
        match pending.packets.front() {
            None => {
                self.pending.remove(flow);
                false
            }
            Some(next) if pending.asked == 0 && self.may_ask(next) => {
                self.raise(next, counters);
                true
            }
            Some(_) => false,
        }
    }
}
