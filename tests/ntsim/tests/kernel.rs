//! The simulated kernel, with a small driver: it works for a driver without a defect, and each check
//! bites where there is one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kext_ntsim::harness::{self, Outcome, Test};
use kext_ntsim::{Caller, Check, Faults, Sim, Status, clear_faults, guard_pages, set_faults};
use kext_ntsim_drivers::{Defect, ECHO, LET_GO, MISBEHAVE, WAIT};

const CANCELLED: Status = Status(0xC000_0120_u32.cast_signed());
const DENIED: Status = Status(0xC000_0022_u32.cast_signed());
const COLLISION: Status = Status(0xC000_0035_u32.cast_signed());

fn driver() -> PathBuf {
    harness::built("NtsimBroken64.sys")
}

fn load(defect: Defect) -> Sim {
    Sim::load_as(&driver(), &format!("{}", defect as u32)).expect("the driver loads")
}

/// Loads the driver with a defect, sends it the request that shows it, unloads.
fn misbehave(defect: Defect) {
    let sim = load(defect);
    let device = sim.open().expect("it opens");
    let _ = device.ioctl(MISBEHAVE, b"some input", 16);
    device.close();
    sim.unload();
}

fn a_driver_without_a_defect_passes() {
    misbehave(Defect::None);
}

fn requests_carry_bytes() {
    let sim = load(Defect::None);
    let device = sim.open().unwrap();
    assert_eq!(device.ioctl(ECHO, b"bytes", 5).unwrap(), b"bytes");
    assert_eq!(device.ioctl(ECHO, b"bytes", 3).unwrap(), b"byt");
    assert_eq!(device.ioctl(ECHO, b"", 0).unwrap(), b"");
    device.close();
    sim.unload();
}

fn a_pended_request_ends_when_it_is_let_go() {
    let sim = load(Defect::None);
    let device = sim.open().unwrap();
    let pending = device.start(WAIT, b"", 0);
    assert!(!pending.ended());
    device.ioctl(LET_GO, b"", 0).unwrap();
    assert_eq!(pending.wait().unwrap(), b"");
    device.close();
    sim.unload();
}

fn a_pended_request_is_cancelled() {
    let sim = load(Defect::None);
    let device = sim.open().unwrap();
    let pending = device.start(WAIT, b"", 0);
    pending.cancel();
    assert_eq!(pending.wait(), Err(CANCELLED));
    pending.cancel();
    device.close();
    sim.unload();
}

fn a_pended_request_ends_with_its_handle() {
    let sim = load(Defect::None);
    let device = sim.open().unwrap();
    let pending = device.start(WAIT, b"", 0);
    device.close();
    assert_eq!(pending.wait(), Err(CANCELLED));
    sim.unload();
}

/// Cancelling races with letting go: each request ends exactly once.
fn cancelling_races_with_completing() {
    let sim = load(Defect::None);
    let device = sim.open().unwrap();
    let (mut cancelled, mut completed) = (0, 0);
    for _ in 0..2000 {
        let pending = device.start(WAIT, b"", 0);
        std::thread::scope(|scope| {
            scope.spawn(|| pending.cancel());
            scope.spawn(|| device.ioctl(LET_GO, b"", 0));
        });
        match pending.wait() {
            Ok(_) => completed += 1,
            Err(CANCELLED) => cancelled += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(cancelled + completed, 2000);
    device.close();
    sim.unload();
}

fn only_administrators_may_open() {
    let sim = load(Defect::None);
    for path in [
        r"\??\PortmasterKext",
        r"\Device\PortmasterKext",
        r"\??\PortmasterKext\below",
    ] {
        let denied = sim
            .open_path(path, Caller::User)
            .map(kext_ntsim::Device::close);
        assert_eq!(denied, Err(DENIED), "{path}");
        sim.open_path(path, Caller::System).unwrap().close();
    }
    let list = sim.access_list(r"\Device\PortmasterKext").unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0].0, "S-1-5-18");
    assert_eq!(list[1].0, "S-1-5-32-544");
    sim.unload();
}

fn a_second_driver_of_the_same_name_does_not_load() {
    let sim = load(Defect::None);
    match Sim::load_as(&driver(), "0") {
        Err(kext_ntsim::LoadError::Entry(status)) => assert_eq!(status, COLLISION),
        other => panic!("{other:?}"),
    }
    sim.unload();
    load(Defect::None).unload();
}

/// The driver's timer fires once a second of simulated time.
fn time_is_simulated() {
    let sim = load(Defect::None);
    let before = sim.time();
    sim.advance(Duration::from_hours(1));
    assert_eq!(sim.time(), before + Duration::from_hours(1));
    sim.unload();
}

fn with_guard_pages_it_passes_too() {
    guard_pages(true);
    requests_carry_bytes();
}

fn read_after_free_faults() {
    guard_pages(true);
    misbehave(Defect::ReadAfterFree);
}

fn irp_read_after_completion_faults() {
    guard_pages(true);
    misbehave(Defect::IrpReadAfter);
}

fn waits(defect: Defect) {
    let sim = load(defect);
    let device = sim.open().unwrap();
    let pending = device.start(WAIT, b"", 0);
    if matches!(defect, Defect::CancelKeepsLock | Defect::CancelForgets) {
        pending.cancel();
    }
    if defect == Defect::CancelRoutineLeft {
        let _ = device.ioctl(LET_GO, b"", 0);
    }
    device.close();
    sim.unload();
}

/// Only a run in which the allocation fails shows that nobody looks at its result.
fn faults_find_it() {
    load(Defect::AllocationUnchecked).unload();
    set_faults(Faults::Count);
    load(Defect::AllocationUnchecked).unload();
    let (calls, _) = clear_faults();
    for number in 0..calls {
        set_faults(Faults::Nth(number));
        let name = format!("{}", Defect::AllocationUnchecked as u32);
        if let Ok(sim) = Sim::load_as(&driver(), &name) {
            sim.unload();
        }
        clear_faults();
    }
}

fn entry_fails() {
    let _ = Sim::load_as(
        &driver(),
        &format!("{}", Defect::DeviceLeftByFailedEntry as u32),
    );
}

macro_rules! tests {
    (
        passes { $($passes:ident;)+ }
        misbehaves { $($defect:ident as $check:ident $text:literal $(by $with:expr)?;)+ }
    ) => {
        static TESTS: &[Test] = &[
            $(Test { name: stringify!($passes), outcome: Outcome::Passes, run: $passes },)+
            $(Test {
                name: concat!("bites_", stringify!($defect)),
                outcome: Outcome::Violates(Check::$check, $text),
                run: || tests!(@run $defect $($with)?),
            },)+
        ];
    };
    (@run $defect:ident) => { misbehave(Defect::$defect) };
    (@run $defect:ident $with:expr) => { $with };
}

tests! {
    passes {
    a_driver_without_a_defect_passes;
    requests_carry_bytes;
    a_pended_request_ends_when_it_is_let_go;
    a_pended_request_is_cancelled;
    a_pended_request_ends_with_its_handle;
    cancelling_races_with_completing;
    only_administrators_may_open;
    a_second_driver_of_the_same_name_does_not_load;
    time_is_simulated;
    with_guard_pages_it_passes_too;
    }
    misbehaves {
    WaitAtDispatch as Irql "time-out other than zero at DISPATCH_LEVEL";
    PassiveCallAtDispatch as Irql "IoDeleteSymbolicLink was called at DISPATCH_LEVEL; it may be called at PASSIVE_LEVEL only";
    ReturnsAtDispatch as Irql "was called at PASSIVE_LEVEL and returned at DISPATCH_LEVEL";
    LowersTooFar as Irql "lowered from APC_LEVEL to DISPATCH_LEVEL, which is higher";
    PagedAtDispatch as Irql "paged memory is allocated at DISPATCH_LEVEL";
    PoolLeak as Leak "pool block with tag `Test` of 24 bytes";
    PoolFreedTwice as Pool "that was freed already";
    PoolWrongTag as Pool "the tag `Uest` is not its own";
    PoolOverrun as Pool "was written to 0 bytes behind its end";
    PoolUnderrun as Pool "was written to 1 bytes before it";
    PoolNoTag as Pool "an allocation of 24 bytes with tag `....`";
    PoolExecutable as Pool "memory that can be executed";
    PoolFreedInside as Pool "which is inside a pool block";
    WriteAfterFree as UseAfterFree "byte 3 of what was a pool block";
    ReadAfterFree as UseAfterFree "in what was a pool block" by read_after_free_faults();
    LockKept as SpinLock "still holds the spin lock";
    LockTwice as SpinLock "taken twice by one thread";
    LockNotHeld as SpinLock "released by a thread that does not hold it";
    LockWrongLevel as SpinLock "released to APC_LEVEL, but it was taken at PASSIVE_LEVEL";
    LockOrder as LockOrder "the other order was seen";
    LockUninitialised as SpinLock "holds 0x3039";
    LowersWithLock as SpinLock "the level was lowered to PASSIVE_LEVEL while the spin lock";
    LockOtherHandle as SpinLock "released by another handle";
    CompletesUnderLock as SpinLock "IofCompleteRequest while the spin lock";
    IrpTwice as Irp "in what was a request";
    IrpNever as Irp "did not complete the request";
    IrpPendedUnmarked as Irp "not marked pending" by waits(Defect::IrpPendedUnmarked);
    IrpMarkedButNotPended as Irp "marked a request pending and returned 0x0" by waits(Defect::IrpMarkedButNotPended);
    IrpWrittenAfter as UseAfterFree "of what was a request";
    IrpReadAfter as UseAfterFree "in what was a request" by irp_read_after_completion_faults();
    IrpUnwrittenBytes as Irp "those from 10 on were never written";
    IrpTooManyBytes as Irp "completed with 17 bytes; there is room for 16";
    IrpOtherStatus as Irp "completed the request with 0x0";
    IrpCompletedPending as Irp "completed with STATUS_PENDING";
    IrpBufferOverrun as Pool "system buffer of a request of 16 bytes";
    CleanupForgets as Cancel "1 requests are pended after IRP_MJ_CLEANUP" by waits(Defect::CleanupForgets);
    CancelRoutineLeft as Cancel "still has a cancel routine" by waits(Defect::CancelRoutineLeft);
    CancelKeepsLock as SpinLock "a cancel routine returned and still holds the cancel spin lock" by waits(Defect::CancelKeepsLock);
    CancelForgets as Cancel "1 requests are pended after" by waits(Defect::CancelForgets);
    TimerLeft as Leak "1 timers are set";
    TimerFreed as Pool "a timer that is set is in it";
    EventUninitialised as Object "never initialised";
    WaitsForEver as Deadlock "KeWaitForSingleObject waits for what does not happen";
    RundownReleasedTwice as Object "released more often than acquired";
    WorkItemFreedQueued as Object "a work item is freed that is queued";
    WorkItemLeft as Leak "8 blocks were not given back: work item";
    ThreadLeft as Leak "1 threads of the driver run";
    HandleLeft as Leak "1 handles are open";
    DeviceLeft as Leak r"the device \Device\PortmasterKext is there";
    LinkLeft as Leak r"the symbolic link \??\portmasterkext is there";
    DeviceLeftByFailedEntry as Leak "DriverEntry failed, and the device" by entry_fails();
    NoUnload as Device "no DriverUnload";
    DeviceDeletedTwice as Device "IoDeleteDevice of";
    StackHog as Stack "bytes of the stack";
    NotThere as Import "ntoskrnl.exe!ExThisIsNotThere is not there";
    NullPointer as Access "by the driver: address 0";
    WritesConstants as Access "the image of";
    WritesLevelRegister as Irql "behind the kernel's back";
    NullArgument as Argument "the name of a link: the address is null";
    AllocationUnchecked as Access "by the driver: address 0" by faults_find_it();
    Panics as BugCheck "defects.rs:";
    }
}

fn main() -> ExitCode {
    harness::main(TESTS, &[driver()])
}
