//! `RequestBatch`: requests that came together, as arrays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PySlice};

use crate::arrow;
use crate::decide::{Permanent, decide_all};
use crate::request::VerdictRequest;
use crate::requests::Requests;
use crate::view;

/// Requests that came together: one array for each thing that is known of them.
#[pyclass(module = "portmaster_kext", frozen)]
pub(crate) struct RequestBatch(pub(crate) Arc<Requests>);

type Array<'py, T> = PyResult<Bound<'py, PyArray1<T>>>;
type Rows<'py> = PyResult<Bound<'py, PyArray2<u8>>>;

#[pymethods]
impl RequestBatch {
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Array<'py, u64> {
        view::array(py, &self.0.id)
    }

    #[getter]
    fn time<'py>(&self, py: Python<'py>) -> Array<'py, u64> {
        view::array(py, &self.0.time)
    }

    #[getter]
    fn process_id<'py>(&self, py: Python<'py>) -> Array<'py, u64> {
        view::array(py, &self.0.process_id)
    }

    #[getter]
    fn local_address<'py>(&self, py: Python<'py>) -> Rows<'py> {
        view::rows(py, &self.0.keys.local_address)
    }

    #[getter]
    fn remote_address<'py>(&self, py: Python<'py>) -> Rows<'py> {
        view::rows(py, &self.0.keys.remote_address)
    }

    #[getter]
    fn local_port<'py>(&self, py: Python<'py>) -> Array<'py, u16> {
        view::array(py, &self.0.keys.local_port)
    }

    #[getter]
    fn remote_port<'py>(&self, py: Python<'py>) -> Array<'py, u16> {
        view::array(py, &self.0.keys.remote_port)
    }

    #[getter]
    fn version<'py>(&self, py: Python<'py>) -> Array<'py, u8> {
        view::array(py, &self.0.keys.version)
    }

    #[getter]
    fn protocol<'py>(&self, py: Python<'py>) -> Array<'py, u8> {
        view::array(py, &self.0.keys.protocol)
    }

    #[getter]
    fn direction<'py>(&self, py: Python<'py>) -> Array<'py, u8> {
        view::array(py, &self.0.direction)
    }

    #[getter]
    fn flags<'py>(&self, py: Python<'py>) -> Array<'py, u8> {
        view::array(py, &self.0.flags)
    }

    #[getter]
    fn size<'py>(&self, py: Python<'py>) -> Array<'py, u32> {
        view::array(py, &self.0.size)
    }

    #[getter]
    fn interface<'py>(&self, py: Python<'py>) -> Array<'py, u32> {
        view::array(py, &self.0.interface)
    }

    #[getter]
    fn sub_interface<'py>(&self, py: Python<'py>) -> Array<'py, u32> {
        view::array(py, &self.0.sub_interface)
    }

    #[getter]
    fn compartment<'py>(&self, py: Python<'py>) -> Array<'py, u32> {
        view::array(py, &self.0.compartment)
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Array<'py, u8> {
        view::array(py, &self.0.payload)
    }

    #[getter]
    fn payload_offsets<'py>(&self, py: Python<'py>) -> Array<'py, u32> {
        view::array(py, &self.0.payload_offsets)
    }

    #[pyo3(
        signature = (verdicts, permanent = Permanent::All(true)),
        text_signature = "($self, verdicts, permanent=True)"
    )]
    fn set_verdicts<'py>(
        &self,
        py: Python<'py>,
        verdicts: &Bound<'py, PyAny>,
        permanent: Permanent<'py>,
    ) -> Array<'py, u8> {
        decide_all(py, &self.0.session, &self.0.id, verdicts, &permanent)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.0.len();
        if let Ok(slice) = index.cast::<PySlice>() {
            let range = slice.indices(rows.cast_signed())?;
            if range.step != 1 {
                return Err(PyValueError::new_err(
                    "a part of a batch is requests that follow each other: the step is 1",
                ));
            }
            // Both are within the rows, but the end may come before the start.
            let start = range.start.unsigned_abs();
            let end = range.stop.unsigned_abs().max(start);
            let part = RequestBatch(Arc::new(self.0.rows(start..end)));
            return Ok(Bound::new(py, part)?.into_any());
        }
        let row = match index.extract::<isize>() {
            Ok(index) if index < 0 => rows.checked_add_signed(index),
            Ok(index) => usize::try_from(index).ok(),
            // Beyond any list.
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => None,
            Err(error) => return Err(error),
        };
        match row.filter(|row| *row < rows) {
            Some(row) => Ok(Bound::new(py, VerdictRequest::new(&self.0, row))?.into_any()),
            None => Err(PyIndexError::new_err(format!(
                "this batch has {rows} requests, and none at {index}"
            ))),
        }
    }

    fn __iter__(&self) -> BatchIterator {
        BatchIterator {
            requests: Arc::clone(&self.0),
            next: AtomicUsize::new(0),
        }
    }

    fn __arrow_c_schema__(&self, py: Python<'_>) -> PyResult<Py<PyCapsule>> {
        arrow::schema(py, self.0.columns())
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_array__(
        &self,
        py: Python<'_>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<(Py<PyCapsule>, Py<PyCapsule>)> {
        drop(requested_schema);
        arrow::array(py, self.0.columns())
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__(
        &self,
        py: Python<'_>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyCapsule>> {
        drop(requested_schema);
        arrow::stream(py, self.0.columns())
    }

    fn __repr__(&self) -> String {
        let (rows, bytes) = (self.0.len(), self.0.payload.len());
        format!("<RequestBatch of {rows} requests, {bytes} bytes of payload>")
    }
}

/// The requests of a batch, one by one.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct BatchIterator {
    requests: Arc<Requests>,
    /// May go beyond the last one, by as often as it is asked for more.
    next: AtomicUsize,
}

#[pymethods]
impl BatchIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<VerdictRequest> {
        let row = self.next.fetch_add(1, Ordering::Relaxed);
        if row >= self.requests.len() {
            return None;
        }
        Some(VerdictRequest::new(&self.requests, row))
    }
}
