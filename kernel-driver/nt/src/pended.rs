//! Requests that wait: kept in order, cancellable, each with a time at which its wait is over.
//!
//! # Who owns a waiting request
//!
//! Its cancel routine is exchanged atomically by us and by the kernel. Whoever gets it out has the
//! request: we, when we take it from the list under the lock; or who cancels it, and then the list
//! leaves it alone until the cancel routine has come for it.

use alloc::vec::Vec;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};

use kext_nt_sys::io::{self, DEVICE_OBJECT, DRIVER_CANCEL, IRP};
use kext_nt_sys::status::{STATUS_CANCELLED, STATUS_FILE_CLOSED, STATUS_QUOTA_EXCEEDED};

use crate::request::{Answered, FileId, Request};
use crate::spin_lock::Lock;
use crate::status::{Result, Status};

/// Which of the four words that a driver has in a request says where it waits.
const LIST_WORD: usize = 3;

/// A wait without end.
pub const FOR_EVER: u64 = u64::MAX;

/// Waiting requests of one open file. It lives in the driver's state: requests that wait know it by its
/// address.
pub struct Pended {
    inner: Lock<Inner>,
    /// How many wait, readable without the lock.
    waiting: AtomicU32,
}

struct Inner {
    /// In order of arrival. Its memory is allocated at the start.
    entries: Vec<Entry>,
    /// The file whose requests may wait; `None` while there is none.
    file: Option<FileId>,
}

struct Entry {
    irp: NonNull<IRP>,
    /// When its wait is over, in units since the start of the machine.
    deadline: u64,
}

// SAFETY: an entry is a request that the list has.
unsafe impl Send for Entry {}

/// A request that waited, and when its wait is over.
pub struct Waiting {
    /// The request.
    pub request: Request,
    /// The time, as it was given.
    pub deadline: u64,
}

/// Where a request is put among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It came last.
    Last,
    /// It was taken out as the first, and is put back.
    First,
}

impl Pended {
    /// No request waits, and none may. At most `limit` can wait at once.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(limit: usize) -> Result<Self> {
        let mut entries = Vec::new();
        entries
            .try_reserve_exact(limit)
            .map_err(|_| Status::NO_MEMORY)?;
        Ok(Self {
            inner: Lock::new(Inner {
                entries,
                file: None,
            }),
            waiting: AtomicU32::new(0),
        })
    }

    /// Requests of this file may wait from now on.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn open(&self, file: FileId) {
        self.inner.lock().file = Some(file);
    }

    /// Whether requests of this file may wait.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn serves(&self, file: FileId) -> bool {
        self.inner.lock().file == Some(file)
    }

    /// No request of this file may wait any more; those that do are cancelled. Says whether any could
    /// wait before.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn close(&self, file: FileId) -> bool {
        self.close_if(|open| open == file)
    }

    /// The same of whichever file it is whose requests may wait.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn close_any(&self) -> bool {
        self.close_if(|_| true)
    }

    fn close_if(&self, is_meant: impl Fn(FileId) -> bool) -> bool {
        let mut inner = self.inner.lock();
        if !inner.file.is_some_and(is_meant) {
            return false;
        }
        inner.file = None;
        drop(inner);
        // Bound: none comes any more.
        while let Some(waiting) = self.take_first() {
            drop(waiting.request);
        }
        true
    }

    /// Whether no request waits. One that is just put in or taken out may count or not.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// When the first wait is over; [`FOR_EVER`] if none is.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn first_deadline(&self) -> u64 {
        let inner = self.inner.lock();
        let deadlines = inner.entries.iter().map(|entry| entry.deadline);
        // Bound: the limit of the list.
        deadlines.min().unwrap_or(FOR_EVER)
    }

    /// Keeps a request until somebody takes or cancels it. It is answered here if that cannot be: its
    /// file was closed, too many wait, or it is cancelled already.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn put(&'static self, waiting: Waiting, place: Place) -> Answered {
        let Waiting { request, deadline } = waiting;
        let mut inner = self.inner.lock();
        if inner.file != Some(request.file()) {
            drop(inner);
            return Self::refuse(request, place, STATUS_FILE_CLOSED);
        }
        if inner.entries.len() == inner.entries.capacity() {
            drop(inner);
            return Self::refuse(request, place, STATUS_QUOTA_EXCEEDED);
        }
        mark_pending(&request);
        let irp = request.keep();
        remember_list(irp, self);
        let entry = Entry { irp, deadline };
        match place {
            Place::Last => inner.entries.push(entry),
            Place::First => inner.entries.insert(0, entry),
        }
        exchange_cancel_routine(irp, Some(cancel));
        // Cancelled before that: nobody calls the routine, unless it is being called just now.
        let gone = is_cancelled(irp) && exchange_cancel_routine(irp, None).is_some();
        if gone {
            inner.entries.retain(|entry| entry.irp != irp);
        }
        self.count(&inner);
        drop(inner);
        if gone {
            // SAFETY: it was taken from the list and from whoever cancels.
            let _ = unsafe { Request::new(irp.as_ptr()) }.complete(STATUS_CANCELLED, 0);
        }
        Answered::pending()
    }

    /// A request that waited before was reported as pending, whatever it is answered now.
    fn refuse(request: Request, place: Place, status: i32) -> Answered {
        let answered = request.complete(status, 0);
        match place {
            Place::Last => answered,
            Place::First => Answered::pending(),
        }
    }

    /// Takes the request that has waited longest.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn take_first(&self) -> Option<Waiting> {
        self.take(|_| true)
    }

    /// Takes a request whose wait is over at this time.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn take_due(&self, now: u64) -> Option<Waiting> {
        self.take(|entry| entry.deadline <= now)
    }

    fn take(&self, which: impl Fn(&Entry) -> bool) -> Option<Waiting> {
        let mut inner = self.inner.lock();
        // Bound: the limit of the list. One that is being cancelled is passed over.
        let at = inner
            .entries
            .iter()
            .position(|entry| which(entry) && exchange_cancel_routine(entry.irp, None).is_some())?;
        let Entry { irp, deadline } = inner.entries.remove(at);
        self.count(&inner);
        // SAFETY: it was taken from the list and from whoever cancels.
        let request = unsafe { Request::new(irp.as_ptr()) };
        Some(Waiting { request, deadline })
    }

    fn count(&self, inner: &Inner) {
        self.waiting
            .store(inner.entries.len() as u32, Ordering::SeqCst);
    }

    /// Takes out a request that is cancelled, and answers it.
    fn cancelled(&self, irp: NonNull<IRP>) {
        let mut inner = self.inner.lock();
        // Bound: the limit of the list.
        inner.entries.retain(|entry| entry.irp != irp);
        self.count(&inner);
        drop(inner);
        // SAFETY: the list leaves a request alone whose cancel routine it did not get.
        let _ = unsafe { Request::new(irp.as_ptr()) }.complete(STATUS_CANCELLED, 0);
    }
}

/// `IoMarkIrpPending`.
fn mark_pending(request: &Request) {
    let location = (&raw const *request.location()).cast_mut();
    // SAFETY: the location is part of a request that is ours; nobody reads it meanwhile.
    unsafe { (*location).Control |= io::SL_PENDING_RETURNED };
}

/// `IoSetCancelRoutine`.
fn exchange_cancel_routine(irp: NonNull<IRP>, routine: Option<DRIVER_CANCEL>) -> Option<()> {
    // SAFETY: a request in a list is valid, and so is one that is being put there.
    let place = unsafe { &raw mut (*irp.as_ptr()).CancelRoutine };
    // SAFETY: the field is one aligned word that everybody exchanges atomically.
    let place = unsafe { AtomicPtr::from_ptr(place.cast()) };
    let routine = routine.map_or(ptr::null_mut(), |routine| routine as *mut ());
    let before = place.swap(routine, Ordering::SeqCst);
    (!before.is_null()).then_some(())
}

/// Writes into a request that is ours where it waits.
fn remember_list(mut irp: NonNull<IRP>, list: &'static Pended) {
    // SAFETY: the request is ours.
    let irp = unsafe { irp.as_mut() };
    // SAFETY: in a request of a driver this arm of the union holds.
    let overlay = unsafe { &mut irp.Tail.Overlay };
    overlay.DriverContext[LIST_WORD] = (&raw const *list).cast_mut().cast();
}

/// What was written so.
fn remembered_list(irp: NonNull<IRP>) -> *const Pended {
    // SAFETY: nobody writes to a request that waits but atomically to other fields.
    let irp = unsafe { irp.as_ref() };
    // SAFETY: in a request of a driver this arm of the union holds.
    let overlay = unsafe { &irp.Tail.Overlay };
    overlay.DriverContext[LIST_WORD].cast_const().cast()
}

fn is_cancelled(irp: NonNull<IRP>) -> bool {
    // SAFETY: as in `exchange_cancel_routine`.
    let place = unsafe { &raw mut (*irp.as_ptr()).Cancel };
    // SAFETY: the field is one byte that the kernel sets while others read it.
    let place = unsafe { AtomicU8::from_ptr(place) };
    place.load(Ordering::SeqCst) != 0
}

/// # Safety
///
/// Called by the I/O manager for a request that [`Pended::put`] keeps, with the cancel spin lock held.
unsafe extern "win64" fn cancel(_: *mut DEVICE_OBJECT, irp: *mut IRP) {
    // SAFETY: the request is ours: its cancel routine was called.
    let irp = unsafe { NonNull::new_unchecked(irp) };
    // SAFETY: as above.
    let irql = unsafe { irp.as_ref() }.CancelIrql;
    let list = remembered_list(irp);
    // SAFETY: the lock is held and is to be released to this level.
    unsafe { io::IoReleaseCancelSpinLock(irql) };
    // SAFETY: the list is in the driver's state, which outlives every open file, and a file stays
    // open while one of its requests is not answered.
    unsafe { &*list }.cancelled(irp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::FakeIrp;
    use std::boxed::Box;

    const FILE: FileId = FileId(0x1000);

    fn list() -> &'static Pended {
        let list = Box::leak(Box::new(Pended::try_new(3).unwrap()));
        list.open(FILE);
        list
    }

    fn put(list: &'static Pended, irp: &FakeIrp, deadline: u64) -> i32 {
        let request = irp.request();
        list.put(Waiting { request, deadline }, Place::Last)
            .status()
    }

    const PENDING: i32 = 0x103;

    #[test]
    fn requests_come_out_in_order_and_by_time() {
        let list = list();
        let irps = [const { FakeIrp::new(FILE.0) }; 3];
        for (irp, deadline) in irps.iter().zip([30, 10, 20]) {
            assert_eq!(put(list, irp, deadline), PENDING);
            assert!(irp.is_pending());
        }
        assert!(!list.is_empty());
        assert_eq!(list.first_deadline(), 10);
        assert!(list.take_due(9).is_none());
        let due = list.take_due(10).unwrap();
        assert_eq!(due.request.irp(), irps[1].irp());
        let first = list.take_first().unwrap();
        assert_eq!(first.request.irp(), irps[0].irp());
        let _ = list.put(first, Place::First);
        assert_eq!(list.take_first().unwrap().deadline, 30);
        drop(due);
        assert_eq!(irps[1].answer(), Some((STATUS_CANCELLED, 0)));
        assert!(!list.close(FileId(7)) && list.serves(FILE));
        assert!(list.close(FILE) && !list.serves(FILE));
        assert!(!list.close_any());
        assert_eq!(irps[2].answer(), Some((STATUS_CANCELLED, 0)));
        assert!(list.is_empty());
    }

    #[test]
    fn a_cancelled_request_is_answered_once_and_gone() {
        let list = list();
        let irps = [const { FakeIrp::new(FILE.0) }; 2];
        for irp in &irps {
            assert_eq!(put(list, irp, FOR_EVER), PENDING);
        }
        irps[0].cancel();
        assert_eq!(irps[0].answer(), Some((STATUS_CANCELLED, 0)));
        let left = list.take_first().unwrap();
        assert_eq!(left.request.irp(), irps[1].irp());
        assert!(list.is_empty());
        assert_eq!(left.request.complete(0, 72).status(), 0);
        assert_eq!(irps[1].answer(), Some((0, 72)));
        // Too late: it has no cancel routine any more.
        irps[1].cancel();
    }

    #[test]
    fn who_cancels_has_the_request_from_the_exchange_on() {
        let list = list();
        let irp = FakeIrp::new(FILE.0);
        put(list, &irp, 5);
        let routine = irp.start_cancel().unwrap();
        assert!(list.take_first().is_none());
        assert!(list.take_due(5).is_none());
        assert!(list.close(FILE));
        assert_eq!(irp.answer(), None);
        irp.finish_cancel(routine);
        assert_eq!(irp.answer(), Some((STATUS_CANCELLED, 0)));
        assert!(list.is_empty());
    }

    #[test]
    fn whoever_has_it_is_closed_once() {
        let list = list();
        let irp = FakeIrp::new(FILE.0);
        put(list, &irp, 5);
        assert!(list.close_any() && !list.close_any() && !list.serves(FILE));
        assert_eq!(irp.answer(), Some((STATUS_CANCELLED, 0)));
    }

    #[test]
    fn one_cancelled_before_it_waits_is_answered_at_once() {
        let list = list();
        let irp = FakeIrp::new(FILE.0);
        irp.cancel();
        assert_eq!(put(list, &irp, FOR_EVER), PENDING);
        assert_eq!(irp.answer(), Some((STATUS_CANCELLED, 0)));
        assert!(list.is_empty());
    }

    #[test]
    fn a_closed_file_and_a_full_list_are_refused() {
        let list = list();
        let other = FakeIrp::new(7);
        assert_eq!(put(list, &other, 1), STATUS_FILE_CLOSED);
        assert_eq!(other.answer(), Some((STATUS_FILE_CLOSED, 0)));
        let irps = [const { FakeIrp::new(FILE.0) }; 4];
        for irp in &irps[..3] {
            assert_eq!(put(list, irp, 1), PENDING);
        }
        assert_eq!(put(list, &irps[3], 1), STATUS_QUOTA_EXCEEDED);
        let first = list.take_first().unwrap();
        assert!(list.close(FILE));
        // What was pending stays so, for who reads the dispatch routine's answer.
        assert_eq!(list.put(first, Place::First).status(), PENDING);
        assert_eq!(irps[0].answer(), Some((STATUS_FILE_CLOSED, 0)));
    }
}
