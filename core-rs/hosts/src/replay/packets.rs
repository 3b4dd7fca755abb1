//! The packets of a replay, for who presents them to another extension than the replay's own.

use std::path::Path;

use ipnet::IpNet;
use kext_types::{Arrival, Timestamp};

use super::feed::without_padding;
use super::local::LocalSide;
use super::source::{Found, Packet, Source};
use super::{ReplayError, Synthetic};

/// IP packets in their order, each with its direction, as a [`ReplayHost`](super::ReplayHost) would
/// present them.
pub struct Packets(Source);

/// A packet of [`Packets`].
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// When it came.
    pub time: Timestamp,
    /// From the IP header on, without what the link layer added behind it.
    pub bytes: &'a [u8],
    /// Its length on the wire: more than there are bytes if the capture cut it short.
    pub on_wire: usize,
    /// Whence.
    pub arrival: Arrival,
}

impl Packets {
    /// Those of a capture; its local side is inferred if none is given.
    ///
    /// # Errors
    /// The capture cannot be opened or read.
    pub fn capture(path: &Path, local: &[IpNet]) -> Result<Self, ReplayError> {
        Source::capture(path, LocalSide::of(path, local)?).map(Self)
    }

    /// Those that nobody captured.
    pub fn synthetic(what: Synthetic) -> Self {
        Self(Source::synthetic(what))
    }

    /// The next packet. Records without one are left out.
    ///
    /// # Errors
    /// The capture cannot be read any further.
    pub fn read(&mut self) -> Result<Option<Presented<'_>>, ReplayError> {
        while self.0.advance()? {
            if matches!(self.0.found(), Found::Packet(_)) {
                return Ok(self.present());
            }
        }
        Ok(None)
    }

    /// The record that was read.
    fn present(&self) -> Option<Presented<'_>> {
        let Found::Packet(packet) = self.0.found() else {
            return None;
        };
        let Packet {
            bytes,
            on_wire,
            arrival,
            ..
        } = packet;
        let (bytes, on_wire) = without_padding(bytes, on_wire);
        Some(Presented {
            time: self.0.time(),
            bytes,
            on_wire,
            arrival,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_replay() {
        let what = Synthetic {
            count: 3,
            payload: 5,
        };
        let mut packets = Packets::synthetic(what);
        let mut times = Vec::new();
        while let Some(packet) = packets.read().unwrap() {
            assert_eq!(packet.bytes.len(), 33);
            assert_eq!(packet.on_wire, 33);
            times.push(packet.time.as_nanos());
        }
        assert_eq!(times.len(), 3);
        assert!(times.is_sorted());
        let missing = Packets::capture(Path::new("/nowhere.pcap"), &[]);
        assert!(missing.is_err());
    }
}
