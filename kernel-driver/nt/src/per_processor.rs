//! One value for each processor.

use alloc::boxed::Box;

use kext_nt_sys::ke::{self, ALL_PROCESSOR_GROUPS};

use crate::boxed::try_array;
use crate::irql::Dispatch;
use crate::status::Result;

/// A value for each processor, which only code on that processor reaches.
pub struct PerProcessor<T>(Box<[Apart<T>]>);

/// In cache lines of its own.
#[repr(align(128))]
struct Apart<T>(T);

// SAFETY: at DISPATCH_LEVEL nothing else runs on the processor but what the holder of the reference
// calls itself, so a value is used by one thread at a time; it goes from thread to thread, hence Send.
unsafe impl<T: Send> Sync for PerProcessor<T> {}

impl<T> PerProcessor<T> {
    /// A value for each processor that there ever can be, made from its number.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(mut make: impl FnMut(usize) -> T) -> Result<Self> {
        // SAFETY: callable at any level.
        let count = unsafe { ke::KeQueryMaximumProcessorCountEx(ALL_PROCESSOR_GROUPS) };
        try_array(count as usize, |number| Ok(Apart(make(number)))).map(Self)
    }

    /// The value of this processor; `None` if the kernel names one that it had said cannot be.
    ///
    /// IRQL: `DISPATCH_LEVEL`.
    #[inline]
    pub fn get<'a>(&'a self, _: &'a Dispatch) -> Option<&'a T> {
        // SAFETY: callable at any level; the number is not wanted in its other form.
        let number = unsafe { ke::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) };
        self.0.get(number as usize).map(|apart| &apart.0)
    }
}
