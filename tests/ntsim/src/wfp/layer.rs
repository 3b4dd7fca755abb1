//! Layers: their keys and numbers, where each field is, and what their packets look like.

use kext_nt_sys::layers::*;
use kext_nt_sys::types::GUID;

/// What happens at a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A packet has come in, before reassembly is over.
    InboundIpPacket,
    /// A packet is about to leave.
    OutboundIpPacket,
    /// A socket connects, or sends its first datagram.
    AleAuthConnect,
    /// A socket accepts, or receives its first datagram.
    AleAuthRecvAccept,
    /// An endpoint is closed.
    AleEndpointClosure,
    /// A piece of a TCP stream.
    Stream,
    /// A datagram.
    DatagramData,
}

/// Where fields are among the values of a layer; nothing where the layer has no such field.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) count: usize,
    pub(crate) local_address: Option<usize>,
    pub(crate) remote_address: Option<usize>,
    pub(crate) local_port: Option<usize>,
    pub(crate) remote_port: Option<usize>,
    pub(crate) protocol: Option<usize>,
    pub(crate) interface: Option<usize>,
    pub(crate) sub_interface: Option<usize>,
    pub(crate) flags: Option<usize>,
    pub(crate) direction: Option<usize>,
    pub(crate) compartment: Option<usize>,
    pub(crate) app_id: Option<usize>,
    pub(crate) reauthorize_reason: Option<usize>,
}

/// A layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    pub(crate) key: GUID,
    pub(crate) id: u16,
    pub(crate) fields: Fields,
}

macro_rules! fields {
    ($enumeration:ident; $($field:ident = $name:ident),+) => {
        Fields {
            count: $enumeration::COUNT as usize,
            $($field: Some($enumeration::$name as usize),)+
            local_address: Some($enumeration::IP_LOCAL_ADDRESS as usize),
            remote_address: Some($enumeration::IP_REMOTE_ADDRESS as usize),
            flags: Some($enumeration::FLAGS as usize),
            compartment: Some($enumeration::COMPARTMENT_ID as usize),
            ..NONE
        }
    };
}

const NONE: Fields = Fields {
    count: 0,
    local_address: None,
    remote_address: None,
    local_port: None,
    remote_port: None,
    protocol: None,
    interface: None,
    sub_interface: None,
    flags: None,
    direction: None,
    compartment: None,
    app_id: None,
    reauthorize_reason: None,
};

const INBOUND: Fields = fields!(FWPS_FIELDS_INBOUND_IPPACKET_V4;
    interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX);
const OUTBOUND: Fields = fields!(FWPS_FIELDS_OUTBOUND_IPPACKET_V4;
    interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX);
const CONNECT: Fields = fields!(FWPS_FIELDS_ALE_AUTH_CONNECT_V4;
    interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX, local_port = IP_LOCAL_PORT,
    remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL, app_id = ALE_APP_ID,
    reauthorize_reason = REAUTHORIZE_REASON);
const ACCEPT: Fields = fields!(FWPS_FIELDS_ALE_AUTH_RECV_ACCEPT_V4;
    interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX, local_port = IP_LOCAL_PORT,
    remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL, app_id = ALE_APP_ID,
    reauthorize_reason = REAUTHORIZE_REASON);
const CLOSURE: Fields = fields!(FWPS_FIELDS_ALE_ENDPOINT_CLOSURE_V4;
    local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL,
    app_id = ALE_APP_ID);
const STREAM: Fields = fields!(FWPS_FIELDS_STREAM_V4;
    local_port = IP_LOCAL_PORT, remote_port = IP_REMOTE_PORT, direction = DIRECTION);
const DATAGRAM: Fields = fields!(FWPS_FIELDS_DATAGRAM_DATA_V4;
    interface = INTERFACE_INDEX, sub_interface = SUB_INTERFACE_INDEX, local_port = IP_LOCAL_PORT,
    remote_port = IP_REMOTE_PORT, protocol = IP_PROTOCOL, direction = DIRECTION);

macro_rules! layers {
    ($($kind:ident $fields:ident: $v4:ident $id4:ident, $v6:ident $id6:ident;)+) => {
        /// Every layer that is simulated.
        pub(crate) const LAYERS: &[Layer] = &[
            $(
                Layer { kind: Kind::$kind, v6: false, key: $v4, id: $id4, fields: $fields },
                Layer { kind: Kind::$kind, v6: true, key: $v6, id: $id6, fields: $fields },
            )+
        ];
    };
}

layers! {
    InboundIpPacket INBOUND: FWPM_LAYER_INBOUND_IPPACKET_V4 FWPS_LAYER_INBOUND_IPPACKET_V4,
        FWPM_LAYER_INBOUND_IPPACKET_V6 FWPS_LAYER_INBOUND_IPPACKET_V6;
    OutboundIpPacket OUTBOUND: FWPM_LAYER_OUTBOUND_IPPACKET_V4 FWPS_LAYER_OUTBOUND_IPPACKET_V4,
        FWPM_LAYER_OUTBOUND_IPPACKET_V6 FWPS_LAYER_OUTBOUND_IPPACKET_V6;
    AleAuthConnect CONNECT: FWPM_LAYER_ALE_AUTH_CONNECT_V4 FWPS_LAYER_ALE_AUTH_CONNECT_V4,
        FWPM_LAYER_ALE_AUTH_CONNECT_V6 FWPS_LAYER_ALE_AUTH_CONNECT_V6;
    AleAuthRecvAccept ACCEPT: FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4
        FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4,
        FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6 FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6;
    AleEndpointClosure CLOSURE: FWPM_LAYER_ALE_ENDPOINT_CLOSURE_V4
        FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V4,
        FWPM_LAYER_ALE_ENDPOINT_CLOSURE_V6 FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V6;
    Stream STREAM: FWPM_LAYER_STREAM_V4 FWPS_LAYER_STREAM_V4,
        FWPM_LAYER_STREAM_V6 FWPS_LAYER_STREAM_V6;
    DatagramData DATAGRAM: FWPM_LAYER_DATAGRAM_DATA_V4 FWPS_LAYER_DATAGRAM_DATA_V4,
        FWPM_LAYER_DATAGRAM_DATA_V6 FWPS_LAYER_DATAGRAM_DATA_V6;
}

/// The layer of a kind and family.
pub(crate) fn layer(kind: Kind, v6: bool) -> &'static Layer {
    LAYERS
        .iter()
        .find(|layer| layer.kind == kind && layer.v6 == v6)
        .expect("every kind has both families")
}

/// The layer with this key.
pub(crate) fn by_key(key: &GUID) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.key == *key)
}

impl Fields {
    /// Where the field of a condition is.
    pub(crate) fn of_condition(&self, key: &GUID) -> Option<usize> {
        let known = [
            (FWPM_CONDITION_FLAGS, self.flags),
            (FWPM_CONDITION_IP_PROTOCOL, self.protocol),
            (FWPM_CONDITION_IP_LOCAL_ADDRESS, self.local_address),
            (FWPM_CONDITION_IP_REMOTE_ADDRESS, self.remote_address),
            (FWPM_CONDITION_IP_LOCAL_PORT, self.local_port),
            (FWPM_CONDITION_IP_REMOTE_PORT, self.remote_port),
            (FWPM_CONDITION_DIRECTION, self.direction),
            (FWPM_CONDITION_INTERFACE_INDEX, self.interface),
            (FWPM_CONDITION_COMPARTMENT_ID, self.compartment),
        ];
        known
            .iter()
            .find(|(known, _)| known == key)
            .and_then(|(_, at)| *at)
    }
}

/// A key in its usual form.
pub(crate) fn key_text(key: &GUID) -> String {
    let head = u16::from_be_bytes([key.Data4[0], key.Data4[1]]);
    let tail = key.Data4[2..]
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    format!(
        "{:08x}-{:04x}-{:04x}-{head:04x}-{tail:012x}",
        key.Data1, key.Data2, key.Data3
    )
}
