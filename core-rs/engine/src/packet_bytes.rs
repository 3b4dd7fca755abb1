//! The bytes of a packet, as far as the host has them at hand.

use kext_packet::{Headers, ParseError, TransportInfo};

/// The bytes of a packet that is presented, from the IP header on.
///
/// A host may have a packet in pieces. Of a cached flow most packets are decided by their headers alone,
/// so the pieces are put together only if more is asked for.
pub trait PacketBytes {
    /// The first bytes, which lie together. They may end anywhere.
    fn first(&self) -> &[u8];

    /// All bytes that the host has; `None` if it cannot put them together now.
    fn all(&self) -> Option<&[u8]>;

    /// Whether there are more than the first ones.
    fn has_more(&self) -> bool;

    /// The headers, by the first bytes if all that is read of a packet is in them.
    #[inline(never)]
    fn headers(&self, on_wire: usize) -> Result<Headers, ParseError> {
        let by_first = Headers::parse(self.first(), on_wire);
        if !self.has_more() || by_first.as_ref().is_ok_and(has_all) {
            return by_first;
        }
        Headers::parse(self.all().unwrap_or_default(), on_wire)
    }
}

/// Whether what these headers were parsed from had all that is read of a packet.
#[inline(always)]
pub(crate) fn has_all(headers: &Headers) -> bool {
    headers.transport_info != TransportInfo::Missing
}

/// A packet in one piece.
impl PacketBytes for [u8] {
    #[inline(always)]
    fn first(&self) -> &[u8] {
        self
    }

    #[inline(always)]
    fn all(&self) -> Option<&[u8]> {
        Some(self)
    }

    #[inline(always)]
    fn has_more(&self) -> bool {
        false
    }
}
