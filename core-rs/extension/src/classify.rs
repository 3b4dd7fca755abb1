//! Packets: what the engine decides is done here, then counted.

use kext_engine::{
    Action, Classified, EARLY_FRAGMENTS, EarlyFragment, Lane, PacketBytes, Release, Settled,
};
use kext_packet::reply;
use kext_packet::rewrite::{rewrite, rewrite_error};
use kext_packet::{Headers, MAX_REPLY_LEN, ReplyKind, Rewrite};
use kext_types::{Arrival, Direction, Event, Reason};

use crate::{Extension, Host, Injection, InjectionKind};

/// What the host is to do with the packet that it presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classification {
    /// Let it go on.
    Permit(Reason),
    /// Discard it; it is blocked or dropped.
    Discard(Reason),
    /// Discard it; the extension has a copy, or has sent a rewritten one for this reason.
    Absorb(Option<Reason>),
}

impl<H: Host> Extension<H> {
    /// Decides what happens to a packet.
    ///
    /// `packet` is what the host has of it, from the IP header on, in one piece or in several. `on_wire`
    /// is how many bytes there were, and more than it has only where the host saw the packet cut
    /// short. Nothing is kept of it. It is counted in the `lane` of whoever presents packets here.
    // Not inlined: its frame would be added to that of its caller.
    #[inline(never)]
    pub fn classify(
        &self,
        lane: &Lane<'_>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
    ) -> Classification {
        let now = self.host.now();
        self.engine.classify_then(
            lane,
            packet,
            on_wire,
            arrival,
            now,
            |obligation, reason| {
                obligation.end(reason);
                Classification::Permit(reason)
            },
            |classified| self.end_classified(classified, packet, on_wire, arrival),
        )
    }

    /// Does what is to be done with a packet. It may be a first fragment that others wait for.
    // Not inlined: its frame would be added to that of its caller.
    #[inline(never)]
    fn end_classified(
        &self,
        classified: Classified<'_>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
    ) -> Classification {
        // Not one that comes by again because we injected it, nor one that is blocked for its fragments:
        // whoever presented the first one has yet to let it go.
        let leads = arrival.passes == 0 && !is_blocked_fragment(&classified);
        let leading = if leads && self.engine.has_early() {
            first_fragment(packet, on_wire)
        } else {
            None
        };
        let classification = match classified {
            Classified::Held { request_raised } => {
                if request_raised {
                    self.host.requests_ready();
                }
                Classification::Absorb(None)
            }
            Classified::Settled { settled, headers } => match &headers {
                Some(headers) if leading.is_some() => {
                    self.end_leading(settled, headers, packet, arrival)
                }
                headers => self.end_presented(settled, headers.as_ref(), packet, arrival),
            },
        };
        if let Some(first) = leading {
            self.let_early_go(&first, arrival.direction);
        }
        classification
    }

    /// Whether a packet that this machine sends to itself is also to be presented as one that comes.
    ///
    /// A host that sees such a packet leave and come presents it once, as it leaves. But the answers
    /// of a redirect target on this machine, and ICMP errors about what was sent there, are given their
    /// flow's own addresses as they come; this says which may be such.
    #[inline(never)]
    pub fn may_answer_redirect(
        &self,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
    ) -> bool {
        let Ok(headers) = packet.headers(on_wire) else {
            return false;
        };
        if headers.is_icmp_error() {
            return true;
        }
        let config = self.engine.config();
        [config.redirect_dns, config.redirect_tunnel]
            .iter()
            .any(|target| {
                headers.source_port == target.port
                    && headers.source == target.address(headers.version, headers.destination)
            })
    }

    /// A first fragment that others may wait for: if the host let it go itself, they could overtake it.
    fn end_leading(
        &self,
        settled: Settled<'_>,
        headers: &Headers,
        packet: &(impl PacketBytes + ?Sized),
        arrival: &Arrival,
    ) -> Classification {
        let Action::Permit(reason) = settled.action else {
            return self.end_presented(settled, Some(headers), packet, arrival);
        };
        let kind = InjectionKind::Released(reason);
        let sent = self
            .copy(packet, headers)
            .and_then(|buffer| self.inject(buffer, arrival, headers.total_len, kind));
        settled.obligation.end(reason);
        match sent {
            Ok(()) => Classification::Absorb(Some(reason)),
            // Out of order, but it goes.
            Err(_) => Classification::Permit(reason),
        }
    }

    /// Fragments that came before this first one go the same way, in order of arrival.
    fn let_early_go(&self, first: &Headers, direction: Direction) {
        // Bound: as many as can wait.
        for _ in 0..EARLY_FRAGMENTS {
            let early = self
                .engine
                .next_early(first, direction, |len| self.host.allocate(len));
            let Some(EarlyFragment {
                obligation,
                arrival,
                on_wire,
                buffer,
            }) = early
            else {
                return;
            };
            let Some(buffer) = buffer else {
                obligation.end(Reason::DroppedNoBuffer);
                continue;
            };
            let now = self.host.now();
            let size = on_wire as usize;
            let classified =
                self.engine
                    .classify_early(obligation, buffer.as_ref(), size, &arrival, now);
            match classified {
                Classified::Held { request_raised } => {
                    if request_raised {
                        self.host.requests_ready();
                    }
                }
                Classified::Settled { settled, .. } => {
                    self.end_copy(settled, &arrival, on_wire, Some(buffer));
                }
            }
        }
    }

    fn end_presented(
        &self,
        settled: Settled<'_>,
        headers: Option<&Headers>,
        packet: &(impl PacketBytes + ?Sized),
        arrival: &Arrival,
    ) -> Classification {
        let (reason, classification) = match settled.action {
            Action::Permit(reason) => (reason, Classification::Permit(reason)),
            Action::Drop(reason) => {
                // Others made room for it, and what is asked in their place waits for a reader.
                if reason == Reason::DroppedPacketCacheFull {
                    self.wake_readers();
                }
                (reason, Classification::Discard(reason))
            }
            Action::Block(reason) => {
                self.reply(packet, headers, arrival);
                (reason, Classification::Discard(reason))
            }
            Action::Redirect(reason, change) => {
                match self.redirect_presented(packet, headers, arrival, &change, reason) {
                    Ok(()) => (reason, Classification::Absorb(Some(reason))),
                    Err(reason) => (reason, Classification::Discard(reason)),
                }
            }
        };
        settled.obligation.end(reason);
        classification
    }

    /// Does what is to be done with a held packet, and counts it.
    pub(crate) fn end_held(&self, release: Release<'_, H::Buffer>) {
        let Release {
            settled,
            info,
            buffer,
        } = release;
        self.end_copy(settled, &info.arrival, info.size, buffer);
    }

    /// The same of any packet of which the extension has a copy, `size` bytes long by its header.
    fn end_copy(
        &self,
        settled: Settled<'_>,
        arrival: &Arrival,
        size: u32,
        buffer: Option<H::Buffer>,
    ) {
        let headers = |buffer: &H::Buffer| Headers::parse(buffer.as_ref(), size as usize).ok();
        let reason = match (settled.action, buffer) {
            (Action::Drop(reason), _) => reason,
            (Action::Block(reason), Some(buffer)) => {
                self.reply(buffer.as_ref(), headers(&buffer).as_ref(), arrival);
                reason
            }
            (Action::Block(reason), None) => {
                self.engine.counters().count(Event::ReplyFailed);
                reason
            }
            (Action::Permit(reason), Some(buffer)) => self
                .inject(buffer, arrival, size, InjectionKind::Released(reason))
                .map_or_else(|failure| failure, |()| reason),
            (Action::Redirect(reason, change), Some(buffer)) => {
                let headers = headers(&buffer);
                self.redirect(buffer, headers.as_ref(), arrival, &change, reason)
                    .map_or_else(|failure| failure, |()| reason)
            }
            (Action::Permit(_) | Action::Redirect(..), None) => Reason::DroppedNoBuffer,
        };
        settled.obligation.end(reason);
    }

    fn redirect_presented(
        &self,
        packet: &(impl PacketBytes + ?Sized),
        headers: Option<&Headers>,
        arrival: &Arrival,
        change: &Rewrite,
        reason: Reason,
    ) -> Result<(), Reason> {
        let headers = headers.ok_or(Reason::DroppedRedirectImpossible)?;
        let buffer = self.copy(packet, headers)?;
        self.redirect(buffer, Some(headers), arrival, change, reason)
    }

    /// A copy of a presented packet, without what the link layer added.
    fn copy(
        &self,
        packet: &(impl PacketBytes + ?Sized),
        headers: &Headers,
    ) -> Result<H::Buffer, Reason> {
        let bytes = packet.all().ok_or(Reason::DroppedNoBuffer)?;
        let packet = bytes.get(..headers.total_len as usize).unwrap_or(bytes);
        let mut buffer = self
            .host
            .allocate(packet.len())
            .ok_or(Reason::DroppedNoBuffer)?;
        buffer
            .as_mut()
            .get_mut(..packet.len())
            .ok_or(Reason::DroppedNoBuffer)?
            .copy_from_slice(packet);
        Ok(buffer)
    }

    /// Rewrites a packet and sends it on. The error is the reason under which it then ends.
    fn redirect(
        &self,
        mut buffer: H::Buffer,
        headers: Option<&Headers>,
        arrival: &Arrival,
        change: &Rewrite,
        reason: Reason,
    ) -> Result<(), Reason> {
        let headers = headers.ok_or(Reason::DroppedRedirectImpossible)?;
        // An error is only redirected for the flow that it is about.
        let rewrite = if headers.is_icmp_error() {
            rewrite_error
        } else {
            rewrite
        };
        rewrite(buffer.as_mut(), headers, change).map_err(|_| Reason::DroppedRedirectImpossible)?;
        let kind = InjectionKind::Redirected(reason);
        self.inject(buffer, arrival, headers.total_len, kind)
    }

    fn inject(
        &self,
        buffer: H::Buffer,
        arrival: &Arrival,
        size: u32,
        kind: InjectionKind,
    ) -> Result<(), Reason> {
        let injection = Injection {
            arrival: *arrival,
            len: buffer.as_ref().len(),
            size,
            kind,
        };
        self.host
            .inject(buffer, &injection)
            .map_err(|_| Reason::DroppedInjectFailed)
    }

    /// Answers a blocked packet, if it may be answered, and counts what came of it.
    fn reply(
        &self,
        packet: &(impl PacketBytes + ?Sized),
        headers: Option<&Headers>,
        arrival: &Arrival,
    ) {
        let event = self.try_reply(packet, headers, arrival);
        self.engine.counters().count(event);
    }

    fn try_reply(
        &self,
        packet: &(impl PacketBytes + ?Sized),
        headers: Option<&Headers>,
        arrival: &Arrival,
    ) -> Event {
        let Some(headers) = headers.filter(|headers| reply::may_answer(headers).is_ok()) else {
            return Event::ReplyForbidden;
        };
        // Before there is a buffer: a flood of blocked packets must cost as little as it can.
        if !self.engine.may_reply(self.host.now()) {
            return Event::ReplyRateLimited;
        }
        let (Some(bytes), Some(mut buffer)) = (packet.all(), self.host.allocate(MAX_REPLY_LEN))
        else {
            return Event::ReplyFailed;
        };
        let identification = self.host.random() as u16;
        let Ok(reply) = reply::build(bytes, headers, identification, buffer.as_mut()) else {
            return Event::ReplyForbidden;
        };
        let injection = Injection {
            arrival: Arrival {
                direction: arrival.direction.reversed(),
                passes: 0,
                // It goes the other way, and is short.
                path_mtu: None,
                ..*arrival
            },
            len: reply.len,
            size: reply.len as u32,
            kind: InjectionKind::Reply,
        };
        match (self.host.inject(buffer, &injection), reply.kind) {
            (Err(_), _) => Event::ReplyFailed,
            (Ok(()), ReplyKind::TcpReset) => Event::InjectedReset,
            (Ok(()), ReplyKind::Unreachable) => Event::InjectedUnreachable,
        }
    }
}

/// Whether a packet is blocked because of what is wrong with its fragments.
fn is_blocked_fragment(classified: &Classified<'_>) -> bool {
    matches!(
        classified,
        Classified::Settled { settled, .. }
            if settled.action == Action::Block(Reason::BlockedFragment)
    )
}

/// The headers of a first fragment, if this is one.
#[cold]
#[inline(never)]
fn first_fragment(packet: &(impl PacketBytes + ?Sized), on_wire: usize) -> Option<Headers> {
    let headers = packet.headers(on_wire).ok();
    headers.filter(Headers::is_first_fragment)
}
