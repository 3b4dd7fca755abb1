//! Rules, and the requests that they are about.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use kext_types::{Decision, Direction, FlowKey, IpVersion, ProcessId, RequestInfo};

/// Conditions, and what is decided where all of them hold.
///
/// A condition is a set of values, and holds if the request's value is one of them. A condition that
/// is `None` always holds. An empty set never would: [`Policy::compile`](crate::Policy::compile)
/// refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A name for messages and statistics. Nothing asks that names differ.
    pub name: Option<String>,
    /// What is decided.
    pub decision: Decision,
    /// Which way the packet goes.
    pub direction: Option<Direction>,
    /// The family of the packet's addresses.
    pub ip_version: Option<IpVersion>,
    /// Numbers of the IP protocol field.
    pub protocol: Option<Vec<u8>>,
    /// Networks of this machine's address, without bits set behind the prefix. An IPv4 network never
    /// holds an IPv6 address, and the other way round.
    pub local: Option<Vec<IpNet>>,
    /// Networks of the other end's address; as for `local`.
    pub remote: Option<Vec<IpNet>>,
    /// Ports of this machine, or identifiers of ICMP echoes. Protocols without ports have port 0.
    pub local_port: Option<Vec<RangeInclusive<u16>>>,
    /// Ports of the other end. Protocols without ports, ICMP included, have port 0.
    pub remote_port: Option<Vec<RangeInclusive<u16>>>,
    /// Processes that the packet belongs to. A request whose process is unknown is of none of them.
    pub process: Option<Vec<ProcessId>>,
}

impl Rule {
    /// A rule without conditions: it matches every request.
    pub const fn any(decision: Decision) -> Self {
        Self {
            name: None,
            decision,
            direction: None,
            ip_version: None,
            protocol: None,
            local: None,
            remote: None,
            local_port: None,
            remote_port: None,
            process: None,
        }
    }

    /// The number of items of all conditions that are sets.
    pub(crate) fn items(&self) -> usize {
        fn len<T>(items: Option<&Vec<T>>) -> usize {
            items.map_or(0, Vec::len)
        }
        // Each is at most isize::MAX bytes long, and there are six: no overflow.
        len(self.protocol.as_ref())
            + len(self.local.as_ref())
            + len(self.remote.as_ref())
            + len(self.local_port.as_ref())
            + len(self.remote_port.as_ref())
            + len(self.process.as_ref())
    }
}

/// What rules look at in one verdict request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The flow of the packet.
    pub flow: FlowKey,
    /// Which way the packet goes.
    pub direction: Direction,
    /// The process that the packet belongs to, if known.
    pub process_id: Option<ProcessId>,
}

impl From<&RequestInfo> for Request {
    fn from(info: &RequestInfo) -> Self {
        Self {
            flow: info.flow,
            direction: info.arrival.direction,
            process_id: info.arrival.process_id,
        }
    }
}
