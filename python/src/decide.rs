//! Verdicts from Python: one, or arrays of them.

use kext_client::{Deferred, Numbers, Outcomes, Session};
use kext_types::{Decision, Verdict};
use numpy::{PyArray1, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::errors::{self, raise};

/// Sets one verdict, together with others where that does.
pub(crate) fn decide(
    py: Python<'_>,
    session: &Session,
    id: u64,
    verdict: Verdict,
    permanent: bool,
) -> PyResult<()> {
    let decision = Decision { verdict, permanent };
    match session.try_defer_verdict(id, decision) {
        Ok(Deferred::Queued) => Ok(()),
        Ok(Deferred::Full) => {
            py.detach(|| session.flush_quietly());
            Ok(())
        }
        Ok(Deferred::Refused) => py
            .detach(|| session.set_verdict(id, decision))
            .map_err(raise),
        Err(error) => Err(raise(error)),
    }
}

/// Sets many verdicts; the outcome of each as an array of codes.
pub(crate) fn decide_all<'py>(
    py: Python<'py>,
    session: &Session,
    ids: &[u64],
    verdicts: &Bound<'py, PyAny>,
    permanent: &Permanent<'py>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let numbers = read(verdicts, permanent, ids.len())?;
    let numbers = match &numbers {
        Read::Same(number) => Numbers::Same(*number),
        Read::Each(numbers) => Numbers::Each(numbers),
    };
    let Outcomes { codes, .. } = py
        .detach(|| session.set_verdict_columns(ids, numbers))
        .map_err(raise)?;
    Ok(PyArray1::from_vec(py, codes))
}

/// Ids from anything that NumPy makes an array of integers of. Copied: whoever has the array may
/// change it while the verdicts are on their way.
pub(crate) fn ids(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    if let Ok(array) = ids.cast::<PyArray1<u64>>()
        && array.is_c_contiguous()
        && array.data().is_aligned()
    {
        return copied(array);
    }
    let array = one_dimension("ids", to_array(ids)?)?;
    if array.len() > 0 && !matches!(array.dtype().kind(), b'i' | b'u') {
        let kind = array.dtype();
        return Err(PyTypeError::new_err(format!(
            "ids are integers, not {kind}"
        )));
    }
    // Negative numbers become such as are never given, and so unknown.
    copied(&converted(&array, "uint64")?)
}

/// Decision numbers.
enum Read {
    Same(i8),
    Each(Vec<i8>),
}

/// Whether verdicts stand for flows: all alike, or an array with the answer for each.
#[derive(FromPyObject)]
pub(crate) enum Permanent<'py> {
    All(bool),
    Each(Bound<'py, PyAny>),
}

fn read(verdicts: &Bound<'_, PyAny>, permanent: &Permanent<'_>, rows: usize) -> PyResult<Read> {
    let standing = match permanent {
        Permanent::All(one) => Ok(*one),
        Permanent::Each(each) => Err(permanent_each(each, rows)?),
    };
    let signed = |number: i8, row: usize| {
        let permanent = match &standing {
            Ok(one) => *one,
            Err(each) => each.get(row).copied().unwrap_or(true),
        };
        if permanent { number } else { -number }
    };
    if let Ok(number) = verdicts.extract::<i64>() {
        let number = checked(number, None)?;
        return Ok(match &standing {
            Ok(_) => Read::Same(signed(number, 0)),
            Err(_) => Read::Each((0..rows).map(|row| signed(number, row)).collect()),
        });
    }
    let array = to_array(verdicts)?;
    if array.ndim() == 0 {
        // One value, and none of those that were looked for above.
        return Err(errors::verdicts(format!(
            "{} is no verdict: 2 to 6 are; nothing was decided",
            verdicts.repr()?
        )));
    }
    let array = one_dimension("verdicts", array)?;
    if array.len() > 0 && !matches!(array.dtype().kind(), b'i' | b'u') {
        return Err(errors::verdicts(format!(
            "verdicts are numbers from 2 to 6, not {}",
            array.dtype()
        )));
    }
    let each = if let Ok(small) = array.cast::<PyArray1<u8>>() {
        let each: Vec<u8> = copied(small)?;
        numbers(each.into_iter().map(i64::from), signed)?
    } else {
        let each: Vec<i64> = copied(&converted(&array, "int64")?)?;
        numbers(each.into_iter(), signed)?
    };
    same_length("verdicts", each.len(), rows)?;
    Ok(Read::Each(each))
}

/// An array that says for each verdict whether it stands for the flow. Nothing else than booleans is taken
/// for such: a text is true, whatever it says.
fn permanent_each(each: &Bound<'_, PyAny>, rows: usize) -> PyResult<Vec<bool>> {
    let array = to_array(each)?;
    let is_boolean = array.dtype().kind() == b'b' || (array.ndim() == 1 && array.len() == 0);
    if array.ndim() == 0 || !is_boolean {
        return Err(PyTypeError::new_err(format!(
            "permanent is True or False, or an array of them with one for each verdict, not {}; \
             nothing was decided",
            each.repr()?
        )));
    }
    let each: Vec<bool> = copied(&converted(&one_dimension("permanent", array)?, "bool")?)?;
    same_length("permanent", each.len(), rows)?;
    Ok(each)
}

fn numbers(each: impl Iterator<Item = i64>, signed: impl Fn(i8, usize) -> i8) -> PyResult<Vec<i8>> {
    each.enumerate()
        .map(|(row, number)| Ok(signed(checked(number, Some(row))?, row)))
        .collect()
}

fn checked(number: i64, row: Option<usize>) -> PyResult<i8> {
    let verdict = u8::try_from(number).ok().and_then(Verdict::from_number);
    match (verdict, row) {
        (Some(verdict), _) => Ok(verdict.number().cast_signed()),
        (None, Some(row)) => Err(errors::verdicts(format!(
            "verdicts[{row}] is {number}, which is no verdict: 2 to 6 are; nothing was decided"
        ))),
        (None, None) => Err(errors::verdicts(format!(
            "{number} is no verdict: 2 to 6 are; nothing was decided"
        ))),
    }
}

fn same_length(what: &str, len: usize, rows: usize) -> PyResult<()> {
    if len == rows {
        return Ok(());
    }
    Err(errors::verdicts(format!(
        "{rows} ids and {len} values in {what} were given, and must be as many; nothing was decided"
    )))
}

fn to_array<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let as_array = AS_ARRAY.get_or_try_init(py, || -> PyResult<_> {
        Ok(py.import("numpy")?.getattr("asarray")?.unbind())
    })?;
    Ok(as_array.bind(py).call1((value,))?.cast_into()?)
}

fn one_dimension<'py>(
    what: &str,
    array: Bound<'py, PyUntypedArray>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    match array.ndim() {
        1 => Ok(array),
        dimensions => Err(PyValueError::new_err(format!(
            "{what} is to be an array of one dimension, not of {dimensions}"
        ))),
    }
}

/// A new array of this kind: in one piece and aligned, which not every array is that NumPy has.
fn converted<'py, T: numpy::Element>(
    array: &Bound<'py, PyUntypedArray>,
    kind: &str,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    Ok(array
        .call_method1(intern!(array.py(), "astype"), (kind,))?
        .cast_into()?)
}

/// The values of an array in one piece.
fn copied<T: numpy::Element + Copy>(array: &Bound<'_, PyArray1<T>>) -> PyResult<Vec<T>> {
    let array = array.try_readonly()?;
    Ok(match array.as_slice() {
        Ok(values) => values.to_vec(),
        Err(_) => array.as_array().iter().copied().collect(),
    })
}
