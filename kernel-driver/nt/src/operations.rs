//! Operations of the filter engine that are held: connects that wait until somebody has decided.
//!
//! Each that was held is ended once: its place has it until then, and whoever takes it out ends it.

use alloc::boxed::Box;
use core::ptr;

use kext_nt_sys::fwps::{FwpsCompleteOperation0, FwpsPendOperation0};
use kext_nt_sys::status::{STATUS_DEVICE_BUSY, STATUS_FWP_CANNOT_PEND};
use kext_nt_sys::types::HANDLE;

use crate::boxed::try_array;
use crate::classify::Classify;
use crate::spin_lock::Lock;
use crate::status::{Result, Status};

/// What a place has.
enum Place {
    Free,
    /// An operation that is just being held.
    Taken,
    Held(Operation),
}

/// The context by which an operation is ended.
struct Operation(HANDLE);

// SAFETY: the filter engine gives it out to be ended on any thread.
unsafe impl Send for Operation {}

/// Places for operations that are held.
///
/// The lock of a place is never held while the filter engine is called.
pub struct Operations(Box<[Lock<Place>]>);

impl Operations {
    /// So many places, all free.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(places: usize) -> Result<Self> {
        try_array(places, |_| Ok(Lock::new(Place::Free))).map(Self)
    }

    /// Holds what a call of a callout is about, in this place. The callout then has to answer by
    /// [`Classify::absorb`].
    ///
    /// Fails if the call cannot be held: not with what is authorized again, and not early in the start of
    /// a machine.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`, without a lock.
    pub fn hold(&self, place: usize, call: &Classify<'_>) -> Result<()> {
        let handle = call
            .completion_handle()
            .ok_or(Status(STATUS_FWP_CANNOT_PEND))?;
        let place = self.0.get(place).ok_or(Status(STATUS_DEVICE_BUSY))?;
        {
            let mut place = place.lock();
            if !matches!(*place, Place::Free) {
                return Err(Status(STATUS_DEVICE_BUSY));
            }
            *place = Place::Taken;
        }
        let mut context = ptr::null_mut();
        // SAFETY: the handle is the one that the filter engine gave for the call that runs.
        let held = Status::check(unsafe { FwpsPendOperation0(handle, &raw mut context) });
        *place.lock() = match held {
            Ok(()) => Place::Held(Operation(context)),
            Err(_) => Place::Free,
        };
        held
    }

    /// Ends what is held in this place, if anything is. What was held is authorized again, perhaps before
    /// this returns.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`, without a lock, and not in a call of a callout.
    pub fn end(&self, place: usize) {
        let Some(place) = self.0.get(place) else {
            return;
        };
        let operation = {
            let mut place = place.lock();
            match &*place {
                // Who holds it goes on with it.
                Place::Free | Place::Taken => return,
                Place::Held(_) => core::mem::replace(&mut *place, Place::Free),
            }
        };
        if let Place::Held(Operation(context)) = operation {
            // SAFETY: the context is of an operation that was held, and was taken out of its place, so that
            // nobody else ends it. No packet is to go with it.
            unsafe { FwpsCompleteOperation0(context, ptr::null_mut()) };
        }
    }

    /// Ends everything that is held. Nothing is held any more after it.
    ///
    /// IRQL: as for [`Operations::end`].
    pub fn end_all(&self) {
        // Bound: the places.
        for place in 0..self.0.len() {
            self.end(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::tests::call_with_completion;
    use crate::stand_in::{operations, refuse_operations};

    #[test]
    fn what_is_held_ends_once() {
        let places = Operations::try_new(2).unwrap();
        call_with_completion(Some(0x40), |call| {
            places.hold(1, call).unwrap();
            // Its place is not another's before it has ended.
            assert_eq!(places.hold(1, call), Err(Status(STATUS_DEVICE_BUSY)));
        });
        assert_eq!(operations(), 1);
        places.end(0);
        places.end(7);
        assert_eq!(operations(), 1);
        places.end(1);
        places.end(1);
        assert_eq!(operations(), 0);
        call_with_completion(Some(0x48), |call| {
            places.hold(0, call).unwrap();
            places.hold(1, call).unwrap();
        });
        assert_eq!(operations(), 2);
        places.end_all();
        places.end_all();
        assert_eq!(operations(), 0);
    }

    #[test]
    fn what_cannot_be_held_leaves_its_place_free() {
        let places = Operations::try_new(1).unwrap();
        call_with_completion(None, |call| {
            let cannot = Err(Status(STATUS_FWP_CANNOT_PEND));
            assert_eq!(places.hold(0, call), cannot);
        });
        call_with_completion(Some(0x40), |call| {
            assert_eq!(places.hold(1, call), Err(Status(STATUS_DEVICE_BUSY)));
            refuse_operations(true);
            assert!(places.hold(0, call).is_err());
            refuse_operations(false);
            assert_eq!(operations(), 0);
            places.hold(0, call).unwrap();
        });
        places.end_all();
        assert_eq!(operations(), 0);
    }
}
