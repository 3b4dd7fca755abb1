//! `ReplayReport`: how far a replay has come.

use pyo3::prelude::*;

/// How far a replay has come.
#[pyclass(module = "portmaster_kext", frozen)]
pub(crate) struct ReplayReport(pub(crate) kext_client::ReplayReport);

#[pymethods]
impl ReplayReport {
    #[getter]
    fn records(&self) -> u64 {
        self.0.records
    }

    #[getter]
    fn presented(&self) -> u64 {
        self.0.presented
    }

    #[getter]
    fn not_ip(&self) -> u64 {
        self.0.not_ip
    }

    #[getter]
    fn too_short(&self) -> u64 {
        self.0.too_short
    }

    #[getter]
    fn malformed(&self) -> u64 {
        self.0.malformed
    }

    #[getter]
    fn first_malformed(&self) -> Vec<String> {
        self.0.first_malformed.clone()
    }

    #[getter]
    fn guessed(&self) -> u64 {
        self.0.guessed
    }

    #[getter]
    fn local(&self) -> &str {
        &self.0.local
    }

    #[getter]
    fn local_inferred(&self) -> bool {
        self.0.local_inferred
    }

    #[getter]
    fn bytes_read(&self) -> u64 {
        self.0.bytes_read
    }

    #[getter]
    fn bytes_total(&self) -> u64 {
        self.0.bytes_total
    }

    #[getter]
    fn first_time(&self) -> Option<u64> {
        self.0.first_time.map(kext_types::Timestamp::as_nanos)
    }

    #[getter]
    fn last_time(&self) -> Option<u64> {
        self.0.last_time.map(kext_types::Timestamp::as_nanos)
    }

    fn __repr__(&self) -> String {
        format!(
            "<ReplayReport {} packets, {} of {} bytes, local {}>",
            self.0.records, self.0.bytes_read, self.0.bytes_total, self.0.local
        )
    }
}
