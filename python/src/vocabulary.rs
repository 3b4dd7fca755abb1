//! The package's own enumerations, looked up once.

use kext_types::{Address, Direction, IpVersion, Verdict};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

static VERDICT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DIRECTION: PyOnceLock<Py<PyType>> = PyOnceLock::new();

const MODULE: &str = "portmaster_kext.verdicts";

/// `Verdict(number)`.
pub(crate) fn verdict(py: Python<'_>, verdict: Verdict) -> PyResult<Bound<'_, PyAny>> {
    VERDICT
        .import(py, MODULE, "Verdict")?
        .call1((verdict.number(),))
}

/// `Direction(number)`.
pub(crate) fn direction(py: Python<'_>, direction: Direction) -> PyResult<Bound<'_, PyAny>> {
    DIRECTION
        .import(py, MODULE, "Direction")?
        .call1((direction.number(),))
}

/// An `ipaddress` object, made when it is first asked for.
pub(crate) fn address(
    py: Python<'_>,
    cell: &PyOnceLock<Py<PyAny>>,
    version: IpVersion,
    address: Address,
) -> PyResult<Py<PyAny>> {
    let made = cell.get_or_try_init(py, || -> PyResult<_> {
        Ok(address.to_ip(version).into_pyobject(py)?.unbind())
    })?;
    Ok(made.clone_ref(py))
}
