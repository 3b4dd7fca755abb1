//! `Session`: the client's session, with the interpreter released while it waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kext_client::{
    BadDevice, Counter, Device, Error, IpNet, OpenOptions, PayloadMode, Received, Wait,
};
use kext_types::{Decision, Verdict};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors::{self, raise};
use crate::flow::Flow;
use crate::report::ReplayReport;
use crate::request::VerdictRequest;

/// The longest wait without a look at signals, so that Ctrl-C is never later than this.
const SLICE: Duration = Duration::from_millis(100);

/// The Rust client's session, and the iterator of its requests.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct Session {
    session: Arc<kext_client::Session>,
    device: Py<PyString>,
}

/// Reads a device string. A file name keeps bytes that are not UTF-8, which Python has as lone
/// surrogates (PEP 383).
fn parse(device: &Bound<'_, PyString>) -> PyResult<Device> {
    let parsed = device.to_string_lossy().parse();
    match parsed.map_err(|bad: BadDevice| raise(bad.into()))? {
        Device::Replay(_) => {
            let file = device.call_method1("removeprefix", ("replay:",))?;
            Ok(Device::Replay(file.extract()?))
        }
        other => Ok(other),
    }
}

/// Sets one verdict, for the session and for a request of it.
pub(crate) fn decide(
    py: Python<'_>,
    session: &kext_client::Session,
    id: u64,
    verdict: Verdict,
    permanent: bool,
) -> PyResult<()> {
    let decision = Decision { verdict, permanent };
    py.detach(|| session.set_verdict(id, decision))
        .map_err(raise)
}

#[pymethods]
impl Session {
    #[new]
    fn new(
        py: Python<'_>,
        device: Bound<'_, PyString>,
        local: Vec<String>,
        output: Option<PathBuf>,
        realtime: bool,
        config: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let local = local
            .iter()
            .map(|text| text.parse::<IpNet>())
            .collect::<Result<_, _>>()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let options = OpenOptions {
            local,
            output,
            realtime,
            config: crate::config::read(config)?,
            ..OpenOptions::default()
        };
        let parsed = parse(&device)?;
        let session = py
            .detach(|| kext_client::Session::open_device(parsed, options))
            .map_err(raise)?;
        Ok(Self {
            session: Arc::new(session),
            device: device.unbind(),
        })
    }

    #[getter]
    fn device(&self, py: Python<'_>) -> Py<PyString> {
        self.device.clone_ref(py)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.session.is_closed()
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<VerdictRequest>> {
        // Ends with the capture, the session, an error or a signal's exception.
        loop {
            let received = py.detach(|| {
                self.session
                    .receive(1, PayloadMode::None, Wait::AtMost(SLICE))
            });
            match received {
                // A signal that came meanwhile is not looked at here: the request would be lost.
                // A `for` loop over this iterator binds the request before it looks.
                Ok(Received::Batch(batch)) => {
                    let session = Arc::clone(&self.session);
                    let request = batch.requests.into_iter().next();
                    return Ok(request.map(|request| VerdictRequest::new(request.info, session)));
                }
                Ok(Received::End) | Err(Error::Closed) => return Ok(None),
                Ok(Received::Timeout) => py.check_signals()?,
                Err(error) => return Err(raise(error)),
            }
        }
    }

    fn set_verdict(
        &self,
        py: Python<'_>,
        packet_id: u64,
        verdict: u8,
        permanent: bool,
    ) -> PyResult<()> {
        let verdict = Verdict::from_number(verdict).ok_or_else(|| errors::verdict(verdict))?;
        decide(py, &self.session, packet_id, verdict, permanent)
    }

    fn get_payload<'py>(&self, py: Python<'py>, packet_id: u64) -> PyResult<Bound<'py, PyBytes>> {
        let payload = py
            .detach(|| self.session.get_payload(packet_id))
            .map_err(raise)?;
        Ok(PyBytes::new(py, &payload))
    }

    fn counters(&self, py: Python<'_>) -> PyResult<Vec<(String, u8, u64)>> {
        let counters = py.detach(|| self.session.counters()).map_err(raise)?;
        Ok(counters
            .iter()
            .map(|counter| {
                let disposition = counter.disposition.map_or(NO_END, |of| of as u8);
                (name(counter), disposition, counter.value)
            })
            .collect())
    }

    fn list_flows(
        &self,
        py: Python<'_>,
        cursor: u64,
        most: u32,
    ) -> PyResult<(Vec<Flow>, Option<u64>)> {
        let page = py
            .detach(|| self.session.list_flows(cursor, most))
            .map_err(raise)?;
        let flows = page.flows.into_iter().map(Flow::from).collect();
        Ok((flows, page.next))
    }

    fn clear_cache(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.session.clear_cache()).map_err(raise)
    }

    fn get_config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = py.detach(|| self.session.config()).map_err(raise)?;
        crate::config::write(py, &config)
    }

    fn set_config(&self, py: Python<'_>, config: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = crate::config::read(config)?;
        py.detach(|| self.session.set_config(&config))
            .map_err(raise)
            .map(drop)
    }

    fn replay_report(&self, py: Python<'_>) -> Option<ReplayReport> {
        py.detach(|| self.session.report()).map(ReplayReport)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.session.close()).map_err(raise)
    }
}

/// A counter's name; that of one that is newer than this package tells its number.
fn name(counter: &Counter) -> String {
    match counter.name() {
        Some(name) => name.to_owned(),
        None => format!("unknown_{}", counter.number),
    }
}

/// The number for a counter that is no packet's end.
const NO_END: u8 = 255;
