//! The replay's side of the extension: virtual clock, repeatable randomness, and where packets go.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kext_extension::{Host, InjectError, Injection, InjectionKind};
use kext_types::{Direction, Reason, Timestamp};
use kext_wire::hello::HostKind;
use parking_lot::{Condvar, Mutex};

use super::ReplayError;
use super::buffer::PacketBuffer;
use crate::capture::{CaptureError, CaptureWriter, Outgoing};

/// The extension's host in a replay.
pub(super) struct Backend {
    /// The virtual time in nanoseconds.
    clock: AtomicU64,
    random: AtomicU64,
    /// Whether packets that leave are written at all.
    writes: bool,
    /// Whether anybody ever sleeps until the next packet is due.
    paced: bool,
    output: Mutex<Output>,
    /// Counts calls of [`Backend::wake`], so that none is lost between looking whether there is
    /// something to do and falling asleep. Nothing is called while it is locked.
    wakes: Mutex<u64>,
    woken: Condvar,
}

/// Where packets that leave are written.
struct Output {
    writer: Option<CaptureWriter>,
    /// The first error of writing, for whoever closes.
    error: Option<CaptureError>,
}

/// A packet that leaves.
pub(super) struct Leaving<'a> {
    pub(super) interface: u32,
    pub(super) direction: Direction,
    pub(super) data: &'a [u8],
    pub(super) size: u32,
    pub(super) what: &'static str,
    pub(super) reason: Option<Reason>,
}

impl Backend {
    pub(super) fn new(output: Option<&Path>, paced: bool) -> Result<Self, ReplayError> {
        Ok(Self {
            clock: AtomicU64::new(0),
            random: AtomicU64::new(0),
            writes: output.is_some(),
            paced,
            output: Mutex::new(Output {
                writer: output.map(CaptureWriter::create).transpose()?,
                error: None,
            }),
            wakes: Mutex::new(0),
            woken: Condvar::new(),
        })
    }

    /// Sets the virtual time; it never steps back.
    pub(super) fn advance(&self, now: Timestamp) {
        self.clock.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Ends every [`Backend::sleep`] that goes on, and those of who looked before this.
    pub(super) fn wake(&self) {
        if !self.paced {
            return;
        }
        let mut wakes = self.wakes.lock();
        *wakes = wakes.wrapping_add(1);
        self.woken.notify_all();
    }

    /// What [`Backend::sleep`] is to be given; to be asked for before looking whether to sleep.
    pub(super) fn wakes(&self) -> u64 {
        *self.wakes.lock()
    }

    /// Waits until `until`, or until [`Backend::wake`] is called after `seen` was asked for. May
    /// end early.
    pub(super) fn sleep(&self, seen: u64, until: Instant) {
        let mut wakes = self.wakes.lock();
        if *wakes == seen {
            self.woken.wait_until(&mut wakes, until);
        }
    }

    /// Whether packets that leave are written.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Writes a packet that leaves, if there is somewhere to write it. An error is kept for
    /// [`Backend::finish`]: the file is a record of the packets, not their fate.
    pub(super) fn leave(&self, packet: &Leaving<'_>) {
        let mut output = self.output.lock();
        let Some(writer) = &mut output.writer else {
            return;
        };
        let direction = match packet.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        let reason = packet.reason.map_or("", Reason::name);
        let space = if reason.is_empty() { "" } else { " " };
        let comment = format!("{direction} {}{space}{reason}", packet.what);
        let written = writer.write(&Outgoing {
            time: self.now(),
            interface: packet.interface,
            direction: packet.direction,
            data: packet.data,
            original_len: packet.size,
            comment: &comment,
        });
        if let Err(error) = written {
            output.writer = None;
            output.error = Some(error);
        }
    }

    /// Completes the output file.
    pub(super) fn finish(&self) -> Result<(), ReplayError> {
        let (writer, error) = {
            let mut output = self.output.lock();
            (output.writer.take(), output.error.take())
        };
        if let Some(error) = error {
            return Err(error.into());
        }
        Ok(writer.map_or(Ok(()), CaptureWriter::finish)?)
    }
}

impl Host for Backend {
    type Lock = parking_lot::RawMutex;
    type Buffer = PacketBuffer;

    const KIND: HostKind = HostKind::Replay;

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// The same numbers in each run (increment and finish of `SplitMix64`).
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn allocate(&self, len: usize) -> Option<PacketBuffer> {
        PacketBuffer::new(len)
    }

    fn inject(&self, buffer: PacketBuffer, injection: &Injection) -> Result<(), InjectError> {
        let data = buffer.as_ref().get(..injection.len).ok_or(InjectError)?;
        if !self.writes {
            return Ok(());
        }
        let (what, reason) = match injection.kind {
            InjectionKind::Released(reason) => ("accept", Some(reason)),
            InjectionKind::Redirected(reason) => ("redirect", Some(reason)),
            InjectionKind::Reply => ("reply to a blocked packet", None),
        };
        self.leave(&Leaving {
            interface: injection.arrival.interface.index,
            direction: injection.arrival.direction,
            data,
            size: injection.size,
            what,
            reason,
        });
        Ok(())
    }

    fn requests_ready(&self) {
        self.wake();
    }
}
