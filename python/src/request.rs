//! `VerdictRequest`: a held packet that waits for a verdict.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kext_client::CUT_SHORT;
use kext_types::{Direction, Verdict};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::decide::decide;
use crate::requests::{Requests, at};
use crate::vocabulary;

/// A held packet that waits for a verdict. Immutable, hashable, equal by session and id.
///
/// A row of the batch that it came with: what is asked for is read there.
#[pyclass(module = "portmaster_kext", frozen, eq, hash)]
pub(crate) struct VerdictRequest {
    requests: Arc<Requests>,
    row: usize,
    local: PyOnceLock<Py<PyAny>>,
    remote: PyOnceLock<Py<PyAny>>,
}

impl VerdictRequest {
    pub(crate) fn new(requests: Arc<Requests>, row: usize) -> Self {
        Self {
            requests,
            row,
            local: PyOnceLock::new(),
            remote: PyOnceLock::new(),
        }
    }

    fn number(&self) -> u64 {
        at(&self.requests.id, self.row)
    }

    fn decide(&self, py: Python<'_>, verdict: Verdict, permanent: bool) -> PyResult<()> {
        decide(
            py,
            &self.requests.session,
            self.number(),
            verdict,
            permanent,
        )
    }
}

impl PartialEq for VerdictRequest {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
            && Arc::ptr_eq(&self.requests.session, &other.requests.session)
    }
}

impl Hash for VerdictRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

#[pymethods]
impl VerdictRequest {
    #[getter]
    fn id(&self) -> u64 {
        self.number()
    }

    #[getter]
    fn time(&self) -> u64 {
        at(&self.requests.time, self.row)
    }

    #[getter]
    fn direction<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        vocabulary::direction(py, at(&self.requests.direction, self.row))
    }

    #[getter]
    fn version(&self) -> u8 {
        at(&self.requests.keys.version, self.row)
    }

    #[getter]
    fn protocol(&self) -> u8 {
        at(&self.requests.keys.protocol, self.row)
    }

    #[getter]
    fn local_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let key = self.requests.keys.key(self.row);
        vocabulary::address(py, &self.local, key.version, key.local)
    }

    #[getter]
    fn local_port(&self) -> u16 {
        at(&self.requests.keys.local_port, self.row)
    }

    #[getter]
    fn remote_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let key = self.requests.keys.key(self.row);
        vocabulary::address(py, &self.remote, key.version, key.remote)
    }

    #[getter]
    fn remote_port(&self) -> u16 {
        at(&self.requests.keys.remote_port, self.row)
    }

    #[getter]
    fn process_id(&self) -> Option<u64> {
        Some(at(&self.requests.process_id, self.row)).filter(|id| *id != 0)
    }

    #[getter]
    fn interface(&self) -> u32 {
        at(&self.requests.interface, self.row)
    }

    #[getter]
    fn sub_interface(&self) -> u32 {
        at(&self.requests.sub_interface, self.row)
    }

    #[getter]
    fn compartment(&self) -> u32 {
        at(&self.requests.compartment, self.row)
    }

    #[getter]
    fn size(&self) -> u32 {
        at(&self.requests.size, self.row)
    }

    #[getter]
    fn flags(&self) -> u8 {
        at(&self.requests.flags, self.row)
    }

    #[getter]
    fn truncated(&self) -> bool {
        self.flags() & CUT_SHORT != 0
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyMemoryView>>> {
        if !self.requests.with_payload {
            return Ok(None);
        }
        // A copy of its own: a view of the batch would keep all of it for as long as one is kept.
        let bytes = PyBytes::new(py, self.requests.payload_of(self.row));
        PyMemoryView::from(bytes.as_any()).map(Some)
    }

    #[pyo3(signature = (permanent = true))]
    fn accept(&self, py: Python<'_>, permanent: bool) -> PyResult<()> {
        self.decide(py, Verdict::Accept, permanent)
    }

    #[pyo3(signature = (permanent = true))]
    fn block(&self, py: Python<'_>, permanent: bool) -> PyResult<()> {
        self.decide(py, Verdict::Block, permanent)
    }

    #[pyo3(signature = (permanent = true))]
    fn drop(&self, py: Python<'_>, permanent: bool) -> PyResult<()> {
        self.decide(py, Verdict::Drop, permanent)
    }

    #[pyo3(signature = (permanent = true))]
    fn redirect_dns(&self, py: Python<'_>, permanent: bool) -> PyResult<()> {
        self.decide(py, Verdict::RedirectDns, permanent)
    }

    #[pyo3(signature = (permanent = true))]
    fn redirect_tunnel(&self, py: Python<'_>, permanent: bool) -> PyResult<()> {
        self.decide(py, Verdict::RedirectTunnel, permanent)
    }

    fn __repr__(&self) -> String {
        let direction = Direction::from_number(at(&self.requests.direction, self.row));
        let (arrow, way) = match direction {
            Some(Direction::Inbound) => ("<-", "inbound"),
            _ => ("->", "outbound"),
        };
        let key = self.requests.keys.key(self.row);
        let (local, remote) = vocabulary::ends(&key);
        let name = vocabulary::protocol_name(key.protocol);
        let (id, size) = (self.number(), self.size());
        format!("<VerdictRequest #{id}: {way} {name} {local} {arrow} {remote}, {size} bytes>")
    }
}
