//! `EndedFlows`: the flows that have left the verdict cache, one by one or as arrays.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kext_client::{Error, EventPage};
use kext_types::FlowEnded;
use pyo3::prelude::*;

use crate::client::Client;
use crate::errors::raise;
use crate::flow::Flow;
use crate::flow_batch::FlowEventBatch;
use crate::session::Session;

/// How many are fetched at once, one by one given.
const PAGE: u32 = 4_096;

/// The flows that have ended since this was made and were not given yet. Each is given once, in the order
/// in which they ended, whatever threads ask.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct EndedFlows {
    session: Client,
    fetched: Mutex<Fetched>,
}

/// What was fetched and not given.
#[derive(Default)]
struct Fetched {
    events: VecDeque<FlowEnded>,
    /// How many were lost, and how many waited in the extension, as of the last look.
    lost: u64,
    waiting: u32,
}

impl EndedFlows {
    fn fetched(&self) -> MutexGuard<'_, Fetched> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches some if there are none. Under the lock, so that they stay in order; the caller does not
    /// hold the interpreter.
    fn filled(&self, most: u32) -> Result<MutexGuard<'_, Fetched>, Error> {
        let mut fetched = self.fetched();
        if fetched.events.is_empty() {
            let page = self.session.events(most, true)?;
            fetched.events.extend(page.events);
            (fetched.lost, fetched.waiting) = (page.lost, page.waiting);
        }
        Ok(fetched)
    }
}

#[pymethods]
impl EndedFlows {
    /// From now on they are kept.
    #[new]
    fn new(py: Python<'_>, session: &Bound<'_, Session>) -> PyResult<Self> {
        let ended = Self {
            session: session.get().client().clone(),
            fetched: Mutex::default(),
        };
        py.detach(|| ended.filled(PAGE).map(drop)).map_err(raise)?;
        Ok(ended)
    }

    fn next(&self, py: Python<'_>) -> PyResult<Option<(Flow, u8)>> {
        let event = py.detach(|| Ok(self.filled(PAGE)?.events.pop_front()));
        let event = event.map_err(raise)?;
        Ok(event.map(|event| (Flow::from(event.flow), event.end.number())))
    }

    fn columns(&self, py: Python<'_>, most: u32) -> PyResult<FlowEventBatch> {
        let page = py.detach(|| {
            let mut fetched = self.filled(most)?;
            let count = fetched.events.len().min(most as usize);
            let events: Vec<_> = fetched.events.drain(..count).collect();
            let here = u32::try_from(fetched.events.len()).unwrap_or(u32::MAX);
            Ok(EventPage {
                events,
                lost: fetched.lost,
                waiting: fetched.waiting.saturating_add(here),
            })
        });
        page.map(FlowEventBatch::from).map_err(raise)
    }

    #[getter]
    fn lost(&self, py: Python<'_>) -> u64 {
        // Somebody may have the lock who waits for the extension.
        py.detach(|| self.fetched().lost)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut fetched = self.fetched();
            self.session.events(1, false)?;
            fetched.events.clear();
            Ok(())
        })
        .map_err(raise)
    }
}
