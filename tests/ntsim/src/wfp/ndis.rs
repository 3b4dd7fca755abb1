//! Net buffers: where their data starts, how it is read, and lists that the driver makes.

use std::collections::HashMap;

use kext_nt_sys::io::{MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL};
use kext_nt_sys::ndis::*;
use kext_nt_sys::status::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use kext_nt_sys::types::{BOOLEAN, FALSE, HANDLE, PVOID};
use parking_lot::Mutex;

use super::inject;
use super::lent;
use crate::check::violation;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::mdl;
use crate::observe;

implements! {
    [null] ndis::NdisAllocateNetBufferListPool = allocate_pool;
    ndis::NdisFreeNetBufferListPool = free_pool;
    [status] ndis::NdisRetreatNetBufferDataStart = retreat;
    ndis::NdisAdvanceNetBufferDataStart = advance;
    [status] ndis::NdisRetreatNetBufferListDataStart = retreat_list;
    ndis::NdisAdvanceNetBufferListDataStart = advance_list;
    [null] ndis::NdisGetDataBuffer = data_buffer;
    ndis::NdisCopySendNetBufferListInfo = copy_info;
    ndis::NdisCopyReceiveNetBufferListInfo = copy_info;
    [status] fwps::FwpsAllocateNetBufferAndNetBufferList0 = allocate_list;
    fwps::FwpsFreeNetBufferList0 = free_list;
}

/// Entries of `NetBufferListInfo` here.
const INFO: usize = 30;
/// A list with what follows its known part.
pub(crate) const LIST_SIZE: usize = size_of::<NET_BUFFER_LIST>() + INFO * 8;

#[derive(Clone, Copy, Debug)]
struct Pool {
    with_buffer: bool,
    live: usize,
}

static POOLS: Mutex<Option<HashMap<usize, Pool>>> = Mutex::new(None);

fn pools<R>(work: impl FnOnce(&mut HashMap<usize, Pool>) -> R) -> R {
    work(POOLS.lock().get_or_insert_default())
}

extern "win64" fn allocate_pool(
    _: HANDLE,
    parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
) -> HANDLE {
    let parameters = guest::read(parameters, "parameters of a pool");
    let header = parameters.Header;
    if header.Type != NDIS_OBJECT_TYPE_DEFAULT
        || header.Revision != NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1
        || usize::from(header.Size) < size_of::<NET_BUFFER_LIST_POOL_PARAMETERS>()
    {
        violation!(NetBuffer, "a pool with a header of {header:?}");
    }
    if parameters.PoolTag == 0 || !parameters.ContextSize.is_multiple_of(16) {
        violation!(
            NetBuffer,
            "a pool without tag, or with a context of a wrong size"
        );
    }
    let pool = heap::allocate(Kind::NetBufferListPool, 64, observe::site());
    let with_buffer = parameters.fAllocateNetBuffer != FALSE && parameters.DataSize == 0;
    pools(|pools| {
        pools.insert(
            pool.expose_provenance(),
            Pool {
                with_buffer,
                live: 0,
            },
        )
    });
    pool.cast()
}

extern "win64" fn free_pool(pool: HANDLE) {
    let address = pool.expose_provenance();
    heap::free(
        address,
        "NdisFreeNetBufferListPool",
        observe::site(),
        |block| (block.kind != Kind::NetBufferListPool).then(|| "it is no such pool".into()),
    );
    let pool = pools(|pools| pools.remove(&address)).expect("each has an entry");
    if pool.live > 0 {
        violation!(
            NetBuffer,
            "a pool is freed of which {} lists are in use",
            pool.live
        );
    }
}

/// The MDLs of a chain.
pub(crate) fn chain(first: *mut MDL) -> impl Iterator<Item = *mut MDL> {
    let mut next = first;
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        let this = next;
        heap::expect_alive(this.addr(), "an MDL of a net buffer");
        next = guest::read(this, "an MDL").Next;
        Some(this)
    })
}

/// Puts the data's start at `DataOffset` bytes into the chain.
fn place(buffer: &mut NET_BUFFER) {
    let mut offset = buffer.DataOffset;
    let mut last = buffer.MdlChain;
    for mdl in chain(buffer.MdlChain) {
        last = mdl;
        let count = guest::read(mdl, "an MDL").ByteCount;
        if offset < count {
            break;
        }
        if guest::read(mdl, "an MDL").Next.is_null() {
            break;
        }
        offset -= count;
    }
    buffer.CurrentMdl = last;
    buffer.CurrentMdlOffset = offset;
}

fn alive<'a>(buffer: *mut NET_BUFFER) -> &'a mut NET_BUFFER {
    heap::expect_alive(buffer.addr(), "a net buffer");
    guest::borrow(buffer, "a net buffer")
}

/// Moves back only where the packet has the memory; else it fails, as it may.
extern "win64" fn retreat(
    buffer: *mut NET_BUFFER,
    delta: u32,
    _: u32,
    _: Option<NET_BUFFER_ALLOCATE_MDL_HANDLER>,
) -> NDIS_STATUS {
    let buffer = alive(buffer);
    if delta > buffer.DataOffset {
        return NDIS_STATUS_RESOURCES;
    }
    buffer.DataOffset -= delta;
    buffer.DataLength += delta;
    place(buffer);
    NDIS_STATUS_SUCCESS
}

extern "win64" fn advance(
    buffer: *mut NET_BUFFER,
    delta: u32,
    _: BOOLEAN,
    _: Option<NET_BUFFER_FREE_MDL_HANDLER>,
) {
    let buffer = alive(buffer);
    if delta > buffer.DataLength {
        violation!(
            NetBuffer,
            "the start is moved by {delta} bytes, beyond the end of {} bytes",
            buffer.DataLength
        );
    }
    buffer.DataOffset += delta;
    buffer.DataLength -= delta;
    place(buffer);
}

/// The net buffers of a list.
pub(crate) fn buffers(list: *mut NET_BUFFER_LIST) -> Vec<*mut NET_BUFFER> {
    heap::expect_alive(list.addr(), "a net buffer list");
    let mut buffers = Vec::new();
    let mut next = guest::borrow(list, "a net buffer list").FirstNetBuffer;
    while !next.is_null() {
        buffers.push(next);
        next = alive(next).Next;
    }
    buffers
}

extern "win64" fn retreat_list(
    list: *mut NET_BUFFER_LIST,
    delta: u32,
    fill: u32,
    allocate: Option<NET_BUFFER_ALLOCATE_MDL_HANDLER>,
    _: Option<NET_BUFFER_FREE_MDL_HANDLER>,
) -> NDIS_STATUS {
    let buffers = buffers(list);
    for (at, buffer) in buffers.iter().enumerate() {
        if retreat(*buffer, delta, fill, allocate) != NDIS_STATUS_SUCCESS {
            for done in &buffers[..at] {
                advance(*done, delta, FALSE, None);
            }
            return NDIS_STATUS_RESOURCES;
        }
    }
    NDIS_STATUS_SUCCESS
}

extern "win64" fn advance_list(
    list: *mut NET_BUFFER_LIST,
    delta: u32,
    free: BOOLEAN,
    handler: Option<NET_BUFFER_FREE_MDL_HANDLER>,
) {
    for buffer in buffers(list) {
        advance(buffer, delta, free, handler);
    }
}

/// Pieces of memory of a net buffer's data, from its start on.
pub(crate) fn pieces(buffer: &NET_BUFFER) -> Vec<(usize, usize)> {
    let mut left = buffer.DataLength as usize;
    let mut skip = buffer.CurrentMdlOffset as usize;
    let mut pieces = Vec::new();
    for mdl in chain(buffer.CurrentMdl) {
        if left == 0 {
            break;
        }
        let mdl = guest::read(mdl, "an MDL");
        if mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) == 0 {
            violation!(NetBuffer, "an MDL of a net buffer was not built");
        }
        let count = (mdl.ByteCount as usize).saturating_sub(skip).min(left);
        if count > 0 {
            pieces.push((mdl::start(&mdl) + skip, count));
        }
        skip = skip.saturating_sub(mdl.ByteCount as usize);
        left -= count;
    }
    if left > 0 {
        violation!(
            NetBuffer,
            "a net buffer says {left} bytes more than its MDLs have"
        );
    }
    pieces
}

fn memory<'a>(address: usize, length: usize) -> &'a [u8] {
    heap::expect_alive(address, "the data of a net buffer");
    guest::bytes(
        std::ptr::with_exposed_provenance(address),
        length,
        "the data of a net buffer",
    )
}

/// The bytes of a net buffer.
pub(crate) fn data(buffer: &NET_BUFFER) -> Vec<u8> {
    pieces(buffer)
        .iter()
        .flat_map(|(address, length)| memory(*address, *length))
        .copied()
        .collect()
}

extern "win64" fn data_buffer(
    buffer: *mut NET_BUFFER,
    needed: u32,
    storage: PVOID,
    _: u32,
    _: u32,
) -> PVOID {
    let buffer = alive(buffer);
    if needed > buffer.DataLength || needed == 0 {
        return std::ptr::null_mut();
    }
    let needed = needed as usize;
    let pieces = pieces(buffer);
    if pieces[0].1 >= needed {
        return std::ptr::with_exposed_provenance_mut(pieces[0].0);
    }
    if storage.is_null() {
        return std::ptr::null_mut();
    }
    let target = guest::bytes_mut(storage.cast(), needed, "the storage of NdisGetDataBuffer");
    let mut at = 0;
    for (address, length) in pieces {
        let length = length.min(needed - at);
        target[at..at + length].copy_from_slice(memory(address, length));
        at += length;
    }
    storage
}

/// An entry of `NetBufferListInfo`.
pub(crate) fn info(list: *mut NET_BUFFER_LIST, index: usize) -> *mut usize {
    list.cast::<u8>()
        .wrapping_add(size_of::<NET_BUFFER_LIST>() + index * 8)
        .cast()
}

extern "win64" fn copy_info(to: *mut NET_BUFFER_LIST, from: *mut NET_BUFFER_LIST) {
    for index in 0..INFO {
        let value = guest::read(info(from, index), "what is known of a packet");
        guest::write(info(to, index), value, "what is known of a packet");
    }
}

/// Fills a list and its buffers, one behind the other in one block.
pub(crate) fn build(
    kind: Kind,
    pool: HANDLE,
    buffers: &[(*mut MDL, usize, usize)],
) -> *mut NET_BUFFER_LIST {
    let header = LIST_SIZE.next_multiple_of(16);
    let size = header + buffers.len() * size_of::<NET_BUFFER>();
    let memory = heap::allocate(kind, size, observe::site());
    // SAFETY: the block is that long.
    unsafe { memory.write_bytes(0, size) };
    let list: *mut NET_BUFFER_LIST = memory.cast();
    let known = guest::borrow(list, "a net buffer list");
    known.NdisPoolHandle = pool;
    let mut link = &raw mut known.FirstNetBuffer;
    for (at, (mdls, offset, length)) in buffers.iter().enumerate() {
        let buffer: *mut NET_BUFFER = memory
            .wrapping_add(header + at * size_of::<NET_BUFFER>())
            .cast();
        guest::write(link, buffer, "a net buffer list");
        let known = guest::borrow(buffer, "a net buffer");
        known.MdlChain = *mdls;
        known.DataOffset = *offset as u32;
        known.DataLength = *length as u32;
        known.NdisPoolHandle = pool;
        place(known);
        link = &raw mut known.Next;
    }
    list
}

/// Counts a list of a pool in or out.
pub(crate) fn count(pool: HANDLE, more: bool, what: &str) {
    pools(|pools| match pools.get_mut(&pool.addr()) {
        Some(pool) if more => pool.live += 1,
        Some(pool) => pool.live -= 1,
        None => violation!(NetBuffer, "{what} with {pool:p}, which is no pool"),
    });
}

extern "win64" fn allocate_list(
    pool: HANDLE,
    _: u16,
    _: u16,
    mdls: *mut MDL,
    offset: u32,
    length: usize,
    result: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    let with_buffer = pools(|pools| pools.get(&pool.addr()).map(|pool| pool.with_buffer));
    match with_buffer {
        Some(true) => {}
        Some(false) => return STATUS_INVALID_PARAMETER,
        None => violation!(NetBuffer, "a list of {pool:p}, which is no pool"),
    }
    let room: usize = chain(mdls)
        .map(|mdl| guest::read(mdl, "an MDL").ByteCount as usize)
        .sum();
    if offset as usize + length > room {
        violation!(
            NetBuffer,
            "a list of {length} bytes at {offset}; its MDLs have {room} bytes"
        );
    }
    count(pool, true, "a list");
    let list = build(
        Kind::NetBufferList,
        pool,
        &[(mdls, offset as usize, length)],
    );
    guest::write(result, list, "a net buffer list");
    STATUS_SUCCESS
}

extern "win64" fn free_list(list: *mut NET_BUFFER_LIST) {
    let address = list.expose_provenance();
    if heap::find(address).is_some_and(|block| block.kind == Kind::NetBufferList) {
        if inject::is_under_way(address) {
            violation!(
                Injection,
                "a net buffer list is freed that is being injected"
            );
        }
        count(
            guest::borrow(list, "a net buffer list").NdisPoolHandle,
            false,
            "a list",
        );
    }
    if lent::is_lent(address) {
        violation!(
            NetBuffer,
            "a net buffer list is freed that was lent to a callout"
        );
    }
    heap::free(
        address,
        "FwpsFreeNetBufferList0",
        observe::site(),
        |block| {
            (block.kind != Kind::NetBufferList)
                .then(|| "it is no net buffer list of the driver".into())
        },
    );
}
