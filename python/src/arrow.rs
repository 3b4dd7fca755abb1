//! Tables for others by the Arrow PyCapsule interface, without a copy.
//!
//! <https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>

use std::sync::Arc;

use arrow_array::ffi::FFI_ArrowArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::{ArrowPrimitiveType, TimestampNanosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, PrimitiveArray, RecordBatch,
    RecordBatchIterator, StructArray,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, Field, Schema};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// A column with its name.
pub(crate) type Column = (&'static str, ArrayRef);

/// Numbers.
pub(crate) fn numbers<T: ArrowPrimitiveType>(values: &ScalarBuffer<T::Native>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.clone(), None))
}

/// Nanoseconds since 1970-01-01 00:00 UTC.
pub(crate) fn times(values: &ScalarBuffer<u64>) -> ArrayRef {
    let values = ScalarBuffer::<i64>::from(values.inner().clone());
    let times = PrimitiveArray::<TimestampNanosecondType>::new(values, None);
    Arc::new(times.with_timezone("UTC"))
}

/// Addresses, 16 bytes each.
pub(crate) fn addresses(values: &ScalarBuffer<u8>) -> ArrayRef {
    Arc::new(FixedSizeBinaryArray::new(16, values.inner().clone(), None))
}

/// Bytes of various lengths.
pub(crate) fn bytes(values: &ScalarBuffer<u8>, offsets: &ScalarBuffer<u32>) -> ArrayRef {
    // Messages are far shorter than 2 GiB.
    let offsets = ScalarBuffer::<i32>::from(offsets.inner().clone());
    let offsets = OffsetBuffer::new(offsets);
    Arc::new(BinaryArray::new(offsets, values.inner().clone(), None))
}

fn failed(error: ArrowError) -> PyErr {
    PyRuntimeError::new_err(format!("the Arrow table cannot be made: {error}"))
}

fn table(columns: Vec<Column>) -> PyResult<RecordBatch> {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), false))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)
}

fn schema_of(py: Python<'_>, table: &RecordBatch) -> PyResult<Py<PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(table.schema_ref().as_ref()).map_err(failed)?;
    Ok(PyCapsule::new_with_value(py, schema, c"arrow_schema")?.unbind())
}

/// `__arrow_c_schema__`.
pub(crate) fn schema(py: Python<'_>, columns: Vec<Column>) -> PyResult<Py<PyCapsule>> {
    schema_of(py, &table(columns)?)
}

/// `__arrow_c_array__`.
pub(crate) fn array(
    py: Python<'_>,
    columns: Vec<Column>,
) -> PyResult<(Py<PyCapsule>, Py<PyCapsule>)> {
    let table = table(columns)?;
    let schema = schema_of(py, &table)?;
    let array = FFI_ArrowArray::new(&StructArray::from(table).into_data());
    let array = PyCapsule::new_with_value(py, array, c"arrow_array")?;
    Ok((schema, array.unbind()))
}

/// `__arrow_c_stream__`: one batch.
pub(crate) fn stream(py: Python<'_>, columns: Vec<Column>) -> PyResult<Py<PyCapsule>> {
    let table = table(columns)?;
    let schema = table.schema();
    let reader = RecordBatchIterator::new([Ok(table)], schema);
    let stream = FFI_ArrowArrayStream::new(Box::new(reader));
    Ok(PyCapsule::new_with_value(py, stream, c"arrow_array_stream")?.unbind())
}
