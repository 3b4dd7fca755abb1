//! Values, actions, conditions and flags of the filter engine, shared by its two interfaces:
//! `fwps` (run time) and `fwpm` (management).

use crate::types::PVOID;

pub type FWP_ACTION_TYPE = u32;
pub type FWP_DATA_TYPE = i32;
pub type FWP_MATCH_TYPE = i32;
pub type FWP_DIRECTION = i32;

// FWP_ACTION. Source: two-sources; metadata, learn-network, reactos-fork, portmaster.
pub const FWP_ACTION_FLAG_TERMINATING: FWP_ACTION_TYPE = 0x0000_1000;
pub const FWP_ACTION_FLAG_NON_TERMINATING: FWP_ACTION_TYPE = 0x0000_2000;
pub const FWP_ACTION_FLAG_CALLOUT: FWP_ACTION_TYPE = 0x0000_4000;
pub const FWP_ACTION_BLOCK: FWP_ACTION_TYPE = 0x0000_1001;
pub const FWP_ACTION_PERMIT: FWP_ACTION_TYPE = 0x0000_1002;
pub const FWP_ACTION_CALLOUT_TERMINATING: FWP_ACTION_TYPE = 0x0000_5003;
pub const FWP_ACTION_CALLOUT_INSPECTION: FWP_ACTION_TYPE = 0x0000_6004;
pub const FWP_ACTION_CALLOUT_UNKNOWN: FWP_ACTION_TYPE = 0x0000_4005;
pub const FWP_ACTION_CONTINUE: FWP_ACTION_TYPE = 0x0000_2006;
pub const FWP_ACTION_NONE: FWP_ACTION_TYPE = 7;
pub const FWP_ACTION_NONE_NO_MATCH: FWP_ACTION_TYPE = 8;

// FWP_DATA_TYPE. Source: two-sources; metadata, mingw.
pub const FWP_EMPTY: FWP_DATA_TYPE = 0;
pub const FWP_UINT8: FWP_DATA_TYPE = 1;
pub const FWP_UINT16: FWP_DATA_TYPE = 2;
pub const FWP_UINT32: FWP_DATA_TYPE = 3;
pub const FWP_UINT64: FWP_DATA_TYPE = 4;
pub const FWP_INT8: FWP_DATA_TYPE = 5;
pub const FWP_INT16: FWP_DATA_TYPE = 6;
pub const FWP_INT32: FWP_DATA_TYPE = 7;
pub const FWP_INT64: FWP_DATA_TYPE = 8;
pub const FWP_FLOAT: FWP_DATA_TYPE = 9;
pub const FWP_DOUBLE: FWP_DATA_TYPE = 10;
pub const FWP_BYTE_ARRAY16_TYPE: FWP_DATA_TYPE = 11;
pub const FWP_BYTE_BLOB_TYPE: FWP_DATA_TYPE = 12;
pub const FWP_SID: FWP_DATA_TYPE = 13;
pub const FWP_SECURITY_DESCRIPTOR_TYPE: FWP_DATA_TYPE = 14;
pub const FWP_TOKEN_INFORMATION_TYPE: FWP_DATA_TYPE = 15;
pub const FWP_TOKEN_ACCESS_INFORMATION_TYPE: FWP_DATA_TYPE = 16;
pub const FWP_UNICODE_STRING_TYPE: FWP_DATA_TYPE = 17;
pub const FWP_BYTE_ARRAY6_TYPE: FWP_DATA_TYPE = 18;
pub const FWP_V4_ADDR_MASK: FWP_DATA_TYPE = 256;
pub const FWP_V6_ADDR_MASK: FWP_DATA_TYPE = 257;
pub const FWP_RANGE_TYPE: FWP_DATA_TYPE = 258;

// FWP_MATCH_TYPE. Source: two-sources; metadata, mingw.
pub const FWP_MATCH_EQUAL: FWP_MATCH_TYPE = 0;
pub const FWP_MATCH_GREATER: FWP_MATCH_TYPE = 1;
pub const FWP_MATCH_LESS: FWP_MATCH_TYPE = 2;
pub const FWP_MATCH_GREATER_OR_EQUAL: FWP_MATCH_TYPE = 3;
pub const FWP_MATCH_LESS_OR_EQUAL: FWP_MATCH_TYPE = 4;
pub const FWP_MATCH_RANGE: FWP_MATCH_TYPE = 5;
pub const FWP_MATCH_FLAGS_ALL_SET: FWP_MATCH_TYPE = 6;
pub const FWP_MATCH_FLAGS_ANY_SET: FWP_MATCH_TYPE = 7;
pub const FWP_MATCH_FLAGS_NONE_SET: FWP_MATCH_TYPE = 8;
pub const FWP_MATCH_EQUAL_CASE_INSENSITIVE: FWP_MATCH_TYPE = 9;
pub const FWP_MATCH_NOT_EQUAL: FWP_MATCH_TYPE = 10;
pub const FWP_MATCH_PREFIX: FWP_MATCH_TYPE = 11;
pub const FWP_MATCH_NOT_PREFIX: FWP_MATCH_TYPE = 12;

// FWP_DIRECTION. Source: two-sources; metadata, mingw.
pub const FWP_DIRECTION_OUTBOUND: FWP_DIRECTION = 0;
pub const FWP_DIRECTION_INBOUND: FWP_DIRECTION = 1;
pub const FWP_DIRECTION_MAX: FWP_DIRECTION = 2;

// FWP_CONDITION_FLAG. Source: two-sources; metadata, learn-network, portmaster.
pub const FWP_CONDITION_FLAG_IS_LOOPBACK: u32 = 1;
pub const FWP_CONDITION_FLAG_IS_IPSEC_SECURED: u32 = 2;
pub const FWP_CONDITION_FLAG_IS_REAUTHORIZE: u32 = 4;
pub const FWP_CONDITION_FLAG_IS_WILDCARD_BIND: u32 = 8;
pub const FWP_CONDITION_FLAG_IS_RAW_ENDPOINT: u32 = 0x0000_0010;
pub const FWP_CONDITION_FLAG_IS_FRAGMENT: u32 = 0x0000_0020;
pub const FWP_CONDITION_FLAG_IS_FRAGMENT_GROUP: u32 = 0x0000_0040;
pub const FWP_CONDITION_FLAG_IS_IPSEC_NATT_RECLASSIFY: u32 = 0x0000_0080;
pub const FWP_CONDITION_FLAG_REQUIRES_ALE_CLASSIFY: u32 = 0x0000_0100;
pub const FWP_CONDITION_FLAG_IS_IMPLICIT_BIND: u32 = 0x0000_0200;
pub const FWP_CONDITION_FLAG_IS_REASSEMBLED: u32 = 0x0000_0400;
pub const FWP_CONDITION_FLAG_IS_NAME_APP_SPECIFIED: u32 = 0x0000_4000;
pub const FWP_CONDITION_FLAG_IS_PROMISCUOUS: u32 = 0x0000_8000;
pub const FWP_CONDITION_FLAG_IS_AUTH_FW: u32 = 0x0001_0000;
pub const FWP_CONDITION_FLAG_IS_RECLASSIFY: u32 = 0x0002_0000;
pub const FWP_CONDITION_FLAG_IS_OUTBOUND_PASS_THRU: u32 = 0x0004_0000;
pub const FWP_CONDITION_FLAG_IS_INBOUND_PASS_THRU: u32 = 0x0008_0000;
pub const FWP_CONDITION_FLAG_IS_CONNECTION_REDIRECTED: u32 = 0x0010_0000;
pub const FWP_CONDITION_FLAG_IS_PROXY_CONNECTION: u32 = 0x0020_0000;
pub const FWP_CONDITION_FLAG_IS_APPCONTAINER_LOOPBACK: u32 = 0x0040_0000;
pub const FWP_CONDITION_FLAG_IS_NON_APPCONTAINER_LOOPBACK: u32 = 0x0080_0000;
pub const FWP_CONDITION_FLAG_IS_RESERVED: u32 = 0x0100_0000;
pub const FWP_CONDITION_FLAG_IS_HONORING_POLICY_AUTHORIZE: u32 = 0x0200_0000;

// FWP_CONDITION_REAUTHORIZE_REASON. Source: two-sources; metadata, learn-network.
pub const FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE: u32 = 1;
pub const FWP_CONDITION_REAUTHORIZE_REASON_NEW_ARRIVAL_INTERFACE: u32 = 2;
pub const FWP_CONDITION_REAUTHORIZE_REASON_NEW_NEXTHOP_INTERFACE: u32 = 4;
pub const FWP_CONDITION_REAUTHORIZE_REASON_PROFILE_CROSSING: u32 = 8;
pub const FWP_CONDITION_REAUTHORIZE_REASON_CLASSIFY_COMPLETION: u32 = 0x0000_0010;
pub const FWP_CONDITION_REAUTHORIZE_REASON_IPSEC_PROPERTIES_CHANGED: u32 = 0x0000_0020;
pub const FWP_CONDITION_REAUTHORIZE_REASON_MID_STREAM_INSPECTION: u32 = 0x0000_0040;
pub const FWP_CONDITION_REAUTHORIZE_REASON_SOCKET_PROPERTY_CHANGED: u32 = 0x0000_0080;
pub const FWP_CONDITION_REAUTHORIZE_REASON_NEW_INBOUND_MCAST_BCAST_PACKET: u32 = 0x0000_0100;
pub const FWP_CONDITION_REAUTHORIZE_REASON_EDP_POLICY_CHANGED: u32 = 0x0000_0200;
pub const FWP_CONDITION_REAUTHORIZE_REASON_PROXY_HANDLE_CHANGED: u32 = 0x0000_4000;
pub const FWP_CONDITION_REAUTHORIZE_REASON_CHECK_OFFLOAD: u32 = 0x0001_0000;

// FWP_CALLOUT_FLAG. Source: two-sources; metadata, learn-ddi, rust-wfp-pinned.
pub const FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW: u32 = 1;
pub const FWP_CALLOUT_FLAG_ALLOW_OFFLOAD: u32 = 2;
pub const FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY: u32 = 4;
pub const FWP_CALLOUT_FLAG_ALLOW_MID_STREAM_INSPECTION: u32 = 8;
pub const FWP_CALLOUT_FLAG_ALLOW_RECLASSIFY: u32 = 0x0000_0010;
pub const FWP_CALLOUT_FLAG_RESERVED1: u32 = 0x0000_0020;
pub const FWP_CALLOUT_FLAG_ALLOW_RSC: u32 = 0x0000_0040;
pub const FWP_CALLOUT_FLAG_ALLOW_L2_BATCH_CLASSIFY: u32 = 0x0000_0080;
pub const FWP_CALLOUT_FLAG_ALLOW_USO: u32 = 0x0000_0100;
pub const FWP_CALLOUT_FLAG_ALLOW_URO: u32 = 0x0000_0200;
pub const FWP_CALLOUT_FLAG_RESERVED2: u32 = 0x0000_0400;

pub const AF_UNSPEC: u16 = 0;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 23;

pub const IPPROTO_IP: i32 = 0;
pub const IPPROTO_ICMP: i32 = 1;
pub const IPPROTO_TCP: i32 = 6;
pub const IPPROTO_UDP: i32 = 17;
pub const IPPROTO_IPV6: i32 = 41;
pub const IPPROTO_ICMPV6: i32 = 58;

/// `WSACMSGHDR::cmsg_type`, at the levels `IPPROTO_IP` and `IPPROTO_IPV6`.
pub const IP_PKTINFO: i32 = 19;
pub const IPV6_PKTINFO: i32 = 19;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_BYTE_BLOB {
    pub size: u32,
    pub data: *mut u8,
}

/// Sixteen bytes in network order, for instance an IPv6 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FWP_BYTE_ARRAY16 {
    pub byteArray16: [u8; 16],
}

/// Host order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_V4_ADDR_AND_MASK {
    pub addr: u32,
    pub mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWP_V6_ADDR_AND_MASK {
    pub addr: [u8; 16],
    pub prefixLength: u8,
}

/// Up to 32 bits stand in the value itself; everything else is a pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_VALUE0_0 {
    pub uint8: u8,
    pub uint16: u16,
    pub uint32: u32,
    pub uint64: *mut u64,
    pub int8: i8,
    pub int16: i16,
    pub int32: i32,
    pub int64: *mut i64,
    pub float32: f32,
    pub double64: *mut f64,
    pub byteArray16: *mut FWP_BYTE_ARRAY16,
    pub byteBlob: *mut FWP_BYTE_BLOB,
    pub sid: PVOID,
    pub unicodeString: *mut u16,
}

/// What a pointer points to is only good until the callout returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_VALUE0 {
    pub r#type: FWP_DATA_TYPE,
    pub Anonymous: FWP_VALUE0_0,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_RANGE0 {
    pub valueLow: FWP_VALUE0,
    pub valueHigh: FWP_VALUE0,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_CONDITION_VALUE0_0 {
    pub uint8: u8,
    pub uint16: u16,
    pub uint32: u32,
    pub uint64: *mut u64,
    pub byteArray16: *mut FWP_BYTE_ARRAY16,
    pub byteBlob: *mut FWP_BYTE_BLOB,
    pub v4AddrMask: *mut FWP_V4_ADDR_AND_MASK,
    pub v6AddrMask: *mut FWP_V6_ADDR_AND_MASK,
    pub rangeValue: *mut FWP_RANGE0,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWP_CONDITION_VALUE0 {
    pub r#type: FWP_DATA_TYPE,
    pub Anonymous: FWP_CONDITION_VALUE0_0,
}

/// The header of one control message, as in sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSACMSGHDR {
    pub cmsg_len: usize,
    pub cmsg_level: i32,
    pub cmsg_type: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IN_PKTINFO {
    /// Network order.
    pub ipi_addr: u32,
    pub ipi_ifindex: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IN6_PKTINFO {
    pub ipi6_addr: [u8; 16],
    pub ipi6_ifindex: u32,
}

/// Opaque but for its size: 28 bytes, not the 32 of Windows metadata.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SOCKADDR_INET {
    pub Words: [u32; 7],
}
