//! Why a packet ended as it did, and the other things that are counted.
//!
//! Every packet that is presented ends under exactly one [`Reason`], and each reason belongs to one
//! [`Disposition`], so the sums over reasons balance by construction:
//! `seen = permitted + blocked + dropped + redirected + held`.

/// The four ways in which a packet can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Disposition {
    /// It went on unchanged.
    Permitted = 0,
    /// It was refused, with an answer where the protocol allows one.
    Blocked = 1,
    /// It was discarded in silence.
    Dropped = 2,
    /// It went on with another address or port.
    Redirected = 3,
}

impl Disposition {
    /// Every disposition, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Permitted,
        Self::Blocked,
        Self::Dropped,
        Self::Redirected,
    ];

    /// The lower-case word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Blocked => "blocked",
            Self::Dropped => "dropped",
            Self::Redirected => "redirected",
        }
    }
}

/// Declares an enum of counted things with their stable numbers and names.
macro_rules! counted {
    (
        $(#[$meta:meta])* $name:ident {
            $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $name { $($(#[$doc])* $variant = $number,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$variant),+];

            /// The stable number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The one with this number, if there is one.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable name, as counters show it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

counted! {
    /// Why a packet ended. The hundreds of the number are the [`Disposition`].
    Reason {
        /// A cached verdict of its flow accepted it.
        PermittedCache = 0, "permitted_cache";
        /// A verdict for this held packet or its flow accepted it.
        PermittedVerdict = 1, "permitted_verdict";
        /// Nobody reads requests, and the policy for that is to permit.
        PermittedNoReader = 2, "permitted_no_reader";
        /// It was held up to the hold limit, and the policy for that is to permit.
        PermittedHoldLimit = 3, "permitted_hold_limit";
        /// Its headers could not be parsed, and the policy for that is to permit.
        PermittedUnparsable = 4, "permitted_unparsable";
        /// It is a fragment, and the policy for that is to permit.
        PermittedFragment = 5, "permitted_fragment";
        /// Neighbour discovery, router advertisement, DHCP or DHCPv6.
        PermittedInfrastructure = 6, "permitted_infrastructure";
        /// Its destination is the limited broadcast address.
        PermittedBroadcast = 7, "permitted_broadcast";
        /// Its destination is a multicast group.
        PermittedMulticast = 8, "permitted_multicast";
        /// It runs between this machine and its own redirect target.
        PermittedFastTrack = 9, "permitted_fast_track";
        /// The extension injected it itself.
        PermittedInjected = 10, "permitted_injected";
        /// No packet, but a connect that was to wait for its verdict, and goes on: its packets are counted
        /// on their own.
        PermittedConnect = 11, "permitted_connect";

        /// A cached verdict of its flow blocked it.
        BlockedCache = 100, "blocked_cache";
        /// A verdict for this held packet or its flow blocked it.
        BlockedVerdict = 101, "blocked_verdict";
        /// Nobody reads requests, and the policy for that is to block.
        BlockedNoReader = 102, "blocked_no_reader";
        /// It was held up to the hold limit, and the policy for that is to block.
        BlockedHoldLimit = 103, "blocked_hold_limit";
        /// Its headers could not be parsed, and the policy for that is to block.
        BlockedUnparsable = 104, "blocked_unparsable";
        /// It is a fragment, and the policy for that is to block; or one that no honest sender makes, or
        /// that overlaps others.
        BlockedFragment = 105, "blocked_fragment";
        /// No packet, but a connect that was refused before it sent one.
        BlockedConnect = 106, "blocked_connect";

        /// A cached verdict of its flow dropped it.
        DroppedCache = 200, "dropped_cache";
        /// A verdict for this held packet or its flow dropped it.
        DroppedVerdict = 201, "dropped_verdict";
        /// It was the oldest held packet when the packet cache was full.
        DroppedPacketCacheFull = 202, "dropped_packet_cache_full";
        /// It was the oldest held packet of a flow that held as many as a flow may.
        DroppedFlowFull = 203, "dropped_flow_full";
        /// The table of pending flows had no room for its flow.
        DroppedPendingFull = 204, "dropped_pending_full";
        /// It is larger than the whole packet cache.
        DroppedTooLarge = 205, "dropped_too_large";
        /// The extension had injected it too often already.
        DroppedLoopGuard = 206, "dropped_loop_guard";
        /// It is a later fragment whose first fragment was not seen, however long it waited for it.
        DroppedFragmentOrphan = 207, "dropped_fragment_orphan";
        /// It was to be redirected, and no translation was free.
        DroppedRedirectFull = 208, "dropped_redirect_full";
        /// It was to be redirected, and packets of its kind cannot be rewritten.
        DroppedRedirectImpossible = 209, "dropped_redirect_impossible";
        /// The host had no buffer to let it go in.
        DroppedNoBuffer = 210, "dropped_no_buffer";
        /// The host refused to inject it.
        DroppedInjectFailed = 211, "dropped_inject_failed";
        /// The code forgot to settle it: a defect, if ever it is not zero.
        DroppedUnsettled = 212, "dropped_unsettled";
        /// No packet, but a connect that was refused before it sent one, by a verdict to drop.
        DroppedConnect = 213, "dropped_connect";

        /// A cached verdict of its flow redirected it.
        RedirectedCache = 300, "redirected_cache";
        /// A verdict for this held packet or its flow redirected it.
        RedirectedVerdict = 301, "redirected_verdict";
        /// It came back from a redirect target and was given its flow's own addresses again.
        RedirectedReturn = 302, "redirected_return";
    }
}

impl Reason {
    /// How a packet that ends for this reason ends.
    pub const fn disposition(self) -> Disposition {
        match self.number() / 100 {
            0 => Disposition::Permitted,
            1 => Disposition::Blocked,
            2 => Disposition::Dropped,
            _ => Disposition::Redirected,
        }
    }
}

counted! {
    /// Counted things that are no packet's end. Numbers start at 1000, clear of [`Reason`]'s.
    Event {
        /// Packets presented by the host.
        Seen = 1000, "seen";
        /// Packets held now, a gauge.
        Held = 1001, "held";
        /// Verdict requests raised.
        Requests = 1002, "requests";
        /// TCP RST segments injected as the answer to a blocked packet.
        InjectedReset = 1003, "injected_reset";
        /// ICMP or ICMPv6 unreachable messages injected as the answer to a blocked packet.
        InjectedUnreachable = 1004, "injected_unreachable";
        /// Blocked packets left unanswered because they must not be answered.
        ReplyForbidden = 1005, "reply_forbidden";
        /// Blocked packets left unanswered because the answers of this second were used up.
        ReplyRateLimited = 1006, "reply_rate_limited";
        /// Answers that the host could not inject.
        ReplyFailed = 1007, "reply_failed";
        /// Verdicts that decided a held packet.
        VerdictApplied = 1008, "verdict_applied";
        /// Verdicts for an id that is not held and not remembered.
        VerdictUnknownId = 1009, "verdict_unknown_id";
        /// Verdicts for a packet that an earlier verdict had decided.
        VerdictAlreadyDecided = 1010, "verdict_already_decided";
        /// Verdicts for a packet that eviction, the hold limit or the end of a reader had settled.
        VerdictTooLate = 1011, "verdict_too_late";
        /// Verdicts with a number that is none.
        VerdictInvalid = 1012, "verdict_invalid";
        /// Flows put into the verdict cache.
        FlowCached = 1013, "flow_cached";
        /// Flows pushed out of the verdict cache by newer ones, though not idle for too long.
        FlowEvicted = 1014, "flow_evicted";
        /// Flows found idle for too long, and forgotten.
        FlowExpired = 1015, "flow_expired";
        /// Times the verdict cache was cleared.
        CacheCleared = 1016, "cache_cleared";
        /// Connects that could not wait for their verdict, or had to make room: their packets are asked
        /// about, as if connects were not held.
        ConnectNotHeld = 1017, "connect_not_held";
        /// Packets, or fragments of them, that were counted as let go or as an answer, and that the host
        /// could not send in the end: they are lost. They are part of no balance, as they have ended.
        InjectionsRefused = 1018, "injections_refused";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_disposition() {
        for reason in Reason::ALL {
            let name = reason.disposition().name();
            assert!(reason.name().starts_with(name), "{reason:?}");
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
        }
    }

    #[test]
    fn numbers_of_reasons_and_events_are_apart() {
        for event in Event::ALL {
            assert_eq!(Event::from_number(event.number()), Some(event));
            assert_eq!(Reason::from_number(event.number()), None);
        }
    }
}
