//! The packets of the machine, shown to the driver in bursts, as a network card hands them over.

use std::time::{Duration, Instant};

use kext_hosts::replay::{Packets, Presented};
use kext_ntsim::{Packet, Sim};
use kext_types::Direction;

use crate::Failure;

/// The most packets of a burst.
const MOST: usize = 1_024;
/// The most that a burst may have held of: half of what the driver can hold, so that no packet is lost
/// to a batch.
const MOST_HELD: usize = 512;
const MOST_BYTES: usize = 8 << 20;
/// The longest time, by the packets' own clock, from the first packet of a burst to the last. Timers
/// wait until its end.
const SPAN: Duration = Duration::from_millis(50);

/// Packets that are still to come.
pub(crate) struct Traffic {
    packets: Packets,
    next: Option<Shown>,
    /// The time of the first packet, since 1970.
    first: Option<Duration>,
    /// What the machine's time was, and the real one, when it began; none before.
    began: Option<(Duration, Instant)>,
    realtime: bool,
}

/// A packet, and when it comes, since 1970.
struct Shown {
    time: Duration,
    len: usize,
    packet: Packet,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Burst {
    /// Packets were shown.
    Shown,
    /// It is too early for the next one.
    Early,
    /// There are no more.
    End,
}

impl Traffic {
    pub(crate) fn new(packets: Packets, realtime: bool) -> Result<Self, Failure> {
        let mut traffic = Self {
            packets,
            next: None,
            first: None,
            began: None,
            realtime,
        };
        traffic.read()?;
        traffic.first = traffic.next.as_ref().map(|shown| shown.time);
        Ok(traffic)
    }

    /// The time of the first packet, since 1970.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.first
    }

    /// Whether its packets come at their own pace.
    pub(crate) fn is_realtime(&self) -> bool {
        self.realtime
    }

    fn read(&mut self) -> Result<(), Failure> {
        self.next = match self.packets.read()? {
            Some(packet) if packet.bytes.len() < packet.on_wire => {
                return Err("a packet was cut short, and Windows shows whole ones".into());
            }
            Some(packet) => Some(shown(&packet)),
            None => None,
        };
        Ok(())
    }

    /// Lets the machine's time go on as the real one does.
    pub(crate) fn follow_clock(&mut self, sim: &Sim) {
        let (start, began) = *self.began.get_or_insert((sim.time(), Instant::now()));
        if self.realtime {
            sim.advance((start + began.elapsed()).saturating_sub(sim.time()));
        }
    }

    /// When the next packet comes by the machine's time; none if there are no more.
    fn due(&mut self, sim: &Sim) -> Option<Duration> {
        let shown = self.next.as_ref()?;
        let (start, _) = *self.began.get_or_insert((sim.time(), Instant::now()));
        let since = shown.time.saturating_sub(self.first.unwrap_or_default());
        Some(start + since)
    }

    /// Shows packets until about so many may be held.
    pub(crate) fn burst(&mut self, sim: &Sim, most: u32) -> Result<Burst, Failure> {
        let Some(due) = self.due(sim) else {
            return Ok(Burst::End);
        };
        let early = due.saturating_sub(sim.time());
        if self.realtime && !early.is_zero() {
            return Ok(Burst::Early);
        }
        sim.advance(early);
        let end = due + SPAN;
        let most = (most as usize).min(MOST_HELD);
        let shown = sim.at_dispatch(|| self.show(sim, most, end));
        // What the time of the burst has brought about.
        sim.advance(Duration::ZERO);
        shown.map(|()| Burst::Shown)
    }

    fn show(&mut self, sim: &Sim, most: usize, end: Duration) -> Result<(), Failure> {
        let (mut held, mut bytes) = (0, 0);
        for _ in 0..MOST {
            let due = match self.due(sim) {
                Some(due) if due < end => due,
                _ => break,
            };
            if self.realtime && due > sim.time() {
                break;
            }
            let Some(Shown { packet, len, .. }) = self.next.take() else {
                break;
            };
            sim.advance(due.saturating_sub(sim.time()));
            self.read()?;
            if sim.classify(&packet).absorbed {
                (held, bytes) = (held + 1, bytes + len);
            }
            if held >= most || bytes >= MOST_BYTES {
                break;
            }
        }
        Ok(())
    }
}

fn shown(packet: &Presented<'_>) -> Shown {
    let arrival = &packet.arrival;
    let direction = match arrival.direction {
        Direction::Outbound => kext_ntsim::Direction::Outbound,
        Direction::Inbound => kext_ntsim::Direction::Inbound,
    };
    let interface = arrival.interface;
    Shown {
        time: Duration::from_nanos(packet.time.as_nanos()),
        len: packet.bytes.len(),
        packet: Packet::new(direction, packet.bytes)
            .interface(interface.index, interface.sub_index)
            .compartment(Some(arrival.compartment)),
    }
}
