//! The packet that stands for a connect which waits for its verdict before it sends one.

use kext_types::{FlowKey, protocol};

use crate::bytes::put;
use crate::frame::Frame;
use crate::transport::{TCP_HEADER, TcpFlags};
use crate::{ipv4, ipv6};

/// The longest packet that [`stand_in`] writes, in bytes.
pub const MAX_STAND_IN_LEN: usize = {
    assert!(ipv6::HEADER >= ipv4::MIN_HEADER);
    ipv6::HEADER + TCP_HEADER
};

/// Writes the first packet of an outbound TCP flow as far as it is known before it is sent: a SYN from
/// the local end to the remote one, without options and with sequence number 0. Gives its length.
///
/// `None` if it does not fit, or for a flow that is not TCP.
pub fn stand_in(flow: &FlowKey, out: &mut [u8]) -> Option<usize> {
    const NO_OPTIONS: u8 = (TCP_HEADER as u8 / 4) << 4;
    const WINDOW: u16 = u16::MAX;
    if flow.protocol != protocol::TCP {
        return None;
    }
    let mut tcp = [0; TCP_HEADER];
    put(&mut tcp, 0, &flow.local_port.to_be_bytes())?;
    put(&mut tcp, 2, &flow.remote_port.to_be_bytes())?;
    put(&mut tcp, 12, &[NO_OPTIONS, TcpFlags::SYN.0])?;
    put(&mut tcp, 14, &WINDOW.to_be_bytes())?;
    let frame = Frame {
        version: flow.version,
        source: flow.local,
        destination: flow.remote,
        identification: 0,
    };
    frame.write(protocol::TCP, &tcp, &[], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use crate::{Headers, TransportInfo};
    use kext_types::{Address, Direction, IpVersion};

    fn flow(version: IpVersion) -> FlowKey {
        let address = |last| match version {
            IpVersion::V4 => Address::v4([192, 0, 2, last]),
            IpVersion::V6 => {
                Address::v6([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
            }
        };
        FlowKey {
            local: address(1),
            remote: address(2),
            local_port: 40_000,
            remote_port: 443,
            version,
            protocol: protocol::TCP,
        }
    }

    #[test]
    fn it_is_a_syn_of_its_flow_with_right_checksums() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let flow = flow(version);
            let mut out = [0xAA; MAX_STAND_IN_LEN];
            let len = stand_in(&flow, &mut out).unwrap();
            let packet = &out[..len];
            let headers = Headers::parse(packet, len).unwrap();
            assert_eq!(headers.total_len as usize, len);
            assert_eq!(headers.flow_key(Direction::Outbound), flow);
            let TransportInfo::Tcp(segment) = headers.transport_info else {
                panic!("no segment");
            };
            assert_eq!((segment.flags, segment.sequence), (TcpFlags::SYN, 0));
            let transport = &packet[usize::from(headers.transport)..];
            let sum = Sum::pseudo_header(
                version,
                flow.local,
                flow.remote,
                protocol::TCP,
                transport.len() as u32,
            );
            // RFC 1071: the sum over everything, checksum included, is zero.
            assert_eq!(sum.add_bytes(transport).checksum(), 0);
            if version == IpVersion::V4 {
                assert_eq!(Sum::new().add_bytes(&packet[..20]).checksum(), 0);
            }
        }
    }

    #[test]
    fn other_protocols_and_too_little_room_are_refused() {
        let mut out = [0; MAX_STAND_IN_LEN];
        let udp = FlowKey {
            protocol: protocol::UDP,
            ..flow(IpVersion::V4)
        };
        assert_eq!(stand_in(&udp, &mut out), None);
        let v6 = flow(IpVersion::V6);
        assert_eq!(stand_in(&v6, &mut out[..MAX_STAND_IN_LEN - 1]), None);
    }
}
