//! Presents captured packets, as fast as they are read or at their own pace.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kext_extension::{Classification, Extension, Lane};
use kext_packet::Headers;
use kext_types::{Arrival, Event, Interface, Reason, Timestamp};
use kext_wire::Status;
use parking_lot::{Mutex, MutexGuard};

use super::backend::{Backend, Leaving};
use super::local::LocalSide;
use super::{MALFORMED_TOLD, ReplayError, ReplayReport};
use crate::capture::{At, CaptureReader, LinkPacket, Record, network_layer};

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
    reader: CaptureReader,
    record: Record,
    /// Where the record is in the file.
    at: At,
    /// Whether `record` was read and not presented.
    waiting: bool,
    local: LocalSide,
    realtime: bool,
    /// When the first packet was presented, for the pace.
    started: Option<(Instant, Timestamp)>,
    /// `None` before the first packet.
    last_tick: Option<Timestamp>,
    ended: bool,
    failure: Option<Arc<ReplayError>>,
    report: ReplayReport,
}

impl Feed {
    pub(super) fn open(path: &Path, local: LocalSide, realtime: bool) -> Result<Self, ReplayError> {
        let reader = CaptureReader::open(path)?;
        let report = ReplayReport {
            local: local.description().to_owned(),
            local_inferred: local.is_inferred(),
            bytes_total: reader.file_len().unwrap_or(0),
            ..ReplayReport::default()
        };
        Ok(Self {
            reader,
            record: Record::default(),
            at: At {
                record: 0,
                offset: 0,
            },
            waiting: false,
            local,
            realtime,
            started: None,
            last_tick: None,
            ended: false,
            failure: None,
            report,
        })
    }

    pub(super) fn failure(&self) -> Option<Arc<ReplayError>> {
        self.failure.clone()
    }

    pub(super) fn report(&self) -> ReplayReport {
        ReplayReport {
            bytes_read: self.reader.position(),
            ..self.report.clone()
        }
    }

    /// Reads the next record, unless one waits already. `false` at the end of the capture.
    fn read(&mut self) -> bool {
        if self.waiting {
            return true;
        }
        let offset = self.reader.position();
        match self.reader.read_into(&mut self.record) {
            Ok(true) => {
                self.waiting = true;
                self.at = At {
                    record: self.record.number,
                    offset,
                };
                self.report.records += 1;
            }
            Ok(false) => self.ended = true,
            Err(error) => {
                self.ended = true;
                self.failure = Some(Arc::new(error.into()));
            }
        }
        self.waiting
    }

    /// When the record that waits is due, at its own pace, and the virtual time at `now`.
    fn due(&mut self, now: Instant) -> (Instant, Timestamp) {
        let time = self.record.time;
        let (started, first) = *self.started.get_or_insert((now, time));
        let due = started.checked_add(time.since(first)).unwrap_or(started);
        (due, first + now.saturating_duration_since(started))
    }

    /// Presents the record that waits.
    fn present(&mut self, extension: &Extension<Backend>, lane: &Lane<'_>) {
        self.waiting = false;
        self.pass_time(extension, self.record.time);
        let record = &self.record;
        let found = network_layer(record.link_type, &record.data, record.original_len);
        let (offset, on_wire, told, interface) = match found {
            LinkPacket::Ip {
                offset,
                on_wire,
                direction,
                interface,
            } => (offset, on_wire as usize, direction, interface),
            LinkPacket::NotIp { .. } => {
                self.report.not_ip += 1;
                return;
            }
            LinkPacket::TooShort => {
                self.report.too_short += 1;
                let len = record.data.len();
                let problem = format!("no room for an IP packet in the {len} bytes captured");
                self.report.tell_malformed(self.at, &problem);
                return;
            }
        };
        let packet = record.data.get(offset..).unwrap_or_default();
        let (direction, guessed) = self.local.direction(packet, on_wire, told);
        self.report.guessed += u64::from(guessed);
        let arrival = Arrival {
            direction,
            interface: Interface {
                index: interface.unwrap_or(record.interface),
                sub_index: 0,
            },
            compartment: 0,
            process_id: None,
            passes: 0,
        };
        self.report.presented += 1;
        self.report.first_time.get_or_insert(record.time);
        self.report.last_time = Some(record.time);
        let classification = extension.classify(lane, packet, on_wire, &arrival);
        let unwalkable = matches!(
            classification,
            Classification::Permit(Reason::PermittedUnparsable)
                | Classification::Discard(Reason::BlockedUnparsable | Reason::BlockedFragment)
        );
        if unwalkable && let Err(error) = Headers::parse(packet, on_wire) {
            self.report.tell_malformed(self.at, &error);
        }
        if let Classification::Permit(reason) = classification
            && extension.host().writes()
        {
            let (data, size) = without_padding(packet, on_wire);
            extension.host().leave(&Leaving {
                interface: arrival.interface.index,
                direction: arrival.direction,
                data,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                what: "accept",
                reason: Some(reason),
            });
        }
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
fn without_padding(packet: &[u8], on_wire: usize) -> (&[u8], usize) {
    match Headers::parse(packet, on_wire) {
        Ok(headers) => {
            let size = headers.total_len as usize;
            (packet.get(..size).unwrap_or(packet), size)
        }
        Err(_) => (packet, on_wire),
    }
}

/// Presenting packets under the lock of the feed.
pub(super) trait Run {
    /// Presents packets until a request waits or nobody reads any more, the deadline passes, there
    /// are no more, or `stop` gives a status.
    fn lock_and_run(
        &self,
        extension: &Extension<Backend>,
        deadline: Option<Instant>,
        stop: impl Fn() -> Option<Status>,
    ) -> Result<Fed, Status>;
}

impl Run for Mutex<Feed> {
    fn lock_and_run(
        &self,
        extension: &Extension<Backend>,
        deadline: Option<Instant>,
        stop: impl Fn() -> Option<Status>,
    ) -> Result<Fed, Status> {
        let mut feed: MutexGuard<'_, Feed> = self.lock();
        let mut presented: u64 = 0;
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
            if extension.engine().queued_requests() > 0 || !extension.is_reading() {
                return Ok(Fed::Ready);
            }
            if !feed.read() {
                // No first fragment comes any more.
                extension.engine().drop_early();
                return Ok(Fed::End);
            }
            if feed.realtime {
                let now = Instant::now();
                let (due, time) = feed.due(now);
                if due > now {
                    feed.pass_time(extension, time);
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return Ok(Fed::Deadline);
                    }
                    let until = deadline.map_or(due, |deadline| deadline.min(due));
                    let until = until.min(now + TICK);
                    MutexGuard::unlocked(&mut feed, || extension.host().sleep(wakes, until));
                    continue;
                }
            }
            feed.present(extension, &lane);
            presented += 1;
            if !presented.is_multiple_of(CLOCK_STRIDE) {
                continue;
            }
            // Whoever wants a report need not wait for a verdict request.
            MutexGuard::bump(&mut feed);
            if deadline.is_some_and(|deadline| deadline <= Instant::now())
                && extension.engine().queued_requests() == 0
            {
                return Ok(Fed::Deadline);
            }
        }
    }
}
