//! IRQL and spin locks: who holds them, in which order, and how they are released.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kext_nt_sys::ke::{DISPATCH_LEVEL, KIRQL, KLOCK_QUEUE_HANDLE, KSPIN_LOCK};
use kext_nt_sys::types::{BOOLEAN, FALSE, TRUE};
use parking_lot::Mutex;

use crate::check::violation;
use crate::cpu;
use crate::exports::implements;
use crate::guest;
use crate::heap;
use crate::observe;

implements! {
    ke::KeAcquireSpinLockRaiseToDpc = acquire_raise;
    ke::KeReleaseSpinLock = release_lower;
    ke::KeAcquireSpinLockAtDpcLevel = acquire;
    ke::KeReleaseSpinLockFromDpcLevel = release;
    ke::KeTryToAcquireSpinLockAtDpcLevel = try_acquire;
    ke::KeAcquireInStackQueuedSpinLock = acquire_queued_raise;
    ke::KeReleaseInStackQueuedSpinLock = release_queued_lower;
    ke::KeAcquireInStackQueuedSpinLockAtDpcLevel = acquire_queued;
    ke::KeReleaseInStackQueuedSpinLockFromDpcLevel = release_queued;
    ke::KeRaiseIrqlToDpcLevel = raise_to_dispatch;
    ke::KfRaiseIrql = cpu_raise;
    ke::KeLowerIrql = cpu_lower;
    io::IoAcquireCancelSpinLock = acquire_cancel;
    io::IoReleaseCancelSpinLock = release_cancel;
}

/// How a lock was taken, and so how it has to be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Raising the level from this one.
    Raised(KIRQL),
    AtDispatch,
    /// With a handle on the stack at this address; raising from that level, or not.
    Queued(usize, Option<KIRQL>),
}

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    address: usize,
    way: Way,
    site: usize,
}

impl Held {
    pub(crate) fn describe(&self) -> String {
        format!("{} taken {}", name(self.address), heap::by(self.site))
    }
}

/// The lock around cancelling: the kernel's own.
static CANCEL: AtomicUsize = AtomicUsize::new(0);

fn cancel_lock() -> *mut KSPIN_LOCK {
    CANCEL.as_ptr()
}

fn name(address: usize) -> String {
    if address == cancel_lock().addr() {
        "the cancel spin lock".into()
    } else {
        format!("the spin lock at {address:#x}")
    }
}

/// Which lock was taken while which was held, and where.
static ORDER: Mutex<Option<HashMap<usize, HashMap<usize, usize>>>> = Mutex::new(None);
/// Changes when what is known of the order is forgotten.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static KNOWN: RefCell<(u64, HashSet<(usize, usize)>)> = RefCell::new((0, HashSet::new()));
}

fn word(lock: *mut KSPIN_LOCK) -> &'static AtomicUsize {
    // Null and alignment; what else is wrong shows in the value.
    guest::read(lock, "a spin lock");
    // SAFETY: an aligned word that the driver shares only as a lock.
    unsafe { AtomicUsize::from_ptr(lock) }
}

/// What a taken lock holds: the thread, and a mark that tells it from anything else.
fn mark() -> usize {
    const TAKEN: usize = 0x4b4c_0000_0000_0000;
    TAKEN | cpu::thread() as usize
}

fn is_mark(value: usize) -> bool {
    value >> 32 == mark() >> 32
}

fn take(lock: *mut KSPIN_LOCK, way: Way, once: bool) -> bool {
    let address = lock.expose_provenance();
    let word = word(lock);
    let site = observe::site();
    check_order(address, site);
    let mut tries = 0_u64;
    loop {
        match word.compare_exchange(0, mark(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break,
            Err(owner) if owner == mark() => {
                violation!(SpinLock, "{} is taken twice by one thread", name(address));
            }
            Err(value) if !is_mark(value) => {
                heap::expect_alive(address, &name(address));
                violation!(
                    SpinLock,
                    "{} holds {value:#x}: it was never initialised, or overwritten",
                    name(address)
                );
            }
            Err(_) if once => return false,
            Err(_) => {}
        }
        tries += 1;
        if tries.is_multiple_of(64) {
            std::thread::yield_now();
        }
        if tries > 200_000_000 {
            violation!(Deadlock, "{} is never released", name(address));
        }
        std::hint::spin_loop();
    }
    cpu::held(|held| held.push(Held { address, way, site }));
    true
}

fn give_back(lock: *mut KSPIN_LOCK, accept: impl FnOnce(Way) -> Option<String>) -> Way {
    let address = lock.expose_provenance();
    let word = word(lock);
    let mine = cpu::held(|held| {
        let at = held.iter().rposition(|one| one.address == address)?;
        Some(held.remove(at))
    });
    let Some(mine) = mine else {
        violation!(
            SpinLock,
            "{} is released by a thread that does not hold it",
            name(address)
        );
    };
    if let Some(wrong) = accept(mine.way) {
        violation!(SpinLock, "{}: {wrong}", mine.describe());
    }
    if word.swap(0, Ordering::Release) != mark() {
        violation!(
            SpinLock,
            "{} was overwritten while it was held",
            name(address)
        );
    }
    mine.way
}

/// Remembers that `address` is taken after those that are held, and ends the test where somebody
/// took them the other way round.
fn check_order(address: usize, site: usize) {
    let held: Vec<usize> = cpu::held(|held| held.iter().map(|one| one.address).collect());
    if held.is_empty() || held.contains(&address) {
        return;
    }
    let generation = GENERATION.load(Ordering::Acquire);
    let known = KNOWN.with_borrow_mut(|(of, known)| {
        if *of != generation {
            *of = generation;
            known.clear();
        }
        // Each pair is noted, also when one before it is new.
        let new = held.iter().filter(|first| known.insert((**first, address)));
        new.count() == 0
    });
    if known {
        return;
    }
    let mut order = ORDER.lock();
    let order = order.get_or_insert_with(HashMap::new);
    for first in held {
        if let Some(other) = path(order, address, first) {
            violation!(
                LockOrder,
                "{} is taken while {} is held; the other order was seen {}",
                name(address),
                name(first),
                heap::by(other)
            );
        }
        order
            .entry(first)
            .or_default()
            .entry(address)
            .or_insert(site);
    }
}

/// Whether `to` was taken while `from` was held, directly or by way of others: where.
fn path(order: &HashMap<usize, HashMap<usize, usize>>, from: usize, to: usize) -> Option<usize> {
    let mut seen = HashSet::new();
    let mut next = vec![from];
    while let Some(at) = next.pop() {
        for (after, site) in order.get(&at).into_iter().flatten() {
            if *after == to {
                return Some(*site);
            }
            if seen.insert(*after) {
                next.push(*after);
            }
        }
    }
    None
}

/// What is wrong with giving this memory back: a lock in it is held. What was known of the locks in
/// it is forgotten.
pub(crate) fn in_use(address: usize, size: usize) -> Option<String> {
    let range = address..address + size;
    let held = cpu::held(|held| {
        held.iter()
            .find(|one| range.contains(&one.address))
            .copied()
    });
    if let Some(held) = held {
        return Some(held.describe());
    }
    let mut order = ORDER.lock();
    if let Some(order) = order.as_mut() {
        let before = order.len();
        order.retain(|lock, _| !range.contains(lock));
        let mut changed = order.len() != before;
        for after in order.values_mut() {
            let before = after.len();
            after.retain(|lock, _| !range.contains(lock));
            changed |= after.len() != before;
        }
        if changed {
            GENERATION.fetch_add(1, Ordering::AcqRel);
        }
    }
    None
}

extern "win64" fn acquire_raise(lock: *mut KSPIN_LOCK) -> KIRQL {
    let old = cpu::raise(DISPATCH_LEVEL);
    take(lock, Way::Raised(old), false);
    old
}

extern "win64" fn release_lower(lock: *mut KSPIN_LOCK, new: KIRQL) {
    give_back(lock, |way| match way {
        Way::Raised(old) if old == new => None,
        Way::Raised(old) => Some(format!(
            "released to {}, but it was taken at {}",
            cpu::irql_name(new),
            cpu::irql_name(old)
        )),
        _ => Some("it was taken in another way than it is released".into()),
    });
    cpu::lower(new);
}

extern "win64" fn acquire(lock: *mut KSPIN_LOCK) {
    take(lock, Way::AtDispatch, false);
}

extern "win64" fn try_acquire(lock: *mut KSPIN_LOCK) -> BOOLEAN {
    if take(lock, Way::AtDispatch, true) {
        TRUE
    } else {
        FALSE
    }
}

extern "win64" fn release(lock: *mut KSPIN_LOCK) {
    give_back(lock, |way| {
        // What was raised by hand may be taken in this way and released in that.
        (way != Way::AtDispatch).then(|| "it was taken in another way than it is released".into())
    });
}

fn take_queued(lock: *mut KSPIN_LOCK, handle: *mut KLOCK_QUEUE_HANDLE, old: Option<KIRQL>) {
    take(lock, Way::Queued(handle.addr(), old), false);
    let handle = guest::borrow(handle, "the handle of a queued lock");
    handle.LockQueue.Next = std::ptr::null_mut();
    handle.LockQueue.Lock = lock;
    handle.OldIrql = old.unwrap_or(DISPATCH_LEVEL);
}

fn give_back_queued(handle: *mut KLOCK_QUEUE_HANDLE, raised: bool) -> Option<KIRQL> {
    let lock = guest::read(handle, "the handle of a queued lock")
        .LockQueue
        .Lock;
    let way = give_back(lock, |way| match way {
        Way::Queued(at, _) if at != handle.addr() => Some("released by another handle".into()),
        Way::Queued(_, old) if old.is_some() == raised => None,
        _ => Some("it was taken in another way than it is released".into()),
    });
    match way {
        Way::Queued(_, old) => old,
        _ => None,
    }
}

extern "win64" fn acquire_queued_raise(lock: *mut KSPIN_LOCK, handle: *mut KLOCK_QUEUE_HANDLE) {
    let old = cpu::raise(DISPATCH_LEVEL);
    take_queued(lock, handle, Some(old));
}

extern "win64" fn release_queued_lower(handle: *mut KLOCK_QUEUE_HANDLE) {
    if let Some(old) = give_back_queued(handle, true) {
        cpu::lower(old);
    }
}

extern "win64" fn acquire_queued(lock: *mut KSPIN_LOCK, handle: *mut KLOCK_QUEUE_HANDLE) {
    take_queued(lock, handle, None);
}

extern "win64" fn release_queued(handle: *mut KLOCK_QUEUE_HANDLE) {
    give_back_queued(handle, false);
}

extern "win64" fn raise_to_dispatch() -> KIRQL {
    cpu::raise(DISPATCH_LEVEL)
}

extern "win64" fn cpu_raise(new: KIRQL) -> KIRQL {
    cpu::raise(new)
}

extern "win64" fn cpu_lower(new: KIRQL) {
    cpu::lower(new);
}

pub(crate) extern "win64" fn acquire_cancel(irql: *mut KIRQL) {
    let old = cpu::raise(DISPATCH_LEVEL);
    take(cancel_lock(), Way::Raised(old), false);
    guest::write(irql, old, "the level of IoAcquireCancelSpinLock");
}

pub(crate) extern "win64" fn release_cancel(irql: KIRQL) {
    release_lower(cancel_lock(), irql);
}
