//! What requests and flows have in common: enumerations, addresses, paths, names of protocols.

use std::net::SocketAddr;

use kext_types::{Address, FlowKey, IpVersion, Verdict, protocol};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};

use crate::client::Client;
use crate::errors::raise;

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
pub(crate) fn direction(py: Python<'_>, number: u8) -> PyResult<Bound<'_, PyAny>> {
    DIRECTION.import(py, MODULE, "Direction")?.call1((number,))
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

/// The path of a process's program, with an ellipsis at the end if there is more of it. What is no Unicode
/// stays in it as lone surrogates, as in Python's own file names.
pub(crate) fn process_path<'py>(
    py: Python<'py>,
    client: &Client,
    process_id: u64,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let path = py
        .detach(|| client.process_path(process_id))
        .map_err(raise)?;
    let Some(path) = path else {
        return Ok(None);
    };
    let ellipsis = path.is_cut.then_some(0x2026);
    let units = path.utf16.into_iter().chain(ellipsis);
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    PyBytes::new(py, &bytes)
        .call_method1(intern!(py, "decode"), ("utf-16-le", "surrogatepass"))
        .map(Some)
}

/// The local and the remote end as text, with the port where the protocol has ports.
pub(crate) fn ends(flow: &FlowKey) -> (String, String) {
    let end = |address: Address, port| {
        let ip = address.to_ip(flow.version);
        if port == 0 && !has_ports(flow.protocol) {
            ip.to_string()
        } else {
            SocketAddr::new(ip, port).to_string()
        }
    };
    (
        end(flow.local, flow.local_port),
        end(flow.remote, flow.remote_port),
    )
}

const fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::DCCP | protocol::SCTP
    )
}

/// The usual name of a transport protocol, else its number.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        protocol::DCCP => "DCCP".to_owned(),
        protocol::UDP_LITE => "UDP-Lite".to_owned(),
        _ => format!("protocol {number}"),
    }
}
