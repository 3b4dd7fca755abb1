//! Stand-ins for the kernel's functions, for the tests of this crate. They check little: what a real
//! kernel demands is checked by running the driver in a simulated one.

#![allow(
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_ptr_alignment,
    clippy::vec_box,
    reason = "code of tests, which play the kernel"
)]

use core::cell::{RefCell, UnsafeCell};
use core::mem::zeroed;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::boxed::Box;
use std::sync::{Condvar, Mutex};
use std::vec::Vec;

use kext_nt_sys::io::{self, DRIVER_CANCEL, FILE_OBJECT, IO_STACK_LOCATION, IRP};
use kext_nt_sys::ndis::{self, NET_BUFFER, NET_BUFFER_LIST};
use kext_nt_sys::types::PVOID;
use kext_nt_sys::{ex, fwps, ke};

use crate::request::Request;

/// Checks that a stand-in has the signature, and gives it the name that the linker looks for.
macro_rules! stand_in {
    ($($module:ident::$name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)+) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "win64" fn $name($($argument: $type),*) $(-> $result)? $body
        const _: $module::$name = $name;
    )+};
}

/// More than the pool has.
pub(crate) const TOO_MUCH: usize = 1 << 40;

/// What stands before a block of the pool: its length.
const HEADER: usize = 16;

static BLOCKS: AtomicIsize = AtomicIsize::new(0);

/// How many blocks of the pool are allocated.
pub(crate) fn blocks() -> isize {
    BLOCKS.load(Ordering::SeqCst)
}

fn block(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + HEADER, HEADER).unwrap()
}

std::thread_local! {
    static AT_RELEASE: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Runs something before each release of a spin lock by this thread.
pub(crate) fn at_release(run: impl Fn() + 'static) {
    AT_RELEASE.set(Some(Box::new(run)));
}

/// Where spin locks and events wait.
static WAITING: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

stand_in! {
    ex::ExAllocatePool2(_flags: u64, bytes: usize, _tag: u32) -> PVOID {
        if bytes >= TOO_MUCH {
            return core::ptr::null_mut();
        }
        BLOCKS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the layout is not empty, and the header is within it.
        unsafe {
            let start = alloc_zeroed(block(bytes));
            start.cast::<usize>().write(bytes);
            start.add(HEADER).cast()
        }
    }
    ex::ExFreePoolWithTag(value: PVOID, _tag: u32) {
        BLOCKS.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: it was allocated above.
        unsafe {
            let start = value.cast::<u8>().sub(HEADER);
            dealloc(start, block(start.cast::<usize>().read()));
        }
    }
    ke::KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> u8 {
        // SAFETY: the word lives as long as the lock.
        let word = unsafe { AtomicUsize::from_ptr(lock) };
        while word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        0
    }
    ke::KeReleaseSpinLock(lock: *mut usize, _level: u8) {
        AT_RELEASE.with_borrow(|run| run.iter().for_each(|run| run()));
        // SAFETY: the word lives as long as the lock.
        unsafe { AtomicUsize::from_ptr(lock) }.store(0, Ordering::Release);
    }
    ke::KeTryToAcquireSpinLockAtDpcLevel(lock: *mut usize) -> u8 {
        // SAFETY: the word lives as long as the lock.
        let word = unsafe { AtomicUsize::from_ptr(lock) };
        u8::from(word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok())
    }
    ke::KeRaiseIrqlToDpcLevel() -> u8 { 0 }
    ke::KeLowerIrql(_level: u8) {}
    ke::KeInitializeEvent(event: *mut ke::KEVENT, _kind: i32, state: u8) {
        // SAFETY: the event is there.
        unsafe { (*event).Header.SignalState = state.into() };
    }
    ke::KeSetEvent(event: *mut ke::KEVENT, _increment: i32, _wait: u8) -> i32 {
        let _waiting = WAITING.0.lock().unwrap();
        // SAFETY: the event is there.
        unsafe { (*event).Header.SignalState = 1 };
        WAITING.1.notify_all();
        0
    }
    ke::KeWaitForSingleObject(
        object: PVOID, _reason: i32, _mode: i8, _alertable: u8, _timeout: *mut i64
    ) -> i32 {
        let mut waiting = WAITING.0.lock().unwrap();
        // SAFETY: the object is an event, and is there.
        while unsafe { (*object.cast::<ke::KEVENT>()).Header.SignalState } == 0 {
            waiting = WAITING.1.wait(waiting).unwrap();
        }
        0
    }
    io::IofCompleteRequest(irp: *mut IRP, _boost: i8) {
        // SAFETY: every request of the tests is the first field of a `FakeIrp`.
        unsafe { (*irp.cast::<FakeIrp>()).answers.fetch_add(1, Ordering::SeqCst) };
    }
    io::IoReleaseCancelSpinLock(_level: u8) {}
}

/// A request of a test.
#[repr(C)]
pub(crate) struct FakeIrp {
    irp: UnsafeCell<IRP>,
    location: UnsafeCell<IO_STACK_LOCATION>,
    file: usize,
    answers: AtomicUsize,
}

impl FakeIrp {
    /// Of the file of this id, which is never looked at.
    pub(crate) const fn new(file: usize) -> Self {
        Self {
            // SAFETY: both are plain numbers and pointers, for which zero is a value.
            irp: unsafe { zeroed() },
            // SAFETY: as above.
            location: unsafe { zeroed() },
            file,
            answers: AtomicUsize::new(0),
        }
    }

    /// The request as the driver gets it.
    pub(crate) fn request(&self) -> Request {
        // SAFETY: the test uses the request by one value at a time.
        unsafe {
            (*self.location.get()).FileObject =
                core::ptr::without_provenance_mut::<FILE_OBJECT>(self.file);
            (*self.irp.get()).Tail.Overlay.CurrentStackLocation = self.location.get();
            Request::new((&raw const *self).cast_mut().cast())
        }
    }

    pub(crate) fn irp(&self) -> NonNull<IRP> {
        NonNull::new((&raw const *self).cast_mut().cast()).unwrap()
    }

    pub(crate) fn is_pending(&self) -> bool {
        // SAFETY: nobody writes to it meanwhile.
        unsafe { (*self.location.get()).Control & io::SL_PENDING_RETURNED != 0 }
    }

    /// The status and the bytes of its answer. More than one answer is an error of the test.
    pub(crate) fn answer(&self) -> Option<(i32, usize)> {
        let answers = self.answers.load(Ordering::SeqCst);
        assert!(answers < 2, "a request was answered {answers} times");
        // SAFETY: nobody writes to it meanwhile.
        let status = unsafe { (*self.irp.get()).IoStatus };
        (answers == 1).then_some((status.Status, status.Information))
    }

    /// The first half of `IoCancelIrp`.
    pub(crate) fn start_cancel(&self) -> Option<DRIVER_CANCEL> {
        // SAFETY: both fields are exchanged atomically, as the kernel does.
        unsafe {
            AtomicU8::from_ptr(&raw mut (*self.irp.get()).Cancel).store(1, Ordering::SeqCst);
            let place = (&raw mut (*self.irp.get()).CancelRoutine).cast::<*mut ()>();
            let routine = AtomicPtr::from_ptr(place).swap(core::ptr::null_mut(), Ordering::SeqCst);
            core::mem::transmute::<*mut (), Option<DRIVER_CANCEL>>(routine)
        }
    }

    /// The second half.
    pub(crate) fn finish_cancel(&self, routine: DRIVER_CANCEL) {
        // SAFETY: the routine is the driver's, for this request.
        unsafe { routine(core::ptr::null_mut(), self.irp().as_ptr()) };
    }

    /// `IoCancelIrp`.
    pub(crate) fn cancel(&self) {
        if let Some(routine) = self.start_cancel() {
            self.finish_cancel(routine);
        }
    }
}

std::thread_local! {
    /// Memory descriptor lists of a test, which runs in a thread of its own.
    static MDLS: core::cell::Cell<isize> = const { core::cell::Cell::new(0) };
}

/// How many memory descriptor lists this test has.
pub(crate) fn mdls() -> isize {
    MDLS.get()
}

stand_in! {
    io::IoAllocateMdl(
        _start: PVOID, _len: u32, _secondary: u8, _quota: u8, _irp: *mut IRP
    ) -> *mut io::MDL {
        MDLS.set(MDLS.get() + 1);
        // SAFETY: plain numbers and pointers, for which zero is a value.
        Box::into_raw(Box::new(unsafe { zeroed() }))
    }
    io::IoFreeMdl(mdl: *mut io::MDL) {
        MDLS.set(MDLS.get() - 1);
        // SAFETY: it was allocated above.
        drop(unsafe { Box::from_raw(mdl) });
    }
    io::MmBuildMdlForNonPagedPool(_mdl: *mut io::MDL) {}
}

std::thread_local! {
    /// Operations that a test holds, and whether none may be.
    static OPERATIONS: core::cell::Cell<isize> = const { core::cell::Cell::new(0) };
    static REFUSE_OPERATIONS: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
}

/// How many operations this test holds.
pub(crate) fn operations() -> isize {
    OPERATIONS.get()
}

/// Whether operations cannot be held from now on.
pub(crate) fn refuse_operations(refuse: bool) {
    REFUSE_OPERATIONS.set(refuse);
}

stand_in! {
    fwps::FwpsPendOperation0(handle: PVOID, context: *mut PVOID) -> i32 {
        if REFUSE_OPERATIONS.get() {
            return kext_nt_sys::status::STATUS_FWP_TCPIP_NOT_READY;
        }
        OPERATIONS.set(OPERATIONS.get() + 1);
        // SAFETY: the caller has a place for it.
        unsafe { context.write(handle) };
        0
    }
    fwps::FwpsCompleteOperation0(_context: PVOID, list: *mut NET_BUFFER_LIST) {
        assert!(list.is_null());
        OPERATIONS.set(OPERATIONS.get() - 1);
    }
}

/// Net buffer lists of a test.
pub(crate) struct FakePackets {
    lists: Vec<Box<FakeList>>,
    buffers: Vec<Box<NET_BUFFER>>,
    starts: Vec<(u32, u32)>,
    pieces: Vec<Box<(io::MDL, Vec<u8>)>>,
}

#[repr(C)]
struct FakeList {
    list: NET_BUFFER_LIST,
    info: [PVOID; 11],
}

impl FakePackets {
    /// Lists of packets of pieces; the data begin after so many bytes of each packet.
    pub(crate) fn new(lists: &[&[&[&[u8]]]], start: u32) -> Self {
        let mut made = Self {
            lists: Vec::new(),
            buffers: Vec::new(),
            starts: Vec::new(),
            pieces: Vec::new(),
        };
        let mut next_list = core::ptr::null_mut();
        for packets in lists.iter().rev() {
            let mut next_buffer = core::ptr::null_mut();
            for pieces in packets.iter().rev() {
                let mut mdl = core::ptr::null_mut();
                for bytes in pieces.iter().rev() {
                    // SAFETY: plain numbers and pointers, for which zero is a value.
                    let mut piece = Box::new((unsafe { zeroed::<io::MDL>() }, bytes.to_vec()));
                    piece.0.Next = mdl;
                    piece.0.ByteCount = bytes.len() as u32;
                    piece.0.MappedSystemVa = piece.1.as_mut_ptr().cast();
                    mdl = &raw mut piece.0;
                    made.pieces.push(piece);
                }
                let len: usize = pieces.iter().map(|bytes| bytes.len()).sum();
                // SAFETY: as above.
                let mut buffer = Box::new(unsafe { zeroed::<NET_BUFFER>() });
                buffer.Next = next_buffer;
                buffer.MdlChain = mdl;
                buffer.DataOffset = start;
                buffer.DataLength = len as u32 - start;
                place(&mut buffer);
                next_buffer = &raw mut *buffer;
                made.starts.push((start, buffer.DataLength));
                made.buffers.push(buffer);
            }
            // SAFETY: as above; this one may not be allocated by Windows' rules, but is ours.
            let mut list = Box::new(unsafe { zeroed::<FakeList>() });
            list.list.Next = next_list;
            list.list.FirstNetBuffer = next_buffer;
            next_list = (&raw mut *list).cast();
            made.lists.push(list);
        }
        made
    }

    pub(crate) fn first(&self) -> *mut NET_BUFFER_LIST {
        self.lists.last().map_or(core::ptr::null_mut(), |list| {
            (&raw const **list).cast_mut().cast()
        })
    }

    /// What was left to the network card.
    pub(crate) fn set_checksums(&self, bits: u32) {
        let entry = core::ptr::without_provenance_mut(bits as usize);
        for list in &self.lists {
            // SAFETY: the list is the test's, and nobody reads it meanwhile.
            unsafe { (*(&raw const **list).cast_mut()).info[0] = entry };
        }
    }

    pub(crate) fn are_as_before(&self) -> bool {
        let now = self
            .buffers
            .iter()
            .map(|buffer| (buffer.DataOffset, buffer.DataLength));
        now.eq(self.starts.iter().copied())
    }
}

/// Puts the data's start at `DataOffset` bytes into the chain.
fn place(buffer: &mut NET_BUFFER) {
    let (mut mdl, mut offset) = (buffer.MdlChain, buffer.DataOffset);
    // SAFETY: the pieces are the test's.
    while let Some(piece) = unsafe { mdl.as_ref() }
        && offset >= piece.ByteCount
    {
        offset -= piece.ByteCount;
        mdl = piece.Next;
    }
    buffer.CurrentMdl = mdl;
    buffer.CurrentMdlOffset = offset;
}

stand_in! {
    ndis::NdisRetreatNetBufferDataStart(
        buffer: *mut NET_BUFFER, by: u32, _back_fill: u32,
        _allocate: Option<ndis::NET_BUFFER_ALLOCATE_MDL_HANDLER>
    ) -> i32 {
        // SAFETY: the buffer is the test's.
        let buffer = unsafe { &mut *buffer };
        buffer.DataOffset = buffer.DataOffset.checked_sub(by).unwrap();
        buffer.DataLength += by;
        place(buffer);
        0
    }
    ndis::NdisAdvanceNetBufferDataStart(
        buffer: *mut NET_BUFFER, by: u32, frees: u8,
        _handler: Option<ndis::NET_BUFFER_FREE_MDL_HANDLER>
    ) {
        assert_eq!(frees, 0);
        // SAFETY: the buffer is the test's.
        let buffer = unsafe { &mut *buffer };
        buffer.DataOffset += by;
        buffer.DataLength -= by;
        place(buffer);
    }
    ndis::NdisGetDataBuffer(
        buffer: *mut NET_BUFFER, bytes: u32, storage: PVOID, _multiple: u32, _offset: u32
    ) -> PVOID {
        // SAFETY: the buffer and its pieces are the test's.
        unsafe {
            if bytes > (*buffer).DataLength {
                return core::ptr::null_mut();
            }
            let (mut skip, mut left) = ((*buffer).DataOffset as usize, bytes as usize);
            let mut to = storage.cast::<u8>();
            let mut mdl = (*buffer).MdlChain;
            while !mdl.is_null() {
                let count = (*mdl).ByteCount as usize;
                let from = (*mdl).MappedSystemVa.cast::<u8>();
                mdl = (*mdl).Next;
                if skip >= count {
                    skip -= count;
                    continue;
                }
                let here = (count - skip).min(left);
                if left == bytes as usize && here == left {
                    return from.add(skip).cast();
                }
                if storage.is_null() {
                    return core::ptr::null_mut();
                }
                core::ptr::copy_nonoverlapping(from.add(skip), to, here);
                to = to.add(here);
                left -= here;
                skip = 0;
                if left == 0 {
                    return storage;
                }
            }
            core::ptr::null_mut()
        }
    }
}
