//! The defects, each a few lines of wrong code.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

use kext_nt_sys::ex::*;
use kext_nt_sys::io::*;
use kext_nt_sys::ke::*;
use kext_nt_sys::ps::PsCreateSystemThread;
use kext_nt_sys::status::*;
use kext_nt_sys::types::*;

use crate::device::{DEVICE_OBJECT_, LOCK, complete, has_callouts, is, location};
use crate::names::{OTHER, counted};
use crate::wfp;

macro_rules! defects {
    ($($(#[doc = $doc:literal])* $name:ident,)+) => {
        /// What is wrong with the driver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Defect { $($(#[doc = $doc])* $name,)+ }

        impl Defect {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

defects! {
    /// Nothing.
    None,
    /// Waits at `DISPATCH_LEVEL`.
    WaitAtDispatch,
    /// Calls a function for `PASSIVE_LEVEL` at `DISPATCH_LEVEL`.
    PassiveCallAtDispatch,
    /// A dispatch routine comes back at `DISPATCH_LEVEL`.
    ReturnsAtDispatch,
    /// Lowers the level below that of its caller.
    LowersTooFar,
    /// Paged memory at `DISPATCH_LEVEL`.
    PagedAtDispatch,
    /// A block is not freed.
    PoolLeak,
    /// A block is freed twice.
    PoolFreedTwice,
    /// A block is freed with another tag.
    PoolWrongTag,
    /// One byte too many is written.
    PoolOverrun,
    /// One byte in front is written.
    PoolUnderrun,
    /// The tag is zero.
    PoolNoTag,
    /// Memory that can be executed.
    PoolExecutable,
    /// An address inside a block is freed.
    PoolFreedInside,
    /// A block is written to after it was freed.
    WriteAfterFree,
    /// A block is read after it was freed.
    ReadAfterFree,
    /// A lock is kept when a dispatch routine returns.
    LockKept,
    /// A lock is taken twice.
    LockTwice,
    /// A lock is released that is not held.
    LockNotHeld,
    /// A lock is released to another level.
    LockWrongLevel,
    /// Two locks are taken in both orders.
    LockOrder,
    /// A lock holds something else.
    LockUninitialised,
    /// The level is lowered while a lock is held.
    LowersWithLock,
    /// A queued lock is released by another handle.
    LockOtherHandle,
    /// A request is completed while a lock is held.
    CompletesUnderLock,
    /// A request is completed twice.
    IrpTwice,
    /// A request is not completed.
    IrpNever,
    /// A request is pended and not marked.
    IrpPendedUnmarked,
    /// A request is marked and the routine returns success.
    IrpMarkedButNotPended,
    /// A request is written to after its completion.
    IrpWrittenAfter,
    /// A request is read after its completion.
    IrpReadAfter,
    /// More bytes are returned than there is room for.
    IrpTooManyBytes,
    /// Bytes are returned that nobody has written.
    IrpUnwrittenBytes,
    /// Another status is returned than the request has.
    IrpOtherStatus,
    /// A request is completed with `STATUS_PENDING`.
    IrpCompletedPending,
    /// The system buffer is overrun.
    IrpBufferOverrun,
    /// CLEANUP leaves a request pended.
    CleanupForgets,
    /// A request is completed that has a cancel routine.
    CancelRoutineLeft,
    /// A cancel routine keeps the cancel spin lock.
    CancelKeepsLock,
    /// A cancel routine does not complete its request.
    CancelForgets,
    /// A timer is set at unload.
    TimerLeft,
    /// A block with a timer that is set is freed.
    TimerFreed,
    /// An event is used that was never initialised.
    EventUninitialised,
    /// A wait for what nobody does.
    WaitsForEver,
    /// Rundown protection is released once too often.
    RundownReleasedTwice,
    /// A work item is freed while it is queued.
    WorkItemFreedQueued,
    /// A work item is not freed.
    WorkItemLeft,
    /// A thread of the driver runs at unload.
    ThreadLeft,
    /// A handle is open at unload.
    HandleLeft,
    /// The device is there after unload.
    DeviceLeft,
    /// The symbolic link is there after unload.
    LinkLeft,
    /// `DriverEntry` fails, and the device is there.
    DeviceLeftByFailedEntry,
    /// There is no unload routine.
    NoUnload,
    /// A device is deleted twice.
    DeviceDeletedTwice,
    /// Far too much stack.
    StackHog,
    /// A function that is not there.
    NotThere,
    /// A null pointer.
    NullPointer,
    /// Writes to its constants.
    WritesConstants,
    /// Writes the register of the level.
    WritesLevelRegister,
    /// A string without an address.
    NullArgument,
    /// Panics.
    Panics,
    /// Checks nothing that an allocation returns.
    AllocationUnchecked,
    /// Nothing: every packet is absorbed and injected again. From here on there are callouts.
    Bounces,
    /// None: it permits every packet, with the calls that the shipped driver makes for one of a cached
    /// flow, but for the lock of the flow, and does nothing else. For benches.
    OnlyCalls,
    /// The start of a packet is moved and not moved back.
    StartNotMovedBack,
    /// A packet that was lent is changed.
    ChangesLent,
    /// A packet that was lent is written to when the callout has returned.
    WritesLentLater,
    /// A packet that was lent is read when the callout has returned.
    ReadsLentLater,
    /// Absorbs and permits.
    AbsorbsAndPermits,
    /// Does not answer.
    AnswersNothing,
    /// Writes what is not its own.
    WritesOutContext,
    /// Absorbs without the right.
    AbsorbsWithoutRight,
    /// Comes back at another level.
    ClassifyAtOtherLevel,
    /// Injects the packet that was lent.
    InjectsLent,
    /// Injects from the transport header on.
    InjectsTransport,
    /// Injects a list of several packets to be received.
    InjectsSeveral,
    /// Injects while a lock is held.
    InjectsUnderLock,
    /// Changes a packet that is being injected.
    ChangesInjected,
    /// Frees a packet that is being injected.
    FreesInjected,
    /// Does not free an injected list.
    ListLeft,
    /// Frees a pool that is in use.
    ListPoolFreedEarly,
    /// Destroys an injection handle in a completion.
    DestroysInCompletion,
    /// Keeps a reference to a packet that was lent.
    ReferenceLeft,
    /// Does not know its own packets.
    InjectsForEver,
    /// A callout is registered after unload.
    CalloutLeft,
    /// An injection handle is there after unload.
    InjectionHandleLeft,
    /// A session is open after unload.
    SessionLeft,
    /// A subscription is there after unload.
    SubscriptionLeft,
    /// Ends its subscription in its callback.
    UnsubscribesInCallback,
    /// Does not complete a pended connect.
    PendLeft,
    /// Completes a pended connect twice.
    PendCompletedTwice,
    /// Nothing: every connect is pended, and permitted when it is authorized again.
    Pends,
    /// Leaves a flow context behind.
    FlowContextLeft,
}

pub(crate) const TAG: u32 = u32::from_le_bytes(*b"Test");

pub(crate) unsafe fn allocate(size: usize) -> *mut u8 {
    ExAllocatePool2(POOL_FLAG_NON_PAGED, size, TAG).cast()
}

pub(crate) unsafe fn free(memory: *mut u8) {
    ExFreePoolWithTag(memory.cast(), TAG);
}

static OTHER_LOCK: AtomicUsize = AtomicUsize::new(0);
static TIMER: AtomicPtr<Timed> = AtomicPtr::new(ptr::null_mut());

#[repr(C)]
struct Timed {
    timer: KTIMER,
    dpc: KDPC,
    event: KEVENT,
}

unsafe extern "win64" fn on_timer(_: *mut KDPC, context: PVOID, _: PVOID, _: PVOID) {
    let timed: *mut Timed = context.cast();
    KeSetEvent(&raw mut (*timed).event, 0, FALSE);
}

/// A timer that fires once a second.
unsafe fn start_timer() -> *mut Timed {
    let timed: *mut Timed = allocate(size_of::<Timed>()).cast();
    if timed.is_null() {
        return timed;
    }
    KeInitializeTimerEx(&raw mut (*timed).timer, NotificationTimer);
    KeInitializeDpc(&raw mut (*timed).dpc, on_timer, timed.cast());
    KeInitializeEvent(&raw mut (*timed).event, SynchronizationEvent, FALSE);
    KeSetTimerEx(
        &raw mut (*timed).timer,
        -10_000_000,
        1000,
        &raw mut (*timed).dpc,
    );
    timed
}

unsafe fn stop_timer(timed: *mut Timed) {
    KeCancelTimer(&raw mut (*timed).timer);
    KeFlushQueuedDpcs();
    free(timed.cast());
}

/// What is done at entry: a timer, so that a driver without a defect has one too.
pub(crate) unsafe fn at_entry() -> NTSTATUS {
    if is(Defect::DeviceLeftByFailedEntry) {
        return STATUS_NOT_SUPPORTED;
    }
    let timed = start_timer();
    if timed.is_null() {
        if is(Defect::AllocationUnchecked) {
            ptr::write_volatile(timed.cast::<u32>(), 1);
        }
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    TIMER.store(timed, SeqCst);
    if has_callouts() {
        let status = wfp::start(DEVICE_OBJECT_.load(SeqCst));
        if status != STATUS_SUCCESS {
            wfp::stop();
            stop_timer(timed);
            return status;
        }
    }
    STATUS_SUCCESS
}

/// What is done at unload.
pub(crate) unsafe fn at_unload() {
    let timed = TIMER.load(SeqCst);
    if is(Defect::TimerLeft) {
        return;
    }
    if is(Defect::TimerFreed) {
        free(timed.cast());
        return;
    }
    if has_callouts() {
        wfp::stop();
    }
    stop_timer(timed);
    if is(Defect::DeviceDeletedTwice) {
        let device = DEVICE_OBJECT_.load(SeqCst);
        IoDeleteDevice(device);
    }
}

unsafe extern "win64" fn work(_: *mut DEVICE_OBJECT, context: PVOID) {
    let timed: *mut Timed = context.cast();
    KeWaitForSingleObject(
        (&raw mut (*timed).event).cast(),
        Executive,
        KernelMode,
        FALSE,
        ptr::null_mut(),
    );
}

unsafe extern "win64" fn endless(_: PVOID) {
    let mut hour: LARGE_INTEGER = -36_000_000_000;
    loop {
        KeDelayExecutionThread(KernelMode, FALSE, &raw mut hour);
    }
}

#[inline(never)]
unsafe fn hog(depth: u32, from: *const u8) -> u32 {
    let mut room = [0_u8; 1000];
    ptr::copy_nonoverlapping(from, room.as_mut_ptr(), 4);
    core::hint::black_box(&mut room);
    if depth == 0 {
        let old = KeRaiseIrqlToDpcLevel();
        KeLowerIrql(old);
        return u32::from(room[0]);
    }
    let deeper = hog(depth - 1, room.as_ptr());
    deeper + u32::from(core::hint::black_box(room[1]))
}

#[cfg(windows)]
#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "win64" {
    fn ExThisIsNotThere(_: usize) -> usize;
}

#[cfg(not(windows))]
#[expect(non_snake_case, reason = "stands in for the import")]
unsafe extern "win64" fn ExThisIsNotThere(_: usize) -> usize {
    0
}

static CONSTANT: u32 = 7;

/// The request `MISBEHAVE`.
pub(crate) unsafe fn on_request(irp: *mut IRP) -> NTSTATUS {
    let mut level: KIRQL = 0;
    let lock = LOCK.as_ptr();
    let parameters = (*location(irp)).Parameters.DeviceIoControl;
    if has_callouts() {
        wfp::on_request();
    } else if is(Defect::WaitAtDispatch) {
        let old = KeRaiseIrqlToDpcLevel();
        let timed = TIMER.load(SeqCst);
        let mut short: LARGE_INTEGER = -1;
        let event = (&raw mut (*timed).event).cast();
        KeWaitForSingleObject(event, Executive, KernelMode, FALSE, &raw mut short);
        KeLowerIrql(old);
    } else if is(Defect::PassiveCallAtDispatch) {
        let old = KeRaiseIrqlToDpcLevel();
        let mut link = counted(&OTHER);
        IoDeleteSymbolicLink(&raw mut link);
        KeLowerIrql(old);
    } else if is(Defect::ReturnsAtDispatch) {
        KeRaiseIrqlToDpcLevel();
    } else if is(Defect::LowersTooFar) {
        KfRaiseIrql(APC_LEVEL);
        KeLowerIrql(DISPATCH_LEVEL);
    } else if is(Defect::PagedAtDispatch) {
        let old = KeRaiseIrqlToDpcLevel();
        let memory = ExAllocatePool2(POOL_FLAG_PAGED, 16, TAG);
        KeLowerIrql(old);
        free(memory.cast());
    } else if is(Defect::PoolLeak) {
        allocate(24);
    } else if is(Defect::PoolFreedTwice) {
        let memory = allocate(24);
        free(memory);
        free(memory);
    } else if is(Defect::PoolWrongTag) {
        ExFreePoolWithTag(allocate(24).cast(), TAG + 1);
    } else if is(Defect::PoolOverrun) {
        let memory = allocate(24);
        memory.add(24).write_volatile(0);
        free(memory);
    } else if is(Defect::PoolUnderrun) {
        let memory = allocate(24);
        memory.sub(1).write_volatile(0);
        free(memory);
    } else if is(Defect::PoolNoTag) {
        ExAllocatePool2(POOL_FLAG_NON_PAGED, 24, 0);
    } else if is(Defect::PoolExecutable) {
        ExAllocatePool2(POOL_FLAG_NON_PAGED_EXECUTE, 24, TAG);
    } else if is(Defect::PoolFreedInside) {
        free(allocate(24).add(8));
    } else if is(Defect::WriteAfterFree) {
        let memory = allocate(24);
        free(memory);
        memory.add(3).write_volatile(0);
    } else if is(Defect::ReadAfterFree) {
        let memory = allocate(24);
        free(memory);
        memory.add(3).read_volatile();
    } else if is(Defect::LockKept) {
        complete(irp, STATUS_SUCCESS, 0);
        KeAcquireSpinLockRaiseToDpc(lock);
        return STATUS_SUCCESS;
    } else if is(Defect::LockTwice) {
        KeAcquireSpinLockRaiseToDpc(lock);
        KeAcquireSpinLockAtDpcLevel(lock);
    } else if is(Defect::LockNotHeld) {
        let old = KeRaiseIrqlToDpcLevel();
        KeReleaseSpinLock(lock, old);
    } else if is(Defect::LockWrongLevel) {
        let old = KeAcquireSpinLockRaiseToDpc(lock);
        KeReleaseSpinLock(lock, old + 1);
    } else if is(Defect::LockOrder) {
        let other = OTHER_LOCK.as_ptr();
        for (first, second) in [(lock, other), (other, lock)] {
            let old = KeAcquireSpinLockRaiseToDpc(first);
            KeAcquireSpinLockAtDpcLevel(second);
            KeReleaseSpinLockFromDpcLevel(second);
            KeReleaseSpinLock(first, old);
        }
    } else if is(Defect::LockUninitialised) {
        lock.write_volatile(12345);
        KeAcquireSpinLockRaiseToDpc(lock);
    } else if is(Defect::LowersWithLock) {
        let old = KeAcquireSpinLockRaiseToDpc(lock);
        KeLowerIrql(old);
    } else if is(Defect::LockOtherHandle) {
        let mut handle: KLOCK_QUEUE_HANDLE = core::mem::zeroed();
        KeAcquireInStackQueuedSpinLock(lock, &raw mut handle);
        let mut copy = handle;
        KeReleaseInStackQueuedSpinLock(&raw mut copy);
    } else if is(Defect::CompletesUnderLock) {
        let old = KeAcquireSpinLockRaiseToDpc(lock);
        complete(irp, STATUS_SUCCESS, 0);
        KeReleaseSpinLock(lock, old);
        return STATUS_SUCCESS;
    } else if is(Defect::IrpTwice) {
        complete(irp, STATUS_SUCCESS, 0);
    } else if is(Defect::IrpNever) {
        return STATUS_SUCCESS;
    } else if is(Defect::IrpWrittenAfter) {
        complete(irp, STATUS_SUCCESS, 0);
        (&raw mut (*irp).Flags).write_volatile(1);
        return STATUS_SUCCESS;
    } else if is(Defect::IrpReadAfter) {
        complete(irp, STATUS_SUCCESS, 0);
        (&raw const (*irp).Flags).read_volatile();
        return STATUS_SUCCESS;
    } else if is(Defect::IrpUnwrittenBytes) {
        // The input has 10 bytes.
        return complete(irp, STATUS_SUCCESS, 16);
    } else if is(Defect::IrpTooManyBytes) {
        return complete(
            irp,
            STATUS_SUCCESS,
            parameters.OutputBufferLength as usize + 1,
        );
    } else if is(Defect::IrpOtherStatus) {
        complete(irp, STATUS_SUCCESS, 0);
        return STATUS_BUFFER_TOO_SMALL;
    } else if is(Defect::IrpCompletedPending) {
        complete(irp, STATUS_PENDING, 0);
    } else if is(Defect::IrpBufferOverrun) {
        let buffer: *mut u8 = (*irp).AssociatedIrp.SystemBuffer.cast();
        buffer
            .add(parameters.OutputBufferLength as usize)
            .write_volatile(0);
    } else if is(Defect::EventUninitialised) {
        let event: *mut KEVENT = allocate(size_of::<KEVENT>()).cast();
        KeSetEvent(event, 0, FALSE);
    } else if is(Defect::WaitsForEver) {
        let event: *mut KEVENT = allocate(size_of::<KEVENT>()).cast();
        KeInitializeEvent(event, NotificationEvent, FALSE);
        KeCancelTimer(&raw mut (*TIMER.load(SeqCst)).timer);
        KeWaitForSingleObject(event.cast(), Executive, KernelMode, FALSE, ptr::null_mut());
    } else if is(Defect::RundownReleasedTwice) {
        let rundown: *mut EX_RUNDOWN_REF = allocate(size_of::<EX_RUNDOWN_REF>()).cast();
        ExInitializeRundownProtection(rundown);
        ExAcquireRundownProtection(rundown);
        ExReleaseRundownProtection(rundown);
        ExReleaseRundownProtection(rundown);
    } else if is(Defect::WorkItemFreedQueued) || is(Defect::WorkItemLeft) {
        let device = DEVICE_OBJECT_.load(SeqCst);
        let items = [0; 8].map(|_| IoAllocateWorkItem(device));
        if is(Defect::WorkItemFreedQueued) {
            // More than there are workers, and none comes back before the timer fires.
            for item in items {
                IoQueueWorkItem(item, work, DelayedWorkQueue, TIMER.load(SeqCst).cast());
            }
            IoFreeWorkItem(items[7]);
        }
    } else if is(Defect::ThreadLeft) {
        let mut handle = ptr::null_mut();
        PsCreateSystemThread(
            &raw mut handle,
            0,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            endless,
            ptr::null_mut(),
        );
        kext_nt_sys::rtl::ZwClose(handle);
    } else if is(Defect::StackHog) {
        let start = [1_u8; 4];
        hog(14, start.as_ptr());
    } else if is(Defect::NotThere) {
        ExThisIsNotThere(1);
    } else if is(Defect::NullPointer) {
        core::hint::black_box(ptr::null_mut::<u32>()).write_volatile(1);
    } else if is(Defect::WritesConstants) {
        (&raw const CONSTANT).cast_mut().write_volatile(8);
    } else if is(Defect::WritesLevelRegister) {
        core::arch::asm!("mov cr8, {}", in(reg) 2_u64);
    } else if is(Defect::NullArgument) {
        let mut link = counted(&OTHER);
        link.Buffer = ptr::null_mut();
        IoDeleteSymbolicLink(&raw mut link);
    } else if is(Defect::Panics) {
        let none: Option<u32> = core::hint::black_box(None);
        level = none.expect("it is wrong on purpose") as KIRQL;
    }
    let _ = level;
    complete(irp, STATUS_SUCCESS, 0)
}
