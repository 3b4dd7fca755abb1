//! How many packets are presented for one read, so that a batch is more than one request.
//!
//! What a replay comes to must not depend on the size of batches. So gathering ends before it could
//! change anything: before a held packet could be dropped to make room or reach its hold limit, and
//! as soon as a packet waits with a flow that was asked about before, as its verdict should come
//! first.

use std::time::Duration;

use kext_extension::Extension;
use kext_types::{Event, Timestamp};

use super::backend::Backend;

/// The longest time, by the packets' own clock, from the first packet of a batch to the last: half
/// the shortest hold limit.
const SPAN: Duration = Duration::from_millis(50);
/// How many more packets are presented, once one is held, for each request that is wanted.
const PATIENCE: u64 = 16;
/// What a held packet takes is a multiple of this, as far as it matters here.
const GRAIN: usize = 256;

/// What still fits one batch.
pub(super) struct Gather {
    /// How many requests are wanted, at least one.
    most: u32,
    /// Of the packet cache, no more than half of either is used by gathering.
    packets: u64,
    bytes: u64,
    /// What is held, at most.
    held_packets: u64,
    held_bytes: u64,
    /// The largest packet that can be held from before, in bytes.
    largest: u64,
    /// The time of the first packet, once one is held.
    since: Option<Timestamp>,
    presented: u64,
}

impl Gather {
    /// `largest` is kept from one gathering to the next: what is held is known in packets only.
    pub(super) fn new(extension: &Extension<Backend>, most: u32, largest: u64) -> Self {
        let engine = extension.engine();
        let capacities = engine.capacities();
        // With each packet asked for, a batch may hold two of one flow, and the verdict of the first
        // decides the second.
        let most = if most > 1 && engine.config().ask_each_packet {
            1
        } else {
            most.max(1)
        };
        let mut gather = Self {
            most,
            packets: u64::from(capacities.packets / 2),
            bytes: u64::from(capacities.packet_bytes / 2),
            held_packets: 0,
            held_bytes: 0,
            largest,
            since: None,
            presented: 0,
        };
        gather.look(extension);
        gather
    }

    /// Looks again at what is held, as somebody else may have had packets presented.
    pub(super) fn look(&mut self, extension: &Extension<Backend>) {
        self.held_packets = extension.engine().counters().event(Event::Held);
        if self.held_packets == 0 {
            self.largest = 0;
        }
        self.held_bytes = self.held_packets.saturating_mul(self.largest);
    }

    pub(super) fn most(&self) -> u32 {
        self.most
    }

    /// Whether one more packet, of this time and length, belongs to the batch.
    pub(super) fn takes(&self, time: Timestamp, len: usize) -> bool {
        self.held_packets < self.packets
            && self.held_bytes.saturating_add(grains(len)) <= self.bytes
            && self.presented < u64::from(self.most).saturating_mul(PATIENCE)
            && self.since.is_none_or(|since| time.since(since) < SPAN)
    }

    /// Takes note of a packet that was presented.
    pub(super) fn presented(&mut self, time: Timestamp, len: usize, held: bool) {
        self.presented += u64::from(self.since.is_some());
        if held {
            self.since.get_or_insert(time);
            self.held_packets += 1;
            self.held_bytes = self.held_bytes.saturating_add(grains(len));
            self.largest = self.largest.max(grains(len));
        }
    }

    /// The largest packet that can be held now.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }
}

fn grains(len: usize) -> u64 {
    len.next_multiple_of(GRAIN) as u64
}
