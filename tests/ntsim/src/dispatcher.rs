//! Events, waits, timers, deferred procedure calls and the clock.
//!
//! Time is virtual: it passes when a test says so, and when the driver waits with a time-out and
//! nothing else is under way. So no test waits for real time, and a time-out of an hour is tested in
//! a moment.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kext_nt_sys::ke::{
    APC_LEVEL, DISPATCH_LEVEL, DISPATCHER_HEADER, EVENT_TYPE, KDEFERRED_ROUTINE, KDPC, KEVENT,
    KPROCESSOR_MODE, KTIMER, KWAIT_REASON, NotificationEvent, SynchronizationEvent, TIMER_TYPE,
};
use kext_nt_sys::status::{NTSTATUS, STATUS_SUCCESS, STATUS_TIMEOUT};
use kext_nt_sys::types::{BOOLEAN, FALSE, LARGE_INTEGER, LIST_ENTRY, PVOID, TRUE};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::check::violation;
use crate::cpu;
use crate::exports::implements;
use crate::guest;
use crate::heap;
use crate::observe;

implements! {
    ke::KeInitializeEvent = initialize_event;
    ke::KeSetEvent = set_event;
    ke::KeClearEvent = clear_event;
    ke::KeResetEvent = reset_event;
    ke::KeWaitForSingleObject = wait_for_single_object;
    ke::KeDelayExecutionThread = delay;
    ke::KeInitializeTimerEx = initialize_timer;
    ke::KeSetTimerEx = set_timer;
    ke::KeSetCoalescableTimer = set_coalescable_timer;
    ke::KeCancelTimer = cancel_timer;
    ke::KeInitializeDpc = initialize_dpc;
    ke::KeInsertQueueDpc = insert_dpc;
    ke::KeRemoveQueueDpc = remove_dpc;
    ke::KeFlushQueuedDpcs = flush_dpcs;
    ke::KeQueryInterruptTimePrecise = interrupt_time;
    ke::KeQueryUnbiasedInterruptTime = unbiased_time;
    ke::KeQuerySystemTimePrecise = system_time;
}

/// As long as real time may pass while nothing happens.
const PATIENCE: Duration = Duration::from_secs(10);
/// From 1601-01-01 to 1970-01-01, in 100 ns.
const UNIX_EPOCH: u64 = 116_444_736_000_000_000;
/// `DISPATCHER_HEADER::Type`.
const EVENTS: [u8; 2] = [NotificationEvent as u8, SynchronizationEvent as u8];
const THREAD: u8 = 6;
const TIMERS: [u8; 2] = [8, 9];
/// `DISPATCHER_HEADER::Signalling`, a byte that nobody reads: initialised by us.
const INITIALISED: u8 = 0x5a;
/// `KDPC::Type`.
const DPC: u8 = 19;

#[derive(Clone, Copy, Debug)]
struct Timer {
    due: u64,
    number: u64,
    period: u64,
    dpc: usize,
    site: usize,
}

#[derive(Debug)]
struct State {
    /// Timers that are set, by address.
    timers: Option<HashMap<usize, Timer>>,
    /// What happens when: timers by address, and waits that end (0).
    due: BTreeMap<(u64, u64), usize>,
    next: u64,
    dpcs: VecDeque<usize>,
    /// Those that run, by address.
    running: Vec<usize>,
    /// Threads in the driver, and those of them that wait.
    inside: usize,
    waiting: usize,
    /// What runs by itself and is not done: work items, completions.
    under_way: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    timers: None,
    due: BTreeMap::new(),
    next: 0,
    dpcs: VecDeque::new(),
    running: Vec::new(),
    inside: 0,
    waiting: 0,
    under_way: 0,
});
static CHANGED: Condvar = Condvar::new();
/// In 100 ns since the start.
static CLOCK: AtomicU64 = AtomicU64::new(10_000_000);
static DPCS: AtomicUsize = AtomicUsize::new(0);
/// What the machine's clock shows at the start, in 100 ns since 1601: 2026-01-01.
static START: AtomicU64 = AtomicU64::new(134_117_856_000_000_000);

impl State {
    fn timers(&mut self) -> &mut HashMap<usize, Timer> {
        self.timers.get_or_insert_default()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Nothing runs that could change anything but time.
    fn idle(&self) -> bool {
        self.inside == self.waiting
            && self.under_way == 0
            && self.dpcs.is_empty()
            && self.running.is_empty()
    }
}

/// The time, in 100 ns since the start.
pub(crate) fn now() -> u64 {
    CLOCK.load(Ordering::Acquire)
}

pub(crate) fn thread_entered() {
    STATE.lock().inside += 1;
}

pub(crate) fn thread_left() {
    STATE.lock().inside -= 1;
    CHANGED.notify_all();
}

/// How many of those that are in the driver wait.
pub(crate) fn waiting() -> usize {
    STATE.lock().waiting
}

/// Something was started that runs by itself.
pub(crate) fn started() {
    STATE.lock().under_way += 1;
}

/// It is done.
pub(crate) fn finished() {
    STATE.lock().under_way -= 1;
    CHANGED.notify_all();
}

/// Something has changed that somebody may wait for.
pub(crate) fn notify() {
    drop(STATE.lock());
    CHANGED.notify_all();
}

/// Waits, outside of the driver, until something is so. Ends the test after a while.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    loop {
        drain_dpcs();
        let mut state = STATE.lock();
        if is_so() {
            return;
        }
        CHANGED.wait_for(&mut state, Duration::from_millis(20));
        drop(state);
        if start.elapsed() > PATIENCE {
            violation!(Deadlock, "{what} does not happen");
        }
    }
}

/// Waits until all that was started is done.
pub(crate) fn settle() {
    let start = Instant::now();
    loop {
        drain_dpcs();
        let mut state = STATE.lock();
        if state.under_way == 0 && state.dpcs.is_empty() && state.running.is_empty() {
            return;
        }
        CHANGED.wait_for(&mut state, Duration::from_millis(20));
        drop(state);
        if start.elapsed() > PATIENCE {
            violation!(
                Deadlock,
                "what runs in the background does not come to an end"
            );
        }
    }
}

/// Waits until no thread is in the driver.
pub(crate) fn all_left() {
    let start = Instant::now();
    let mut state = STATE.lock();
    while state.inside > 0 {
        CHANGED.wait_for(&mut state, Duration::from_millis(20));
        if start.elapsed() > PATIENCE {
            drop(state);
            violation!(Deadlock, "a thread stays in the driver after its unloading");
        }
    }
}

/// Sets the machine's clock, in time since 1970.
pub(crate) fn set_clock(time: Duration) {
    let time = UNIX_EPOCH + (time.as_nanos() / 100) as u64;
    START.store(time.saturating_sub(now()), Ordering::Release);
}

/// The system time at the start, in 100 ns since 1601.
fn start() -> u64 {
    START.load(Ordering::Acquire)
}

/// Lets time pass. Timers fire in their order, their routines run on this thread; at
/// `DISPATCH_LEVEL` they are left to who lets time pass below it.
pub(crate) fn advance(by: Duration) {
    let end = now() + (by.as_nanos() / 100) as u64;
    if cpu::irql() >= DISPATCH_LEVEL {
        CLOCK.fetch_max(end, Ordering::AcqRel);
        return;
    }
    loop {
        let state = STATE.lock();
        let next = state.due.first_key_value().map(|((due, _), _)| *due);
        if next.is_none_or(|due| due > end) {
            CLOCK.fetch_max(end, Ordering::AcqRel);
            drop(state);
            CHANGED.notify_all();
            return;
        }
        step(state);
        settle();
    }
}

/// Goes to the next point in time at which something happens, and does it.
fn step(mut state: MutexGuard<'_, State>) {
    let Some((&(due, number), &address)) = state.due.first_key_value() else {
        return;
    };
    CLOCK.fetch_max(due, Ordering::AcqRel);
    state.due.remove(&(due, number));
    if address != 0
        && let Some(timer) = state.timers().remove(&address)
    {
        header(address).SignalState = 1;
        if timer.dpc != 0 && !state.dpcs.contains(&timer.dpc) {
            queue_dpc(&mut state, timer.dpc);
        }
        if timer.period != 0 {
            let number = state.number();
            let due = due + timer.period;
            state.due.insert((due, number), address);
            state.timers().insert(
                address,
                Timer {
                    due,
                    number,
                    ..timer
                },
            );
        }
    }
    drop(state);
    CHANGED.notify_all();
    drain_dpcs();
}

fn header<'a>(address: usize) -> &'a mut DISPATCHER_HEADER {
    let pointer: *mut DISPATCHER_HEADER = std::ptr::with_exposed_provenance_mut(address);
    guest::borrow(pointer, "an object to wait for")
}

fn checked_header<'a>(address: usize, kinds: &[u8], what: &str) -> &'a mut DISPATCHER_HEADER {
    heap::expect_alive(address, what);
    let header = header(address);
    if header.Signalling != INITIALISED || !kinds.contains(&header.Type) {
        violation!(
            Object,
            "{what} at {address:#x} was never initialised as that"
        );
    }
    header
}

fn initialise(address: usize, kind: u8, size: usize, signalled: bool) {
    heap::expect_alive(address, "an object that is initialised");
    let links: *mut LIST_ENTRY = std::ptr::null_mut();
    *header(address) = DISPATCHER_HEADER {
        Type: kind,
        Signalling: INITIALISED,
        Size: (size / 4) as u8,
        Reserved1: 0,
        SignalState: i32::from(signalled),
        WaitListHead: LIST_ENTRY {
            Flink: links,
            Blink: links,
        },
    };
}

extern "win64" fn initialize_event(event: *mut KEVENT, kind: EVENT_TYPE, state: BOOLEAN) {
    let Some(kind) = EVENTS.iter().find(|known| i32::from(**known) == kind) else {
        violation!(Argument, "an event of kind {kind}");
    };
    initialise(
        event.expose_provenance(),
        *kind,
        size_of::<KEVENT>(),
        state != FALSE,
    );
}

extern "win64" fn set_event(event: *mut KEVENT, _: i32, wait: BOOLEAN) -> i32 {
    if wait != FALSE && cpu::irql() > APC_LEVEL {
        violation!(
            Irql,
            "KeSetEvent with Wait at {}",
            cpu::irql_name(cpu::irql())
        );
    }
    let state = STATE.lock();
    let header = checked_header(event.expose_provenance(), &EVENTS, "an event");
    let old = std::mem::replace(&mut header.SignalState, 1);
    drop(state);
    CHANGED.notify_all();
    old
}

extern "win64" fn clear_event(event: *mut KEVENT) {
    reset_event(event);
}

extern "win64" fn reset_event(event: *mut KEVENT) -> i32 {
    let _state = STATE.lock();
    let header = checked_header(event.expose_provenance(), &EVENTS, "an event");
    std::mem::replace(&mut header.SignalState, 0)
}

/// Sets a thread object, which is one of ours.
pub(crate) fn initialise_thread(address: usize) {
    initialise(address, THREAD, size_of::<KEVENT>(), false);
}

/// The thread has ended.
pub(crate) fn signal_thread(address: usize) {
    let state = STATE.lock();
    header(address).SignalState = 1;
    drop(state);
    CHANGED.notify_all();
}

/// When a time-out ends: negative from now, positive since 1601.
fn deadline(time: LARGE_INTEGER) -> u64 {
    if time <= 0 {
        now() + time.unsigned_abs()
    } else {
        (time.unsigned_abs()).saturating_sub(start())
    }
}

/// Waits in the driver. `take` is asked whether the wait is over, under the lock.
fn wait(what: &str, end: Option<u64>, mut take: impl FnMut() -> bool) -> NTSTATUS {
    let mut state = STATE.lock();
    let mut patience = Instant::now();
    let mut entry = None;
    let counted = cpu::in_driver();
    if counted {
        state.waiting += 1;
    }
    let status = loop {
        if take() {
            break STATUS_SUCCESS;
        }
        if end.is_some_and(|end| now() >= end) {
            break STATUS_TIMEOUT;
        }
        if let Some(end) = end
            && entry.is_none()
        {
            let key = (end, state.number());
            state.due.insert(key, 0);
            entry = Some(key);
        }
        if !state.dpcs.is_empty() {
            drop(state);
            drain_dpcs();
            state = STATE.lock();
            continue;
        }
        if state.idle() && !state.due.is_empty() {
            let before = now();
            step(state);
            if now() != before {
                patience = Instant::now();
            }
            state = STATE.lock();
            continue;
        }
        CHANGED.wait_for(&mut state, Duration::from_millis(20));
        if patience.elapsed() > PATIENCE {
            drop(state);
            violation!(Deadlock, "{what} waits for what does not happen");
        }
    };
    if let Some(key) = entry {
        state.due.remove(&key);
    }
    if counted {
        state.waiting -= 1;
    }
    drop(state);
    status
}

extern "win64" fn wait_for_single_object(
    object: PVOID,
    _: KWAIT_REASON,
    _: KPROCESSOR_MODE,
    _: BOOLEAN,
    timeout: *mut LARGE_INTEGER,
) -> NTSTATUS {
    let end = (!timeout.is_null()).then(|| guest::read(timeout, "a time-out"));
    if cpu::irql() > APC_LEVEL && end != Some(0) {
        violation!(
            Irql,
            "KeWaitForSingleObject with a time-out other than zero at {}",
            cpu::irql_name(cpu::irql())
        );
    }
    if end != Some(0) {
        cpu::no_locks("KeWaitForSingleObject");
    }
    let address = object.expose_provenance();
    let kinds = [EVENTS[0], EVENTS[1], THREAD, TIMERS[0], TIMERS[1]];
    checked_header(address, &kinds, "an object to wait for");
    wait("KeWaitForSingleObject", end.map(deadline), || {
        let header = header(address);
        let signalled = header.SignalState > 0;
        if signalled && matches!(header.Type, 1 | 9) {
            header.SignalState = 0;
        }
        signalled
    })
}

extern "win64" fn delay(_: KPROCESSOR_MODE, _: BOOLEAN, interval: *mut LARGE_INTEGER) -> NTSTATUS {
    let end = deadline(guest::read(interval, "an interval"));
    wait("KeDelayExecutionThread", Some(end), || false);
    STATUS_SUCCESS
}

/// Waits in the driver until something is so.
pub(crate) fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait(what, None, is_so);
}

extern "win64" fn initialize_timer(timer: *mut KTIMER, kind: TIMER_TYPE) {
    let Some(kind) = TIMERS.get(kind as usize) else {
        violation!(Argument, "a timer of kind {kind}");
    };
    let address = timer.expose_provenance();
    if STATE.lock().timers().contains_key(&address) {
        violation!(Object, "a timer that is set is initialised");
    }
    initialise(address, *kind, size_of::<KTIMER>(), false);
}

extern "win64" fn set_timer(
    timer: *mut KTIMER,
    due: LARGE_INTEGER,
    period: i32,
    dpc: *mut KDPC,
) -> BOOLEAN {
    let address = timer.expose_provenance();
    if period < 0 {
        violation!(Argument, "a timer with a period of {period}");
    }
    if !dpc.is_null() {
        check_dpc(dpc.expose_provenance());
    }
    let mut state = STATE.lock();
    checked_header(address, &TIMERS, "a timer").SignalState = 0;
    let was_set = unset(&mut state, address);
    let number = state.number();
    let timer = Timer {
        due: deadline(due),
        number,
        period: period.unsigned_abs().into(),
        dpc: dpc.addr(),
        site: observe::site(),
    };
    let timer = Timer {
        period: timer.period * 10_000,
        ..timer
    };
    state.due.insert((timer.due, number), address);
    state.timers().insert(address, timer);
    drop(state);
    CHANGED.notify_all();
    if was_set { TRUE } else { FALSE }
}

extern "win64" fn set_coalescable_timer(
    timer: *mut KTIMER,
    due: LARGE_INTEGER,
    period: u32,
    _: u32,
    dpc: *mut KDPC,
) -> BOOLEAN {
    set_timer(timer, due, period.cast_signed(), dpc)
}

fn unset(state: &mut State, address: usize) -> bool {
    let Some(timer) = state.timers().remove(&address) else {
        return false;
    };
    state.due.remove(&(timer.due, timer.number));
    true
}

extern "win64" fn cancel_timer(timer: *mut KTIMER) -> BOOLEAN {
    let mut state = STATE.lock();
    let address = timer.expose_provenance();
    checked_header(address, &TIMERS, "a timer");
    if unset(&mut state, address) {
        TRUE
    } else {
        FALSE
    }
}

fn dpc_at(address: usize) -> *mut KDPC {
    std::ptr::with_exposed_provenance_mut(address)
}

fn check_dpc(address: usize) {
    heap::expect_alive(address, "a DPC");
    if guest::read(dpc_at(address), "a DPC").Type != DPC {
        violation!(Object, "the DPC at {address:#x} was never initialised");
    }
}

extern "win64" fn initialize_dpc(dpc: *mut KDPC, routine: KDEFERRED_ROUTINE, context: PVOID) {
    heap::expect_alive(dpc.expose_provenance(), "a DPC");
    if STATE.lock().dpcs.contains(&dpc.addr()) {
        violation!(Object, "a DPC that is queued is initialised");
    }
    let null = std::ptr::null_mut();
    let fresh = KDPC {
        Type: DPC,
        Importance: 1,
        Number: 0,
        DpcListEntry: [0; 2],
        DeferredRoutine: Some(routine),
        DeferredContext: context,
        SystemArgument1: null,
        SystemArgument2: null,
        DpcData: null,
    };
    guest::write(dpc, fresh, "a DPC");
}

fn queue_dpc(state: &mut State, address: usize) {
    state.dpcs.push_back(address);
    DPCS.store(state.dpcs.len(), Ordering::Release);
}

extern "win64" fn insert_dpc(dpc: *mut KDPC, first: PVOID, second: PVOID) -> BOOLEAN {
    let address = dpc.expose_provenance();
    check_dpc(address);
    let mut state = STATE.lock();
    if state.dpcs.contains(&address) {
        return FALSE;
    }
    let body = guest::borrow(dpc, "a DPC");
    body.SystemArgument1 = first;
    body.SystemArgument2 = second;
    queue_dpc(&mut state, address);
    drop(state);
    CHANGED.notify_all();
    drain_dpcs();
    TRUE
}

extern "win64" fn remove_dpc(dpc: *mut KDPC) -> BOOLEAN {
    let address = dpc.expose_provenance();
    check_dpc(address);
    let mut state = STATE.lock();
    let before = state.dpcs.len();
    state.dpcs.retain(|queued| *queued != address);
    DPCS.store(state.dpcs.len(), Ordering::Release);
    if state.dpcs.len() == before {
        FALSE
    } else {
        TRUE
    }
}

extern "win64" fn flush_dpcs() {
    loop {
        drain_dpcs();
        let mut state = STATE.lock();
        if state.dpcs.is_empty() && state.running.is_empty() {
            return;
        }
        CHANGED.wait_for(&mut state, Duration::from_millis(5));
    }
}

/// Runs queued routines, if this thread is at a level at which they interrupt it.
/// Whether there are deferred procedure calls to run.
#[inline]
pub(crate) fn has_dpcs() -> bool {
    DPCS.load(Ordering::Acquire) > 0
}

pub(crate) fn drain_dpcs() {
    while DPCS.load(Ordering::Acquire) > 0 && cpu::irql() < DISPATCH_LEVEL {
        let old = cpu::raise(DISPATCH_LEVEL);
        loop {
            let mut state = STATE.lock();
            let Some(address) = state.dpcs.pop_front() else {
                break;
            };
            DPCS.store(state.dpcs.len(), Ordering::Release);
            state.running.push(address);
            drop(state);
            run_dpc(address);
            let mut state = STATE.lock();
            if let Some(at) = state.running.iter().position(|running| *running == address) {
                state.running.swap_remove(at);
            }
            drop(state);
            CHANGED.notify_all();
        }
        cpu::lower(old);
    }
}

fn run_dpc(address: usize) {
    check_dpc(address);
    // Copied first: the routine may give the memory back.
    let dpc = guest::read(dpc_at(address), "a DPC");
    let Some(routine) = dpc.DeferredRoutine else {
        violation!(Object, "a DPC without a routine");
    };
    cpu::call("a deferred routine", DISPATCH_LEVEL, || {
        // SAFETY: the driver gave the routine and its context for this.
        unsafe {
            routine(
                dpc_at(address),
                dpc.DeferredContext,
                dpc.SystemArgument1,
                dpc.SystemArgument2,
            );
        }
    });
}

/// A timer that is set, or a DPC that is queued, in this memory.
pub(crate) fn in_use(address: usize, size: usize) -> Option<String> {
    let range = address..address + size;
    let mut state = STATE.lock();
    if state.timers().keys().any(|timer| range.contains(timer)) {
        return Some("a timer that is set".into());
    }
    if state.dpcs.iter().any(|dpc| range.contains(dpc)) {
        return Some("a DPC that is queued".into());
    }
    None
}

/// What would still call or write to the driver whose code is there: timers and DPCs.
pub(crate) fn pending(code: &Range<usize>) -> Vec<String> {
    let mut state = STATE.lock();
    let timers = state
        .timers()
        .values()
        .filter(|timer| code.contains(&timer.site))
        .count();
    let dpcs = state.dpcs.len() + state.running.len();
    drop(state);
    let mut pending = Vec::new();
    if timers > 0 {
        pending.push(format!("{timers} timers are set"));
    }
    if dpcs > 0 {
        pending.push(format!("{dpcs} DPCs are queued or run"));
    }
    pending
}

extern "win64" fn interrupt_time(stamp: *mut u64) -> u64 {
    guest::write_optional(stamp, now(), "a time stamp");
    now()
}

extern "win64" fn unbiased_time() -> u64 {
    now()
}

extern "win64" fn system_time(time: *mut LARGE_INTEGER) {
    guest::write(time, (start() + now()).cast_signed(), "the system time");
}
