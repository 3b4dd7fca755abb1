//! Packets: what the engine decides is done here, then counted.

use kext_engine::{Action, Classified, Release, Settled};
use kext_packet::reply;
use kext_packet::rewrite::rewrite;
use kext_packet::{Headers, MAX_REPLY_LEN, ReplyKind, Rewrite};
use kext_types::{Arrival, Event, Reason};

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
    /// `bytes` are what the host has of it, from the IP header on. `on_wire` is how many there were,
    /// and more only where the host saw the packet cut short. Nothing is kept of `bytes`.
    pub fn classify(&self, bytes: &[u8], on_wire: usize, arrival: &Arrival) -> Classification {
        let now = self.host.now();
        let processor = self.host.processor();
        match self
            .engine
            .classify_on(processor, bytes, on_wire, arrival, now)
        {
            Classified::Held { request_raised } => {
                if request_raised {
                    self.host.requests_ready();
                }
                Classification::Absorb(None)
            }
            Classified::Settled { settled, headers } => {
                self.end_presented(settled, headers.as_ref(), bytes, arrival)
            }
        }
    }

    fn end_presented(
        &self,
        settled: Settled<'_>,
        headers: Option<&Headers>,
        bytes: &[u8],
        arrival: &Arrival,
    ) -> Classification {
        let (reason, classification) = match settled.action {
            Action::Permit(reason) => (reason, Classification::Permit(reason)),
            Action::Drop(reason) => (reason, Classification::Discard(reason)),
            Action::Block(reason) => {
                self.reply(bytes, headers, arrival);
                (reason, Classification::Discard(reason))
            }
            Action::Redirect(reason, change) => {
                match self.redirect_presented(bytes, headers, arrival, &change, reason) {
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
        let size = info.size;
        let headers = |buffer: &H::Buffer| Headers::parse(buffer.as_ref(), size as usize).ok();
        let reason = match (settled.action, buffer) {
            (Action::Drop(reason), _) => reason,
            (Action::Block(reason), Some(buffer)) => {
                self.reply(buffer.as_ref(), headers(&buffer).as_ref(), &info.arrival);
                reason
            }
            (Action::Block(reason), None) => {
                self.engine.counters().count(Event::ReplyFailed);
                reason
            }
            (Action::Permit(reason), Some(buffer)) => self
                .inject(buffer, &info.arrival, size, InjectionKind::Released(reason))
                .map_or_else(|failure| failure, |()| reason),
            (Action::Redirect(reason, change), Some(buffer)) => {
                let headers = headers(&buffer);
                self.redirect(buffer, headers.as_ref(), &info.arrival, &change, reason)
                    .map_or_else(|failure| failure, |()| reason)
            }
            (Action::Permit(_) | Action::Redirect(..), None) => Reason::DroppedNoBuffer,
        };
        settled.obligation.end(reason);
    }

    fn redirect_presented(
        &self,
        bytes: &[u8],
        headers: Option<&Headers>,
        arrival: &Arrival,
        change: &Rewrite,
        reason: Reason,
    ) -> Result<(), Reason> {
        let headers = headers.ok_or(Reason::DroppedRedirectImpossible)?;
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
        self.redirect(buffer, Some(headers), arrival, change, reason)
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
    fn reply(&self, bytes: &[u8], headers: Option<&Headers>, arrival: &Arrival) {
        let event = self.try_reply(bytes, headers, arrival);
        self.engine.counters().count(event);
    }

    fn try_reply(&self, bytes: &[u8], headers: Option<&Headers>, arrival: &Arrival) -> Event {
        let Some(headers) = headers.filter(|headers| reply::may_answer(headers).is_ok()) else {
            return Event::ReplyForbidden;
        };
        // Before there is a buffer: a flood of blocked packets must cost as little as it can.
        if !self.engine.may_reply(self.host.now()) {
            return Event::ReplyRateLimited;
        }
        let Some(mut buffer) = self.host.allocate(MAX_REPLY_LEN) else {
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
