//! A rule between Python and the rule engine.
//!
//! `portmaster_kext.Rule` keeps each condition as a tuple of what was written; what that may be, and
//! what to write instead, is known here, by the words that rule files have too.

use std::ops::RangeInclusive;

use kext_rules::words::{self, BadValue, Kind};
use kext_rules::{Field, Rule, RuleLabel};
use kext_types::{Decision, Direction, IpVersion, ProcessId, Verdict};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple};

use crate::errors;

/// One rule that is read, with what messages need.
struct Reading<'a, 'py> {
    rule: &'a Bound<'py, PyAny>,
    label: RuleLabel,
}

/// Reads a `Rule`. An error tells its place in the list, its name, the condition and the item.
pub(crate) fn read(index: usize, rule: &Bound<'_, PyAny>) -> PyResult<Rule> {
    let name = rule.getattr("name")?;
    let label = RuleLabel {
        index,
        name: name.extract().ok(),
    };
    let reading = Reading { rule, label };
    let network = |value: &Bound<'_, PyAny>| text(value, words::network);
    Ok(Rule {
        name: reading.one("name", Kind::Name, |value| value.extract().ok())?,
        decision: reading.decision()?,
        direction: reading.one("direction", Kind::Direction, |value| {
            text(value, words::direction).or_else(|| Direction::from_number(number(value)?))
        })?,
        ip_version: reading.one(Field::IpVersion.key(), Kind::IpVersion, |value| {
            IpVersion::from_number(number(value)?)
        })?,
        protocol: reading.many(Field::Protocol, Kind::Protocol, |value| {
            text(value, words::protocol).or_else(|| number(value))
        })?,
        local: reading.many(Field::Local, Kind::Network, network)?,
        remote: reading.many(Field::Remote, Kind::Network, network)?,
        local_port: reading.many(Field::LocalPort, Kind::Port, ports)?,
        remote_port: reading.many(Field::RemotePort, Kind::Port, ports)?,
        process: reading.many(Field::Process, Kind::Process, |value| {
            // As in a file: the numbers of 64 bits with a sign.
            ProcessId::new(number::<i64>(value)?.try_into().ok()?)
        })?,
    })
}

impl<'py> Reading<'_, 'py> {
    fn bad(&self, key: String, kind: Kind, value: &Bound<'py, PyAny>) -> PyErr {
        let shown = value
            .repr()
            .map_or_else(|_| "this".to_owned(), |shown| shown.to_string());
        let (label, bad) = (&self.label, BadValue::new(kind, shown));
        let message = format!("{label}: {key}: {bad}");
        errors::policy(message, Some(self.label.index), Some(key), None)
    }

    fn one<T>(
        &self,
        key: &'static str,
        kind: Kind,
        read: impl Fn(&Bound<'py, PyAny>) -> Option<T>,
    ) -> PyResult<Option<T>> {
        let value = self.rule.getattr(key)?;
        if value.is_none() {
            return Ok(None);
        }
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.bad(key.to_owned(), kind, &value)),
        }
    }

    fn many<T>(
        &self,
        field: Field,
        kind: Kind,
        read: impl Fn(&Bound<'py, PyAny>) -> Option<T>,
    ) -> PyResult<Option<Vec<T>>> {
        let value = self.rule.getattr(field.key())?;
        if value.is_none() {
            return Ok(None);
        }
        let items = value.cast::<PyTuple>()?;
        let many = items.len() > 1;
        let read = items.iter().enumerate().map(|(item, value)| {
            read(&value).ok_or_else(|| {
                let key = place(field.key(), Some(item).filter(|_| many));
                self.bad(key, kind, &value)
            })
        });
        read.collect::<PyResult<_>>().map(Some)
    }

    fn decision(&self) -> PyResult<Decision> {
        let value = self.rule.getattr("verdict")?;
        let verdict =
            text(&value, words::verdict).or_else(|| Verdict::from_number(number(&value)?));
        let permanent = self.one("permanent", Kind::Switch, |value| {
            Some(value.cast::<PyBool>().ok()?.is_true())
        })?;
        Ok(Decision {
            verdict: verdict
                .ok_or_else(|| self.bad("verdict".to_owned(), Kind::Verdict, &value))?,
            permanent: permanent.unwrap_or(true),
        })
    }
}

/// A word.
fn text<T>(value: &Bound<'_, PyAny>, read: impl Fn(&str) -> Result<T, BadValue>) -> Option<T> {
    let text = value.cast::<PyString>().ok()?;
    read(&text.to_string_lossy()).ok()
}

/// A number; `True` is none.
fn number<T>(value: &Bound<'_, PyAny>) -> Option<T>
where
    T: for<'a> FromPyObject<'a, 'a>,
{
    if value.is_instance_of::<PyBool>() {
        return None;
    }
    value.extract().ok()
}

fn ports(value: &Bound<'_, PyAny>) -> Option<RangeInclusive<u16>> {
    text(value, words::ports).or_else(|| number(value).map(|port| port..=port))
}

/// How many items a condition has.
pub(crate) fn len(rule: &Bound<'_, PyAny>, key: &str) -> usize {
    rule.getattr(key).and_then(|items| items.len()).unwrap_or(0)
}

/// `remote`, or `remote[2]`.
pub(crate) fn place(key: &str, item: Option<usize>) -> String {
    item.map_or_else(|| key.to_owned(), |item| format!("{key}[{item}]"))
}

/// A rule for Python: the arguments of `Rule`, in their order.
pub(crate) type Parts = (
    u8,
    bool,
    Option<String>,
    Option<u8>,
    Option<u8>,
    // Of bytes Python would be given `bytes`.
    Option<Vec<u16>>,
    Option<Vec<String>>,
    Option<Vec<String>>,
    Option<Vec<String>>,
    Option<Vec<String>>,
    Option<Vec<u64>>,
);

/// The parts of a rule.
pub(crate) fn parts(rule: &Rule) -> Parts {
    let ranges = |ports: &Option<Vec<RangeInclusive<u16>>>| {
        let shown = ports.as_ref()?.iter().map(|range| {
            if range.start() == range.end() {
                range.start().to_string()
            } else {
                format!("{}-{}", range.start(), range.end())
            }
        });
        Some(shown.collect())
    };
    let networks = |networks: &Option<Vec<_>>| {
        let shown = networks.as_ref()?.iter().map(ToString::to_string);
        Some(shown.collect())
    };
    (
        rule.decision.verdict.number(),
        rule.decision.permanent,
        rule.name.clone(),
        rule.direction.map(Direction::number),
        rule.ip_version.map(IpVersion::number),
        rule.protocol
            .as_ref()
            .map(|all| all.iter().map(|number| u16::from(*number)).collect()),
        networks(&rule.local),
        networks(&rule.remote),
        ranges(&rule.local_port),
        ranges(&rule.remote_port),
        rule.process
            .as_ref()
            .map(|all| all.iter().map(|id| id.get()).collect()),
    )
}
