//! `Flow`: a flow whose verdict is cached.

use kext_types::{FlowInfo, FlowOrigin};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::vocabulary;

/// A flow whose verdict is cached, or was, with its traffic so far.
#[pyclass(module = "portmaster_kext", frozen)]
pub(crate) struct Flow {
    entry: FlowInfo,
    local: PyOnceLock<Py<PyAny>>,
    remote: PyOnceLock<Py<PyAny>>,
}

impl From<FlowInfo> for Flow {
    fn from(entry: FlowInfo) -> Self {
        Self {
            entry,
            local: PyOnceLock::new(),
            remote: PyOnceLock::new(),
        }
    }
}

#[pymethods]
impl Flow {
    #[getter]
    fn version(&self) -> u8 {
        self.entry.flow.version.number()
    }

    #[getter]
    fn protocol(&self) -> u8 {
        self.entry.flow.protocol
    }

    #[getter]
    fn local_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let key = &self.entry.flow;
        vocabulary::address(py, &self.local, key.version, key.local)
    }

    #[getter]
    fn local_port(&self) -> u16 {
        self.entry.flow.local_port
    }

    #[getter]
    fn remote_address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let key = &self.entry.flow;
        vocabulary::address(py, &self.remote, key.version, key.remote)
    }

    #[getter]
    fn remote_port(&self) -> u16 {
        self.entry.flow.remote_port
    }

    #[getter]
    fn verdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        vocabulary::verdict(py, self.entry.verdict)
    }

    #[getter]
    fn origin(&self) -> &'static str {
        match self.entry.origin {
            FlowOrigin::Verdict => "verdict",
            FlowOrigin::Update => "update",
            FlowOrigin::WayBack => "way_back",
        }
    }

    #[getter]
    fn process_id(&self) -> Option<u64> {
        self.entry.process_id.map(u64::from)
    }

    #[getter]
    fn packets_out(&self) -> u64 {
        self.entry.outbound.packets
    }

    #[getter]
    fn packets_in(&self) -> u64 {
        self.entry.inbound.packets
    }

    #[getter]
    fn bytes_out(&self) -> u64 {
        self.entry.outbound.bytes
    }

    #[getter]
    fn bytes_in(&self) -> u64 {
        self.entry.inbound.bytes
    }

    #[getter]
    fn first_seen(&self) -> u64 {
        self.entry.first_seen.as_nanos()
    }

    #[getter]
    fn last_seen(&self) -> u64 {
        self.entry.last_seen.as_nanos()
    }

    #[getter]
    fn payload_out(&self) -> u64 {
        self.entry.payload_outbound
    }

    #[getter]
    fn payload_in(&self) -> u64 {
        self.entry.payload_inbound
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let key = &self.entry.flow;
        let (local, remote) = vocabulary::ends(key);
        Ok(format!(
            "<Flow {} {local} <-> {remote}: {}, {} packets out, {} in>",
            vocabulary::protocol_name(key.protocol),
            vocabulary::verdict(py, self.entry.verdict)?.str()?,
            self.entry.outbound.packets,
            self.entry.inbound.packets
        ))
    }
}
