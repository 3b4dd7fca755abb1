//! Held packets on their way out, one at a time and in order.

use kext_sync::RawLock;
use kext_types::{Event, RequestInfo, Timestamp, VerdictOutcome};

use crate::action::{self, Action, Fate, Met, Release, Settled};
use crate::packet_cache::{Next, Taken};
use crate::table::Handle;
use crate::{Engine, NotHeld};

/// The packets that a verdict, the hold limit or the end of a reader sets free.
///
/// Each packet has to be let go before the next one is asked for: this is what keeps a flow's packets
/// in order while others arrive. What is not asked for is left to the tick.
#[must_use = "packets stay held until they are asked for"]
pub struct Releases<'a, R: RawLock> {
    engine: &'a Engine<R>,
    first: Option<(Taken, Action)>,
    flow: Option<Handle>,
    /// How many more packets may be let go here; a flow that fills as fast as it empties must not
    /// keep a verdict's caller for ever.
    budget: u32,
}

impl<'a, R: RawLock> Releases<'a, R> {
    fn new(engine: &'a Engine<R>, first: Option<(Taken, Action)>, flow: Option<Handle>) -> Self {
        Self {
            engine,
            first,
            flow,
            budget: engine.capacities.flow_packets.saturating_mul(2),
        }
    }

    /// The packets of a flow that was decided.
    pub(crate) fn of_flow(engine: &'a Engine<R>, flow: Option<Handle>) -> Self {
        Self::new(engine, None, flow)
    }

    /// A packet that was decided by itself.
    pub(crate) fn of_packet(engine: &'a Engine<R>, taken: Option<Taken>, fate: Fate) -> Self {
        let first = taken.map(|taken| {
            let action = fate.action(&taken.info, Met::Held);
            (taken, action)
        });
        Self::of_taken(engine, first)
    }

    fn of_taken(engine: &'a Engine<R>, first: Option<(Taken, Action)>) -> Self {
        let flow = first.as_ref().map(|(taken, _)| taken.pending);
        Self::new(engine, first, flow)
    }

    /// The next packet, with its bytes in a buffer from `allocate` where they are needed.
    ///
    /// `allocate` runs under the packet cache's lock: it must not wait, and must not call the engine.
    pub fn next<B: AsMut<[u8]>>(
        &mut self,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<Release<'a, B>> {
        let engine = self.engine;
        let mut packets = engine.packets.lock();
        let (taken, action) = if let Some(first) = self.first.take() {
            first
        } else {
            let flow = self.flow.take()?;
            if self.budget == 0 {
                packets.stall(flow, &engine.counters);
                return None;
            }
            match packets.next(flow, &engine.counters) {
                Next::Packet(taken, fate) => {
                    self.flow = Some(flow);
                    let action = fate.action(&taken.info, Met::Held);
                    (taken, action)
                }
                Next::Cache(key, fate, stats) => {
                    let hash = engine.hasher.hash(&key);
                    engine
                        .flows
                        .insert(hash, key, fate, stats, &engine.counters);
                    return None;
                }
                Next::Done => return None,
            }
        };
        self.budget = self.budget.saturating_sub(1);
        let obligation = engine.counters.unhold();
        let info: RequestInfo = taken.info;
        let buffer = packets.carry(taken, action.needs_bytes(), allocate);
        Some(Release {
            settled: Settled { obligation, action },
            info,
            buffer,
        })
    }
}

impl<R: RawLock> Drop for Releases<'_, R> {
    /// What was taken but never asked for ends here, counted; what was not taken is left to the tick.
    fn drop(&mut self) {
        if self.first.is_none() && self.flow.is_none() {
            return;
        }
        let mut packets = self.engine.packets.lock();
        if let Some((taken, _)) = self.first.take() {
            drop(self.engine.counters.unhold());
            packets.carry::<[u8; 0]>(taken, false, |_| None);
        }
        if let Some(flow) = self.flow.take() {
            packets.stall(flow, &self.engine.counters);
        }
    }
}

/// The oldest held packet, if nobody reads.
pub(crate) fn abandoned<R: RawLock>(engine: &Engine<R>) -> Option<Releases<'_, R>> {
    let mut packets = engine.packets.lock();
    if packets.has_reader() {
        return None;
    }
    let policy = engine.settings.policies().no_reader();
    let by_policy = Action::of_policy(policy, &action::NO_READER);
    let (taken, fate) = packets.take_oldest(None, VerdictOutcome::Abandoned)?;
    drop(packets);
    Some(settled(engine, taken, fate, by_policy))
}

/// The next thing that time has brought about: a flow left over, or a packet held for too long.
pub(crate) fn due<R: RawLock>(engine: &Engine<R>, now: Timestamp) -> Option<Releases<'_, R>> {
    let mut packets = engine.packets.lock();
    if let Some(flow) = packets.unstall() {
        return Some(Releases::of_flow(engine, Some(flow)));
    }
    let limit = u64::try_from(engine.settings.hold_limit().as_nanos()).unwrap_or(u64::MAX);
    let before = Timestamp::from_nanos(now.as_nanos().checked_sub(limit)?);
    let (taken, fate) = packets.take_oldest(Some(before), VerdictOutcome::Expired)?;
    drop(packets);
    let policy = engine.settings.policies().hold_limit();
    let by_policy = Action::of_policy(policy, &action::HOLD_LIMIT);
    Some(settled(engine, taken, fate, by_policy))
}

/// A packet that goes by its flow's fate if that is known, else by policy.
fn settled<R: RawLock>(
    engine: &Engine<R>,
    taken: Taken,
    fate: Option<Fate>,
    by_policy: Action,
) -> Releases<'_, R> {
    let action = fate.map_or(by_policy, |fate| fate.action(&taken.info, Met::Held));
    Releases::of_taken(engine, Some((taken, action)))
}

impl NotHeld {
    /// The counter of a verdict that met this.
    pub(crate) fn event(&self) -> Event {
        match self.outcome {
            VerdictOutcome::AlreadyDecided => Event::VerdictAlreadyDecided,
            VerdictOutcome::Evicted | VerdictOutcome::Expired | VerdictOutcome::Abandoned => {
                Event::VerdictTooLate
            }
            VerdictOutcome::InvalidVerdict => Event::VerdictInvalid,
            VerdictOutcome::Applied | VerdictOutcome::UnknownId => Event::VerdictUnknownId,
        }
    }
}
