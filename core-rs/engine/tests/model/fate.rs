//! What a verdict means for a flow's packets: the redirects and their ways back.

use std::collections::HashMap;
use std::sync::{Mutex as Memo, OnceLock};

use kext_engine::Action;
use kext_packet::{Rewrite, TcpFlags};
use kext_types::{Address, Direction, FlowKey, Reason, RedirectTarget, Verdict, protocol};

use crate::common::*;

type End = (Address, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) forward: Direction,
    pub(crate) target: End,
    pub(crate) source_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Verdict(Verdict, Option<Translation>),
    /// The verdict, the direction of the answers, and what they become.
    WayBack(Verdict, Direction, Rewrite),
}

/// Source and destination of a flow's packets that go this way.
pub(crate) fn ends(flow: &FlowKey, way: Direction) -> (End, End) {
    let (local, remote) = (
        (flow.local, flow.local_port),
        (flow.remote, flow.remote_port),
    );
    match way {
        Direction::Outbound => (local, remote),
        Direction::Inbound => (remote, local),
    }
}

/// The flow of packets from one end to the other that go this way.
pub(crate) fn between(like: &FlowKey, way: Direction, source: End, destination: End) -> FlowKey {
    let (local, remote) = match way {
        Direction::Outbound => (source, destination),
        Direction::Inbound => (destination, source),
    };
    FlowKey {
        local: local.0,
        local_port: local.1,
        remote: remote.0,
        remote_port: remote.1,
        ..*like
    }
}

pub(crate) fn can_be_redirected(flow: &FlowKey) -> bool {
    matches!(flow.protocol, protocol::TCP | protocol::UDP)
}

impl Translation {
    pub(crate) fn is_identity(&self, flow: &FlowKey) -> bool {
        ends(flow, self.forward).1 == self.target
    }

    /// The flow of the answers, and what becomes of them.
    pub(crate) fn way_back(&self, flow: &FlowKey, verdict: Verdict) -> (FlowKey, Fate) {
        let (source, destination) = ends(flow, self.forward);
        let back = self.forward.reversed();
        let key = between(flow, back, self.target, (source.0, self.source_port));
        let rewrite = Rewrite {
            source: Some(destination),
            destination: Some(source),
        };
        (key, Fate::WayBack(verdict, back, rewrite))
    }
}

impl Fate {
    pub(crate) fn verdict(&self) -> Verdict {
        match *self {
            Self::Verdict(verdict, _) | Self::WayBack(verdict, ..) => verdict,
        }
    }

    /// What becomes of a packet that was held, or not.
    pub(crate) fn action(&self, flow: &FlowKey, way: Direction, held: bool) -> Action {
        let by = |cached, verdict| if held { verdict } else { cached };
        let permit = Action::Permit(by(Reason::PermittedCache, Reason::PermittedVerdict));
        match *self {
            Self::Verdict(Verdict::Accept, _) => permit,
            Self::Verdict(Verdict::Block, _) => {
                Action::Block(by(Reason::BlockedCache, Reason::BlockedVerdict))
            }
            Self::Verdict(Verdict::Drop, _) => {
                Action::Drop(by(Reason::DroppedCache, Reason::DroppedVerdict))
            }
            Self::Verdict(_, None) if can_be_redirected(flow) => {
                Action::Drop(Reason::DroppedRedirectFull)
            }
            Self::Verdict(_, Some(to)) if to.is_identity(flow) => permit,
            Self::Verdict(_, Some(to)) if to.forward == way => Action::Redirect(
                by(Reason::RedirectedCache, Reason::RedirectedVerdict),
                Rewrite {
                    source: Some((ends(flow, way).0.0, to.source_port)),
                    destination: Some(to.target),
                },
            ),
            Self::WayBack(_, back, rewrite) if back == way => {
                Action::Redirect(Reason::RedirectedReturn, rewrite)
            }
            _ => Action::Drop(Reason::DroppedRedirectImpossible),
        }
    }
}

/// The source port of a flow whose own is another flow's at the target. It is the engine's choice, the
/// same for one flow in all engines of a seed: so another engine is asked.
pub(crate) fn first_port(flow: &FlowKey) -> u16 {
    static KNOWN: OnceLock<Memo<HashMap<FlowKey, u16>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Memo::default).lock().unwrap();
    *known.entry(*flow).or_insert_with(|| {
        let way = Direction::Outbound;
        let target = (Address::v4([203, 0, 113, 99]), 9);
        let bench = Bench::with(|config| {
            config.redirect_dns = RedirectTarget {
                v4: target.0,
                v6: Address::UNSPECIFIED,
                port: target.1,
            }
        });
        let direct = between(flow, way, (flow.local, flow.local_port), target);
        bench.teach(&packet_of(&direct, way), way, Verdict::Accept);
        let out = bench.teach(&packet_of(flow, way), way, Verdict::RedirectDns);
        match out.action {
            Action::Redirect(_, Rewrite { source, .. }) => source.expect("a source").1,
            other => panic!("{other:?}"),
        }
    })
}

/// A packet of a TCP or UDP flow.
pub(crate) fn packet_of(flow: &FlowKey, way: Direction) -> Vec<u8> {
    let text = |(address, port): End| format!("{}:{port}", address.to_ip(flow.version));
    let (source, destination) = ends(flow, way);
    let (source, destination) = (text(source), text(destination));
    match flow.protocol {
        protocol::TCP => tcp(&source, &destination, TcpFlags::ACK),
        _ => udp(&source, &destination, 0),
    }
}
