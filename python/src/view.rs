//! NumPy arrays over memory that Rust has: the one place with unsafe code of ours.

#![allow(unsafe_code)]

use arrow_buffer::{ArrowNativeType, Buffer, ScalarBuffer};
use numpy::ndarray::{ArrayView, Dimension, Ix1, Ix2};
use numpy::{Element, PyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Keeps memory alive that a NumPy array shows: the array's `base`.
#[pyclass(module = "portmaster_kext._native", frozen)]
struct Memory {
    /// Never looked at: what matters is that it is there.
    _buffer: Buffer,
}

/// The values as a read-only array, without a copy.
pub(crate) fn array<'py, T: Element + ArrowNativeType>(
    py: Python<'py>,
    values: &ScalarBuffer<T>,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    let view: ArrayView<'_, T, Ix1> = ArrayView::from(&values[..]);
    show(py, view, values.inner())
}

/// Rows of 16 bytes as a read-only array of two dimensions, without a copy.
pub(crate) fn rows<'py>(
    py: Python<'py>,
    values: &ScalarBuffer<u8>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let view: ArrayView<'_, u8, Ix2> = ArrayView::from_shape((values.len() / 16, 16), values)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    show(py, view, values.inner())
}

/// `view` must lie in `buffer`.
fn show<'py, T: Element, D: Dimension>(
    py: Python<'py>,
    view: ArrayView<'_, T, D>,
    buffer: &Buffer,
) -> PyResult<Bound<'py, PyArray<T, D>>> {
    let memory = Memory {
        _buffer: buffer.clone(),
    };
    let base = Bound::new(py, memory)?.into_any();
    // SAFETY: both callers above show a view of all of `buffer`'s memory as values of T, which it holds
    // and which is aligned for it. A `Buffer` counts its references and never moves or changes its
    // memory; `base` has one of them until the array, which owns `base`, is gone. Nobody can write to
    // the array: the flag is cleared below, and NumPy does not let it be set again, since the base is
    // no writeable array or buffer.
    let array = unsafe { PyArray::borrow_from_array(&view, base) };
    Ok(array
        .try_readwrite()?
        .make_nonwriteable()
        .as_any()
        .clone()
        .cast_into()?)
}
