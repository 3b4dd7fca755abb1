//! Classification: which callouts are called with what, and what comes of it.

use kext_nt_sys::fwp::*;
use kext_nt_sys::fwps::*;
use kext_nt_sys::ke::KIRQL;
use kext_nt_sys::types::{GUID, PVOID};

use super::callout::{self, Callout};
use super::engine::{self, Active};
use super::flow;
use super::inject;
use super::layer::{self, Kind, Layer, key_text};
use super::lent::{Lent, Shape};
use super::packet::{Direction, Packet};
use super::pend;
use crate::check::violation;
use crate::cpu;
use crate::guest;
use crate::heap::{self, Kind as Block};

/// What became of something that was shown to callouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Whether it goes on.
    pub permitted: bool,
    /// Whether it was taken away silently.
    pub absorbed: bool,
    /// Whether nobody may change that any more.
    pub hard: bool,
    /// How many callouts were called.
    pub called: usize,
}

/// A value of a field, as the layer gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    Address6([u8; 16]),
}

/// What callouts are shown.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) layer: &'static Layer,
    pub(crate) values: Vec<(Option<usize>, Value)>,
    /// The path of the process, as UTF-16 bytes: a field, and metadata.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) metadata: FWPS_INCOMING_METADATA_VALUES0,
    pub(crate) level: KIRQL,
    pub(crate) flow: u64,
}

pub(crate) fn no_metadata() -> FWPS_INCOMING_METADATA_VALUES0 {
    // SAFETY: zero is a value of each field.
    unsafe { std::mem::zeroed() }
}

/// Both addresses of a packet, local and remote.
pub(crate) fn addresses(bytes: &[u8], outbound: bool) -> Option<(Value, Value)> {
    let (source, destination) = match bytes.first()? >> 4 {
        4 => {
            let word = |at: usize| {
                let bytes = bytes.get(at..at + 4)?;
                Some(Value::U32(u32::from_be_bytes(bytes.try_into().ok()?)))
            };
            (word(12)?, word(16)?)
        }
        6 => {
            let address =
                |at: usize| Some(Value::Address6(bytes.get(at..at + 16)?.try_into().ok()?));
            (address(8)?, address(24)?)
        }
        _ => return None,
    };
    Some(if outbound {
        (source, destination)
    } else {
        (destination, source)
    })
}

/// What callouts are told of a packet.
pub(crate) fn call_of(packet: &Packet) -> Call {
    let outbound = packet.direction == Direction::Outbound;
    let layer = layer::layer(packet.kind(), packet.is_v6());
    let fields = &layer.fields;
    let mut values = vec![
        (fields.interface, Value::U32(packet.interface)),
        (fields.sub_interface, Value::U32(packet.sub_interface)),
        (fields.flags, Value::U32(packet.flags)),
        (
            fields.compartment,
            Value::U32(packet.compartment.unwrap_or(1)),
        ),
    ];
    if let Some((local, remote)) = addresses(packet.first(), outbound) {
        values.push((fields.local_address, local));
        values.push((fields.remote_address, remote));
    }
    let mut metadata = no_metadata();
    let header = packet.ip_header();
    metadata.currentMetadataValues |= FWPS_METADATA_FIELD_IP_HEADER_SIZE;
    metadata.ipHeaderSize = packet.told_size.unwrap_or(header) as u32;
    if outbound {
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        metadata.transportHeaderSize = 20;
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_PATH_MTU;
        metadata.pathMtu = packet.path_mtu.unwrap_or_else(inject::mtu);
    }
    if let Some(compartment) = packet.compartment {
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_COMPARTMENT_ID;
        metadata.compartmentId = compartment;
    }
    Call {
        layer,
        values,
        path: None,
        metadata,
        level: packet.level,
        flow: 0,
    }
}

/// The lists of a packet, in memory that is lent.
pub(crate) fn lend(packet: &Packet) -> Vec<Lent> {
    let outbound = packet.direction == Direction::Outbound;
    let lists: Vec<Lent> = packet
        .lists
        .iter()
        .map(|packets| {
            Lent::new(&Shape {
                packets,
                start: if outbound { 0 } else { packet.ip_header() },
                headroom: packet.headroom,
                split: &packet.split,
                checksums: packet.checksums,
                mark: packet.mark,
            })
        })
        .collect();
    for pair in lists.windows(2) {
        guest::borrow(pair[0].list, "a list").Next = pair[1].list;
    }
    lists
}

/// Shows a packet to the callouts of its layer.
pub(crate) fn packet(packet: &Packet) -> Classified {
    let call = call_of(packet);
    let lists = lend(packet);
    let check = || lists.iter().for_each(Lent::check);
    let result = run(&call, lists[0].list.cast(), &check);
    for list in lists {
        list.give_back();
    }
    result
}

/// Filters that are asked together, until one of them decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sublayer {
    Driver(GUID),
    /// Of somebody else.
    Other {
        permits: bool,
        hard: bool,
    },
}

/// Calls the callouts of a layer one after the other, as filters and sublayers say.
pub(crate) fn run(call: &Call, data: PVOID, check: &dyn Fn()) -> Classified {
    let arguments = Arguments::new(call);
    let mut decision: Option<(bool, bool)> = None;
    let mut absorbed = false;
    let mut called = 0;
    let active = engine::active();
    let filters = active
        .as_ref()
        .and_then(|active| active.get(&call.layer.id))
        .map_or(&[][..], Vec::as_slice);
    // Sublayers, the heaviest first; those of others before ours of the same weight.
    let foreign = engine::foreign();
    let mut sublayers: Vec<(u16, Sublayer)> = foreign
        .iter()
        .map(|(weight, blocks, hard)| {
            (
                *weight,
                Sublayer::Other {
                    permits: !blocks,
                    hard: *hard,
                },
            )
        })
        .collect();
    for active in filters {
        let own = (
            active.sublayer_weight,
            Sublayer::Driver(active.filter.sublayer),
        );
        if !sublayers.contains(&own) {
            sublayers.push(own);
        }
    }
    sublayers.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    for (_, sublayer) in sublayers {
        let may_write = decision.is_none_or(|(_, hard)| !hard);
        let result = match sublayer {
            Sublayer::Other { permits, hard } => Some((permits, hard, false)),
            Sublayer::Driver(key) => filters
                .iter()
                .filter(|active| active.filter.sublayer == key)
                .filter(|active| active.filter.matches(arguments.values()))
                .find_map(|active| {
                    let result = arguments.ask(active, data, decision, &mut called);
                    check();
                    result
                }),
        };
        let Some((permits, hard, absorbs)) = result else {
            continue;
        };
        if may_write || !permits {
            decision = Some((permits, hard || !may_write));
            absorbed = absorbs;
        }
    }
    let (permitted, hard) = decision.unwrap_or((true, false));
    arguments.give_back();
    Classified {
        permitted,
        absorbed: absorbed && !permitted,
        hard,
        called,
    }
}

/// Values and metadata in memory that is lent.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    call: &'a Call,
    values: *mut FWPS_INCOMING_VALUE0,
    fixed: *mut FWPS_INCOMING_VALUES0,
    metadata: *mut FWPS_INCOMING_METADATA_VALUES0,
    out: *mut FWPS_CLASSIFY_OUT0,
    blocks: Vec<usize>,
}

/// What a callout must leave alone.
const OUT_CONTEXT: u64 = 0x1111_2222_3333_4444;
const RESERVED: u32 = 0x5555_6666;

impl<'a> Arguments<'a> {
    pub(crate) fn new(call: &'a Call) -> Self {
        let mut blocks = Vec::new();
        let mut lend = |size: usize| {
            let memory = heap::allocate(Block::Lent, size, 0);
            // SAFETY: the block is that long.
            unsafe { memory.write_bytes(0, size) };
            blocks.push(memory.expose_provenance());
            memory
        };
        let count = call.layer.fields.count;
        let values: *mut FWPS_INCOMING_VALUE0 =
            lend(count * size_of::<FWPS_INCOMING_VALUE0>()).cast();
        let slots = |at: usize| -> &mut FWP_VALUE0 {
            &mut guest::borrow(values.wrapping_add(at), "a value").value
        };
        for (field, value) in &call.values {
            let Some(at) = field else { continue };
            let slot = slots(*at);
            match value {
                Value::U8(value) => {
                    slot.r#type = FWP_UINT8;
                    slot.Anonymous.uint8 = *value;
                }
                Value::U16(value) => {
                    slot.r#type = FWP_UINT16;
                    slot.Anonymous.uint16 = *value;
                }
                Value::U32(value) => {
                    slot.r#type = FWP_UINT32;
                    slot.Anonymous.uint32 = *value;
                }
                Value::Address6(address) => {
                    let target: *mut FWP_BYTE_ARRAY16 = lend(16).cast();
                    let address = FWP_BYTE_ARRAY16 {
                        byteArray16: *address,
                    };
                    guest::write(target, address, "an address");
                    slot.r#type = FWP_BYTE_ARRAY16_TYPE;
                    slot.Anonymous.byteArray16 = target;
                }
            }
        }
        let mut filled = call.metadata;
        if let Some(path) = &call.path {
            let text = lend(path.len().max(1));
            guest::bytes_mut(text, path.len(), "a path").copy_from_slice(path);
            let blob: *mut FWP_BYTE_BLOB = lend(size_of::<FWP_BYTE_BLOB>()).cast();
            let value = FWP_BYTE_BLOB {
                size: path.len() as u32,
                data: text,
            };
            guest::write(blob, value, "a path");
            filled.currentMetadataValues |= FWPS_METADATA_FIELD_PROCESS_PATH;
            filled.processPath = blob;
            if let Some(at) = call.layer.fields.app_id {
                let slot = slots(at);
                slot.r#type = FWP_BYTE_BLOB_TYPE;
                slot.Anonymous.byteBlob = blob;
            }
        }
        let metadata = lend(size_of::<FWPS_INCOMING_METADATA_VALUES0>()).cast();
        guest::write(metadata, filled, "metadata");
        let fixed = lend(size_of::<FWPS_INCOMING_VALUES0>()).cast();
        let header = FWPS_INCOMING_VALUES0 {
            layerId: call.layer.id,
            valueCount: count as u32,
            incomingValue: values,
        };
        guest::write(fixed, header, "values");
        let out = lend(size_of::<FWPS_CLASSIFY_OUT0>()).cast();
        Self {
            call,
            values,
            fixed,
            metadata,
            out,
            blocks,
        }
    }

    /// What is there before a callout answers that may decide.
    pub(crate) fn fresh(active: &Active) -> FWPS_CLASSIFY_OUT0 {
        FWPS_CLASSIFY_OUT0 {
            actionType: FWP_ACTION_NONE,
            outContext: OUT_CONTEXT,
            filterId: active.filter.id,
            rights: FWPS_RIGHT_ACTION_WRITE,
            flags: 0,
            reserved: RESERVED,
        }
    }

    /// Values, metadata, and where the answer goes.
    #[inline]
    pub(crate) fn pointers(
        &self,
    ) -> (
        *const FWPS_INCOMING_VALUES0,
        *const FWPS_INCOMING_METADATA_VALUES0,
        *mut FWPS_CLASSIFY_OUT0,
    ) {
        (self.fixed, self.metadata, self.out)
    }

    /// Where the value of a field is.
    pub(crate) fn value(&self, field: usize) -> *mut FWP_VALUE0 {
        let value = self.values.wrapping_add(field);
        // SAFETY: callers name a field of the layer.
        unsafe { &raw mut (*value).value }
    }

    fn values(&self) -> &[FWPS_INCOMING_VALUE0] {
        let count = self.call.layer.fields.count;
        // SAFETY: as many values are in the block, which callouts only read.
        unsafe { std::slice::from_raw_parts(self.values, count) }
    }

    /// Asks one filter: whether it permits, whether that is hard, whether it absorbs.
    fn ask(
        &self,
        active: &Active,
        data: PVOID,
        decision: Option<(bool, bool)>,
        called: &mut usize,
    ) -> Option<(bool, bool, bool)> {
        let filter = &active.filter;
        if !filter.calls() {
            let permits = filter.action == FWP_ACTION_PERMIT;
            return Some((permits, !permits, false));
        }
        let answer = callout::enter(&filter.callout, |callout| {
            let flow_context = flow::context(self.call.flow, self.call.layer.id, callout.id);
            let conditional = callout.flags & FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW != 0;
            if conditional && flow_context == 0 {
                return None;
            }
            *called += 1;
            self.classify(callout, active, data, decision, flow_context)
        });
        answer.unwrap_or_else(|| {
            // Not registered: an inspection is left out, a decision is to block, or as the flag says.
            if filter.action == FWP_ACTION_CALLOUT_INSPECTION {
                return None;
            }
            let permits = active.seen.flags & FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED != 0;
            Some((permits, !permits, false))
        })
    }

    fn classify(
        &self,
        callout: &Callout,
        active: &Active,
        data: PVOID,
        decision: Option<(bool, bool)>,
        flow_context: u64,
    ) -> Option<(bool, bool, bool)> {
        let may_write = decision.is_none_or(|(_, hard)| !hard);
        // Without the right the decision stands there already, and may be left alone.
        let action = match decision {
            Some((true, true)) => FWP_ACTION_PERMIT,
            Some((false, true)) => FWP_ACTION_BLOCK,
            _ => FWP_ACTION_NONE,
        };
        let rights = if may_write {
            FWPS_RIGHT_ACTION_WRITE
        } else {
            0
        };
        let fresh = FWPS_CLASSIFY_OUT0 {
            actionType: action,
            rights,
            ..Self::fresh(active)
        };
        guest::write(self.out, fresh, "what a callout decides");
        let seen: *const FWPS_FILTER2 = &raw const active.seen;
        let _asked = pend::Asked::new(self.call, active.filter.id);
        cpu::call("classifyFn", self.call.level, || {
            // SAFETY: the driver gave the routine for this, and all arguments are lent to it.
            unsafe {
                (callout.classify)(
                    self.fixed,
                    self.metadata,
                    data,
                    std::ptr::without_provenance(pend::CONTEXT),
                    seen,
                    flow_context,
                    self.out,
                );
            }
        });
        self.judge(&callout.key, active, may_write, action)
    }

    /// Looks at what a callout has answered.
    fn judge(
        &self,
        key: &GUID,
        active: &Active,
        may_write: bool,
        before: FWP_ACTION_TYPE,
    ) -> Option<(bool, bool, bool)> {
        let out = guest::read(self.out, "what a callout decides");
        let who = format!("the callout {}", key_text(key));
        if (out.outContext, out.filterId, out.reserved) != (OUT_CONTEXT, active.filter.id, RESERVED)
        {
            violation!(Callout, "{who} wrote outContext, filterId or reserved");
        }
        let (action, kind) = (out.actionType, active.filter.action);
        let absorbs = out.flags & FWPS_CLASSIFY_OUT_FLAG_ABSORB != 0;
        let allowed = match kind {
            FWP_ACTION_CALLOUT_TERMINATING => {
                [FWP_ACTION_PERMIT, FWP_ACTION_BLOCK].contains(&action)
            }
            FWP_ACTION_CALLOUT_INSPECTION => action == FWP_ACTION_CONTINUE,
            _ => [FWP_ACTION_PERMIT, FWP_ACTION_BLOCK, FWP_ACTION_CONTINUE].contains(&action),
        };
        // A stream action goes with none.
        let none = !may_write && action == before
            || self.call.layer.kind == Kind::Stream && action == FWP_ACTION_NONE;
        if !allowed && !none {
            violation!(
                Callout,
                "{who} answered {action:#x}, which a filter of action {kind:#x} does not allow"
            );
        }
        if absorbs && action != FWP_ACTION_BLOCK {
            violation!(Callout, "{who} absorbs and does not block");
        }
        if absorbs && self.call.layer.kind == Kind::Stream {
            violation!(Callout, "{who} absorbs at a layer where that is not valid");
        }
        let has = out.rights & FWPS_RIGHT_ACTION_WRITE != 0;
        if !may_write {
            if has {
                violation!(Callout, "{who} gave itself the right to decide");
            }
            if absorbs {
                violation!(Callout, "{who} absorbs without the right to decide");
            }
            if action == before || action == FWP_ACTION_PERMIT {
                // Whatever was decided stands.
                return None;
            }
        }
        let hard = !has || active.seen.flags & FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT != 0;
        match action {
            FWP_ACTION_PERMIT => Some((true, hard, false)),
            FWP_ACTION_BLOCK => Some((false, hard, absorbs)),
            _ => None,
        }
    }

    /// No longer lent.
    fn give_back(self) {
        for block in &self.blocks {
            heap::free(*block, "the end of arguments that were lent", 0, |_| None);
        }
    }
}
