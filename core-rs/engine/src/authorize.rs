//! Connects: what a host is to tell one that has not sent a packet.

use kext_packet::Headers;
use kext_sync::RawLock;
use kext_types::{Arrival, Event, FlowKey, Reason, Timestamp, Verdict};

use crate::Engine;
use crate::action::{self, Action};
use crate::classify::{Presented, What};
use crate::connects::{Authorized, ConnectId, Ending};
use crate::packet_cache::{Hold, PacketCache};

impl<R: RawLock> Engine<R> {
    /// What the host is to tell a connect: by the verdict of its flow if that is cached, or, where connects
    /// are held, that it is to be held. `endpoint` is the host's name for the socket.
    ///
    /// When the hold of a connect ends, the host asks `again`, and is told what was decided, as often as it
    /// asks within five seconds. It may ask again about any other connect that has been authorized, and about
    /// one that is still held: nothing stops these here, and their packets are judged by themselves.
    ///
    /// A connect is no packet, but is counted like one, under reasons of its own, if it is refused or held.
    pub fn authorize(
        &self,
        flow: &FlowKey,
        endpoint: u64,
        again: bool,
        now: Timestamp,
    ) -> Authorized {
        let hash = self.hasher.hash(flow);
        if again {
            return self.decided(hash, flow, endpoint, now);
        }
        let policies = self.settings.policies();
        if !policies.holds_connects() {
            return Authorized::PassOn;
        }
        if policies.permits_fast_track() && self.settings.is_fast_track(flow) {
            return Authorized::PassOn;
        }
        let counters = self.counters.shared();
        let refused = match self.lookup(flow, now) {
            Some(Verdict::Block) => Reason::BlockedConnect,
            Some(Verdict::Drop) => Reason::DroppedConnect,
            // What is to be done with its packets is done when they come.
            Some(Verdict::Accept | Verdict::RedirectDns | Verdict::RedirectTunnel) => {
                return Authorized::PassOn;
            }
            None => {
                let mut packets = self.packets.lock();
                if !packets.has_reader() {
                    return Authorized::PassOn;
                }
                let Some(id) = packets.connects.ask(hash, flow, endpoint, now) else {
                    counters.count(Event::ConnectNotHeld);
                    return Authorized::PassOn;
                };
                return Authorized::Hold(id);
            }
        };
        counters.present().end(refused);
        Authorized::Refuse
    }

    fn decided(&self, hash: u64, flow: &FlowKey, endpoint: u64, now: Timestamp) -> Authorized {
        if self.packets.connects() == 0 {
            return Authorized::PassOn;
        }
        let mut packets = self.packets.lock();
        let decided = packets.connects.answer(hash, flow, endpoint, now);
        decided.unwrap_or(Authorized::PassOn)
    }

    /// The host could not hold a connect after all: nobody is asked about it, and its packets are judged by
    /// themselves.
    pub fn let_connect_pass(&self, id: ConnectId) {
        self.packets.lock().connects.forget(id);
        self.counters.count(Event::ConnectNotHeld);
    }

    /// The host holds a connect: its verdict is asked for, with `stand_in` as its packet.
    ///
    /// Where it is decided meanwhile, or cannot wait, [`Engine::next_decided_connect`] soon tells the host
    /// to end the hold again.
    pub fn hold_connect(
        &self,
        id: ConnectId,
        flow: &FlowKey,
        stand_in: &[u8],
        arrival: &Arrival,
        now: Timestamp,
    ) {
        let counters = self.counters.shared();
        let obligation = counters.present();
        let hash = self.hasher.hash(flow);
        let policies = self.settings.policies();
        let headers = Headers::parse(stand_in, stand_in.len());
        let mut packets = self.packets.lock();
        // The verdict may have come since the host asked; from here on it cannot.
        if let Some(verdict) = self.lookup(flow, now) {
            let action = match verdict {
                Verdict::Block => Action::Block(Reason::BlockedCache),
                Verdict::Drop => Action::Drop(Reason::DroppedCache),
                Verdict::Accept | Verdict::RedirectDns | Verdict::RedirectTunnel => {
                    Action::Permit(Reason::PermittedCache)
                }
            };
            obligation.end(decide(&mut packets, id, action, true));
            return;
        }
        let hold = headers.map(|headers| {
            let packet = Presented {
                bytes: stand_in,
                headers,
                arrival,
                what: What::Connect(id),
                now,
                policies,
                counters,
            };
            packets.hold(hash, flow, &packet)
        });
        match hold {
            // Still under the lock, so that nobody lets it go before it is counted as held.
            Ok(Hold::Held { .. }) => obligation.hold(),
            Ok(Hold::NoReader) => {
                let action = Action::of_policy(policies.no_reader(), &action::NO_READER);
                obligation.end(decide(&mut packets, id, action, false));
            }
            Ok(Hold::Refused(_)) | Err(_) => {
                packets.connects.decide(id, Ending::GoesOn);
                counters.count(Event::ConnectNotHeld);
                obligation.end(Reason::PermittedConnect);
            }
        }
    }

    /// A socket is closed: if its connect waits, that is over. What user mode was asked stays to be
    /// answered, as with packets of a connection that has ended.
    pub fn close_connect(&self, flow: &FlowKey, endpoint: u64) {
        if self.packets.connects() > 0 {
            let hash = self.hasher.hash(flow);
            self.packets.lock().connects.close(hash, flow, endpoint);
        }
    }

    /// Takes the next connect whose hold the host is to end. It then asks again, and is told what was
    /// decided.
    pub fn next_decided_connect(&self, now: Timestamp) -> Option<ConnectId> {
        if self.packets.decided_connects() == 0 {
            return None;
        }
        self.packets.lock().connects.take_decided(now)
    }
}

/// Ends a connect's wait before it has begun. Gives the reason under which that is counted.
fn decide(packets: &mut PacketCache, id: ConnectId, action: Action, lasting: bool) -> Reason {
    let (ending, reason) = Ending::of(action, lasting);
    packets.connects.decide(id, ending);
    reason
}
