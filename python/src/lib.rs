//! `portmaster_kext._native`: conversions between Python and the Rust client, and nothing more.
//!
//! Names, defaults and documentation for people live in the Python package; the stub beside it
//! (`_native.pyi`) documents each item here. Every call that can wait releases the interpreter.

#![deny(unsafe_code)]

mod arrow;
mod async_reader;
mod batch;
mod client;
mod config;
mod decide;
mod ended;
mod errors;
mod flow;
mod flow_batch;
mod policy;
mod report;
mod request;
mod requests;
mod rule;
mod session;
mod taken;
mod view;
mod vocabulary;

use pyo3::pymodule;

#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::{Bound, PyAnyMethods, PyModule, PyModuleMethods, PyResult};
    use pyo3::types::{IntoPyDict, PyCFunction};

    #[pymodule_export]
    use crate::async_reader::AsyncReader;
    #[pymodule_export]
    use crate::batch::RequestBatch;
    #[pymodule_export]
    use crate::ended::EndedFlows;
    #[pymodule_export]
    use crate::flow::Flow;
    #[pymodule_export]
    use crate::flow_batch::{FlowBatch, FlowEventBatch};
    #[pymodule_export]
    use crate::policy::RulePolicy;
    #[pymodule_export]
    use crate::report::ReplayReport;
    #[pymodule_export]
    use crate::request::VerdictRequest;
    #[pymodule_export]
    use crate::session::{Batches, Session};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        let os = py.import("os")?;
        // Windows has no `fork`.
        if os.hasattr("register_at_fork")? {
            let in_child = PyCFunction::new_closure(py, None, None, |_, _| {
                kext_client::after_fork_in_child();
            })?;
            let hooks = [("after_in_child", in_child)].into_py_dict(py)?;
            os.call_method("register_at_fork", (), Some(&hooks))?;
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("PROTOCOL_VERSION", kext_client::PROTOCOL_VERSION)
    }
}
