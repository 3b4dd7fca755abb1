//! Presents packets, as fast as they are read or at their own pace.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kext_extension::{Classification, Extension, Lane};
use kext_packet::Headers;
use kext_types::{Event, Reason, Timestamp};
use kext_wire::Status;
use parking_lot::{Mutex, MutexGuard};

use super::backend::{Backend, Leaving};
use super::gather::Gather;
use super::source::{Found, Packet, Source};
use super::{MALFORMED_TOLD, ReplayError, ReplayReport};
use crate::capture::At;

/// How often the extension is told the time.
const TICK: Duration = Duration::from_millis(100);
/// How long after a packet the time still goes on in ticks; beyond this nothing can become due, as
/// no hold limit is longer.
const TICKED_GAP: Duration = Duration::from_secs(601);
/// How many packets are presented between looks at the real clock.
const CLOCK_STRIDE: u64 = 64;

/// Why presenting packets stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// Verdict requests wait, or nobody is to wait for them any more: dispatch again.
    Ready,
    /// The deadline has passed.
    Deadline,
    /// There are no more packets.
    End,
}

/// The packets still to be presented.
pub(super) struct Feed {
    source: Source,
    /// Whether the source's record was read and not presented.
    waiting: bool,
    realtime: bool,
    /// When the first packet was presented, for the pace.
    started: Option<(Instant, Timestamp)>,
    /// `None` before the first packet.
    last_tick: Option<Timestamp>,
    ended: bool,
    /// What [`Gather`] keeps.
    largest: u64,
    /// Counts who had the lock, so that a read can tell whether another came between.
    turns: u64,
    failure: Option<Arc<ReplayError>>,
    report: ReplayReport,
}

impl Feed {
    pub(super) fn new(source: Source, realtime: bool) -> Self {
        let (local, local_inferred) = source.local();
        let report = ReplayReport {
            local,
            local_inferred,
            bytes_total: source.total(),
            ..ReplayReport::default()
        };
        Self {
            source,
            waiting: false,
            realtime,
            started: None,
            last_tick: None,
            ended: false,
            largest: 0,
            turns: 0,
            failure: None,
            report,
        }
    }

    pub(super) fn failure(&self) -> Option<Arc<ReplayError>> {
        self.failure.clone()
    }

    pub(super) fn report(&self) -> ReplayReport {
        ReplayReport {
            bytes_read: self.source.position(),
            ..self.report.clone()
        }
    }

    /// Reads the next record, unless one waits already. `false` at the end.
    fn read(&mut self) -> bool {
        if self.waiting || self.ended {
            return self.waiting;
        }
        match self.source.advance() {
            Ok(true) => {
                self.waiting = true;
                self.report.records += 1;
            }
            Ok(false) => self.ended = true,
            Err(error) => {
                self.ended = true;
                self.failure = Some(Arc::new(error));
            }
        }
        self.waiting
    }

    /// When the record that waits is due, at its own pace, and the virtual time at `now`.
    fn due(&mut self, now: Instant) -> (Instant, Timestamp) {
        let time = self.source.time();
        let (started, first) = *self.started.get_or_insert((now, time));
        let due = started.checked_add(time.since(first)).unwrap_or(started);
        (due, first + now.saturating_duration_since(started))
    }

    /// Presents the record that waits, and says whether its packet is held.
    fn present(&mut self, extension: &Extension<Backend>, lane: &Lane<'_>) -> bool {
        self.waiting = false;
        let time = self.source.time();
        self.pass_time(extension, time);
        let packet = match self.source.found() {
            Found::Packet(packet) => packet,
            Found::NotIp => {
                self.report.not_ip += 1;
                return false;
            }
            Found::TooShort(len) => {
                self.report.too_short += 1;
                let problem = format!("no room for an IP packet in the {len} bytes captured");
                self.report.tell_malformed(self.source.at(), &problem);
                return false;
            }
        };
        self.report.guessed += u64::from(packet.guessed);
        self.report.presented += 1;
        self.report.first_time.get_or_insert(time);
        self.report.last_time = Some(time);
        let Packet {
            bytes,
            on_wire,
            arrival,
            ..
        } = packet;
        let classification = extension.classify(lane, bytes, on_wire, &arrival);
        let unwalkable = matches!(
            classification,
            Classification::Permit(Reason::PermittedUnparsable)
                | Classification::Discard(Reason::BlockedUnparsable | Reason::BlockedFragment)
        );
        if unwalkable && let Err(error) = Headers::parse(bytes, on_wire) {
            self.report.tell_malformed(self.source.at(), &error);
        }
        if let Classification::Permit(reason) = classification
            && extension.host().writes()
        {
            let (data, size) = without_padding(bytes, on_wire);
            extension.host().leave(&Leaving {
                interface: arrival.interface.index,
                direction: arrival.direction,
                data,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                what: "accept",
                reason: Some(reason),
            });
        }
        classification == Classification::Absorb(None)
    }

    /// Lets the virtual time go on to `now`, tick by tick as far as ticks can matter.
    fn pass_time(&mut self, extension: &Extension<Backend>, now: Timestamp) {
        let held = || extension.engine().counters().event(Event::Held) > 0;
        let from = *self.last_tick.get_or_insert(now);
        if now.since(from) < TICK {
            extension.host().advance(now);
            return;
        }
        let end = now.min(from + TICKED_GAP);
        let mut at = from;
        // Bound: TICKED_GAP / TICK. Only what is held can become due.
        while end.since(at) >= TICK && held() {
            at = at + TICK;
            extension.host().advance(at);
            while extension.tick() {}
        }
        extension.host().advance(now);
        self.last_tick = Some(now);
        while extension.tick() {}
    }
}

impl ReplayReport {
    fn tell_malformed(&mut self, at: At, problem: &dyn Display) {
        self.malformed += 1;
        if self.first_malformed.len() < MALFORMED_TOLD {
            self.first_malformed.push(format!("{at}: {problem}"));
        }
    }
}

/// A packet without what the link layer added behind it, and its length on the wire. One that
/// cannot be parsed does not tell where it ends.
pub(super) fn without_padding(packet: &[u8], on_wire: usize) -> (&[u8], usize) {
    match Headers::parse(packet, on_wire) {
        Ok(headers) => {
            let size = headers.total_len as usize;
            (packet.get(..size).unwrap_or(packet), size)
        }
        Err(_) => (packet, on_wire),
    }
}

/// What a read waits for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// How many requests it can take.
    pub(super) most: u32,
    /// When its wait is over.
    pub(super) deadline: Option<Instant>,
}

impl Wanted {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Presenting packets under the lock of the feed.
pub(super) trait Run {
    /// Presents packets until as many requests wait as are wanted and can be [gathered](Gather), or
    /// nobody reads any more, the deadline passes, there are no more, or `stop` gives a status.
    fn lock_and_run(
        &self,
        extension: &Extension<Backend>,
        wanted: Wanted,
        stop: impl Fn() -> Option<Status>,
    ) -> Result<Fed, Status>;
}

impl Run for Mutex<Feed> {
    fn lock_and_run(
        &self,
        extension: &Extension<Backend>,
        wanted: Wanted,
        stop: impl Fn() -> Option<Status>,
    ) -> Result<Fed, Status> {
        let mut feed: MutexGuard<'_, Feed> = self.lock();
        feed.turns += 1;
        let mut turn = feed.turns;
        let mut gather = Gather::new(extension, wanted.most, feed.largest);
        let mut presented: u64 = 0;
        // Whether the last packet is held without a request: it waits with a flow that was asked
        // about before.
        let mut joined = false;
        let lane = extension.lane(0);
        loop {
            // Before any look at what may end this.
            let wakes = if feed.realtime {
                extension.host().wakes()
            } else {
                0
            };
            if let Some(status) = stop() {
                return Err(status);
            }
            let queued = extension.engine().queued_requests();
            if !extension.is_reading() || queued >= gather.most() || (joined && queued > 0) {
                return Ok(Fed::Ready);
            }
            if !feed.read() {
                if queued > 0 {
                    return Ok(Fed::Ready);
                }
                // No first fragment comes any more.
                extension.engine().drop_early();
                return Ok(Fed::End);
            }
            let (time, len) = (feed.source.time(), feed.source.len());
            if queued > 0 && !gather.takes(time, len) {
                return Ok(Fed::Ready);
            }
            if feed.realtime {
                let now = Instant::now();
                let (due, time) = feed.due(now);
                if due > now {
                    if queued > 0 {
                        return Ok(Fed::Ready);
                    }
                    feed.pass_time(extension, time);
                    if wanted.deadline.is_some_and(|deadline| deadline <= now) {
                        return Ok(Fed::Deadline);
                    }
                    let until = wanted.deadline.map_or(due, |deadline| deadline.min(due));
                    let until = until.min(now + TICK);
                    MutexGuard::unlocked(&mut feed, || extension.host().sleep(wakes, until));
                    gather.look(extension);
                    continue;
                }
            }
            let held = feed.present(extension, &lane);
            gather.presented(time, len, held);
            joined = held && extension.engine().queued_requests() <= queued;
            feed.largest = gather.largest();
            presented += 1;
            if !presented.is_multiple_of(CLOCK_STRIDE) {
                continue;
            }
            // Whoever wants a report need not wait for a verdict request.
            MutexGuard::bump(&mut feed);
            if feed.turns != turn {
                gather.look(extension);
            }
            feed.turns += 1;
            turn = feed.turns;
            // Gathering has bounds of its own.
            if wanted.is_over() && extension.engine().queued_requests() == 0 {
                return Ok(Fed::Deadline);
            }
        }
    }
}
