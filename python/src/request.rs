//! `VerdictRequest`: a held packet that waits for a verdict.

use std::hash::{Hash, Hasher};

use kext_client::CUT_SHORT;
use kext_types::{Direction, FlowKey, Verdict};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::client::Client;
use crate::decide::decide;
use crate::requests::{Requests, at};
use crate::vocabulary;

/// A held packet that waits for a verdict. Immutable, hashable, equal by session and id.
///
/// It has what is known of it by itself: whoever keeps one does not keep the batch that it came with.
#[pyclass(module = "portmaster_kext", frozen, eq, hash)]
pub(crate) struct VerdictRequest {
    session: Client,
    id: u64,
    time: u64,
    process_id: u64,
    flow: FlowKey,
    size: u32,
    interface: u32,
    sub_interface: u32,
    compartment: u32,
    direction: u8,
    flags: u8,
    /// The bytes that came along; `None` if none were asked for.
    payload: Option<Box<[u8]>>,
    local: PyOnceLock<Py<PyAny>>,
    remote: PyOnceLock<Py<PyAny>>,
}

impl VerdictRequest {
    /// One row of a batch.
    pub(crate) fn new(batch: &Requests, row: usize) -> Self {
        Self {
            session: batch.session.clone(),
            id: at(&batch.id, row),
            time: at(&batch.time, row),
            process_id: at(&batch.process_id, row),
            flow: batch.keys.key(row),
            size: at(&batch.size, row),
            interface: at(&batch.interface, row),
            sub_interface: at(&batch.sub_interface, row),
            compartment: at(&batch.compartment, row),
            direction: at(&batch.direction, row),
            flags: at(&batch.flags, row),
            payload: batch.with_payload.then(|| batch.payload_of(row).into()),
            local: PyOnceLock::new(),
            remote: PyOnceLock::new(),
        }
    }

    fn decide(&self, py: Python<'_>, verdict: Verdict, permanent: bool) -> PyResult<()> {
        decide(py, &self.session, self.id, verdict, permanent)
    }
}

impl PartialEq for VerdictRequest {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.session.is(&other.session)
    }
}

impl Hash for VerdictRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

#[pymethods]
impl VerdictRequest {
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    #[getter]
    fn time(&self) -> u64 {
        self.time
    }

    #[getter]
    fn direction<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        vocabulary::direction(py, self.direction)
    }

    #[getter]
    fn version(&self) -> u8 {
        self.flow.version.number()
    }

    #[getter]
    fn protocol(&self) -> u8 {
        self.flow.protocol
    }

    #[getter]
    fn local_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        vocabulary::address(py, &self.local, self.flow.version, self.flow.local)
    }

    #[getter]
    fn local_port(&self) -> u16 {
        self.flow.local_port
    }

    #[getter]
    fn remote_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        vocabulary::address(py, &self.remote, self.flow.version, self.flow.remote)
    }

    #[getter]
    fn remote_port(&self) -> u16 {
        self.flow.remote_port
    }

    #[getter]
    fn process_id(&self) -> Option<u64> {
        Some(self.process_id).filter(|id| *id != 0)
    }

    #[getter]
    fn process_path<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.process_id {
            0 => Ok(None),
            id => vocabulary::process_path(py, &self.session, id),
        }
    }

    #[getter]
    fn interface(&self) -> u32 {
        self.interface
    }

    #[getter]
    fn sub_interface(&self) -> u32 {
        self.sub_interface
    }

    #[getter]
    fn compartment(&self) -> u32 {
        self.compartment
    }

    #[getter]
    fn size(&self) -> u32 {
        self.size
    }

    #[getter]
    fn flags(&self) -> u8 {
        self.flags
    }

    #[getter]
    fn truncated(&self) -> bool {
        self.flags & CUT_SHORT != 0
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyMemoryView>>> {
        let bytes = self.payload.as_ref().map(|bytes| PyBytes::new(py, bytes));
        bytes
            .map(|bytes| PyMemoryView::from(bytes.as_any()))
            .transpose()
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
        let direction = Direction::from_number(self.direction);
        let (arrow, way) = match direction {
            Some(Direction::Inbound) => ("<-", "inbound"),
            _ => ("->", "outbound"),
        };
        let (local, remote) = vocabulary::ends(&self.flow);
        let name = vocabulary::protocol_name(self.flow.protocol);
        let Self { id, size, .. } = self;
        format!("<VerdictRequest #{id}: {way} {name} {local} {arrow} {remote}, {size} bytes>")
    }
}
