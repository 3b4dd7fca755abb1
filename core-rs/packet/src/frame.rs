//! Packets of ours: an IP header without options, a transport header, and its checksums.

use kext_types::{Address, IpVersion};

use crate::bytes::put;
use crate::checksum::{self, Sum};
use crate::{ipv4, ipv6};

/// TTL and hop limit of our packets (RFC 1700 "IP TIME TO LIVE PARAMETER").
const HOP_LIMIT: u8 = 64;

/// The IP header of a packet that is to be written.
pub(crate) struct Frame {
    pub(crate) version: IpVersion,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// IPv4's identification; IPv6 has none.
    pub(crate) identification: u16,
}

impl Frame {
    /// Writes a packet of this transport header and data, with their checksum; `None` if it does not
    /// fit.
    pub(crate) fn write(
        &self,
        protocol: u8,
        header: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let payload_len = u16::try_from(header.len() + data.len()).ok()?;
        let start = match self.version {
            IpVersion::V4 => self.ipv4_header(protocol, payload_len, out)?,
            IpVersion::V6 => self.ipv6_header(protocol, payload_len, out)?,
        };
        put(out, start, header)?;
        put(out, start + header.len(), data)?;

        let placement = checksum::placement(self.version, protocol)?;
        let sum = if placement.has_pseudo_header {
            let (source, destination) = (self.source, self.destination);
            Sum::pseudo_header(
                self.version,
                source,
                destination,
                protocol,
                payload_len.into(),
            )
        } else {
            Sum::new()
        };
        let checksum = sum.add_bytes(header).add_bytes(data).checksum();
        put(out, start + placement.offset, &checksum.to_be_bytes())?;
        Some(start + usize::from(payload_len))
    }

    fn ipv4_header(&self, protocol: u8, payload_len: u16, out: &mut [u8]) -> Option<usize> {
        const VERSION_AND_LENGTH: u8 = 0x45;
        let total_len = (ipv4::MIN_HEADER as u16).checked_add(payload_len)?;
        put(out, 0, &[VERSION_AND_LENGTH, 0])?;
        put(out, 2, &total_len.to_be_bytes())?;
        put(out, 4, &self.identification.to_be_bytes())?;
        put(out, 6, &[0, 0, HOP_LIMIT, protocol])?;
        put(out, 12, &self.source.v4_bytes())?;
        put(out, 16, &self.destination.v4_bytes())?;
        checksum::fill_ipv4_header(out)?;
        Some(ipv4::MIN_HEADER)
    }

    fn ipv6_header(&self, protocol: u8, payload_len: u16, out: &mut [u8]) -> Option<usize> {
        put(out, 0, &[0x60, 0, 0, 0])?;
        put(out, 4, &payload_len.to_be_bytes())?;
        put(out, 6, &[protocol, HOP_LIMIT])?;
        put(out, 8, &self.source.bytes())?;
        put(out, 24, &self.destination.bytes())?;
        Some(ipv6::HEADER)
    }
}
