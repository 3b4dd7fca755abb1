//! Requests of programs: who owns the device, and what is asked of the extension.

use kext_extension::{Attempt, Dispatch};
use kext_nt::Status;
use kext_nt::device::Requests;
use kext_nt::global::Global;
use kext_nt::irql::Passive;
use kext_nt::request::{Answered, Request};
use kext_nt_sys::status::{
    NTSTATUS, STATUS_DEVICE_NOT_READY, STATUS_FILE_CLOSED, STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_SUCCESS,
};

use crate::kext::{KEXT, Kext};

impl Requests for Kext {
    fn state() -> &'static Global<Self> {
        &KEXT
    }

    /// One owner at a time, by the device's own name.
    fn create(&self, _: &Passive, request: Request) -> Answered {
        if request.opens_below() {
            return request.fail(Status(STATUS_OBJECT_NAME_NOT_FOUND));
        }
        match self.extension.open() {
            Ok(()) => {
                self.reads().open(request.file());
                request.complete(STATUS_SUCCESS, 0)
            }
            Err(status) => request.fail(Status(raw(status))),
        }
    }

    fn cleanup(&self, _: &Passive, request: Request) -> Answered {
        self.end_session(&request);
        request.complete(STATUS_SUCCESS, 0)
    }

    /// Some kernels are said not to tell of the cleanup: then the session ends here.
    fn close(&self, _: &Passive, request: Request) -> Answered {
        self.end_session(&request);
        request.complete(STATUS_SUCCESS, 0)
    }

    /// Who keeps a read goes on after that, while somebody else may end it, close the device and have the
    /// driver unloaded: unloading waits for this.
    fn control(&self, _: &Passive, request: Request) -> Answered {
        if !self.requests.begin() {
            return request.fail(Status(STATUS_DEVICE_NOT_READY));
        }
        // A request that was under way when its file was closed has no owner any more.
        let answered = if self.reads().serves(request.file()) {
            self.answer(request)
        } else {
            request.fail(Status(STATUS_FILE_CLOSED))
        };
        self.requests.end();
        answered
    }

    fn shutdown(&self, _: &Passive, request: Request) -> Answered {
        // First the reads: once the extension is closed somebody else may open it, whose requests they would
        // take.
        if self.reads().close_any() {
            self.extension.close();
        }
        request.complete(STATUS_SUCCESS, 0)
    }
}

impl Kext {
    /// Cancels the owner's reads and settles what it leaves behind, once.
    fn end_session(&self, request: &Request) {
        if self.reads().close(request.file()) {
            self.extension.close();
        }
    }

    /// Asks the extension.
    pub(crate) fn dispatch(&self, request: &mut Request, attempt: Attempt) -> Dispatch {
        match request.control() {
            Some(control) => self.extension.dispatch(
                control.code,
                control.buffer,
                control.input_len,
                control.output_len,
                attempt,
            ),
            None => Dispatch::Complete {
                status: kext_wire::Status::INVALID_DEVICE_REQUEST,
                information: 0,
            },
        }
    }
}

/// The extension's statuses are the system's.
pub(crate) const fn raw(status: kext_wire::Status) -> NTSTATUS {
    status.0.cast_signed()
}
