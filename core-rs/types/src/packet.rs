//! What a host knows of a packet, and what user mode is told of it.

use core::num::{NonZeroU16, NonZeroU64};

use crate::{Address, FlowKey, IpVersion, PacketId, Timestamp};

/// Which way a packet goes, seen from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From this machine to the network.
    Outbound = 0,
    /// From the network to this machine.
    Inbound = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Outbound => Self::Inbound,
            Self::Inbound => Self::Outbound,
        }
    }

    /// The number of the wire interfaces: 0 outbound, 1 inbound.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The direction with this number, if it is 0 or 1.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Outbound),
            1 => Some(Self::Inbound),
            _ => None,
        }
    }

    /// Local and remote of `source` and `destination` for a packet that goes this way.
    pub fn local_remote<T>(self, source: T, destination: T) -> (T, T) {
        match self {
            Self::Outbound => (source, destination),
            Self::Inbound => (destination, source),
        }
    }
}

/// Where a packet enters or leaves: the operating system's interface numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Interface {
    /// The interface index.
    pub index: u32,
    /// The sub-interface index; 0 where the system has none.
    pub sub_index: u32,
}

/// A process id that is known; 0 stands for "unknown" on the wire.
pub type ProcessId = NonZeroU64;

/// A path MTU: shorter than the longest packet.
pub type PathMtu = NonZeroU16;

/// What the host knows of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which way the packet goes.
    pub direction: Direction,
    /// Where it enters or leaves.
    pub interface: Interface,
    /// The network compartment (Windows) or namespace; 0 if the host knows none.
    pub compartment: u32,
    /// The process that the packet belongs to, if the host knows.
    pub process_id: Option<ProcessId>,
    /// How many times we have injected this very packet before; 0 for a packet that is not ours.
    pub passes: u8,
    /// How long a packet may be at most that goes this one's way; `None` if the host does not know, or if
    /// no packet is too long. A longer one that is held has yet to be sent in fragments.
    pub path_mtu: Option<PathMtu>,
}

/// A verdict request: what user mode is told of a held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// The packet's name in a verdict.
    pub id: PacketId,
    /// When the packet was presented.
    pub time: Timestamp,
    /// The flow it belongs to.
    pub flow: FlowKey,
    /// What the host knew of it.
    pub arrival: Arrival,
    /// The IP packet's length in bytes by its own header, 20 to [`crate::MAX_PACKET_LEN`].
    pub size: u32,
    /// How many bytes of it are held: less than `size` if the host saw it cut short (a capture's
    /// snap length).
    pub held_len: u32,
}

impl RequestInfo {
    /// The family of the packet's addresses.
    pub const fn version(&self) -> IpVersion {
        self.flow.version
    }

    /// The source address of the packet.
    pub fn source(&self) -> Address {
        self.arrival
            .direction
            .local_remote(self.flow.local, self.flow.remote)
            .0
    }
}
