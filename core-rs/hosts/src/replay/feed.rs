//! Presents captured packets, as fast as they are read or at their own pace.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kext_extension::{Classification, Extension};
use kext_types::{Arrival, Interface, Timestamp};
use kext_wire::Status;
use parking_lot::{Mutex, MutexGuard};

use super::backend::{Backend, Leaving};
use super::local::LocalSide;
use super::{ReplayError, ReplayReport};
use crate::capture::{CaptureReader, LinkPacket, Record, network_layer};

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
    /// Verdict requests wait.
    Requests,
    /// The deadline has passed.
    Deadline,
    /// There are no more packets.
    End,
}

/// The packets still to be presented.
pub(super) struct Feed {
    reader: CaptureReader,
    record: Record,
    /// Whether `record` was read and not presented.
    waiting: bool,
    local: LocalSide,
    realtime: bool,
    /// When the first packet was presented, for the pace.
    started: Option<(Instant, Timestamp)>,
    last_tick: Timestamp,
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
            waiting: false,
            local,
            realtime,
            started: None,
            last_tick: Timestamp::default(),
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
        match self.reader.read_into(&mut self.record) {
            Ok(true) => {
                self.waiting = true;
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

    /// When the record that waits is due, at its own pace.
    fn due(&mut self) -> Instant {
        let time = self.record.time;
        let (started, first) = *self.started.get_or_insert_with(|| (Instant::now(), time));
        started.checked_add(time.since(first)).unwrap_or(started)
    }

    /// Presents the record that waits.
    fn present(&mut self, extension: &Extension<Backend>) {
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
                return;
            }
        };
        let packet = record.data.get(offset..).unwrap_or_default();
        let arrival = Arrival {
            direction: self.local.direction(packet, on_wire, told),
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
        if let Classification::Permit(reason) = extension.classify(packet, on_wire, &arrival) {
            extension.host().leave(&Leaving {
                interface: arrival.interface.index,
                direction: arrival.direction,
                data: packet,
                size: u32::try_from(on_wire).unwrap_or(u32::MAX),
                what: "accept",
                reason: Some(reason),
            });
        }
    }

    /// Lets the virtual time go on to `now`, tick by tick as far as ticks can matter.
    fn pass_time(&mut self, extension: &Extension<Backend>, now: Timestamp) {
        let from = self.last_tick;
        if now.since(from) < TICK {
            extension.host().advance(now);
            return;
        }
        if from > Timestamp::default() {
            let end = now.min(from + TICKED_GAP);
            // Bound: TICKED_GAP / TICK.
            while end.since(self.last_tick) >= TICK {
                self.last_tick = self.last_tick + TICK;
                extension.host().advance(self.last_tick);
                while extension.tick() {}
            }
        }
        extension.host().advance(now);
        self.last_tick = now;
        while extension.tick() {}
    }
}

/// Presenting packets under the lock of the feed.
pub(super) trait Run {
    /// Presents packets until a request waits, the deadline passes, there are no more, or `stop`
    /// gives a status.
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
        loop {
            if let Some(status) = stop() {
                return Err(status);
            }
            if extension.engine().queued_requests() > 0 {
                return Ok(Fed::Requests);
            }
            if !feed.read() {
                return Ok(Fed::End);
            }
            if feed.realtime {
                let now = Instant::now();
                let due = feed.due();
                if due > now {
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return Ok(Fed::Deadline);
                    }
                    let until = deadline.map_or(due, |deadline| deadline.min(due));
                    extension.host().sleep(&mut feed, until);
                    continue;
                }
            }
            feed.present(extension);
            presented += 1;
            if presented.is_multiple_of(CLOCK_STRIDE)
                && deadline.is_some_and(|deadline| deadline <= Instant::now())
                && extension.engine().queued_requests() == 0
            {
                return Ok(Fed::Deadline);
            }
        }
    }
}
