//! `AsyncReader`: requests for an event loop, which must not wait for them itself.

use std::sync::atomic::{AtomicBool, Ordering};

use kext_client::{Arrival, Error, PayloadMode, Reader, Received, Wait, Wish, Wished};
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::prelude::*;

use crate::batch::RequestBatch;
use crate::errors::raise;
use crate::request::VerdictRequest;
use crate::session::Session;

/// Gives what has come, and has a thread wait for more.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct AsyncReader {
    session: Py<Session>,
    reader: Reader,
    /// Whether there will be no more.
    ended: AtomicBool,
}

impl AsyncReader {
    /// What `given` finds among the requests that were taken, with what has arrived added to them.
    /// `None` if nothing is at hand; `StopAsyncIteration` once there will be no more.
    fn next<T>(&self, given: impl Fn(&Session) -> Option<T>) -> PyResult<Option<T>> {
        let session = self.session.get();
        if !session.is_open()? {
            return Err(PyStopAsyncIteration::new_err(()));
        }
        if let Some(found) = given(session) {
            return Ok(Some(found));
        }
        let Some(Arrival { payload, received }) = self.reader.take() else {
            return if self.ended.load(Ordering::Relaxed) {
                Err(PyStopAsyncIteration::new_err(()))
            } else {
                Ok(None)
            };
        };
        match received {
            Ok(Received::Batch(columns)) => {
                session.taken.push(session.requests(columns, payload));
                Ok(given(session))
            }
            Ok(Received::Timeout) => Ok(None),
            Ok(Received::End) => {
                self.ended.store(true, Ordering::Relaxed);
                Err(PyStopAsyncIteration::new_err(()))
            }
            Err(Error::Closed) => Err(PyStopAsyncIteration::new_err(())),
            Err(error) => Err(raise(error)),
        }
    }
}

#[pymethods]
impl AsyncReader {
    #[new]
    fn new(session: Py<Session>, notify: Py<PyAny>) -> Self {
        let client = session.get().client().shared();
        let tell = move || {
            // There is none to tell any more when the interpreter ends.
            Python::try_attach(|py| {
                if let Err(error) = notify.call0(py) {
                    error.write_unraisable(py, Some(notify.bind(py)));
                }
            });
        };
        Self {
            session,
            reader: Reader::new(client, tell),
            ended: AtomicBool::new(false),
        }
    }

    /// Forgets that there were no more: a verdict for one packet may have had its flow ask again.
    fn begin_again(&self) {
        self.ended.store(false, Ordering::Relaxed);
    }

    fn next_request(&self) -> PyResult<Option<VerdictRequest>> {
        self.next(|session| session.taken.next())
    }

    fn next_batch(&self, max_requests: u32) -> PyResult<Option<RequestBatch>> {
        self.next(|session| session.taken.next_batch(max_requests).map(RequestBatch))
    }

    fn empty_batch(&self, payload: u32) -> RequestBatch {
        let payload = PayloadMode::from_number(payload);
        self.session.get().none(payload)
    }

    fn wish(&self, max_requests: u32, payload: u32, at_once: bool) -> PyResult<bool> {
        let wish = Wish {
            most: max_requests,
            payload: PayloadMode::from_number(payload),
            wait: if at_once { Wait::No } else { Wait::Forever },
        };
        match self.reader.wish(wish) {
            Ok(wished) => Ok(wished == Wished::Soon),
            Err(Error::Closed) => Err(PyStopAsyncIteration::new_err(())),
            Err(error) => Err(raise(error)),
        }
    }

    fn stop(&self, py: Python<'_>) {
        // The thread may be about to call into Python.
        py.detach(|| self.reader.stop());
    }
}

impl Drop for AsyncReader {
    fn drop(&mut self) {
        if Python::try_attach(|py| self.stop(py)).is_none() {
            // The interpreter ends, and a thread that calls into it may never come back.
            self.reader.let_go();
        }
    }
}
