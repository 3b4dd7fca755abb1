//! The vocabulary that every crate of portmaster-kext shares.
//!
//! Plain values without bytes and without behaviour beyond their own invariants: how they look on
//! the wire is `kext-wire`'s business, what happens to them is `kext-engine`'s.

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod config;
mod flow;
mod flow_info;
mod id;
mod packet;
mod process_path;
mod reason;
mod time;
mod verdict;

pub use address::{Address, IpVersion};
pub use config::{
    Capacities, CapacityError, Config, ConfigError, FragmentPolicy, Policy, RedirectTarget, Special,
};
pub use flow::{FlowKey, protocol};
pub use flow_info::{FlowEnd, FlowEnded, FlowInfo, FlowOrigin, Traffic};
pub use id::PacketId;
pub use packet::{Arrival, Direction, Interface, PathMtu, ProcessId, RequestInfo};
pub use process_path::ProcessPath;
pub use reason::{Disposition, Event, Reason};
pub use time::Timestamp;
pub use verdict::{Decision, Verdict, VerdictOutcome};

/// The largest IP packet: an IPv6 header (40 bytes) and the largest payload that its 16-bit length
/// field can state (RFC 8200 §3). IPv4 packets are at most 65,535 bytes (RFC 791 §3.1).
pub const MAX_PACKET_LEN: usize = 40 + 65_535;
