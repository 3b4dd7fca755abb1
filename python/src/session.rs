//! `Session`: the client's session, with the interpreter released while it waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kext_client::{
    BadDevice, Counter, Device, Error, FlowColumns, IpNet, OpenOptions, PayloadMode, Received,
    RequestColumns, Wait,
};
use kext_types::Verdict;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::batch::RequestBatch;
use crate::client::Client;
use crate::decide::{self, Permanent};
use crate::errors::{self, raise};
use crate::flow::Flow;
use crate::flow_batch::FlowBatch;
use crate::report::ReplayReport;
use crate::request::VerdictRequest;
use crate::requests::Requests;
use crate::taken::Taken;
use crate::vocabulary;

/// The longest wait without a look at signals, so that Ctrl-C is never later than this.
const SLICE: Duration = Duration::from_millis(100);

/// The Rust client's session, and the iterator of its requests.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct Session {
    client: Client,
    device: Py<PyString>,
    /// How many requests the iterator takes at once, and what payload they bring.
    most: u32,
    payload: PayloadMode,
    /// Requests that are still to be given, by this iterator, by [`Batches`] or by an event loop.
    pub(crate) taken: Taken,
}

impl Session {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether requests may be given. Those of a closed session are settled, and so forgotten.
    pub(crate) fn is_open(&self) -> PyResult<bool> {
        if self.client.is_forked() {
            return Err(raise(Error::Forked));
        }
        let open = !self.client.is_closed();
        if !open {
            self.taken.clear();
        }
        Ok(open)
    }

    pub(crate) fn requests(&self, columns: RequestColumns, payload: PayloadMode) -> Arc<Requests> {
        let with_payload = payload != PayloadMode::None;
        Arc::new(Requests::new(self.client.clone(), columns, with_payload))
    }

    /// A batch of none.
    pub(crate) fn none(&self, payload: PayloadMode) -> RequestBatch {
        RequestBatch(self.requests(RequestColumns::default(), payload))
    }

    fn receive(
        &self,
        py: Python<'_>,
        most: u32,
        payload: PayloadMode,
        wait: Wait,
    ) -> Result<Received<RequestColumns>, Error> {
        py.detach(|| self.client.receive_columns(most, payload, wait))
    }
}

/// Reads a device string. A file name keeps bytes that are not UTF-8, which Python has as lone
/// surrogates (PEP 383).
fn parse(device: &Bound<'_, PyString>) -> PyResult<Device> {
    let parsed = device.to_string_lossy().parse();
    let path = |prefix| {
        let path = device.call_method1(intern!(device.py(), "removeprefix"), (prefix,))?;
        path.extract()
    };
    match parsed.map_err(|bad: BadDevice| raise(bad.into()))? {
        Device::Replay(_) => Ok(Device::Replay(path("replay:")?)),
        Device::Socket(_) => Ok(Device::Socket(path("socket:")?)),
        other => Ok(other),
    }
}

#[pymethods]
impl Session {
    #[new]
    #[allow(clippy::too_many_arguments)] // One caller, in Python, which names them.
    fn new(
        py: Python<'_>,
        device: Bound<'_, PyString>,
        local: Vec<String>,
        output: Option<PathBuf>,
        realtime: bool,
        config: &Bound<'_, PyAny>,
        capacities: &Bound<'_, PyAny>,
        payload: u32,
        max_requests: u32,
        flush_interval: f64,
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
            capacities: crate::config::capacities(capacities)?,
            flush_interval: duration(flush_interval),
        };
        let parsed = parse(&device)?;
        let session = py
            .detach(|| kext_client::Session::open_device(parsed, options))
            .map_err(raise)?;
        Ok(Self {
            client: Client::new(session),
            device: device.unbind(),
            most: max_requests,
            payload: PayloadMode::from_number(payload),
            taken: Taken::default(),
        })
    }

    #[getter]
    fn device(&self, py: Python<'_>) -> Py<PyString> {
        self.device.clone_ref(py)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.client.is_closed()
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<VerdictRequest>> {
        // Ends with the capture, the session, an error or a signal's exception.
        while self.is_open()? {
            if let Some(request) = self.taken.next() {
                return Ok(Some(request));
            }
            match self.receive(py, self.most, self.payload, Wait::AtMost(SLICE)) {
                // A signal that came meanwhile is not looked at here: the request would be lost.
                // A `for` loop over this iterator binds the request before it looks.
                Ok(Received::Batch(columns)) => {
                    self.taken.push(self.requests(columns, self.payload));
                }
                // Another thread may have taken the last ones.
                Ok(Received::End) | Err(Error::Closed) => return Ok(self.taken.next()),
                Ok(Received::Timeout) => py.check_signals()?,
                Err(error) => return Err(raise(error)),
            }
        }
        Ok(None)
    }

    fn set_verdict(
        &self,
        py: Python<'_>,
        packet_id: u64,
        verdict: u8,
        permanent: bool,
    ) -> PyResult<()> {
        let verdict = Verdict::from_number(verdict)
            .ok_or_else(|| errors::verdicts(format!("{verdict} is no verdict: 2 to 6 are")))?;
        decide::decide(py, &self.client, packet_id, verdict, permanent)
    }

    fn set_verdicts<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        verdicts: &Bound<'py, PyAny>,
        permanent: Permanent<'py>,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let ids = decide::ids(ids)?;
        decide::decide_all(py, &self.client, &ids, verdicts, &permanent)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.client.flush()).map_err(raise)
    }

    fn cancel(&self) {
        self.client.cancel();
    }

    fn batches(slf: Py<Self>, max_requests: u32, max_wait: Option<f64>, payload: u32) -> Batches {
        Batches {
            session: slf,
            most: max_requests,
            wait: max_wait.map(duration),
            payload: PayloadMode::from_number(payload),
        }
    }

    fn get_payload<'py>(&self, py: Python<'py>, packet_id: u64) -> PyResult<Bound<'py, PyBytes>> {
        let payload = py
            .detach(|| self.client.get_payload(packet_id))
            .map_err(raise)?;
        Ok(PyBytes::new(py, &payload))
    }

    fn process_path<'py>(
        &self,
        py: Python<'py>,
        process_id: u64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        vocabulary::process_path(py, &self.client, process_id)
    }

    fn counters(&self, py: Python<'_>) -> PyResult<Vec<(String, u8, u64)>> {
        let counters = py.detach(|| self.client.counters()).map_err(raise)?;
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
            .detach(|| self.client.list_flows(cursor, most))
            .map_err(raise)?;
        let flows = page.flows.into_iter().map(Flow::from).collect();
        Ok((flows, page.next))
    }

    fn flow_batch(&self, py: Python<'_>) -> PyResult<FlowBatch> {
        let columns = py.detach(|| {
            let mut columns = FlowColumns::default();
            for flow in self.client.flows() {
                columns.push(&flow?);
            }
            Ok(columns)
        });
        columns.map(FlowBatch::from).map_err(raise)
    }

    fn clear_cache(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.client.clear_cache()).map_err(raise)
    }

    fn get_config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = py.detach(|| self.client.config()).map_err(raise)?;
        crate::config::write(py, &config)
    }

    fn set_config(&self, py: Python<'_>, config: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = crate::config::read(config)?;
        py.detach(|| self.client.set_config(&config))
            .map_err(raise)
            .map(drop)
    }

    fn replay_report(&self, py: Python<'_>) -> Option<ReplayReport> {
        py.detach(|| self.client.report()).map(ReplayReport)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.client.close()).map_err(raise)
    }
}

/// The requests of a session, batch by batch.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct Batches {
    session: Py<Session>,
    most: u32,
    /// The longest wait for the first request of a batch; `None` without limit.
    wait: Option<Duration>,
    payload: PayloadMode,
}

#[pymethods]
impl Batches {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<RequestBatch>> {
        let session = self.session.get();
        let until = self.wait.and_then(|wait| Instant::now().checked_add(wait));
        // Ends with the capture, the session, an error, a signal's exception or its time.
        while session.is_open()? {
            if let Some(batch) = session.taken.next_batch(self.most) {
                return Ok(Some(RequestBatch(batch)));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = match left {
                Some(left) if left.is_zero() => Wait::No,
                Some(left) => Wait::AtMost(left.min(SLICE)),
                None => Wait::AtMost(SLICE),
            };
            match session.receive(py, self.most, self.payload, wait) {
                Ok(Received::Batch(columns)) => {
                    let requests = session.requests(columns, self.payload);
                    return Ok(Some(RequestBatch(requests)));
                }
                Ok(Received::End) | Err(Error::Closed) => {
                    return Ok(session.taken.next_batch(self.most).map(RequestBatch));
                }
                Ok(Received::Timeout) => {
                    py.check_signals()?;
                    if wait == Wait::No || until.is_some_and(|until| until <= Instant::now()) {
                        return Ok(Some(session.none(self.payload)));
                    }
                }
                Err(error) => return Err(raise(error)),
            }
        }
        Ok(None)
    }
}

/// Seconds that were checked to be none below zero; what no clock can count is as long as can be.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
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
