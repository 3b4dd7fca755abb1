//! `FlowBatch` and `FlowEventBatch`: flows that are cached, or have ended, as arrays.

use arrow_array::types::{UInt8Type, UInt64Type};
use arrow_buffer::ScalarBuffer;
use kext_client::{EventPage, FlowColumns};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::arrow::{self, Column};
use crate::requests::Keys;
use crate::view;

/// Flows, row by row.
pub(crate) struct Flows {
    keys: Keys,
    verdict: ScalarBuffer<u8>,
    origin: ScalarBuffer<u8>,
    process_id: ScalarBuffer<u64>,
    packets_out: ScalarBuffer<u64>,
    packets_in: ScalarBuffer<u64>,
    bytes_out: ScalarBuffer<u64>,
    bytes_in: ScalarBuffer<u64>,
    first_seen: ScalarBuffer<u64>,
    last_seen: ScalarBuffer<u64>,
    payload_out: ScalarBuffer<u64>,
    payload_in: ScalarBuffer<u64>,
}

impl From<FlowColumns> for Flows {
    fn from(columns: FlowColumns) -> Self {
        Self {
            keys: columns.flows.into(),
            verdict: columns.verdicts.into(),
            origin: columns.origins.into(),
            process_id: columns.process_ids.into(),
            packets_out: columns.packets_out.into(),
            packets_in: columns.packets_in.into(),
            bytes_out: columns.bytes_out.into(),
            bytes_in: columns.bytes_in.into(),
            first_seen: columns.first_seen.into(),
            last_seen: columns.last_seen.into(),
            payload_out: columns.payload_out.into(),
            payload_in: columns.payload_in.into(),
        }
    }
}

impl Flows {
    fn columns(&self) -> Vec<Column> {
        let numbers = arrow::numbers::<UInt64Type>;
        let mut columns = self.keys.columns();
        columns.extend([
            ("verdict", arrow::numbers::<UInt8Type>(&self.verdict)),
            ("origin", arrow::numbers::<UInt8Type>(&self.origin)),
            ("process_id", numbers(&self.process_id)),
            ("packets_out", numbers(&self.packets_out)),
            ("packets_in", numbers(&self.packets_in)),
            ("bytes_out", numbers(&self.bytes_out)),
            ("bytes_in", numbers(&self.bytes_in)),
            ("first_seen", arrow::times(&self.first_seen)),
            ("last_seen", arrow::times(&self.last_seen)),
            ("payload_out", numbers(&self.payload_out)),
            ("payload_in", numbers(&self.payload_in)),
        ]);
        columns
    }
}

/// The cached flows: one array for each thing that is known of them.
#[pyclass(module = "portmaster_kext", frozen)]
pub(crate) struct FlowBatch {
    flows: Flows,
}

impl From<FlowColumns> for FlowBatch {
    fn from(columns: FlowColumns) -> Self {
        let flows = columns.into();
        Self { flows }
    }
}

impl FlowBatch {
    fn columns(&self) -> Vec<Column> {
        self.flows.columns()
    }
}

/// Flows that have ended: one array for each thing that is known of them.
#[pyclass(module = "portmaster_kext", frozen)]
pub(crate) struct FlowEventBatch {
    flows: Flows,
    end: ScalarBuffer<u8>,
    lost: u64,
    waiting: u32,
}

impl From<EventPage> for FlowEventBatch {
    fn from(page: EventPage) -> Self {
        let mut columns = FlowColumns::default();
        columns.extend(page.events.iter().map(|event| &event.flow));
        let end: Vec<u8> = page.events.iter().map(|event| event.end.number()).collect();
        Self {
            flows: columns.into(),
            end: end.into(),
            lost: page.lost,
            waiting: page.waiting,
        }
    }
}

impl FlowEventBatch {
    fn columns(&self) -> Vec<Column> {
        let mut columns = self.flows.columns();
        columns.push(("end", arrow::numbers::<UInt8Type>(&self.end)));
        columns
    }
}

/// What both classes offer; PyO3 takes all methods of a class from one block.
macro_rules! methods {
    ($class:ident { $($more:tt)* }) => {
        #[pymethods]
        impl $class {
            #[getter]
            fn local_address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<u8>>> {
                view::rows(py, &self.flows.keys.local_address)
            }

            #[getter]
            fn remote_address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<u8>>> {
                view::rows(py, &self.flows.keys.remote_address)
            }

            #[getter]
            fn local_port<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u16>>> {
                view::array(py, &self.flows.keys.local_port)
            }

            #[getter]
            fn remote_port<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u16>>> {
                view::array(py, &self.flows.keys.remote_port)
            }

            #[getter]
            fn version<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
                view::array(py, &self.flows.keys.version)
            }

            #[getter]
            fn protocol<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
                view::array(py, &self.flows.keys.protocol)
            }

            #[getter]
            fn verdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
                view::array(py, &self.flows.verdict)
            }

            #[getter]
            fn origin<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
                view::array(py, &self.flows.origin)
            }

            #[getter]
            fn process_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.process_id)
            }

            #[getter]
            fn packets_out<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.packets_out)
            }

            #[getter]
            fn packets_in<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.packets_in)
            }

            #[getter]
            fn bytes_out<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.bytes_out)
            }

            #[getter]
            fn bytes_in<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.bytes_in)
            }

            #[getter]
            fn first_seen<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.first_seen)
            }

            #[getter]
            fn last_seen<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.last_seen)
            }

            #[getter]
            fn payload_out<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.payload_out)
            }

            #[getter]
            fn payload_in<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                view::array(py, &self.flows.payload_in)
            }

            fn __len__(&self) -> usize {
                self.flows.verdict.len()
            }

            fn __arrow_c_schema__(&self, py: Python<'_>) -> PyResult<Py<PyCapsule>> {
                arrow::schema(py, self.columns())
            }

            #[pyo3(signature = (requested_schema = None))]
            fn __arrow_c_array__(
                &self,
                py: Python<'_>,
                requested_schema: Option<Py<PyAny>>,
            ) -> PyResult<(Py<PyCapsule>, Py<PyCapsule>)> {
                drop(requested_schema);
                arrow::array(py, self.columns())
            }

            #[pyo3(signature = (requested_schema = None))]
            fn __arrow_c_stream__(
                &self,
                py: Python<'_>,
                requested_schema: Option<Py<PyAny>>,
            ) -> PyResult<Py<PyCapsule>> {
                drop(requested_schema);
                arrow::stream(py, self.columns())
            }

            $($more)*
        }
    };
}

methods!(FlowBatch {
    fn __repr__(&self) -> String {
        format!("<FlowBatch of {} flows>", self.__len__())
    }
});

methods!(FlowEventBatch {
    #[getter]
    fn end<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        view::array(py, &self.end)
    }

    #[getter]
    fn lost(&self) -> u64 {
        self.lost
    }

    #[getter]
    fn waiting(&self) -> u32 {
        self.waiting
    }

    fn __repr__(&self) -> String {
        let (rows, lost) = (self.__len__(), self.lost);
        format!("<FlowEventBatch of {rows} flows, {lost} lost>")
    }
});
