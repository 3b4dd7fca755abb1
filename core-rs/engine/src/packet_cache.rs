//! The packet cache: held packets, their flows, and the queue of verdict requests.
//!
//! All of it is one state under one lock.

use kext_sync::atomic::{AtomicU32, Ordering};
use kext_sync::{Guard, Lock, RawLock};
use kext_types::{
    Capacities, Decision, Direction, Event, FlowKey, PacketId, ProcessId, Reason, RequestInfo,
    Timestamp, VerdictOutcome,
};

use crate::action::{Action, Fate, Met};
use crate::blocks::{BlockPool, Chain, MAX_CHAIN};
use crate::classify::{Presented, What};
use crate::connects::{CLOSED, ConnectId, Connects, Ending};
use crate::counters::Tally;
use crate::ids::{Ids, NotHeld};
use crate::list::List;
use crate::memory::{OutOfMemory, Own};
use crate::pending::{Decided, Pending};
use crate::slots::{AGE, FLOW, Held, REQUEST, Slots, State};
use crate::table::{Handle, Table};
use crate::{ANY_FLOW, ANY_REQUEST};

/// Ways in the table of pending flows for each held packet: so sparse a table never lacks one.
const PENDING_WAYS: usize = 4;
/// Pending flows for each held packet: those without a packet have one on its way, or were left to
/// the tick.
const PENDING_EACH: usize = 2;

/// Stands where no flow has waited yet.
const NO_FLOW: Pending = Pending::new(0, Timestamp::from_nanos(0), Direction::Outbound);

/// How many packets are passed over because others of their flow are on their way.
const PASSED: usize = 64;

/// Which packets are to be settled by policy.
#[derive(Clone, Copy)]
pub(crate) enum Due {
    /// Those that came up to this time.
    Before(Timestamp),
    /// Those that a reader left behind.
    Abandoned,
}

/// A packet that is being let go. It keeps its slot until it is carried out.
pub(crate) struct Taken {
    slot: u32,
    pub(crate) pending: Handle,
}

/// What is next for a flow whose packets are being let go.
pub(crate) enum Next {
    /// Let this one go, then ask again.
    Packet(Taken, Fate),
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

/// The packet cache under its lock, and how many requests wait, readable without it.
pub(crate) struct Packets<R> {
    cache: Lock<R, PacketCache>,
    queued: AtomicU32,
    /// How many connects are known, and how many of them the host is to end; likewise.
    connects: AtomicU32,
    decided_connects: AtomicU32,
}

/// The packet cache, locked.
pub(crate) struct PacketsGuard<'a, R: RawLock> {
    cache: Guard<'a, R, PacketCache>,
    shown: &'a Packets<R>,
}

impl<R: RawLock> Packets<R> {
    pub(crate) fn try_new(capacities: &Capacities) -> Result<Self, OutOfMemory> {
        Ok(Self {
            cache: Lock::new(PacketCache::try_new(capacities)?),
            queued: AtomicU32::new(0),
            connects: AtomicU32::new(0),
            decided_connects: AtomicU32::new(0),
        })
    }

    pub(crate) fn lock(&self) -> PacketsGuard<'_, R> {
        PacketsGuard {
            cache: self.cache.lock(),
            shown: self,
        }
    }

    /// How many requests wait for a reader.
    pub(crate) fn queued_requests(&self) -> u32 {
        self.queued.load(Ordering::Acquire)
    }

    /// How many connects are known: held ones, and those that were a moment ago.
    pub(crate) fn connects(&self) -> u32 {
        self.connects.load(Ordering::Acquire)
    }

    /// How many of them the host is to end.
    pub(crate) fn decided_connects(&self) -> u32 {
        self.decided_connects.load(Ordering::Acquire)
    }
}

impl<R: RawLock> core::ops::Deref for PacketsGuard<'_, R> {
    type Target = PacketCache;

    fn deref(&self) -> &PacketCache {
        &self.cache
    }
}

impl<R: RawLock> core::ops::DerefMut for PacketsGuard<'_, R> {
    fn deref_mut(&mut self) -> &mut PacketCache {
        &mut self.cache
    }
}

impl<R: RawLock> Drop for PacketsGuard<'_, R> {
    fn drop(&mut self) {
        let connects = &self.cache.connects;
        for (shown, now) in [
            (&self.shown.queued, self.cache.requests.len()),
            (&self.shown.connects, connects.len()),
            (&self.shown.decided_connects, connects.decided()),
        ] {
            if shown.load(Ordering::Relaxed) != now {
                shown.store(now, Ordering::Release);
            }
        }
    }
}

pub(crate) struct PacketCache {
    slots: Slots,
    by_age: List<AGE>,
    requests: List<REQUEST>,
    blocks: BlockPool,
    pending: Table<FlowKey, Pending>,
    /// First and last of the decided flows that nobody lets go any more: for the tick, in turn.
    stalled: Option<(Handle, Handle)>,
    /// Whether those came first when it was last asked.
    continue_next: bool,
    ids: Ids,
    /// Connects that a held packet stands for, or stood for a moment ago.
    pub(crate) connects: Own<Connects>,
    flow_packets: u32,
    reader: bool,
    /// The number of the last id given while nobody read: what is held up to it is nobody's.
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
    fn try_new(capacities: &Capacities) -> Result<Self, OutOfMemory> {
        let packets = capacities.packets as usize;
        Ok(Self {
            slots: Slots::try_new(capacities.packets, ANY_REQUEST)?,
            by_age: List::EMPTY,
            requests: List::EMPTY,
            blocks: BlockPool::try_new(capacities.packet_bytes as usize)?,
            pending: Table::try_new(
                "pending flows",
                packets.saturating_mul(PENDING_WAYS),
                packets.saturating_mul(PENDING_EACH),
                || (ANY_FLOW, NO_FLOW),
            )?,
            stalled: None,
            continue_next: false,
            ids: Ids::try_new(capacities)?,
            connects: Own::try_new("connects", Connects::try_new)?,
            flow_packets: capacities.flow_packets,
            reader: false,
            abandoned: 0,
            due_before: None,
        })
    }

    pub(crate) fn set_reader(&mut self, reader: bool) {
        self.reader = reader;
        if !reader {
            self.abandoned = self.ids.last();
        }
    }

    pub(crate) const fn has_reader(&self) -> bool {
        self.reader
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
            .is_some_and(|held| self.ids.number(held.info.id) <= self.abandoned)
    }

    /// Whether there is somebody to ask about a held packet, and time to.
    fn may_ask(&self, slot: u32) -> bool {
        self.reader
            && self.slots.held(slot).is_some_and(|held| {
                self.ids.number(held.info.id) > self.abandoned
                    && Some(held.info.time) > self.due_before
            })
    }

    // ---- ids ------------------------------------------------------------------------------------

    fn find(&self, id: PacketId) -> Option<u32> {
        let slot = self.ids.slot(id.get());
        let held = self.slots.held(slot)?;
        (held.info.id == id).then_some(slot)
    }

    /// The packet with this name in the v1 interface.
    pub(crate) fn find_v1(&self, id: u32) -> Result<PacketId, NotHeld> {
        let held = self.slots.held(self.ids.slot(id.into()));
        held.map(|held| held.info.id)
            .filter(|held| held.v1() == id)
            .ok_or_else(|| self.ids.end_v1(id))
    }

    /// The held packet of this id.
    pub(crate) fn look(&self, id: PacketId) -> Result<HeldPacket<'_>, NotHeld> {
        let held = self.find(id).and_then(|slot| self.slots.held(slot));
        let held = held.ok_or_else(|| self.ids.end(id))?;
        Ok(HeldPacket {
            info: &held.info,
            blocks: &self.blocks,
            chain: &held.chain,
        })
    }

    // ---- holding --------------------------------------------------------------------------------

    /// Holds a packet of a flow, at the cost of the oldest where there is no room.
    pub(crate) fn hold(&mut self, hash: u64, flow: &FlowKey, packet: &Presented<'_>) -> Hold {
        let known = self.pending.find(hash, flow);
        // What joins a flow of which packets are held must not overtake them, though nobody reads.
        if !self.reader && known.is_none() {
            return Hold::NoReader;
        }
        let Presented {
            bytes, counters, ..
        } = *packet;
        if !self.blocks.could_fit(bytes.len()) {
            return Hold::Refused(Reason::DroppedTooLarge);
        }
        // Before others make room for it in vain.
        let Some(pending) = known.or_else(|| self.new_pending(hash, flow, packet)) else {
            return Hold::Refused(Reason::DroppedPendingFull);
        };
        let mut request_raised = false;
        // Bound: a slot or a block is won each time, and MAX_CHAIN blocks are enough.
        for _ in 0..=MAX_CHAIN {
            if self.slots.free().is_some() && self.blocks.fits(bytes.len()) {
                break;
            }
            if let Some(oldest) = self.by_age.front()
                && let Some(flow) = self.evict(oldest, Reason::DroppedPacketCacheFull, counters)
            {
                request_raised |= self.follow_up(flow, counters);
            }
        }
        // The flow may have lost its last packet to make room. An error does not begin one.
        let pending = if self.pending.get(pending).is_some() {
            Some(pending)
        } else if packet.what == What::AboutAnother {
            None
        } else {
            self.new_pending(hash, flow, packet)
        };
        let Some(pending) = pending else {
            return Hold::Refused(Reason::DroppedPacketCacheFull);
        };
        self.make_room_in_flow(pending, counters);
        let Some(slot) = self.store(pending, flow, packet) else {
            self.follow_up(pending, counters);
            return Hold::Refused(Reason::DroppedPacketCacheFull);
        };
        let Some(flow) = self.pending.get_mut(pending) else {
            return Hold::Refused(Reason::DroppedUnsettled);
        };
        flow.packets.push_back(&mut self.slots, slot);
        match packet.what {
            What::Packet => flow.stats.add(packet.arrival, &packet.headers, packet.now),
            What::AboutAnother => flow.stats.add_traffic(packet.arrival, &packet.headers),
            What::Connect(_) => flow.stats.begin(packet.arrival.process_id, packet.now),
        }
        if !self.reader {
            self.abandoned = self.ids.last();
        }
        let ask = if flow.decided.is_some() {
            None
        } else if packet.policies.asks_each_packet() {
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
    fn store(&mut self, pending: Handle, flow: &FlowKey, packet: &Presented<'_>) -> Option<u32> {
        let slot = self.slots.free()?;
        let id = self.ids.fresh(slot)?;
        let chain = self.blocks.store(packet.bytes)?;
        self.slots.take_free();
        let held = self.slots.slot_mut(slot)?;
        held.info.id = id;
        held.info.time = packet.now;
        held.info.flow = *flow;
        held.info.arrival = *packet.arrival;
        held.info.size = packet.headers.total_len;
        held.info.held_len = packet.bytes.len() as u32;
        held.chain = chain;
        held.pending = pending;
        held.state = State::Unasked;
        held.connect = None;
        if let What::Connect(id) = packet.what {
            held.connect = Some(id);
            self.connects.held(id, slot);
        }
        self.by_age.push_back(&mut self.slots, slot);
        Some(slot)
    }

    /// What is done with the first packet of a connect that a verdict for it alone let go on. It does
    /// not overtake what is held of its flow.
    pub(crate) fn first_of_connect(
        &mut self,
        hash: u64,
        flow: &FlowKey,
        packet: &Presented<'_>,
    ) -> Option<Action> {
        if self.connects.len() == 0 || !packet.may_open() || self.is_pending(hash, flow) {
            return None;
        }
        self.connects.take_first(hash, flow, packet.now)
    }

    /// Whether packets of a flow are held.
    pub(crate) fn is_pending(&self, hash: u64, flow: &FlowKey) -> bool {
        self.pending.find(hash, flow).is_some()
    }

    /// Says whose a flow is that waits for its verdict. `false` if it does not.
    pub(crate) fn set_owner(&mut self, hash: u64, flow: &FlowKey, process_id: ProcessId) -> bool {
        match self.pending.find_mut(hash, flow) {
            Some(pending) => {
                pending.stats.process_id = Some(process_id);
                true
            }
            None => false,
        }
    }

    fn new_pending(&mut self, hash: u64, flow: &FlowKey, packet: &Presented<'_>) -> Option<Handle> {
        let (handle, pending) = self.pending.insert(hash, flow, |_| None)?;
        *pending = Pending::new(hash, packet.now, packet.arrival.direction);
        Some(handle)
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
        let asked = |slot| self.slots.held(slot).is_some_and(Held::is_asked);
        let victim = match second {
            Some(second) if asked(oldest) && !asked(second) => second,
            _ => oldest,
        };
        self.evict(victim, Reason::DroppedFlowFull, counters);
    }

    /// Drops a held packet. Its flow is returned for a [`PacketCache::follow_up`].
    fn evict(&mut self, slot: u32, reason: Reason, counters: Tally<'_>) -> Option<Handle> {
        let taken = self.take(slot, VerdictOutcome::Evicted, 0)?;
        let reason = match self.connect_of(&taken) {
            None => reason,
            Some(connect) if self.connects.stand_in_leaves(connect, slot, Ending::GoesOn) => {
                counters.count(Event::ConnectNotHeld);
                Reason::PermittedConnect
            }
            Some(_) => CLOSED,
        };
        counters.unhold().end(reason);
        self.give_back(&taken);
        Some(taken.pending)
    }

    /// Raises a slot's verdict request.
    fn raise(&mut self, slot: u32, counters: Tally<'_>) {
        let Some(held) = self.slots.held_mut(slot) else {
            return;
        };
        held.state = State::Queued;
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
        let Some(held) = self.slots.held_mut(slot) else {
            return Delivery::Empty;
        };
        // It may have been told since the packet came.
        let told = self.pending.get(held.pending);
        let told = told.and_then(|flow| flow.stats.process_id);
        held.info.arrival.process_id = held.info.arrival.process_id.or(told);
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
            held.state = State::Delivered;
        }
        Delivery::Delivered(delivered)
    }

    // ---- letting go -----------------------------------------------------------------------------

    /// The slot of the packet that a verdict names, what is known of it, and its flow, if no verdict for
    /// that came before.
    pub(crate) fn decidable(&self, id: PacketId) -> Result<(u32, &RequestInfo, &Pending), NotHeld> {
        let not_held = || self.ids.end(id);
        let slot = self.find(id).ok_or_else(not_held)?;
        let held = self.slots.held(slot).ok_or_else(not_held)?;
        let flow = self.pending.get(held.pending).ok_or_else(not_held)?;
        match flow.decided {
            Some(decided) => Err(NotHeld {
                outcome: VerdictOutcome::AlreadyDecided,
                first: decided.decision.number(),
            }),
            None => Ok((slot, &held.info, flow)),
        }
    }

    /// Decides the flow of a packet for good. `None` if its packets are already being let go, which
    /// then ends with this; else the caller has to let them go by [`PacketCache::next`].
    pub(crate) fn decide_flow(&mut self, slot: u32, decided: Decided) -> Option<Handle> {
        let pending = self.slots.held(slot)?.pending;
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
    pub(crate) fn decide_packet(&mut self, slot: u32, decision: Decision) -> Option<Taken> {
        let taken = self.take(slot, VerdictOutcome::AlreadyDecided, decision.number())?;
        self.begin_release(taken.pending);
        Some(taken)
    }

    /// Takes the oldest packet of those that are due, but for flows of which others are on their way: it
    /// must not overtake them. The caller lets it go, then calls [`PacketCache::next`].
    pub(crate) fn take_oldest(&mut self, due: Due) -> Option<Taken> {
        if let Due::Before(time) = due {
            self.due_before = Some(time);
        }
        let mut next = self.by_age.front();
        // Bound: PASSED.
        for _ in 0..PASSED {
            let slot = next?;
            let held = self.slots.held(slot)?;
            let (is_due, outcome) = match due {
                Due::Before(time) => (held.info.time <= time, VerdictOutcome::Expired),
                Due::Abandoned => (self.is_abandoned(slot), VerdictOutcome::Abandoned),
            };
            if !is_due {
                return None;
            }
            if self.pending.get(held.pending)?.releasing == 0 {
                let taken = self.take(slot, outcome, 0)?;
                self.begin_release(taken.pending);
                return Some(taken);
            }
            next = List::<AGE>::after(&mut self.slots, slot);
        }
        None
    }

    fn begin_release(&mut self, flow: Handle) {
        if let Some(flow) = self.pending.get_mut(flow) {
            flow.releasing += 1;
        }
    }

    /// What is next for a flow after its packet was let go. When all have gone, `cache` is to cache the
    /// flow's fate, before anything else is held.
    pub(crate) fn next(
        &mut self,
        handle: Handle,
        counters: Tally<'_>,
        cache: impl FnOnce(&FlowKey, &Pending, &Decided),
    ) -> Next {
        let Some(flow) = self.pending.get_mut(handle) else {
            return Next::Done;
        };
        if let Some(decided) = flow.decided
            && flow.releasing == 1
        {
            let Some(front) = flow.packets.front() else {
                if let Some((key, pending)) = self.pending.entry(handle) {
                    cache(key, pending, &decided);
                }
                self.pending.remove(handle);
                return Next::Done;
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

    /// Whether packets of a flow are held.
    pub(crate) fn has_packets(&self, flow: Handle) -> bool {
        let flow = self.pending.get(flow);
        flow.is_some_and(|flow| !flow.packets.is_empty())
    }

    /// Whose turn it is: flows that were left to the tick and packets that are due take turns, or one
    /// flow that does not end would keep all others waiting.
    pub(crate) fn continues_first(&mut self) -> bool {
        self.continue_next = !self.continue_next;
        self.continue_next
    }

    /// A flow that was left to the tick, to be let go by [`PacketCache::next`].
    pub(crate) fn unstall(&mut self) -> Option<Handle> {
        let (first, last) = self.stalled.take()?;
        let next = self.pending.get_mut(first)?.next_stalled.take();
        self.stalled = next.map(|next| (next, last));
        Some(first)
    }

    /// What is known of a packet that is being let go.
    pub(crate) fn info(&self, taken: &Taken) -> Option<&RequestInfo> {
        Some(&self.slots.slot(taken.slot)?.info)
    }

    fn connect_of(&self, taken: &Taken) -> Option<ConnectId> {
        self.slots.slot(taken.slot)?.connect
    }

    /// What is to be done with what is being let go, where this is to be done with a packet: what stands
    /// for a connect is no packet, and goes nowhere. Its connect's wait ends with it. `lasting` says that
    /// the flow is cached with this.
    #[inline]
    pub(crate) fn end_wait(&mut self, taken: &Taken, action: &mut Action, lasting: bool) {
        if let Some(connect) = self.connect_of(taken) {
            self.end_wait_of(connect, taken, action, lasting);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_wait_of(
        &mut self,
        connect: ConnectId,
        taken: &Taken,
        action: &mut Action,
        lasting: bool,
    ) {
        let (ending, reason) = Ending::of(*action, lasting);
        let ended = self.connects.stand_in_leaves(connect, taken.slot, ending);
        *action = Action::Drop(if ended { reason } else { CLOSED });
    }

    /// What a fate does with a packet that is being let go.
    pub(crate) fn action(&self, taken: &Taken, fate: &Fate) -> Option<Action> {
        let info = self.info(taken)?;
        Some(fate.action(&info.flow, info.arrival.direction, Met::Held))
    }

    /// Copies a packet's bytes into a buffer, if they are wanted, and frees its place here. `allocate`
    /// runs under this cache's lock: it must not wait and must not call back.
    pub(crate) fn carry<B: AsMut<[u8]>>(
        &mut self,
        taken: &Taken,
        wanted: bool,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<B> {
        let chain = self.slots.slot(taken.slot).map(|slot| &slot.chain);
        let buffer = chain.filter(|_| wanted).and_then(|chain| {
            let mut buffer = allocate(chain.len())?;
            let copied = self.blocks.copy(chain, buffer.as_mut());
            (copied == chain.len()).then_some(buffer)
        });
        self.give_back(taken);
        buffer
    }

    /// Frees the place of a packet that has been let go.
    fn give_back(&mut self, taken: &Taken) {
        if let Some(slot) = self.slots.slot_mut(taken.slot) {
            let chain = core::mem::replace(&mut slot.chain, Chain::EMPTY);
            self.blocks.free(chain);
            self.slots.give_back(taken.slot);
        }
    }

    /// Takes a packet out of its lists. The caller owes its end, giving back its place, and what is next
    /// for its flow.
    fn take(&mut self, slot: u32, outcome: VerdictOutcome, decision: i8) -> Option<Taken> {
        let held = self.slots.held_mut(slot)?;
        let state = core::mem::replace(&mut held.state, State::Leaving);
        let (id, pending) = (held.info.id, held.pending);
        self.by_age.remove(&mut self.slots, slot);
        if state == State::Queued {
            self.requests.remove(&mut self.slots, slot);
        }
        if let Some(flow) = self.pending.get_mut(pending) {
            flow.packets.remove(&mut self.slots, slot);
            if state != State::Unasked {
                flow.asked = flow.asked.saturating_sub(1);
            }
        }
        self.ids.remember(id, outcome, decision);
        Some(Taken { slot, pending })
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
