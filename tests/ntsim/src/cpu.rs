//! Simulated processors: a thread is at an IRQL, and at `DISPATCH_LEVEL` and above it owns one.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use kext_nt_sys::ke::{APC_LEVEL, DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};

use crate::check::violation;
use crate::dispatcher;
use crate::locks::Held;

/// As many processors as the simulated machine has.
pub const PROCESSORS: usize = 4;

/// What the driver may use of a kernel stack of 24 KiB that it shares with everybody.
pub(crate) const STACK_SHARE: usize = 10 * 1024;

static OWNERS: [AtomicU32; PROCESSORS] = [const { AtomicU32::new(0) }; PROCESSORS];
static NEXT_THREAD: AtomicU32 = AtomicU32::new(1);
static DEEPEST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static IRQL: Cell<KIRQL> = const { Cell::new(PASSIVE_LEVEL) };
    static PROCESSOR: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
    /// How many calls into the driver this thread is in.
    static NESTED: Cell<u32> = const { Cell::new(0) };
    /// Where the present call into the driver began on the stack, and what the driver had used.
    static SEGMENT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    static USED: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread, never 0.
pub(crate) fn thread() -> u32 {
    let known = THREAD.get();
    if known != 0 {
        return known;
    }
    let fresh = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
    THREAD.set(fresh);
    fresh
}

/// The level of this thread.
pub(crate) fn irql() -> KIRQL {
    IRQL.get()
}

/// Its name.
pub(crate) fn irql_name(irql: KIRQL) -> String {
    match irql {
        PASSIVE_LEVEL => "PASSIVE_LEVEL".into(),
        APC_LEVEL => "APC_LEVEL".into(),
        DISPATCH_LEVEL => "DISPATCH_LEVEL".into(),
        other => format!("level {other}"),
    }
}

/// Is at a level from now on, without a check; returns the old one.
#[inline]
pub(crate) fn set_irql(new: KIRQL) -> KIRQL {
    IRQL.replace(new)
}

/// Is a processor from now on, without a check.
pub(crate) fn set_processor(number: usize) {
    PROCESSOR.set(number);
}

/// The processor that this thread is, at `DISPATCH_LEVEL`.
#[inline]
pub(crate) fn own_processor() -> usize {
    PROCESSOR.get()
}

/// Raises the level, and returns the old one.
pub(crate) fn raise(new: KIRQL) -> KIRQL {
    let old = IRQL.get();
    if new < old {
        violation!(
            Irql,
            "the level was raised from {} to {}, which is lower",
            irql_name(old),
            irql_name(new)
        );
    }
    if old < DISPATCH_LEVEL && new >= DISPATCH_LEVEL {
        take_processor();
    }
    IRQL.set(new);
    old
}

/// Lowers the level. What waited for that runs now.
pub(crate) fn lower(new: KIRQL) {
    let old = IRQL.get();
    if new > old {
        violation!(
            Irql,
            "the level was lowered from {} to {}, which is higher",
            irql_name(old),
            irql_name(new)
        );
    }
    if new < DISPATCH_LEVEL && old >= DISPATCH_LEVEL {
        HELD.with_borrow(|held| {
            if let Some(lock) = held.last() {
                violation!(
                    SpinLock,
                    "the level was lowered to {} while {} is held",
                    irql_name(new),
                    lock.describe()
                );
            }
        });
        IRQL.set(new);
        OWNERS[PROCESSOR.get()].store(0, Ordering::Release);
        dispatcher::drain_dpcs();
    } else {
        IRQL.set(new);
    }
}

fn take_processor() {
    let me = thread();
    let first = PROCESSOR.get();
    let mut tries = 0_u64;
    loop {
        for step in 0..PROCESSORS {
            let at = (first + step) % PROCESSORS;
            let owner = &OWNERS[at];
            if owner.load(Ordering::Relaxed) == 0
                && owner
                    .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                PROCESSOR.set(at);
                return;
            }
        }
        tries += 1;
        if tries > 50_000_000 {
            violation!(Deadlock, "every processor is at DISPATCH_LEVEL for ever");
        }
        std::thread::yield_now();
    }
}

/// The processor of this thread. Below `DISPATCH_LEVEL` it is any, and another each time.
pub(crate) fn processor() -> usize {
    if irql() < DISPATCH_LEVEL {
        PROCESSOR.set((PROCESSOR.get() + 1) % PROCESSORS);
    }
    PROCESSOR.get()
}

/// The locks of this thread, in the order in which it took them.
pub(crate) fn held<R>(look: impl FnOnce(&mut Vec<Held>) -> R) -> R {
    HELD.with_borrow_mut(look)
}

/// Ends the test if this thread holds a spin lock: `what` may call back, or wait for who wants it.
pub(crate) fn no_locks(what: &str) {
    HELD.with_borrow(|held| {
        if let Some(lock) = held.last() {
            violation!(SpinLock, "{what} while {} is held", lock.describe());
        }
    });
}

/// Whether this thread is in the driver.
pub(crate) fn in_driver() -> bool {
    NESTED.get() > 0
}

/// Calls the driver at a level, and checks how it comes back.
pub(crate) fn call<R>(what: &str, level: KIRQL, routine: impl FnOnce() -> R) -> R {
    let old = raise(level);
    let locks = HELD.with_borrow(Vec::len);
    let result = call_from_here(what, level, locks, routine);
    lower(old);
    result
}

/// Calls the driver at the present level, with what is held: it has to return at the level `end`,
/// and hold so many locks.
pub(crate) fn call_from_here<R>(
    what: &str,
    end: KIRQL,
    locks: usize,
    routine: impl FnOnce() -> R,
) -> R {
    let start = irql();
    let segment = SEGMENT.get();
    let here = 0_u8;
    SEGMENT.set(((&raw const here).addr(), USED.get()));
    if NESTED.replace(NESTED.get() + 1) == 0 {
        dispatcher::thread_entered();
    }
    let result = routine();
    NESTED.set(NESTED.get() - 1);
    if NESTED.get() == 0 {
        dispatcher::thread_left();
    }
    USED.set(segment.1);
    SEGMENT.set(segment);
    HELD.with_borrow(|held| {
        if held.len() > locks {
            violation!(
                SpinLock,
                "{what} returned and still holds {}",
                held[locks].describe()
            );
        }
    });
    let now = irql();
    if now != end {
        violation!(
            Irql,
            "{what} was called at {} and returned at {}",
            irql_name(start),
            irql_name(now)
        );
    }
    result
}

/// Compares the depth of the driver's frames with its share.
pub(crate) fn measure_stack(stack: usize) {
    let (top, before) = SEGMENT.get();
    let used = before + top.saturating_sub(stack);
    USED.set(used);
    if used > DEEPEST.load(Ordering::Relaxed) {
        DEEPEST.fetch_max(used, Ordering::Relaxed);
        if used > STACK_SHARE {
            violation!(
                Stack,
                "the driver's frames take {used} bytes of the stack, more than {STACK_SHARE}"
            );
        }
    }
}

/// The most that the driver's frames have taken of a stack, in bytes.
pub fn deepest_stack() -> usize {
    DEEPEST.load(Ordering::Relaxed)
}
