//! The kernel proper: IRQL, spin locks, events, timers, deferred procedure calls, time.
//!
//! Not exported on x64 and therefore not here: `KeInitializeSpinLock` (write 0),
//! `KeAcquireSpinLock` (a macro over `KeAcquireSpinLockRaiseToDpc`), `KeGetCurrentIrql` (register
//! CR8), `KeQueryInterruptTime` and `KeQuerySystemTime` (reads of shared user data).

use core::ffi::c_char;

use crate::status::NTSTATUS;
use crate::types::{BOOLEAN, LARGE_INTEGER, LIST_ENTRY, PVOID};

pub type KIRQL = u8;

// Source: one-source; mingw, wdk-header-data.
pub const PASSIVE_LEVEL: KIRQL = 0;
pub const APC_LEVEL: KIRQL = 1;
pub const DISPATCH_LEVEL: KIRQL = 2;
pub const CLOCK_LEVEL: KIRQL = 13;
pub const IPI_LEVEL: KIRQL = 14;
pub const HIGH_LEVEL: KIRQL = 15;

pub type KPROCESSOR_MODE = i8;
pub const KernelMode: KPROCESSOR_MODE = 0;
pub const UserMode: KPROCESSOR_MODE = 1;

pub type EVENT_TYPE = i32;
/// Stays set until it is cleared.
pub const NotificationEvent: EVENT_TYPE = 0;
/// Lets one waiter go.
pub const SynchronizationEvent: EVENT_TYPE = 1;

pub type TIMER_TYPE = i32;
pub const NotificationTimer: TIMER_TYPE = 0;
pub const SynchronizationTimer: TIMER_TYPE = 1;

pub type KWAIT_REASON = i32;
pub const Executive: KWAIT_REASON = 0;

/// Zero is free.
pub type KSPIN_LOCK = usize;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KSPIN_LOCK_QUEUE {
    pub Next: *mut KSPIN_LOCK_QUEUE,
    pub Lock: *mut KSPIN_LOCK,
}

/// One for each acquisition, on the stack of whoever acquires.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KLOCK_QUEUE_HANDLE {
    pub LockQueue: KSPIN_LOCK_QUEUE,
    pub OldIrql: KIRQL,
}

/// Opaque but for its size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DISPATCHER_HEADER {
    pub Type: u8,
    pub Signalling: u8,
    pub Size: u8,
    pub Reserved1: u8,
    pub SignalState: i32,
    pub WaitListHead: LIST_ENTRY,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KEVENT {
    pub Header: DISPATCHER_HEADER,
}

/// Opaque but for its header; in nonpaged memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KTIMER {
    pub Header: DISPATCHER_HEADER,
    pub Reserved: [usize; 5],
}

/// Runs at `DISPATCH_LEVEL`.
pub type KDEFERRED_ROUTINE = unsafe extern "win64" fn(
    Dpc: *mut KDPC,
    DeferredContext: PVOID,
    SystemArgument1: PVOID,
    SystemArgument2: PVOID,
);

/// Opaque: `KeInitializeDpc` fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KDPC {
    pub Type: u8,
    pub Importance: u8,
    pub Number: u16,
    pub DpcListEntry: [usize; 2],
    pub DeferredRoutine: Option<KDEFERRED_ROUTINE>,
    pub DeferredContext: PVOID,
    pub SystemArgument1: PVOID,
    pub SystemArgument2: PVOID,
    pub DpcData: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PROCESSOR_NUMBER {
    pub Group: u16,
    pub Number: u8,
    pub Reserved: u8,
}

/// Every group of processors, for the functions that count them.
pub const ALL_PROCESSOR_GROUPS: u16 = 0xffff;

/// `DbgPrintEx`: drivers of networks, and the levels, 0 to 31.
pub const DPFLTR_IHVNETWORK_ID: u32 = 80;
pub const DPFLTR_ERROR_LEVEL: u32 = 0;
pub const DPFLTR_WARNING_LEVEL: u32 = 1;
pub const DPFLTR_TRACE_LEVEL: u32 = 2;
pub const DPFLTR_INFO_LEVEL: u32 = 3;

imports! {
    "ntoskrnl.exe";

    [..=DISPATCH_LEVEL] fn KeAcquireSpinLockRaiseToDpc(SpinLock: *mut KSPIN_LOCK) -> KIRQL;
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeReleaseSpinLock(
        SpinLock: *mut KSPIN_LOCK,
        NewIrql: KIRQL,
    );
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeAcquireSpinLockAtDpcLevel(SpinLock: *mut KSPIN_LOCK);
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeReleaseSpinLockFromDpcLevel(SpinLock: *mut KSPIN_LOCK);
    /// Export seen in mingw's import library only.
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeTryToAcquireSpinLockAtDpcLevel(
        SpinLock: *mut KSPIN_LOCK,
    ) -> BOOLEAN;
    [..=DISPATCH_LEVEL] fn KeAcquireInStackQueuedSpinLock(
        SpinLock: *mut KSPIN_LOCK,
        LockHandle: *mut KLOCK_QUEUE_HANDLE,
    );
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeReleaseInStackQueuedSpinLock(
        LockHandle: *mut KLOCK_QUEUE_HANDLE,
    );
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeAcquireInStackQueuedSpinLockAtDpcLevel(
        SpinLock: *mut KSPIN_LOCK,
        LockHandle: *mut KLOCK_QUEUE_HANDLE,
    );
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn KeReleaseInStackQueuedSpinLockFromDpcLevel(
        LockHandle: *mut KLOCK_QUEUE_HANDLE,
    );
    [..=DISPATCH_LEVEL] fn KeRaiseIrqlToDpcLevel() -> KIRQL;
    /// The new level must not be below the present one.
    [..=HIGH_LEVEL] fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL;
    /// Only to the level that raising returned.
    [..=HIGH_LEVEL] fn KeLowerIrql(NewIrql: KIRQL);

    [..=HIGH_LEVEL] fn KeInitializeEvent(Event: *mut KEVENT, Type: EVENT_TYPE, State: BOOLEAN);
    /// Returns whether it was set before. With `Wait` only up to `APC_LEVEL`.
    [..=DISPATCH_LEVEL] fn KeSetEvent(Event: *mut KEVENT, Increment: i32, Wait: BOOLEAN) -> i32;
    [..=DISPATCH_LEVEL] fn KeClearEvent(Event: *mut KEVENT);
    [..=DISPATCH_LEVEL] fn KeResetEvent(Event: *mut KEVENT) -> i32;
    /// Above `APC_LEVEL` only with a time-out of zero. No time-out, null, is for ever.
    [..=DISPATCH_LEVEL] fn KeWaitForSingleObject(
        Object: PVOID,
        WaitReason: KWAIT_REASON,
        WaitMode: KPROCESSOR_MODE,
        Alertable: BOOLEAN,
        Timeout: *mut LARGE_INTEGER,
    ) -> NTSTATUS;
    [..=APC_LEVEL] fn KeDelayExecutionThread(
        WaitMode: KPROCESSOR_MODE,
        Alertable: BOOLEAN,
        Interval: *mut LARGE_INTEGER,
    ) -> NTSTATUS;

    [..=DISPATCH_LEVEL] fn KeInitializeTimerEx(Timer: *mut KTIMER, Type: TIMER_TYPE);
    /// `Period` in milliseconds; 0 is once. Returns whether the timer was set already.
    [..=DISPATCH_LEVEL] fn KeSetTimerEx(
        Timer: *mut KTIMER,
        DueTime: LARGE_INTEGER,
        Period: i32,
        Dpc: *mut KDPC,
    ) -> BOOLEAN;
    /// `Period` and `TolerableDelay` in milliseconds.
    [..=DISPATCH_LEVEL] fn KeSetCoalescableTimer(
        Timer: *mut KTIMER,
        DueTime: LARGE_INTEGER,
        Period: u32,
        TolerableDelay: u32,
        Dpc: *mut KDPC,
    ) -> BOOLEAN;
    /// The timer's DPC may be running still: `KeFlushQueuedDpcs` waits for it.
    [..=DISPATCH_LEVEL] fn KeCancelTimer(Timer: *mut KTIMER) -> BOOLEAN;

    [..=HIGH_LEVEL] fn KeInitializeDpc(
        Dpc: *mut KDPC,
        DeferredRoutine: KDEFERRED_ROUTINE,
        DeferredContext: PVOID,
    );
    /// Returns whether it was queued: it is not if it is in a queue.
    [..=HIGH_LEVEL] fn KeInsertQueueDpc(
        Dpc: *mut KDPC,
        SystemArgument1: PVOID,
        SystemArgument2: PVOID,
    ) -> BOOLEAN;
    [..=HIGH_LEVEL] fn KeRemoveQueueDpc(Dpc: *mut KDPC) -> BOOLEAN;
    [..=PASSIVE_LEVEL] fn KeFlushQueuedDpcs();

    /// 100 ns since the start, also while the machine slept.
    [..=HIGH_LEVEL] fn KeQueryInterruptTimePrecise(QpcTimeStamp: *mut u64) -> u64;
    /// 100 ns since the start, without sleep; moves with the clock interrupt.
    [..=HIGH_LEVEL] fn KeQueryUnbiasedInterruptTime() -> u64;
    /// 100 ns since 1601, UTC.
    [..=HIGH_LEVEL] fn KeQuerySystemTimePrecise(CurrentTime: *mut LARGE_INTEGER);

    /// The number counts over all groups. It holds only at `DISPATCH_LEVEL` and above.
    [..=HIGH_LEVEL] fn KeGetCurrentProcessorNumberEx(ProcNumber: *mut PROCESSOR_NUMBER) -> u32;
    [..=HIGH_LEVEL] fn KeQueryActiveProcessorCountEx(GroupNumber: u16) -> u32;
    /// As many as there ever can be, for tables with a place for each. Export seen in mingw's import
    /// library only.
    [..=HIGH_LEVEL] fn KeQueryMaximumProcessorCountEx(GroupNumber: u16) -> u32;

    [..=HIGH_LEVEL] fn KeBugCheckEx(
        BugCheckCode: u32,
        BugCheckParameter1: usize,
        BugCheckParameter2: usize,
        BugCheckParameter3: usize,
        BugCheckParameter4: usize,
    ) -> !;
    /// Formats of wide strings only at `PASSIVE_LEVEL`.
    [..=HIGH_LEVEL] fn DbgPrintEx(
        ComponentId: u32,
        Level: u32,
        Format: *const c_char,
        ...
    ) -> NTSTATUS;
}
