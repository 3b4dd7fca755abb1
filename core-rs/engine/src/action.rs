//! What is to be done with a packet, and under which reason it then ends.

use kext_packet::Rewrite;
use kext_types::{Direction, FlowKey, Policy, Reason, RequestInfo, Verdict};

use crate::counters::Obligation;
use crate::redirect::{self, Translation, WayBack};

/// What the host is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it go unchanged.
    Permit(Reason),
    /// Discard it and answer it, where an answer is allowed.
    Block(Reason),
    /// Discard it in silence: so ends, whatever the reason, what stands for a connect as well.
    Drop(Reason),
    /// Let it go with other addresses and ports.
    Redirect(Reason, Rewrite),
}

/// A packet whose fate is decided: do what `action` says, then end the obligation.
#[must_use]
pub struct Settled<'a> {
    /// The duty to count the packet.
    pub obligation: Obligation<'a>,
    /// What is to be done.
    pub action: Action,
}

/// A held packet that leaves the packet cache.
#[must_use]
pub struct Release<'a, B> {
    /// What is to be done with it.
    pub settled: Settled<'a>,
    /// What was known of it when it came.
    pub info: RequestInfo,
    /// Its bytes; `None` if they are not needed, or if the host had no buffer.
    pub buffer: Option<B>,
}

/// The three reasons that a policy can end a packet for.
pub(crate) struct PolicyReasons {
    pub(crate) permit: Reason,
    pub(crate) block: Reason,
}

pub(crate) const NO_READER: PolicyReasons = PolicyReasons {
    permit: Reason::PermittedNoReader,
    block: Reason::BlockedNoReader,
};
pub(crate) const UNPARSABLE: PolicyReasons = PolicyReasons {
    permit: Reason::PermittedUnparsable,
    block: Reason::BlockedUnparsable,
};
pub(crate) const HOLD_LIMIT: PolicyReasons = PolicyReasons {
    permit: Reason::PermittedHoldLimit,
    block: Reason::BlockedHoldLimit,
};

impl Action {
    pub(crate) const fn of_policy(policy: Policy, reasons: &PolicyReasons) -> Self {
        match policy {
            Policy::Permit => Self::Permit(reasons.permit),
            Policy::Block => Self::Block(reasons.block),
        }
    }

    /// Whether the packet's bytes are needed to carry it out.
    pub(crate) const fn needs_bytes(&self) -> bool {
        !matches!(self, Self::Drop(_))
    }
}

/// What is known of a flow's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A verdict, and for a redirecting one where to; `None` if no translation could be had.
    Verdict(Verdict, Option<Translation>),
    /// These are the answers to a redirected flow.
    WayBack(WayBack),
}

/// Whether a verdict met a packet in the cache or in the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Cached,
    Held,
}

impl Met {
    const fn choose(self, cached: Reason, held: Reason) -> Reason {
        match self {
            Self::Cached => cached,
            Self::Held => held,
        }
    }
}

/// What a verdict does with any packet, if that is the same for all.
#[inline]
pub(crate) fn of_plain(verdict: Verdict, met: Met) -> Option<Action> {
    match verdict {
        Verdict::Accept => Some(Action::Permit(
            met.choose(Reason::PermittedCache, Reason::PermittedVerdict),
        )),
        Verdict::Block => Some(Action::Block(
            met.choose(Reason::BlockedCache, Reason::BlockedVerdict),
        )),
        Verdict::Drop => Some(Action::Drop(
            met.choose(Reason::DroppedCache, Reason::DroppedVerdict),
        )),
        Verdict::RedirectDns | Verdict::RedirectTunnel => None,
    }
}

impl Fate {
    /// What becomes of one packet of the flow that goes this way.
    pub(crate) fn action(&self, flow: &FlowKey, direction: Direction, met: Met) -> Action {
        if let Self::Verdict(verdict, _) = self
            && let Some(action) = of_plain(*verdict, met)
        {
            return action;
        }
        match self {
            Self::Verdict(_, None) => Action::Drop(if redirect::is_possible(flow) {
                Reason::DroppedRedirectFull
            } else {
                Reason::DroppedRedirectImpossible
            }),
            // It goes to the target without our help, and its answers come from there.
            Self::Verdict(_, Some(translation)) if translation.is_identity(flow) => {
                Action::Permit(met.choose(Reason::PermittedCache, Reason::PermittedVerdict))
            }
            Self::Verdict(_, Some(translation)) => match translation.forward(flow, direction) {
                Some(rewrite) => Action::Redirect(
                    met.choose(Reason::RedirectedCache, Reason::RedirectedVerdict),
                    rewrite,
                ),
                None => Action::Drop(Reason::DroppedRedirectImpossible),
            },
            Self::WayBack(way_back) => match way_back.back(flow, direction) {
                Some(rewrite) => Action::Redirect(Reason::RedirectedReturn, rewrite),
                None => Action::Drop(Reason::DroppedRedirectImpossible),
            },
        }
    }
}
