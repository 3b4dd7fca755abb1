//! `VerdictRequest`: a held packet that waits for a verdict.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kext_client::{ReceivedRequest, Session};
use kext_types::{Direction, Verdict};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::session::decide;
use crate::vocabulary;

/// A held packet that waits for a verdict. Immutable, hashable, equal by session and id.
#[pyclass(module = "portmaster_kext", frozen, eq, hash)]
pub(crate) struct VerdictRequest {
    request: ReceivedRequest,
    session: Arc<Session>,
    local: PyOnceLock<Py<PyAny>>,
    remote: PyOnceLock<Py<PyAny>>,
}

impl VerdictRequest {
    pub(crate) fn new(request: ReceivedRequest, session: Arc<Session>) -> Self {
        Self {
            request,
            session,
            local: PyOnceLock::new(),
            remote: PyOnceLock::new(),
        }
    }

    fn decide(&self, py: Python<'_>, verdict: Verdict, permanent: bool) -> PyResult<()> {
        decide(py, &self.session, self.request.id.get(), verdict, permanent)
    }
}

impl PartialEq for VerdictRequest {
    fn eq(&self, other: &Self) -> bool {
        self.request.id == other.request.id && Arc::ptr_eq(&self.session, &other.session)
    }
}

impl Hash for VerdictRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.request.id.hash(state);
    }
}

#[pymethods]
impl VerdictRequest {
    #[getter]
    fn id(&self) -> u64 {
        self.request.id.get()
    }

    #[getter]
    fn time(&self) -> u64 {
        self.request.time.as_nanos()
    }

    #[getter]
    fn direction<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        vocabulary::direction(py, self.request.direction)
    }

    #[getter]
    fn version(&self) -> u8 {
        self.request.flow.version.number()
    }

    #[getter]
    fn protocol(&self) -> u8 {
        self.request.flow.protocol
    }

    #[getter]
    fn local_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let flow = &self.request.flow;
        vocabulary::address(py, &self.local, flow.version, flow.local)
    }

    #[getter]
    fn local_port(&self) -> u16 {
        self.request.flow.local_port
    }

    #[getter]
    fn remote_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let flow = &self.request.flow;
        vocabulary::address(py, &self.remote, flow.version, flow.remote)
    }

    #[getter]
    fn remote_port(&self) -> u16 {
        self.request.flow.remote_port
    }

    #[getter]
    fn process_id(&self) -> Option<u64> {
        self.request.process_id.map(u64::from)
    }

    #[getter]
    fn interface(&self) -> u32 {
        self.request.interface.index
    }

    #[getter]
    fn sub_interface(&self) -> u32 {
        self.request.interface.sub_index
    }

    #[getter]
    fn compartment(&self) -> u32 {
        self.request.compartment
    }

    #[getter]
    fn size(&self) -> u32 {
        self.request.size
    }

    #[getter]
    fn flags(&self) -> u8 {
        u8::from(self.request.cut_short)
    }

    #[getter]
    fn truncated(&self) -> bool {
        self.request.cut_short
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
        let ReceivedRequest { id, flow, size, .. } = self.request;
        let (arrow, way) = match self.request.direction {
            Direction::Outbound => ("->", "outbound"),
            Direction::Inbound => ("<-", "inbound"),
        };
        let (local, remote) = vocabulary::ends(&flow);
        let name = vocabulary::protocol_name(flow.protocol);
        format!("<VerdictRequest {id:?}: {way} {name} {local} {arrow} {remote}, {size} bytes>")
    }
}
