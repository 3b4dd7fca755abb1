//! The 5-tuple as extended messages carry it.

use core::mem::offset_of;

use kext_types::{Address, FlowKey, IpVersion};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::{DecodeError, DecodeErrorKind};

/// The part that RECEIVE's records and `LIST_FLOWS`' entries have in common.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawFlow {
    pub(crate) local: [u8; 16],
    pub(crate) remote: [u8; 16],
    pub(crate) local_port: U16,
    pub(crate) remote_port: U16,
    pub(crate) version: u8,
    pub(crate) protocol: u8,
}

layout!(RawFlow: 38 {
    local: 0, remote: 16, local_port: 32, remote_port: 34, version: 36, protocol: 37,
});

impl From<&FlowKey> for RawFlow {
    fn from(flow: &FlowKey) -> Self {
        Self {
            local: wire_address(flow.version, flow.local),
            remote: wire_address(flow.version, flow.remote),
            local_port: U16::new(flow.local_port),
            remote_port: U16::new(flow.remote_port),
            version: flow.version.number(),
            protocol: flow.protocol,
        }
    }
}

impl RawFlow {
    /// The flow; `offset` is where this structure begins in the one that `place` stands for.
    pub(crate) fn read(&self, place: Place, offset: usize) -> Result<FlowKey, DecodeError> {
        let place = place.row(place.base.saturating_add(offset), 0, 0);
        let version = IpVersion::from_number(self.version)
            .ok_or_else(|| place.unknown("version", offset_of!(Self, version), self.version))?;
        let local = address(version, self.local)
            .ok_or_else(|| not_mapped(place, "local", offset_of!(Self, local)))?;
        let remote = address(version, self.remote)
            .ok_or_else(|| not_mapped(place, "remote", offset_of!(Self, remote)))?;
        Ok(FlowKey {
            local,
            remote,
            local_port: self.local_port.get(),
            remote_port: self.remote_port.get(),
            version,
            protocol: self.protocol,
        })
    }
}

/// An IPv4 address is always sent in its mapped form, whatever the upper bytes of the value hold.
fn wire_address(version: IpVersion, address: Address) -> [u8; 16] {
    match version {
        IpVersion::V4 => Address::v4(address.v4_bytes()).bytes(),
        IpVersion::V6 => address.bytes(),
    }
}

/// `None` for an IPv4 address that is not mapped: two forms of one address would be two flows.
fn address(version: IpVersion, bytes: [u8; 16]) -> Option<Address> {
    let address = Address::v6(bytes);
    (version == IpVersion::V6 || address.is_v4_mapped()).then_some(address)
}

const fn not_mapped(place: Place, field: &'static str, offset: usize) -> DecodeError {
    place.error(field, offset, DecodeErrorKind::NotMapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_sent_mapped_whatever_its_upper_bytes() {
        let flow = FlowKey {
            local: Address::UNSPECIFIED,
            remote: Address::v4([192, 0, 2, 1]),
            local_port: 1,
            remote_port: 2,
            version: IpVersion::V4,
            protocol: 6,
        };
        let read = RawFlow::from(&flow).read(Place::of("X"), 0);
        let local = Address::v4([0; 4]);
        assert_eq!(read, Ok(FlowKey { local, ..flow }));
    }

    #[test]
    fn a_mapped_address_may_stand_in_ipv6() {
        let address = Address::v4([192, 0, 2, 1]);
        let flow = FlowKey {
            local: address,
            remote: address,
            local_port: 0,
            remote_port: 0,
            version: IpVersion::V6,
            protocol: 58,
        };
        assert_eq!(RawFlow::from(&flow).read(Place::of("X"), 0), Ok(flow));
    }
}
