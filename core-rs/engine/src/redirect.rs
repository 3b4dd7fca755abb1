//! Redirected flows: there with another destination, back with the flow's own.
//!
//! The packet that asked goes from S to D. Its flow is rewritten to S' → T, where T is the target and
//! S' is S, with another port if the answers T → S could not be told from another flow's. The answers
//! T → S' have a flow key of their own, under which the verdict cache keeps the [`WayBack`]. So any
//! number of flows go to one target at once, and each way back is one look-up.

use kext_packet::Rewrite;
use kext_types::{Address, Direction, FlowKey, RedirectTarget, Verdict, protocol};

/// How many source ports are tried before a redirect is given up.
pub(crate) const PORT_ATTEMPTS: u16 = 16;

/// One end of a flow.
type End = (Address, u16);

/// How a redirected flow is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// The direction of the packet that asked.
    forward: Direction,
    /// The target's port.
    target_port: u16,
    /// The port of S'.
    source_port: u16,
    /// The target.
    target: Address,
}

/// How the answers of a redirected flow are given their own addresses again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WayBack {
    /// The redirecting verdict.
    verdict: Verdict,
    /// The direction of the answers.
    direction: Direction,
    /// The port that the flow believes that it talks to.
    destination_port: u16,
    /// The port of S.
    source_port: u16,
    /// Where the flow believes that it talks to.
    destination: Address,
}

impl Translation {
    /// The translation that `attempt` stands for: the first keeps the flow's own port, the others
    /// take one of the dynamic ports (RFC 6335 §6) chosen by the flow's hash. `None` if the
    /// protocol is none that can be redirected.
    pub(crate) fn attempt(
        flow: &FlowKey,
        forward: Direction,
        target: &RedirectTarget,
        hash: u64,
        attempt: u16,
    ) -> Option<Self> {
        if !is_possible(flow) {
            return None;
        }
        let (_, source_port) = ends(flow, forward).0;
        Some(Self {
            forward,
            target: target.address(flow.version, flow.local),
            target_port: target.port,
            source_port: if attempt == 0 {
                source_port
            } else {
                let start = (hash >> 40) as u16;
                0xc000 | start.wrapping_add(attempt) & 0x3fff
            },
        })
    }

    /// The change to a packet of the flow; `None` for one against the redirect, which comes from
    /// where the flow does not go any more.
    pub(crate) fn forward(&self, flow: &FlowKey, direction: Direction) -> Option<Rewrite> {
        let ((source, _), _) = ends(flow, self.forward);
        (direction == self.forward).then_some(Rewrite {
            source: Some((source, self.source_port)),
            destination: Some(self.target()),
        })
    }

    const fn target(&self) -> End {
        (self.target, self.target_port)
    }

    /// Whether packets of this direction are those that are redirected.
    pub(crate) fn applies_to(&self, direction: Direction) -> bool {
        direction == self.forward
    }

    /// Whether the flow goes to the target anyway.
    pub(crate) fn is_identity(&self, flow: &FlowKey) -> bool {
        ends(flow, self.forward).1 == self.target()
    }

    /// The key of the answers, and how to change them.
    pub(crate) fn way_back(&self, flow: &FlowKey, verdict: Verdict) -> (FlowKey, WayBack) {
        let (source, destination) = ends(flow, self.forward);
        let direction = self.forward.reversed();
        let (local, remote) = direction.local_remote(self.target(), (source.0, self.source_port));
        let key = FlowKey {
            local: local.0,
            local_port: local.1,
            remote: remote.0,
            remote_port: remote.1,
            ..*flow
        };
        let way_back = WayBack {
            verdict,
            direction,
            destination: destination.0,
            destination_port: destination.1,
            source_port: source.1,
        };
        (key, way_back)
    }
}

impl WayBack {
    /// The change to an answer with this flow key; `None` for a packet of the other direction.
    pub(crate) fn back(&self, flow: &FlowKey, direction: Direction) -> Option<Rewrite> {
        let (_, (asker, _)) = ends(flow, self.direction);
        (direction == self.direction).then_some(Rewrite {
            source: Some((self.destination, self.destination_port)),
            destination: Some((asker, self.source_port)),
        })
    }

    /// The verdict that redirected the flow.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether packets of this direction are answers.
    pub(crate) fn applies_to(&self, direction: Direction) -> bool {
        direction == self.direction
    }

    /// The direction of the answers.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }
}

/// Whether packets of the flow can be rewritten: TCP's and UDP's can.
pub(crate) fn is_possible(flow: &FlowKey) -> bool {
    matches!(flow.protocol, protocol::TCP | protocol::UDP)
}

/// Source and destination of a flow's packets that go this way.
fn ends(flow: &FlowKey, direction: Direction) -> (End, End) {
    direction.local_remote(
        (flow.local, flow.local_port),
        (flow.remote, flow.remote_port),
    )
}

#[cfg(test)]
mod tests {
    use kext_types::{Config, IpVersion};

    use super::*;

    const LOCAL: Address = Address::v4([192, 0, 2, 10]);
    const REMOTE: Address = Address::v4([198, 51, 100, 20]);

    fn flow() -> FlowKey {
        FlowKey {
            local: LOCAL,
            remote: REMOTE,
            local_port: 40_000,
            remote_port: 5_353,
            version: IpVersion::V4,
            protocol: protocol::UDP,
        }
    }

    #[test]
    fn there_and_back_restores_both_ends_in_either_direction() {
        for forward in [Direction::Outbound, Direction::Inbound] {
            for attempt in [0, 3] {
                let target = Config::default().redirect_dns;
                let translation =
                    Translation::attempt(&flow(), forward, &target, u64::MAX, attempt).unwrap();
                let (source, destination) = ends(&flow(), forward);
                let there = translation.forward(&flow(), forward).unwrap();
                assert_eq!(there.destination, Some((LOCAL, 53)));
                assert_eq!(there.source.unwrap().0, source.0);
                assert_eq!(there.source.unwrap().1 == source.1, attempt == 0);

                // The answer swaps the ends of the packet that went there.
                let (key, way_back) = translation.way_back(&flow(), Verdict::RedirectDns);
                let answer = forward.reversed();
                assert_eq!(
                    ends(&key, answer),
                    (there.destination.unwrap(), there.source.unwrap())
                );
                let back = way_back.back(&key, answer).unwrap();
                assert_eq!(back.source, Some(destination));
                assert_eq!(back.destination, Some(source));

                assert_eq!(translation.forward(&flow(), answer), None);
                assert_eq!(way_back.back(&key, forward), None);
            }
        }
    }

    #[test]
    fn only_tcp_and_udp_can_be_redirected() {
        let target = Config::default().redirect_dns;
        let icmp = FlowKey {
            protocol: protocol::ICMP,
            ..flow()
        };
        assert!(Translation::attempt(&icmp, Direction::Outbound, &target, 0, 0).is_none());
    }
}
