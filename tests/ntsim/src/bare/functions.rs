//! What the measured paths call, as short as it can be.
//!
//! Nothing here calls a function of this process that could be left out: the two calling conventions save
//! different registers, so that each such call costs as much as ten stores.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kext_nt_sys::fwps::{
    FWPS_INJECT_COMPLETE0, FWPS_PACKET_INJECTED_BY_SELF, FWPS_PACKET_INJECTION_STATE,
    FWPS_PACKET_NOT_INJECTED,
};
use kext_nt_sys::io::{IRP, MDL};
use kext_nt_sys::ke::{DISPATCH_LEVEL, KIRQL, KSPIN_LOCK, PROCESSOR_NUMBER};
use kext_nt_sys::ndis::{
    NDIS_STATUS, NDIS_STATUS_RESOURCES, NDIS_STATUS_SUCCESS, NET_BUFFER,
    NET_BUFFER_ALLOCATE_MDL_HANDLER, NET_BUFFER_FREE_MDL_HANDLER, NET_BUFFER_LIST,
};
use kext_nt_sys::status::{NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS};
use kext_nt_sys::types::{BOOLEAN, HANDLE, PVOID, TRUE};

use super::shown;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::heap::{self, Kind};
use crate::irp;
use crate::wfp::ndis;

implements! {
    ke::KeRaiseIrqlToDpcLevel = raise;
    ke::KeLowerIrql = lower;
    ke::KeAcquireSpinLockRaiseToDpc = acquire;
    ke::KeReleaseSpinLock = release;
    ke::KeGetCurrentProcessorNumberEx = processor;
    ke::KeQueryInterruptTimePrecise = interrupt_time;
    ndis::NdisRetreatNetBufferDataStart = retreat;
    ndis::NdisAdvanceNetBufferDataStart = advance;
    ndis::NdisGetDataBuffer = data_buffer;
    fwps::FwpsQueryPacketInjectionState0 = injection_state;
    fwps::FwpsAllocateNetBufferAndNetBufferList0 = allocate_list;
    fwps::FwpsFreeNetBufferList0 = free_list;
    fwps::FwpsInjectNetworkSendAsync0 = send;
    fwps::FwpsInjectNetworkReceiveAsync0 = receive;
    io::IofCompleteRequest = complete;
}

extern "win64" fn raise() -> KIRQL {
    cpu::set_irql(DISPATCH_LEVEL)
}

extern "win64" fn lower(new: KIRQL) {
    cpu::set_irql(new);
    if new < DISPATCH_LEVEL && dispatcher::has_dpcs() {
        dispatcher::drain_dpcs();
    }
}

fn word<'a>(lock: *mut KSPIN_LOCK) -> &'a AtomicUsize {
    // SAFETY: an aligned word that the driver shares only as a lock.
    unsafe { AtomicUsize::from_ptr(lock) }
}

extern "win64" fn acquire(lock: *mut KSPIN_LOCK) -> KIRQL {
    let old = cpu::set_irql(DISPATCH_LEVEL);
    let word = word(lock);
    while word.swap(1, Ordering::Acquire) != 0 {
        while word.load(Ordering::Relaxed) != 0 {
            spin_loop();
        }
    }
    old
}

extern "win64" fn release(lock: *mut KSPIN_LOCK, new: KIRQL) {
    word(lock).store(0, Ordering::Release);
    lower(new);
}

extern "win64" fn processor(number: *mut PROCESSOR_NUMBER) -> u32 {
    let processor = cpu::own_processor();
    // SAFETY: null, or a place for the answer.
    if let Some(number) = unsafe { number.as_mut() } {
        *number = PROCESSOR_NUMBER {
            Group: 0,
            Number: processor as u8,
            Reserved: 0,
        };
    }
    processor as u32
}

extern "win64" fn interrupt_time(stamp: *mut u64) -> u64 {
    let now = dispatcher::now();
    // SAFETY: a place for the answer.
    unsafe { stamp.write(now) };
    now
}

/// Puts the data's start at `DataOffset` bytes into the chain.
fn place(buffer: &mut NET_BUFFER) {
    let (mut piece, mut offset) = (buffer.MdlChain, buffer.DataOffset);
    // SAFETY: the pieces of a packet end in null.
    while let Some(this) = unsafe { piece.as_ref() }
        && offset >= this.ByteCount
        && !this.Next.is_null()
    {
        offset -= this.ByteCount;
        piece = this.Next;
    }
    buffer.CurrentMdl = piece;
    buffer.CurrentMdlOffset = offset;
}

extern "win64" fn retreat(
    buffer: *mut NET_BUFFER,
    by: u32,
    _: u32,
    _: Option<NET_BUFFER_ALLOCATE_MDL_HANDLER>,
) -> NDIS_STATUS {
    // SAFETY: the driver was shown the packet.
    let buffer = unsafe { &mut *buffer };
    if by > buffer.DataOffset {
        return NDIS_STATUS_RESOURCES;
    }
    buffer.DataOffset -= by;
    buffer.DataLength += by;
    place(buffer);
    NDIS_STATUS_SUCCESS
}

extern "win64" fn advance(
    buffer: *mut NET_BUFFER,
    by: u32,
    _: BOOLEAN,
    _: Option<NET_BUFFER_FREE_MDL_HANDLER>,
) {
    // SAFETY: as above.
    let buffer = unsafe { &mut *buffer };
    buffer.DataOffset += by;
    buffer.DataLength -= by;
    place(buffer);
}

extern "win64" fn data_buffer(
    buffer: *mut NET_BUFFER,
    needed: u32,
    storage: PVOID,
    _: u32,
    _: u32,
) -> PVOID {
    // SAFETY: the driver was shown the packet, whose pieces are mapped.
    unsafe {
        let buffer = &*buffer;
        if needed == 0 || needed > buffer.DataLength {
            return std::ptr::null_mut();
        }
        let mut piece = buffer.CurrentMdl;
        let mut skip = buffer.CurrentMdlOffset as usize;
        let start = (*piece).MappedSystemVa.cast::<u8>().add(skip);
        if skip + needed as usize <= (*piece).ByteCount as usize {
            return start.cast();
        }
        if storage.is_null() {
            return std::ptr::null_mut();
        }
        let mut to = storage.cast::<u8>();
        let mut left = needed as usize;
        while left > 0 {
            let count = ((*piece).ByteCount as usize - skip).min(left);
            let from = (*piece).MappedSystemVa.cast::<u8>().add(skip);
            to.copy_from_nonoverlapping(from, count);
            to = to.add(count);
            left -= count;
            skip = 0;
            piece = (*piece).Next;
        }
        storage
    }
}

/// Where a list says who has injected it: the handle, and its context.
const MARK: [usize; 2] = [28, 29];

extern "win64" fn injection_state(
    handle: HANDLE,
    list: *const NET_BUFFER_LIST,
    context: *mut HANDLE,
) -> FWPS_PACKET_INJECTION_STATE {
    let [by, mark] = MARK.map(|entry| ndis::info(list.cast_mut(), entry));
    // SAFETY: the driver was shown the list, which has these entries.
    if unsafe { by.read() } != handle.addr() {
        return FWPS_PACKET_NOT_INJECTED;
    }
    // SAFETY: as above; there is a place for the answer.
    unsafe { context.write(std::ptr::with_exposed_provenance_mut(mark.read())) };
    FWPS_PACKET_INJECTED_BY_SELF
}

/// Lists that are free, as a chain, under a lock of its own.
static TAKEN: AtomicBool = AtomicBool::new(false);
static FREE: AtomicUsize = AtomicUsize::new(0);
/// As many as ever are in use at once.
const LISTS: usize = 2_048;

fn with_free<R>(work: impl FnOnce() -> R) -> R {
    while TAKEN.swap(true, Ordering::Acquire) {
        spin_loop();
    }
    let result = work();
    TAKEN.store(false, Ordering::Release);
    result
}

/// Makes the lists that packets are injected with.
pub(super) fn make_lists() {
    let size = ndis::LIST_SIZE.next_multiple_of(16) + size_of::<NET_BUFFER>();
    for _ in 0..LISTS {
        let memory = heap::allocate(Kind::Lent, size, 0);
        // SAFETY: the block is that long.
        unsafe { memory.write_bytes(0, size) };
        give_back(memory.cast());
    }
}

fn give_back(list: *mut NET_BUFFER_LIST) {
    with_free(|| {
        let next = FREE.swap(list.expose_provenance(), Ordering::Relaxed);
        // SAFETY: a list that nobody uses.
        unsafe { (*list).Next = std::ptr::with_exposed_provenance_mut(next) };
    });
}

extern "win64" fn allocate_list(
    _: HANDLE,
    _: u16,
    _: u16,
    mdls: *mut MDL,
    offset: u32,
    length: usize,
    result: *mut *mut NET_BUFFER_LIST,
) -> NTSTATUS {
    let list: *mut NET_BUFFER_LIST = with_free(|| {
        let list: *mut NET_BUFFER_LIST =
            std::ptr::with_exposed_provenance_mut(FREE.load(Ordering::Relaxed));
        // SAFETY: null, or a list that nobody uses.
        if let Some(first) = unsafe { list.as_ref() } {
            FREE.store(first.Next.addr(), Ordering::Relaxed);
        }
        list
    });
    if list.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the list is of `make_lists`, with one buffer behind it; the driver wants it there.
    unsafe {
        let buffer: *mut NET_BUFFER = list
            .cast::<u8>()
            .add(ndis::LIST_SIZE.next_multiple_of(16))
            .cast();
        (*list).Next = std::ptr::null_mut();
        (*list).FirstNetBuffer = buffer;
        (*buffer).MdlChain = mdls;
        (*buffer).DataOffset = offset;
        (*buffer).DataLength = length as u32;
        place(&mut *buffer);
        for entry in MARK {
            ndis::info(list, entry).write(0);
        }
        result.write(list);
    }
    STATUS_SUCCESS
}

extern "win64" fn free_list(list: *mut NET_BUFFER_LIST) {
    give_back(list);
}

thread_local! {
    /// How many packets were injected by this thread.
    static INJECTED: Cell<u64> = const { Cell::new(0) };
}

/// How many packets this thread has injected.
pub(super) fn injected() -> u64 {
    INJECTED.get()
}

extern "win64" fn send(
    handle: HANDLE,
    context: HANDLE,
    _: u32,
    _: u32,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    inject(handle, context, list, complete, argument)
}

extern "win64" fn receive(
    handle: HANDLE,
    context: HANDLE,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    inject(handle, context, list, complete, argument)
}

/// The packet is shown again, then it has left.
fn inject(
    handle: HANDLE,
    context: HANDLE,
    list: *mut NET_BUFFER_LIST,
    complete: FWPS_INJECT_COMPLETE0,
    argument: HANDLE,
) -> NTSTATUS {
    let marks = [handle.addr(), context.expose_provenance()];
    // SAFETY: the list is one of ours; what ends it was given for it.
    unsafe {
        for (entry, mark) in MARK.into_iter().zip(marks) {
            ndis::info(list, entry).write(mark);
        }
        shown::show_again(list);
        INJECTED.set(INJECTED.get() + 1);
        (*list).Status = NDIS_STATUS_SUCCESS;
        complete(argument, list, TRUE);
    }
    STATUS_SUCCESS
}

/// `IRP::AllocationFlags` of a request that is sent many times.
pub(super) const REUSED: u8 = 0x5a;

extern "win64" fn complete(irp: *mut IRP, boost: i8) {
    // SAFETY: the driver was sent the request. Behind its last location it is complete.
    unsafe {
        if (*irp).AllocationFlags != REUSED {
            return irp::complete(irp, boost);
        }
        (*irp).CurrentLocation = (*irp).StackCount + 1;
    }
}
