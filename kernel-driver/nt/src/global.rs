//! The one value that lives from the loading of a driver to its unloading.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A static place for a value that callbacks of the kernel look for.
///
/// Empty at first and again at the end: a callback that comes too early or too late finds nothing.
pub struct Global<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Global<T> {
    /// An empty place.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, if there is one.
    ///
    /// IRQL: any.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: what is stored came from a box, and `take` promises that nobody has this reference
        // any more when it takes the box back.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Puts a value in, and gives it back if there is one already.
    ///
    /// IRQL: any.
    pub fn set(&self, value: Box<T>) -> Result<&'static T, Box<T>> {
        let value = Box::into_raw(value);
        let set =
            self.0
                .compare_exchange(ptr::null_mut(), value, Ordering::AcqRel, Ordering::Relaxed);
        match set {
            // SAFETY: as in `get`.
            Ok(_) => Ok(unsafe { &*value }),
            // SAFETY: nobody else has seen the pointer that the box was just made to.
            Err(_) => Err(unsafe { Box::from_raw(value) }),
        }
    }

    /// Takes the value out.
    ///
    /// IRQL: any; dropping what is taken needs what the value does.
    ///
    /// # Safety
    ///
    /// No reference to it is used from now on: every callback that could have one is over.
    pub unsafe fn take(&self) -> Option<Box<T>> {
        let value = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        if value.is_null() {
            return None;
        }
        // SAFETY: it came from a box, and the caller promises that nobody else uses it.
        Some(unsafe { Box::from_raw(value) })
    }
}

impl<T: Sync> Default for Global<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_from_set_to_take() {
        static PLACE: Global<u32> = Global::new();
        assert!(PLACE.get().is_none());
        assert_eq!(PLACE.set(Box::new(7)), Ok(&7));
        assert_eq!(PLACE.set(Box::new(8)), Err(Box::new(8)));
        assert_eq!(PLACE.get(), Some(&7));
        // SAFETY: no reference is used after this line.
        assert_eq!(unsafe { PLACE.take() }, Some(Box::new(7)));
        assert!(PLACE.get().is_none());
    }
}
