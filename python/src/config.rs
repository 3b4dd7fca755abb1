//! `Config` and `Capacities` of `portmaster_kext.config` to and from the client's.

use kext_types::{
    Address, Capacities, Config, FragmentPolicy, IpVersion, Policy, RedirectTarget, Special,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};

use crate::errors;

static CONFIG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static CAPACITIES: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TARGET: PyOnceLock<Py<PyType>> = PyOnceLock::new();

const MODULE: &str = "portmaster_kext.config";

/// Reads a Python `Config`. Ranges are the client's to check; what does not fit a field's width, or
/// is no number, is refused here.
pub(crate) fn read(config: &Bound<'_, PyAny>) -> PyResult<Config> {
    let kind = CONFIG.import(config.py(), MODULE, "Config")?;
    if !config.is_instance(kind)? {
        let message = format!("config is {}, and must be a Config", config.repr()?);
        return Err(PyTypeError::new_err(message));
    }
    Ok(Config {
        no_reader: member(config, "no_reader", Policy::from_number)?,
        unparsable: member(config, "unparsable", Policy::from_number)?,
        hold_limit: member(config, "hold_limit", Policy::from_number)?,
        fragments: member(config, "fragments", FragmentPolicy::from_number)?,
        infrastructure: member(config, "infrastructure", Special::from_number)?,
        broadcast: member(config, "broadcast", Special::from_number)?,
        multicast: member(config, "multicast", Special::from_number)?,
        fast_track: member(config, "fast_track", Special::from_number)?,
        ask_each_packet: field(config, "ask_each_packet")?.is_truthy()?,
        hold_connects: field(config, "hold_connects")?.is_truthy()?,
        loop_limit: number(config, "loop_limit", "1 to 255")?,
        hold_limit_ms: number(config, "hold_limit_ms", "100 to 600000")?,
        flow_idle_ms: number(config, "flow_idle_ms", "1000 to 86400000")?,
        flow_closed_ms: number(config, "flow_closed_ms", "1000 to 86400000")?,
        replies_per_second: number(config, "replies_per_second", "0 to 1000000")?,
        redirect_dns: target(config, "redirect_dns")?,
        redirect_tunnel: target(config, "redirect_tunnel")?,
    })
}

/// Reads a Python `Capacities`. Ranges are the client's to check.
pub(crate) fn capacities(capacities: &Bound<'_, PyAny>) -> PyResult<Capacities> {
    let kind = CAPACITIES.import(capacities.py(), MODULE, "Capacities")?;
    if !capacities.is_instance(kind)? {
        let given = capacities.repr()?;
        let message = format!("capacities is {given}, and must be Capacities");
        return Err(PyTypeError::new_err(message));
    }
    Ok(Capacities {
        flows: number(capacities, "flows", "1024 to 1048576")?,
        packets: number(capacities, "packets", "16 to 65536")?,
        packet_bytes: number(capacities, "packet_bytes", "131072 to 1073741824")?,
        flow_packets: number(capacities, "flow_packets", "1 to 1024")?,
        fragments: number(capacities, "fragments", "16 to 65536")?,
    })
}

/// Makes a Python `Config`.
pub(crate) fn write<'py>(py: Python<'py>, config: &Config) -> PyResult<Bound<'py, PyAny>> {
    let fields = PyDict::new(py);
    fields.set_item("no_reader", config.no_reader.number())?;
    fields.set_item("unparsable", config.unparsable.number())?;
    fields.set_item("hold_limit", config.hold_limit.number())?;
    fields.set_item("fragments", config.fragments.number())?;
    fields.set_item("infrastructure", config.infrastructure.number())?;
    fields.set_item("broadcast", config.broadcast.number())?;
    fields.set_item("multicast", config.multicast.number())?;
    fields.set_item("fast_track", config.fast_track.number())?;
    fields.set_item("ask_each_packet", config.ask_each_packet)?;
    fields.set_item("hold_connects", config.hold_connects)?;
    fields.set_item("loop_limit", config.loop_limit)?;
    fields.set_item("hold_limit_ms", config.hold_limit_ms)?;
    fields.set_item("flow_idle_ms", config.flow_idle_ms)?;
    fields.set_item("flow_closed_ms", config.flow_closed_ms)?;
    fields.set_item("replies_per_second", config.replies_per_second)?;
    for (name, target) in [
        ("redirect_dns", &config.redirect_dns),
        ("redirect_tunnel", &config.redirect_tunnel),
    ] {
        let v4 = target.v4.to_ip(IpVersion::V4);
        let v6 = target.v6.to_ip(IpVersion::V6);
        let made = TARGET
            .import(py, MODULE, "RedirectTarget")?
            .call1((target.port, v4, v6))?;
        fields.set_item(name, made)?;
    }
    CONFIG.import(py, MODULE, "Config")?.call((), Some(&fields))
}

/// A field that is a number; `range` is for the message.
fn number<T: TryFrom<i128>>(config: &Bound<'_, PyAny>, field: &str, range: &str) -> PyResult<T> {
    fit(&self::field(config, field)?, field, range)
}

/// An attribute. Its name is interned: Python's cache of look-ups keeps each name that it meets.
fn field<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    value.getattr(PyString::intern(value.py(), name))
}

fn fit<T: TryFrom<i128>>(value: &Bound<'_, PyAny>, name: &str, range: &str) -> PyResult<T> {
    let number: Option<i128> = value.extract().ok();
    match number.and_then(|number| T::try_from(number).ok()) {
        Some(fitting) => Ok(fitting),
        None => Err(errors::config(format!(
            "{name} is {}, and must be a number from {range}",
            value.repr()?
        ))),
    }
}

fn member<T>(config: &Bound<'_, PyAny>, field: &str, of: fn(u8) -> Option<T>) -> PyResult<T> {
    // The Python class has made a member of it, so only its own enumeration can be too large.
    let value = number(config, field, "0 to 255")?;
    of(value).ok_or_else(|| errors::config(format!("{field} is {value}, which stands for nothing")))
}

fn target(config: &Bound<'_, PyAny>, field: &str) -> PyResult<RedirectTarget> {
    let target = self::field(config, field)?;
    let packed = |name| self::field(&self::field(&target, name)?, "packed");
    Ok(RedirectTarget {
        v4: Address::v4(packed("v4")?.extract()?),
        v6: Address::v6(packed("v6")?.extract()?),
        port: fit(
            &self::field(&target, "port")?,
            &format!("{field}.port"),
            "1 to 65535",
        )?,
    })
}
