//! Filter layers: for each its keys in both families, and where its values are.
//!
//! One row a layer. The values of both families stand at the same places; only the form of an address
//! differs.

use core::net::IpAddr;

use kext_nt_sys::fwp::{AF_INET, AF_INET6};
use kext_nt_sys::layers as sys;
use kext_nt_sys::types::GUID;

/// The family of a layer's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The number in sockets.
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }
}

/// A layer, whatever its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The keys of the layer in the two families.
    keys: [GUID; 2],
    /// Its numbers while packets are classified.
    ids: [u16; 2],
    /// What it is given beside them.
    data: Data,
    /// Where its values are.
    pub fields: Fields,
}

/// What a layer is given beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// A net buffer list, or null.
    Packets,
    /// A piece of a stream.
    Stream,
    /// Nothing of use.
    Nothing,
}

/// Where the values of a layer are; `None` for what it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// `IP_LOCAL_ADDRESS`
    pub local_address: u32,
    /// `IP_REMOTE_ADDRESS`
    pub remote_address: u32,
    /// `FLAGS`
    pub flags: u32,
    /// `IP_LOCAL_PORT`, or the type of an ICMP message.
    pub local_port: Option<u32>,
    /// `IP_REMOTE_PORT`, or the code of an ICMP message.
    pub remote_port: Option<u32>,
    /// `IP_PROTOCOL`
    pub protocol: Option<u32>,
    /// `INTERFACE_INDEX`
    pub interface: Option<u32>,
    /// `SUB_INTERFACE_INDEX`
    pub sub_interface: Option<u32>,
    /// `DIRECTION`
    pub direction: Option<u32>,
}

/// Writes the row of a layer: its name in the headers, and the values that it has beside addresses
/// and flags.
macro_rules! layer {
    ($data:ident $v4_key:ident $v6_key:ident $v4_id:ident $v6_id:ident $fields:ident $($field:ident = $name:ident),*) => {
        Layer {
            keys: [sys::$v4_key, sys::$v6_key],
            ids: [sys::$v4_id, sys::$v6_id],
            data: Data::$data,
            fields: {
                let mut fields = Fields::new(
                    sys::$fields::IP_LOCAL_ADDRESS as u32,
                    sys::$fields::IP_REMOTE_ADDRESS as u32,
                    sys::$fields::FLAGS as u32,
                );
                $(fields.$field = Some(sys::$fields::$name as u32);)*
                fields
            },
        }
    };
}

impl Fields {
    const fn new(local_address: u32, remote_address: u32, flags: u32) -> Self {
        Self {
            local_address,
            remote_address,
            flags,
            local_port: None,
            remote_port: None,
            protocol: None,
            interface: None,
            sub_interface: None,
            direction: None,
        }
    }
}

impl Layer {
    /// Packets from the network, from behind the IP header on.
    pub const INBOUND_IPPACKET: Self = layer!(
        Packets FWPM_LAYER_INBOUND_IPPACKET_V4 FWPM_LAYER_INBOUND_IPPACKET_V6
        FWPS_LAYER_INBOUND_IPPACKET_V4 FWPS_LAYER_INBOUND_IPPACKET_V6
        FWPS_FIELDS_INBOUND_IPPACKET_V4
        interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX
    );
    /// Packets to the network, from the IP header on.
    pub const OUTBOUND_IPPACKET: Self = layer!(
        Packets FWPM_LAYER_OUTBOUND_IPPACKET_V4 FWPM_LAYER_OUTBOUND_IPPACKET_V6
        FWPS_LAYER_OUTBOUND_IPPACKET_V4 FWPS_LAYER_OUTBOUND_IPPACKET_V6
        FWPS_FIELDS_OUTBOUND_IPPACKET_V4
        interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX
    );
    /// A process connects, or sends its first datagram to somebody.
    pub const ALE_AUTH_CONNECT: Self = layer!(
        Nothing FWPM_LAYER_ALE_AUTH_CONNECT_V4 FWPM_LAYER_ALE_AUTH_CONNECT_V6
        FWPS_LAYER_ALE_AUTH_CONNECT_V4 FWPS_LAYER_ALE_AUTH_CONNECT_V6
        FWPS_FIELDS_ALE_AUTH_CONNECT_V4
        local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL,
        interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX
    );
    /// Somebody connects to a process, or sends it a first datagram.
    pub const ALE_AUTH_RECV_ACCEPT: Self = layer!(
        Nothing FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4 FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6
        FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4 FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6
        FWPS_FIELDS_ALE_AUTH_RECV_ACCEPT_V4
        local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL
    );
    /// A connection or a socket ends.
    pub const ALE_ENDPOINT_CLOSURE: Self = layer!(
        Nothing FWPM_LAYER_ALE_ENDPOINT_CLOSURE_V4 FWPM_LAYER_ALE_ENDPOINT_CLOSURE_V6
        FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V4 FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V6
        FWPS_FIELDS_ALE_ENDPOINT_CLOSURE_V4
        local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL
    );
    /// Payload of TCP connections.
    pub const STREAM: Self = layer!(
        Stream FWPM_LAYER_STREAM_V4 FWPM_LAYER_STREAM_V6 FWPS_LAYER_STREAM_V4 FWPS_LAYER_STREAM_V6
        FWPS_FIELDS_STREAM_V4
        local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, direction = DIRECTION
    );
    /// Datagrams of every protocol but TCP.
    pub const DATAGRAM_DATA: Self = layer!(
        Packets FWPM_LAYER_DATAGRAM_DATA_V4 FWPM_LAYER_DATAGRAM_DATA_V6
        FWPS_LAYER_DATAGRAM_DATA_V4 FWPS_LAYER_DATAGRAM_DATA_V6
        FWPS_FIELDS_DATAGRAM_DATA_V4
        local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL,
        interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX, direction = DIRECTION
    );

    /// Its key in this family.
    pub const fn key(&self, family: Family) -> GUID {
        self.keys[family as usize]
    }

    pub(crate) const fn data(&self) -> Data {
        self.data
    }

    /// The family that this number of the layer is for, if it is the layer's.
    pub fn family(&self, id: u16) -> Option<Family> {
        Family::ALL
            .into_iter()
            .find(|family| self.ids.get(*family as usize) == Some(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [Layer; 7] = [
        Layer::INBOUND_IPPACKET,
        Layer::OUTBOUND_IPPACKET,
        Layer::ALE_AUTH_CONNECT,
        Layer::ALE_AUTH_RECV_ACCEPT,
        Layer::ALE_ENDPOINT_CLOSURE,
        Layer::STREAM,
        Layer::DATAGRAM_DATA,
    ];

    #[test]
    fn a_number_belongs_to_one_family_of_one_layer() {
        for layer in LAYERS {
            for family in Family::ALL {
                let id = layer.ids[family as usize];
                assert_eq!(layer.family(id), Some(family));
                let others = LAYERS.iter().filter(|other| other.family(id).is_some());
                assert_eq!(others.count(), 1, "{id}");
            }
        }
        assert_eq!(Layer::STREAM.family(1), None);
    }

    #[test]
    fn keys_differ() {
        for layer in LAYERS {
            let same = |other: &&Layer| other.keys.iter().any(|key| layer.keys.contains(key));
            assert_eq!(LAYERS.iter().filter(same).count(), 1);
            assert_ne!(layer.key(Family::V4), layer.key(Family::V6));
        }
    }

    #[test]
    fn places_are_those_of_the_documentation() {
        let inbound = Layer::INBOUND_IPPACKET.fields;
        assert_eq!((inbound.local_address, inbound.remote_address), (0, 1));
        assert_eq!(
            (inbound.interface, inbound.sub_interface),
            (Some(4), Some(5))
        );
        assert_eq!(inbound.flags, 6);
        let outbound = Layer::OUTBOUND_IPPACKET.fields;
        assert_eq!((outbound.local_address, outbound.remote_address), (0, 2));
        let connect = Layer::ALE_AUTH_CONNECT.fields;
        assert_eq!((connect.protocol, connect.flags), (Some(5), 12));
        assert_eq!(Layer::STREAM.fields.direction, Some(5));
        assert_eq!(Layer::DATAGRAM_DATA.fields.direction, Some(9));
    }
}
