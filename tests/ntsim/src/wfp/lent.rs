//! Packets that callouts are shown: built as asked, looked at afterwards, poisoned when they go.

use std::collections::HashMap;

use kext_nt_sys::fwps::{
    FWPS_PACKET_INJECTED_BY_OTHER, FWPS_PACKET_INJECTED_BY_SELF, FWPS_PACKET_INJECTION_STATE,
    FWPS_PACKET_NOT_INJECTED, FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF,
};
use kext_nt_sys::io::{MDL, MDL_SOURCE_IS_NONPAGED_POOL};
use kext_nt_sys::ndis::{NET_BUFFER, NET_BUFFER_LIST, TcpIpChecksumNetBufferListInfo};
use kext_nt_sys::status::{NTSTATUS, STATUS_SUCCESS};
use kext_nt_sys::types::{BOOLEAN, FALSE, HANDLE};
use parking_lot::Mutex;

use super::inject;
use super::ndis;
use crate::check::violation;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::mdl;
use crate::observe;

implements! {
    fwps::FwpsQueryPacketInjectionState0 = injection_state;
    fwps::FwpsReferenceNetBufferList0 = reference;
    fwps::FwpsDereferenceNetBufferList0 = dereference;
    [status] fwps::FwpsAllocateCloneNetBufferList0 = allocate_clone;
    fwps::FwpsFreeCloneNetBufferList0 = free_clone;
}

/// Who has injected a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The injection handle.
    pub(crate) handle: usize,
    pub(crate) context: usize,
    /// At an earlier layer.
    pub(crate) earlier: bool,
}

/// How one list of packets looks in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// One packet for each net buffer, from the IP header on.
    pub(crate) packets: &'a [Vec<u8>],
    /// Bytes of the packet before its data's start.
    pub(crate) start: usize,
    /// Bytes of free memory before the packet.
    pub(crate) headroom: usize,
    /// Lengths of the MDLs; the last has the rest.
    pub(crate) split: &'a [usize],
    /// `TcpIpChecksumNetBufferListInfo`.
    pub(crate) checksums: u32,
    pub(crate) mark: Option<Mark>,
}

/// A packet as it was before the callout saw it.
#[derive(Debug)]
struct Before {
    buffer: usize,
    next: usize,
    mdls: Vec<(usize, usize, u32, u32)>,
    chain: usize,
    current: (usize, u32),
    offset: u32,
    length: u32,
    bytes: Vec<(usize, Vec<u8>)>,
}

/// A list that is lent.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) list: *mut NET_BUFFER_LIST,
    blocks: Vec<usize>,
    before: Vec<Before>,
}

#[derive(Debug)]
struct Entry {
    references: usize,
    /// Freed when the last reference goes.
    returned: Option<Vec<usize>>,
    mark: Option<Mark>,
}

static LENT: Mutex<Option<HashMap<usize, Entry>>> = Mutex::new(None);

fn entries<R>(work: impl FnOnce(&mut HashMap<usize, Entry>) -> R) -> R {
    work(LENT.lock().get_or_insert_default())
}

/// Whether this list is lent.
pub(crate) fn is_lent(list: usize) -> bool {
    entries(|entries| entries.contains_key(&list))
}

fn pieces_of(length: usize, split: &[usize]) -> Vec<usize> {
    let mut left = length;
    let mut pieces = Vec::new();
    for piece in split {
        if *piece < left {
            pieces.push(*piece);
            left -= piece;
        }
    }
    pieces.push(left);
    pieces
}

impl Lent {
    /// Memory with these packets.
    pub(crate) fn new(shape: &Shape<'_>) -> Self {
        let mut blocks = Vec::new();
        let mut buffers = Vec::new();
        for packet in shape.packets {
            let mut all = vec![heap::FRESH; shape.headroom];
            all.extend(packet);
            let mut first: *mut MDL = std::ptr::null_mut();
            let mut last: *mut MDL = std::ptr::null_mut();
            let mut at = 0;
            for (index, piece) in pieces_of(packet.len(), shape.split).into_iter().enumerate() {
                let length = piece + if index == 0 { shape.headroom } else { 0 };
                let memory = heap::allocate(Kind::Lent, length.max(1), 0);
                guest::bytes_mut(memory, length, "a packet").copy_from_slice(&all[at..at + length]);
                at += length;
                let mdl = mdl::create(memory.cast(), length as u32, Kind::Lent, 0);
                let fields = guest::borrow(mdl, "an MDL");
                fields.MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
                fields.MappedSystemVa = memory.cast();
                blocks.push(memory.expose_provenance());
                blocks.push(mdl.expose_provenance());
                if last.is_null() {
                    first = mdl;
                } else {
                    guest::borrow(last, "an MDL").Next = mdl;
                }
                last = mdl;
            }
            let start = shape.start.min(packet.len());
            buffers.push((first, shape.headroom + start, packet.len() - start));
        }
        let list = ndis::build(Kind::Lent, std::ptr::null_mut(), &buffers);
        let info = ndis::info(list, TcpIpChecksumNetBufferListInfo);
        guest::write(info, shape.checksums as usize, "what is known of a packet");
        blocks.push(list.expose_provenance());
        let entry = Entry {
            references: 0,
            returned: None,
            mark: shape.mark,
        };
        entries(|entries| entries.insert(list.addr(), entry));
        let before = ndis::buffers(list).into_iter().map(Before::of).collect();
        Self {
            list,
            blocks,
            before,
        }
    }

    /// Ends the test unless everything is as it was.
    pub(crate) fn check(&self) {
        let buffers = ndis::buffers(self.list);
        let same = buffers.len() == self.before.len()
            && buffers
                .iter()
                .zip(&self.before)
                .all(|(now, before)| now.addr() == before.buffer);
        if !same {
            violation!(Lent, "the net buffers of a list are others than before");
        }
        for before in &self.before {
            before.check();
        }
    }

    /// The callouts have returned: the memory is no longer lent.
    pub(crate) fn give_back(self) {
        let list = self.list.addr();
        let free = entries(|entries| {
            let entry = entries.get_mut(&list).expect("it was lent");
            if entry.references == 0 {
                entries.remove(&list);
                return true;
            }
            entry.returned = Some(self.blocks.clone());
            false
        });
        if free {
            free_blocks(&self.blocks);
        }
    }
}

fn free_blocks(blocks: &[usize]) {
    for block in blocks {
        heap::free(
            *block,
            "the end of a packet that was lent",
            observe::site(),
            |_| None,
        );
    }
}

impl Before {
    fn of(buffer: *mut NET_BUFFER) -> Self {
        let known = guest::read(buffer, "a net buffer");
        let mdls: Vec<_> = ndis::chain(known.MdlChain)
            .map(|mdl| {
                let fields = guest::read(mdl, "an MDL");
                (
                    mdl.addr(),
                    fields.Next.addr(),
                    fields.ByteCount,
                    fields.ByteOffset,
                )
            })
            .collect();
        let bytes = ndis::chain(known.MdlChain)
            .map(|mdl| {
                let fields = guest::read(mdl, "an MDL");
                let start = mdl::start(&fields);
                (start, bytes_at(start, fields.ByteCount as usize).to_vec())
            })
            .collect();
        Self {
            buffer: buffer.expose_provenance(),
            next: known.Next.addr(),
            mdls,
            chain: known.MdlChain.addr(),
            current: (known.CurrentMdl.addr(), known.CurrentMdlOffset),
            offset: known.DataOffset,
            length: known.DataLength,
            bytes,
        }
    }

    fn check(&self) {
        let buffer: *mut NET_BUFFER = std::ptr::with_exposed_provenance_mut(self.buffer);
        let now = Self::of(buffer);
        if (now.offset, now.length) != (self.offset, self.length) {
            violation!(
                Lent,
                "the start of a packet was at {} of {} bytes and is at {} of {}: moved and not \
                 moved back",
                self.offset,
                self.length,
                now.offset,
                now.length
            );
        }
        if (now.next, now.chain, now.current) != (self.next, self.chain, self.current)
            || now.mdls != self.mdls
        {
            violation!(Lent, "the MDLs of a packet are others than before");
        }
        if now.bytes != self.bytes {
            violation!(Lent, "the bytes of a packet that was lent were changed");
        }
    }
}

fn bytes_at<'a>(address: usize, length: usize) -> &'a [u8] {
    guest::bytes(
        std::ptr::with_exposed_provenance(address),
        length,
        "a packet",
    )
}

extern "win64" fn injection_state(
    handle: HANDLE,
    list: *const NET_BUFFER_LIST,
    context: *mut HANDLE,
) -> FWPS_PACKET_INJECTION_STATE {
    inject::expect_handle(handle.addr(), "FwpsQueryPacketInjectionState0");
    let Some(mark) = entries(|entries| entries.get(&list.addr()).map(|entry| entry.mark)) else {
        heap::expect_alive(list.addr(), "the list of FwpsQueryPacketInjectionState0");
        violation!(
            NetBuffer,
            "FwpsQueryPacketInjectionState0 of {list:p}, which no callout was shown"
        );
    };
    let Some(mark) = mark else {
        return FWPS_PACKET_NOT_INJECTED;
    };
    if mark.handle != handle.addr() {
        return FWPS_PACKET_INJECTED_BY_OTHER;
    }
    let value = std::ptr::with_exposed_provenance_mut(mark.context);
    guest::write_optional(context, value, "the context of an injection");
    if mark.earlier {
        FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF
    } else {
        FWPS_PACKET_INJECTED_BY_SELF
    }
}

extern "win64" fn reference(list: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    let known = entries(|entries| match entries.get_mut(&list.addr()) {
        Some(entry) => {
            entry.references += 1;
            true
        }
        None => false,
    });
    if !known {
        violation!(
            NetBuffer,
            "FwpsReferenceNetBufferList0 of what no callout was shown"
        );
    }
}

extern "win64" fn dereference(list: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    let gone = entries(|entries| {
        let entry = match entries.get_mut(&list.addr()) {
            Some(entry) if entry.references > 0 => entry,
            _ => violation!(
                NetBuffer,
                "a packet is dereferenced more often than referenced"
            ),
        };
        entry.references -= 1;
        if entry.references > 0 {
            return None;
        }
        let blocks = entry.returned.take()?;
        entries.remove(&list.addr());
        Some(blocks)
    });
    if let Some(blocks) = gone {
        free_blocks(&blocks);
    }
}

extern "win64" fn allocate_clone(
    original: *mut NET_BUFFER_LIST,
    _: HANDLE,
    _: HANDLE,
    flags: u32,
    result: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    if flags != 0 {
        violation!(
            Argument,
            "FwpsAllocateCloneNetBufferList0 with flags {flags:#x}"
        );
    }
    reference(original, FALSE);
    let buffers: Vec<_> = ndis::buffers(original)
        .into_iter()
        .map(|buffer| {
            let known = guest::read(buffer, "a net buffer");
            (
                known.MdlChain,
                known.DataOffset as usize,
                known.DataLength as usize,
            )
        })
        .collect();
    let list = ndis::build(Kind::Clone, std::ptr::null_mut(), &buffers);
    guest::borrow(list, "a clone").ParentNetBufferList = original;
    guest::borrow(original, "a net buffer list").ChildRefCount += 1;
    guest::write(result, list, "a clone");
    STATUS_SUCCESS
}

extern "win64" fn free_clone(list: *mut NET_BUFFER_LIST, _: u32) {
    let address = list.expose_provenance();
    if inject::is_under_way(address) {
        violation!(Injection, "a clone is freed that is being injected");
    }
    heap::expect_alive(address, "a clone");
    let parent = guest::borrow(list, "a clone").ParentNetBufferList;
    heap::free(
        address,
        "FwpsFreeCloneNetBufferList0",
        observe::site(),
        |block| (block.kind != Kind::Clone).then(|| "it is no clone".into()),
    );
    guest::borrow(parent, "a net buffer list").ChildRefCount -= 1;
    dereference(parent, FALSE);
}

pub(crate) fn pending() -> Vec<String> {
    let held = entries(|entries| {
        entries
            .values()
            .filter(|entry| entry.references > 0)
            .count()
    });
    if held == 0 {
        return Vec::new();
    }
    vec![format!("{held} packets of others are referenced")]
}
