//! What the extension needs of whoever has the packets.

use kext_engine::ConnectId;
use kext_sync::RawLock;
use kext_types::{Arrival, Reason, Timestamp};
use kext_wire::hello::HostKind;

/// Who has the packets, the clock, randomness and buffers, and can let a packet go.
///
/// IRQL: in a kernel every method runs at up to `DISPATCH_LEVEL`; none may wait.
pub trait Host {
    /// The lock that protects the engine's state.
    type Lock: RawLock;

    /// A packet that is about to leave.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// What this host is, for HELLO.
    const KIND: HostKind;

    /// The time now.
    fn now(&self) -> Timestamp;

    /// Random bits; the same ones where runs must repeat.
    fn random(&self) -> u64;

    /// A buffer of exactly `len` bytes, at most [`kext_types::MAX_PACKET_LEN`]; `None` if there is
    /// none now. Runs under an engine lock: it must not call the extension.
    fn allocate(&self, len: usize) -> Option<Self::Buffer>;

    /// Sends a packet on its way. No lock is held; the host may present packets from inside.
    fn inject(&self, buffer: Self::Buffer, injection: &Injection) -> Result<(), InjectError>;

    /// How many packets are lost that [`Host::inject`] has taken: refused later, by whoever sends them. For
    /// the counters. Hosts that know at once whether a packet is gone have none.
    fn injections_refused(&self) -> u64 {
        0
    }

    /// Verdict requests wait, or waiting is over: reads that were pended are to be tried again. No
    /// lock is held.
    fn requests_ready(&self);

    /// Ends the hold of a connect. The host then authorizes it again, perhaps from inside. No lock is held.
    ///
    /// For hosts that hold connects: for those that never call
    /// [`Extension::authorize`](crate::Extension::authorize) it is never called.
    fn end_hold(&self, connect: ConnectId) {
        let _ = connect;
    }
}

/// Where a packet that leaves goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Direction, interface and compartment to inject into.
    pub arrival: Arrival,
    /// How many bytes of the buffer are the packet; the rest is not to be sent.
    pub len: usize,
    /// The packet's length by its header; more than `len` only if a capture had cut it short.
    pub size: u32,
    /// Why it leaves.
    pub kind: InjectionKind,
}

/// Why a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectionKind {
    /// It was held and is let go unchanged.
    Released(Reason),
    /// It goes on with other addresses or ports.
    Redirected(Reason),
    /// It answers a blocked packet.
    Reply,
}

/// The host could not inject a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectError;

impl core::fmt::Display for InjectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the host could not inject the packet")
    }
}

impl core::error::Error for InjectError {}
