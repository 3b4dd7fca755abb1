//! A request of a program, as a value that has to be answered.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;

use kext_nt_sys::io::{self, FILE_OBJECT, IO_STACK_LOCATION, IRP, METHOD_BUFFERED};
use kext_nt_sys::status::{NTSTATUS, STATUS_CANCELLED, STATUS_PENDING};

use crate::status::Status;

/// A request that is the driver's. Letting it go unanswered cancels it.
pub struct Request(NonNull<IRP>);

// SAFETY: a request belongs to whoever has it, not to a thread.
unsafe impl Send for Request {}

/// The open file that a request is about. Files of two handles that are open at once differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub(crate) usize);

/// That a request was answered, or is kept to be answered later.
#[must_use = "the dispatch routine has to say so"]
pub struct Answered(NTSTATUS);

impl Answered {
    /// What the dispatch routine returns.
    pub(crate) const fn status(&self) -> NTSTATUS {
        self.0
    }

    /// It is marked as pending, and somebody keeps it.
    pub(crate) const fn pending() -> Self {
        Self(STATUS_PENDING)
    }
}

/// A device request: its code and the one buffer for input and output.
pub struct Control<'a> {
    /// The control code.
    pub code: u32,
    /// The buffer, as long as the longer of both.
    pub buffer: &'a mut [u8],
    /// How many bytes of it are input.
    pub input_len: usize,
    /// How many bytes of it may be output.
    pub output_len: usize,
}

impl Request {
    /// # Safety
    ///
    /// The I/O manager has given the request to the driver, and nobody else in it has it.
    pub(crate) unsafe fn new(irp: *mut IRP) -> Self {
        // SAFETY: requests are never null.
        Self(unsafe { NonNull::new_unchecked(irp) })
    }

    #[cfg(test)]
    pub(crate) fn irp(&self) -> NonNull<IRP> {
        self.0
    }

    /// The same request, which is not answered when this is dropped.
    pub(crate) fn keep(self) -> NonNull<IRP> {
        ManuallyDrop::new(self).0
    }

    /// The driver's part of it.
    pub(crate) fn location(&self) -> &IO_STACK_LOCATION {
        // SAFETY: the request is ours, and nobody writes to it meanwhile but through this value.
        let irp = unsafe { self.0.as_ref() };
        // SAFETY: in a request of a driver this arm of the union holds.
        let overlay = unsafe { &irp.Tail.Overlay };
        // SAFETY: the location belongs to whom the request belongs, and is never null.
        unsafe { &*overlay.CurrentStackLocation }
    }

    /// The file that it is about.
    pub fn file(&self) -> FileId {
        FileId(self.location().FileObject.addr())
    }

    /// Whether the device is opened by a name below its own, or relative to an open file.
    pub fn opens_below(&self) -> bool {
        // SAFETY: the file stays at least as long as the request.
        let file: Option<&FILE_OBJECT> = unsafe { self.location().FileObject.as_ref() };
        file.is_some_and(|file| file.FileName.Length != 0 || !file.RelatedFileObject.is_null())
    }

    /// A device request with its buffer; `None` for a code that passes its buffers in another way.
    /// Of the buffer only the input holds what the program sent; the rest can be anything.
    pub fn control(&mut self) -> Option<Control<'_>> {
        // SAFETY: this is called for device requests only, in which this arm of the union holds; in
        // others it reads numbers that mean something else, but are numbers.
        let parameters = unsafe { self.location().Parameters.DeviceIoControl };
        let code = parameters.IoControlCode;
        if code & 3 != METHOD_BUFFERED {
            return None;
        }
        let input_len = parameters.InputBufferLength as usize;
        let output_len = parameters.OutputBufferLength as usize;
        // SAFETY: the request is ours.
        let irp = unsafe { self.0.as_ref() };
        // SAFETY: buffered requests have their buffer in this arm of the union.
        let start = unsafe { irp.AssociatedIrp.SystemBuffer }.cast::<u8>();
        let len = if start.is_null() {
            0
        } else {
            input_len.max(output_len)
        };
        let start = NonNull::new(start).unwrap_or(NonNull::dangling());
        // SAFETY: the I/O manager has allocated so many bytes there for this request alone, or there
        // are none. What nobody has written holds some bytes: it is memory of the kernel's.
        let buffer = unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) };
        Some(Control {
            code,
            buffer,
            input_len: input_len.min(len),
            output_len: output_len.min(len),
        })
    }

    /// Answers with a status and so many bytes of the buffer.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn complete(self, status: NTSTATUS, information: usize) -> Answered {
        // SAFETY: the request is given up by this.
        unsafe { complete(self.keep(), status, information) };
        Answered(status)
    }

    /// Answers with a status that says why nothing was done.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn fail(self, status: Status) -> Answered {
        self.complete(status.0, 0)
    }
}

impl Drop for Request {
    /// IRQL: up to `DISPATCH_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: nobody has the request any more but this.
        unsafe { complete(self.0, STATUS_CANCELLED, 0) };
    }
}

/// # Safety
///
/// The request is the caller's, who gives it up.
unsafe fn complete(mut irp: NonNull<IRP>, status: NTSTATUS, information: usize) {
    {
        // SAFETY: the request is ours.
        let irp = unsafe { irp.as_mut() };
        irp.IoStatus.Status = status;
        irp.IoStatus.Information = information;
    }
    // SAFETY: the request is ours, has no cancel routine, and is not touched after this.
    unsafe { io::IofCompleteRequest(irp.as_ptr(), io::IO_NO_INCREMENT) };
}
