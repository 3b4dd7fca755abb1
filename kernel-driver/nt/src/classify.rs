//! A call of a callout: what it is told, and what it answers.

use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::{ptr, slice};

use kext_nt_sys::fwp::{
    FWP_ACTION_BLOCK, FWP_ACTION_CONTINUE, FWP_ACTION_PERMIT, FWP_BYTE_ARRAY16_TYPE,
    FWP_CONDITION_FLAG_IS_FRAGMENT, FWP_CONDITION_FLAG_IS_LOOPBACK,
    FWP_CONDITION_FLAG_IS_REASSEMBLED, FWP_CONDITION_FLAG_IS_REAUTHORIZE, FWP_DATA_TYPE,
    FWP_DIRECTION_INBOUND, FWP_DIRECTION_OUTBOUND, FWP_UINT8, FWP_UINT16, FWP_UINT32, FWP_VALUE0_0,
    IPPROTO_TCP,
};
use kext_nt_sys::fwps::{self, FWPS_CLASSIFY_OUT0, FWPS_INCOMING_VALUE0};
use kext_nt_sys::types::{HANDLE, PVOID};

use crate::injection::Way;
use crate::layer::{Data, Family, Fields, Layer};
use crate::net_buffer::PacketList;

/// One call of a callout. What it points to is only good until the callout returns.
pub struct Classify<'a> {
    layer_id: u16,
    values: &'a [FWPS_INCOMING_VALUE0],
    metadata: &'a fwps::FWPS_INCOMING_METADATA_VALUES0,
    data: PVOID,
    filter_flags: u16,
    out: &'a mut FWPS_CLASSIFY_OUT0,
    /// What is lent is lent to one thread.
    lent: PhantomData<*mut ()>,
}

/// The two ends of what a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The number of the protocol.
    pub protocol: u8,
    /// This machine's end. In ICMP its port is the type of the message.
    pub local: SocketAddr,
    /// The other end. In ICMP its port is the code of the message.
    pub remote: SocketAddr,
}

/// A piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes of payload it has.
    pub len: usize,
    /// Whether it came, or is sent. The layer's own direction is that of the connection.
    pub way: Way,
}

/// `FLAGS` of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// This machine sends it to itself.
    pub const fn is_loopback(self) -> bool {
        self.0 & FWP_CONDITION_FLAG_IS_LOOPBACK != 0
    }

    /// What was authorized before, or held, is authorized again.
    pub const fn is_reauthorization(self) -> bool {
        self.0 & FWP_CONDITION_FLAG_IS_REAUTHORIZE != 0
    }

    /// A fragment that was indicated as a packet before, or a packet of which the fragments were.
    pub const fn was_indicated_before(self) -> bool {
        self.0 & (FWP_CONDITION_FLAG_IS_FRAGMENT | FWP_CONDITION_FLAG_IS_REASSEMBLED) != 0
    }
}

impl Classify<'_> {
    /// `None` if the filter engine passes nothing to read or write.
    ///
    /// # Safety
    ///
    /// The arguments are those of a `classifyFn` that runs, and are used by nobody else in it.
    pub(crate) unsafe fn new(
        values: *const fwps::FWPS_INCOMING_VALUES0,
        metadata: *const fwps::FWPS_INCOMING_METADATA_VALUES0,
        data: PVOID,
        filter: *const fwps::FWPS_FILTER2,
        out: *mut FWPS_CLASSIFY_OUT0,
    ) -> Option<Self> {
        // SAFETY: as the caller says; it stays until the callout returns.
        let fixed = unsafe { values.as_ref() }?;
        // SAFETY: as above.
        let metadata = unsafe { metadata.as_ref() }?;
        // SAFETY: as above; nobody else writes to it meanwhile.
        let out = unsafe { out.as_mut() }?;
        // SAFETY: as above.
        let filter = unsafe { filter.as_ref() };
        let values = if fixed.incomingValue.is_null() {
            &[]
        } else {
            // SAFETY: there are as many values as it says.
            unsafe { slice::from_raw_parts(fixed.incomingValue, fixed.valueCount as usize) }
        };
        Some(Self {
            layer_id: fixed.layerId,
            values,
            metadata,
            data,
            filter_flags: filter.map_or(0, |filter| filter.flags),
            out,
            lent: PhantomData,
        })
    }

    /// The family of the addresses, if the call is of this layer.
    pub fn family(&self, layer: &Layer) -> Option<Family> {
        layer.family(self.layer_id)
    }

    // ---- values ---------------------------------------------------------------------------------

    /// The value at a place, if it is there and of this type.
    fn value(&self, field: u32, data_type: FWP_DATA_TYPE) -> Option<FWP_VALUE0_0> {
        let value = &self.values.get(field as usize)?.value;
        (value.r#type == data_type).then_some(value.Anonymous)
    }

    /// A number of 32 bits.
    pub fn u32(&self, field: u32) -> Option<u32> {
        let value = self.value(field, FWP_UINT32)?;
        // SAFETY: the type says that this arm of the union holds.
        Some(unsafe { value.uint32 })
    }

    /// A number of 16 bits.
    pub fn u16(&self, field: u32) -> Option<u16> {
        let value = self.value(field, FWP_UINT16)?;
        // SAFETY: the type says that this arm of the union holds.
        Some(unsafe { value.uint16 })
    }

    /// A number of 8 bits.
    pub fn u8(&self, field: u32) -> Option<u8> {
        let value = self.value(field, FWP_UINT8)?;
        // SAFETY: the type says that this arm of the union holds.
        Some(unsafe { value.uint8 })
    }

    /// An address. In IPv4 it is a number in host order, in IPv6 bytes in network order.
    pub fn address(&self, field: u32, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self
                .u32(field)
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            Family::V6 => {
                let value = self.value(field, FWP_BYTE_ARRAY16_TYPE)?;
                // SAFETY: the type says that this arm of the union holds.
                let bytes = unsafe { value.byteArray16 };
                // SAFETY: it points to an address that stays until the callout returns, or is null.
                let bytes = unsafe { bytes.as_ref() }?.byteArray16;
                Some(IpAddr::V6(Ipv6Addr::from(bytes)))
            }
        }
    }

    /// Both ends, where the layer names them and the call has them: authorized anew, it may lack some. A
    /// stream's protocol is TCP.
    pub fn ends(&self, layer: &Layer) -> Option<Ends> {
        let family = self.family(layer)?;
        let fields = &layer.fields;
        let end = |address, port| {
            let (address, port) = (self.address(address, family)?, self.u16(port)?);
            Some(SocketAddr::new(address, port))
        };
        let protocol = match fields.protocol {
            Some(field) => self.u8(field)?,
            None if layer.data() == Data::Stream => IPPROTO_TCP as u8,
            None => return None,
        };
        Some(Ends {
            protocol,
            local: end(fields.local_address, fields.local_port?)?,
            remote: end(fields.remote_address, fields.remote_port?)?,
        })
    }

    /// The flags.
    pub fn flags(&self, fields: &Fields) -> Flags {
        Flags(self.u32(fields.flags).unwrap_or(0))
    }

    /// Which way it goes: of a packet where the layer has packets, of the connection at others.
    pub fn way(&self, fields: &Fields) -> Option<Way> {
        match self.u32(fields.direction?)?.cast_signed() {
            FWP_DIRECTION_OUTBOUND => Some(Way::Send),
            FWP_DIRECTION_INBOUND => Some(Way::Receive),
            _ => None,
        }
    }

    // ---- metadata -------------------------------------------------------------------------------

    fn has(&self, bit: u32) -> bool {
        self.metadata.currentMetadataValues & bit != 0
    }

    /// How long the IP header is, options included.
    pub fn ip_header_size(&self) -> Option<u32> {
        self.has(fwps::FWPS_METADATA_FIELD_IP_HEADER_SIZE)
            .then_some(self.metadata.ipHeaderSize)
    }

    /// How long the transport header is.
    pub fn transport_header_size(&self) -> Option<u32> {
        self.has(fwps::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE)
            .then_some(self.metadata.transportHeaderSize)
    }

    /// The compartment; 0 if none is told.
    pub fn compartment(&self) -> u32 {
        if self.has(fwps::FWPS_METADATA_FIELD_COMPARTMENT_ID) {
            self.metadata.compartmentId
        } else {
            fwps::UNSPECIFIED_COMPARTMENT_ID
        }
    }

    /// The path MTU, if it is told: of packets that are sent.
    pub fn path_mtu(&self) -> Option<u32> {
        self.has(fwps::FWPS_METADATA_FIELD_PATH_MTU)
            .then_some(self.metadata.pathMtu)
    }

    /// The process, if it is told.
    pub fn process_id(&self) -> Option<u64> {
        self.has(fwps::FWPS_METADATA_FIELD_PROCESS_ID)
            .then_some(self.metadata.processId)
    }

    /// The path of the process's program, if it is told: UTF-16 in little endian.
    pub fn process_path(&self) -> Option<&[u8]> {
        if !self.has(fwps::FWPS_METADATA_FIELD_PROCESS_PATH) {
            return None;
        }
        // SAFETY: it is there, as its bit says, and lent until the callout returns; or null.
        let path = unsafe { self.metadata.processPath.as_ref() }?;
        if path.data.is_null() {
            return None;
        }
        // SAFETY: so many bytes are there, lent with it.
        Some(unsafe { slice::from_raw_parts(path.data, path.size as usize) })
    }

    /// The filter engine's name for the socket, if it is told.
    pub fn endpoint(&self) -> Option<u64> {
        self.has(fwps::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE)
            .then_some(self.metadata.transportEndpointHandle)
    }

    /// By what the operation that the call is about can be held, if it can.
    pub(crate) fn completion_handle(&self) -> Option<HANDLE> {
        self.has(fwps::FWPS_METADATA_FIELD_COMPLETION_HANDLE)
            .then_some(self.metadata.completionHandle)
    }

    /// The packets that the call is about; none if it is not of this layer, or of one without.
    pub fn packets(&mut self, layer: &Layer) -> PacketList<'_> {
        let has_packets = layer.data() == Data::Packets && layer.family(self.layer_id).is_some();
        let first = if has_packets {
            self.data
        } else {
            ptr::null_mut()
        };
        // SAFETY: what this layer is given is a list, lent until the callout returns.
        unsafe { PacketList::new(first.cast()) }
    }

    /// The piece of a stream that the call is about, if it is of this layer and that has streams.
    pub fn piece(&self, layer: &Layer) -> Option<Piece> {
        if layer.data() != Data::Stream || layer.family(self.layer_id).is_none() {
            return None;
        }
        let packet = self.data.cast::<fwps::FWPS_STREAM_CALLOUT_IO_PACKET0>();
        // SAFETY: what this layer is given is of this kind, lent until the callout returns, or null.
        let packet = unsafe { packet.as_ref() }?;
        // SAFETY: as above.
        let data = unsafe { packet.streamData.as_ref() }?;
        let way = if data.flags & fwps::FWPS_STREAM_FLAG_RECEIVE != 0 {
            Way::Receive
        } else {
            Way::Send
        };
        Some(Piece {
            len: data.dataLength,
            way,
        })
    }

    /// Says nothing of the piece of a stream that the call is about, which is all of it: were the number
    /// not told, the rest could be shown again.
    pub fn pass_piece_on(&mut self, layer: &Layer) {
        if let Some(piece) = self.piece(layer) {
            let packet = self.data.cast::<fwps::FWPS_STREAM_CALLOUT_IO_PACKET0>();
            // SAFETY: it is the one that the piece was read from, lent to this call to be answered in, and
            // nothing else refers to it now.
            if let Some(packet) = unsafe { packet.as_mut() } {
                packet.streamAction = fwps::FWPS_STREAM_ACTION_NONE;
                packet.countBytesRequired = 0;
                packet.countBytesEnforced = piece.len;
            }
        }
        self.pass_on();
    }

    // ---- the answer -----------------------------------------------------------------------------

    /// Whether the callout may decide: without this right somebody before it has, for good.
    pub const fn may_decide(&self) -> bool {
        self.out.rights & fwps::FWPS_RIGHT_ACTION_WRITE != 0
    }

    /// Says nothing.
    pub const fn pass_on(&mut self) {
        if self.may_decide() {
            self.out.actionType = FWP_ACTION_CONTINUE;
        }
    }

    /// Lets it go on, unless somebody after this blocks it. Needs the right to decide.
    pub const fn permit(&mut self) {
        self.out.actionType = FWP_ACTION_PERMIT;
        if self.filter_flags & fwps::FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT != 0 {
            self.out.rights &= !fwps::FWPS_RIGHT_ACTION_WRITE;
        }
    }

    /// Refuses it, for good. Needs the right to decide.
    pub const fn block(&mut self) {
        self.out.actionType = FWP_ACTION_BLOCK;
        self.out.rights &= !fwps::FWPS_RIGHT_ACTION_WRITE;
    }

    /// Takes it away, for good and in silence. Needs the right to decide.
    pub const fn absorb(&mut self) {
        self.out.actionType = FWP_ACTION_BLOCK;
        self.out.flags |= fwps::FWPS_CLASSIFY_OUT_FLAG_ABSORB;
        self.out.rights &= !fwps::FWPS_RIGHT_ACTION_WRITE;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use core::mem::zeroed;
    use kext_nt_sys::fwp::{FWP_BYTE_ARRAY16, FWP_EMPTY, FWP_VALUE0};
    use kext_nt_sys::fwps::{
        FWPS_FILTER2, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0,
        FWPS_RIGHT_ACTION_WRITE,
    };

    const EMPTY: FWPS_INCOMING_VALUE0 = FWPS_INCOMING_VALUE0 {
        value: FWP_VALUE0 {
            r#type: FWP_EMPTY,
            Anonymous: FWP_VALUE0_0 { uint32: 0 },
        },
    };

    fn number(bits: u32) -> FWPS_INCOMING_VALUE0 {
        FWPS_INCOMING_VALUE0 {
            value: FWP_VALUE0 {
                r#type: FWP_UINT32,
                Anonymous: FWP_VALUE0_0 { uint32: bits },
            },
        }
    }

    /// Runs a callout of the first layer over these values, and gives what it answered.
    fn call(
        values: &mut [FWPS_INCOMING_VALUE0],
        filter_flags: u16,
        rights: u32,
        run: impl FnOnce(&mut Classify<'_>),
    ) -> FWPS_CLASSIFY_OUT0 {
        call_at(0, ptr::null_mut(), values, filter_flags, rights, run)
    }

    fn call_at(
        layer_id: u16,
        data: PVOID,
        values: &mut [FWPS_INCOMING_VALUE0],
        filter_flags: u16,
        rights: u32,
        run: impl FnOnce(&mut Classify<'_>),
    ) -> FWPS_CLASSIFY_OUT0 {
        let fixed = FWPS_INCOMING_VALUES0 {
            layerId: layer_id,
            valueCount: values.len() as u32,
            incomingValue: values.as_mut_ptr(),
        };
        // SAFETY: these are plain numbers and pointers, for which zero is a value.
        let mut metadata: FWPS_INCOMING_METADATA_VALUES0 = unsafe { zeroed() };
        metadata.currentMetadataValues = fwps::FWPS_METADATA_FIELD_IP_HEADER_SIZE;
        metadata.ipHeaderSize = 24;
        metadata.compartmentId = 9;
        if let Some(handle) = COMPLETION.get() {
            metadata.currentMetadataValues |= fwps::FWPS_METADATA_FIELD_COMPLETION_HANDLE;
            metadata.completionHandle = ptr::without_provenance_mut(handle);
        }
        // SAFETY: as above.
        let mut filter: FWPS_FILTER2 = unsafe { zeroed() };
        filter.flags = filter_flags;
        // SAFETY: as above.
        let mut out: FWPS_CLASSIFY_OUT0 = unsafe { zeroed() };
        out.rights = rights;
        // SAFETY: everything is as in a call by the filter engine.
        let classify = unsafe {
            Classify::new(
                &raw const fixed,
                &raw const metadata,
                data,
                &raw const filter,
                &raw mut out,
            )
        };
        run(&mut classify.unwrap());
        out
    }

    std::thread_local! {
        /// The completion handle of a test's calls, if they have one.
        static COMPLETION: core::cell::Cell<Option<usize>> = const { core::cell::Cell::new(None) };
    }

    /// Runs a callout that is given this completion handle.
    pub(crate) fn call_with_completion(handle: Option<usize>, run: impl FnOnce(&Classify<'_>)) {
        COMPLETION.set(handle);
        call(&mut [], 0, FWPS_RIGHT_ACTION_WRITE, |call| run(call));
        COMPLETION.set(None);
    }

    #[test]
    fn values_are_read_by_their_type_and_never_beyond_their_number() {
        let mut address = FWP_BYTE_ARRAY16 {
            byteArray16: [7; 16],
        };
        let v6 = FWPS_INCOMING_VALUE0 {
            value: FWP_VALUE0 {
                r#type: FWP_BYTE_ARRAY16_TYPE,
                Anonymous: FWP_VALUE0_0 {
                    byteArray16: &raw mut address,
                },
            },
        };
        let mut values = [number(0x7f00_0001), v6, EMPTY];
        call(&mut values, 0, 1, |call| {
            let loopback: IpAddr = "127.0.0.1".parse().unwrap();
            assert_eq!(call.address(0, Family::V4), Some(loopback));
            assert_eq!(call.address(0, Family::V6), None);
            assert_eq!(call.address(1, Family::V6), Some(IpAddr::from([7_u8; 16])));
            assert_eq!(call.address(1, Family::V4), None);
            assert_eq!(
                (call.u32(2), call.u32(3), call.u16(0), call.u8(0)),
                (None, None, None, None)
            );
        });
    }

    #[test]
    fn metadata_are_there_only_if_they_say_so() {
        call(&mut [], 0, 1, |call| {
            assert_eq!(call.ip_header_size(), Some(24));
            assert_eq!((call.compartment(), call.process_id()), (0, None));
            assert_eq!((call.endpoint(), call.completion_handle()), (None, None));
            assert_eq!(
                (call.process_path(), call.transport_header_size()),
                (None, None)
            );
        });
    }

    #[test]
    fn a_path_is_what_the_metadata_point_to() {
        let mut text = *b"S\0y\0";
        let mut blob = kext_nt_sys::fwp::FWP_BYTE_BLOB {
            size: 4,
            data: text.as_mut_ptr(),
        };
        // SAFETY: these are plain numbers and pointers, for which zero is a value.
        let mut metadata: FWPS_INCOMING_METADATA_VALUES0 = unsafe { zeroed() };
        metadata.currentMetadataValues = fwps::FWPS_METADATA_FIELD_PROCESS_PATH;
        let path = |metadata: &FWPS_INCOMING_METADATA_VALUES0| {
            // SAFETY: as above.
            let fixed: FWPS_INCOMING_VALUES0 = unsafe { zeroed() };
            // SAFETY: as above.
            let mut out: FWPS_CLASSIFY_OUT0 = unsafe { zeroed() };
            let call = {
                let (fixed, out) = (&raw const fixed, &raw mut out);
                // SAFETY: everything is as in a call by the filter engine.
                unsafe { Classify::new(fixed, metadata, ptr::null_mut(), ptr::null(), out) }
            };
            call.unwrap().process_path().map(<[u8]>::to_vec)
        };
        assert_eq!(path(&metadata), None);
        metadata.processPath = &raw mut blob;
        assert_eq!(path(&metadata), Some(b"S\0y\0".to_vec()));
        metadata.currentMetadataValues = 0;
        assert_eq!(path(&metadata), None);
        metadata.currentMetadataValues = fwps::FWPS_METADATA_FIELD_PROCESS_PATH;
        let mut nothing = kext_nt_sys::fwp::FWP_BYTE_BLOB {
            size: 4,
            data: ptr::null_mut(),
        };
        metadata.processPath = &raw mut nothing;
        assert_eq!(path(&metadata), None);
    }

    #[test]
    fn a_way_is_told_by_its_number() {
        let mut values = [EMPTY; 10];
        let fields = Layer::DATAGRAM_DATA.fields;
        for (bits, way) in [(0, Some(Way::Send)), (1, Some(Way::Receive)), (2, None)] {
            values[9] = number(bits);
            call(&mut values, 0, 1, |call| assert_eq!(call.way(&fields), way));
        }
        call(&mut [EMPTY; 10], 0, 1, |call| {
            assert_eq!(call.way(&fields), None);
            assert_eq!(call.way(&Layer::ALE_AUTH_CONNECT.fields), None);
        });
    }

    #[test]
    fn flags_are_where_the_layer_has_them() {
        let mut values = [EMPTY; 7];
        values[6] = number(1 | 0x400);
        call(&mut values, 0, 1, |call| {
            let flags = call.flags(&Layer::INBOUND_IPPACKET.fields);
            assert!(flags.is_loopback() && flags.was_indicated_before());
            assert_eq!(call.flags(&Layer::ALE_AUTH_CONNECT.fields), Flags(0));
        });
    }

    #[test]
    fn a_piece_of_a_stream_says_its_own_way() {
        let stream_v6 = kext_nt_sys::layers::FWPS_LAYER_STREAM_V6;
        let piece = |flags| {
            // SAFETY: plain numbers and pointers, for which zero is a value.
            let mut data: fwps::FWPS_STREAM_DATA0 = unsafe { zeroed() };
            data.flags = flags;
            data.dataLength = 1_400;
            // SAFETY: as above.
            let mut packet: fwps::FWPS_STREAM_CALLOUT_IO_PACKET0 = unsafe { zeroed() };
            packet.streamData = &raw mut data;
            let mut found = None;
            call_at(stream_v6, (&raw mut packet).cast(), &mut [], 0, 1, |call| {
                assert_eq!(call.packets(&Layer::DATAGRAM_DATA).lists().count(), 0);
                assert_eq!(call.piece(&Layer::DATAGRAM_DATA), None);
                found = call.piece(&Layer::STREAM);
                call.pass_piece_on(&Layer::STREAM);
            });
            assert_eq!(packet.countBytesEnforced, 1_400);
            found.map(|piece| (piece.len, piece.way))
        };
        let (receive, send) = (fwps::FWPS_STREAM_FLAG_RECEIVE, fwps::FWPS_STREAM_FLAG_SEND);
        assert_eq!(piece(receive), Some((1_400, Way::Receive)));
        assert_eq!(piece(send), Some((1_400, Way::Send)));
    }

    #[test]
    fn ends_are_there_or_not_at_all() {
        let mut values = [EMPTY; 13];
        let typed = |data_type, value| FWPS_INCOMING_VALUE0 {
            value: FWP_VALUE0 {
                r#type: data_type,
                Anonymous: value,
            },
        };
        values[2] = number(0xc000_0201);
        values[4] = typed(FWP_UINT16, FWP_VALUE0_0 { uint16: 40_000 });
        values[5] = typed(FWP_UINT8, FWP_VALUE0_0 { uint8: 6 });
        values[6] = number(0xc633_6402);
        let layer = &Layer::ALE_AUTH_CONNECT;
        let connect_v4 = kext_nt_sys::layers::FWPS_LAYER_ALE_AUTH_CONNECT_V4;
        call_at(connect_v4, ptr::null_mut(), &mut values, 0, 1, |call| {
            assert_eq!(call.ends(layer), None);
        });
        values[7] = typed(FWP_UINT16, FWP_VALUE0_0 { uint16: 443 });
        call_at(connect_v4, ptr::null_mut(), &mut values, 0, 1, |call| {
            let ends = Ends {
                protocol: 6,
                local: "192.0.2.1:40000".parse().unwrap(),
                remote: "198.51.100.2:443".parse().unwrap(),
            };
            assert_eq!(call.ends(layer), Some(ends));
            assert_eq!(call.ends(&Layer::STREAM), None);
        });
    }

    #[test]
    #[allow(
        clippy::redundant_closure_for_method_calls,
        reason = "the methods are of one lifetime, the closures of any"
    )]
    fn answers_say_what_they_mean() {
        let clear = fwps::FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT;
        let out = call(&mut [], 0, FWPS_RIGHT_ACTION_WRITE, |call| call.permit());
        assert_eq!(
            (out.actionType, out.rights, out.flags),
            (FWP_ACTION_PERMIT, 1, 0)
        );
        let out = call(&mut [], clear, FWPS_RIGHT_ACTION_WRITE, |call| {
            call.permit();
        });
        assert_eq!((out.actionType, out.rights), (FWP_ACTION_PERMIT, 0));
        let out = call(&mut [], 0, FWPS_RIGHT_ACTION_WRITE, |call| call.absorb());
        assert_eq!(
            (out.actionType, out.rights, out.flags),
            (FWP_ACTION_BLOCK, 0, 1)
        );
        let out = call(&mut [], 0, FWPS_RIGHT_ACTION_WRITE, |call| call.block());
        assert_eq!(
            (out.actionType, out.rights, out.flags),
            (FWP_ACTION_BLOCK, 0, 0)
        );
        let out = call(&mut [], 0, FWPS_RIGHT_ACTION_WRITE, |call| call.pass_on());
        assert_eq!((out.actionType, out.rights), (FWP_ACTION_CONTINUE, 1));
        let out = call(&mut [], 0, 0, |call| call.pass_on());
        assert_eq!((out.actionType, out.rights), (0, 0));
    }
}
