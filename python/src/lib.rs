//! `portmaster_kext._native`: conversions between Python and the Rust client, and nothing more.
//!
//! Names, defaults and documentation for people live in the Python package; the stub beside it
//! (`_native.pyi`) documents each item here. Every call that can wait releases the interpreter.

#![deny(unsafe_code)]

mod config;
mod errors;
mod flow;
mod report;
mod request;
mod session;
mod vocabulary;

use pyo3::pymodule;

#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use crate::flow::Flow;
    #[pymodule_export]
    use crate::report::ReplayReport;
    #[pymodule_export]
    use crate::request::VerdictRequest;
    #[pymodule_export]
    use crate::session::Session;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("PROTOCOL_VERSION", kext_client::PROTOCOL_VERSION)
    }
}
