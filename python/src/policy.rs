//! `RulePolicy`: compiled rules, evaluated over whole batches.

use kext_client::Numbers;
use kext_rules::{Columns, NO_RULE, Policy, RuleError, TomlError};
use kext_types::{Decision, Verdict};
use numpy::PyArray1;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::batch::RequestBatch;
use crate::errors::{self, raise};
use crate::requests::{Requests, at};
use crate::rule::{self, Parts};

/// The outcome of a request that got no verdict.
const UNDECIDED: u8 = 255;

/// Rules that were compiled; `portmaster_kext.Policy` is the public face of it.
#[pyclass(module = "portmaster_kext._native", frozen)]
pub(crate) struct RulePolicy(Policy);

/// Decision numbers, rules and outcomes, request by request; and how many no rule matched.
type Decided<'py> = (
    Bound<'py, PyArray1<i8>>,
    Bound<'py, PyArray1<u16>>,
    Bound<'py, PyArray1<u8>>,
    usize,
);

#[pymethods]
impl RulePolicy {
    #[staticmethod]
    fn from_rules(
        py: Python<'_>,
        rules: Vec<Bound<'_, PyAny>>,
        default: Option<(u8, bool)>,
    ) -> PyResult<Self> {
        let read = rules.iter().enumerate();
        let read = read
            .map(|(index, rule)| rule::read(index, rule))
            .collect::<PyResult<Vec<_>>>()?;
        let default = match default {
            Some((verdict, permanent)) => Some(Decision {
                verdict: Verdict::from_number(verdict).ok_or_else(|| {
                    errors::verdicts(format!("{verdict} is no verdict: 2 to 6 are"))
                })?,
                permanent,
            }),
            None => None,
        };
        let compiled = py.detach(|| Policy::compile(read));
        let policy = compiled.map_err(|error| refused(error, &rules))?;
        Ok(Self(policy.with_default(default)))
    }

    #[staticmethod]
    fn from_toml(py: Python<'_>, text: &str) -> PyResult<Self> {
        let policy = py.detach(|| Policy::from_toml(text));
        policy.map(Self).map_err(in_file)
    }

    #[getter]
    fn rules(&self) -> Vec<Parts> {
        self.0.rules().iter().map(rule::parts).collect()
    }

    #[getter]
    fn default(&self) -> Option<(u8, bool)> {
        let default = self.0.default_decision()?;
        Some((default.verdict.number(), default.permanent))
    }

    #[getter]
    fn hits(&self) -> Vec<u64> {
        self.0.hits()
    }

    #[getter]
    fn misses(&self) -> u64 {
        self.0.misses()
    }

    #[staticmethod]
    fn set_rows(
        py: Python<'_>,
        batch: &RequestBatch,
        rows: Vec<usize>,
        numbers: Vec<i8>,
    ) -> PyResult<Vec<u16>> {
        if rows.len() != numbers.len() || rows.iter().any(|row| *row >= batch.0.len()) {
            return Err(PyValueError::new_err(
                "not one number for each row of the batch",
            ));
        }
        let set = py.detach(|| set_rows(&batch.0, &rows, &numbers))?;
        // Of bytes Python would be given `bytes`.
        Ok(set.into_iter().map(u16::from).collect())
    }

    fn decide<'py>(
        &self,
        py: Python<'py>,
        batch: &RequestBatch,
        leave_misses: bool,
    ) -> PyResult<Decided<'py>> {
        let requests = &*batch.0;
        let (numbers, rules, outcomes, misses) =
            py.detach(|| evaluate(&self.0, requests, leave_misses))?;
        Ok((
            PyArray1::from_vec(py, numbers),
            PyArray1::from_vec(py, rules),
            PyArray1::from_vec(py, outcomes),
            misses,
        ))
    }
}

/// Sets the verdicts of some rows.
fn set_rows(requests: &Requests, rows: &[usize], numbers: &[i8]) -> PyResult<Vec<u8>> {
    let ids = rows.iter().map(|row| at(&requests.id, *row));
    let ids: Vec<_> = ids.collect();
    let set = requests
        .session
        .set_verdict_columns(&ids, Numbers::Each(numbers))
        .map_err(raise)?;
    Ok(set.codes)
}

type Columnar = (Vec<i8>, Vec<u16>, Vec<u8>, usize);

/// Evaluates the rules over a batch, and sets the verdicts that they come to.
fn evaluate(policy: &Policy, requests: &Requests, leave_misses: bool) -> PyResult<Columnar> {
    let rows = requests.len();
    let (mut numbers, mut rules) = (vec![0; rows], vec![NO_RULE; rows]);
    let misses = policy
        .decide_columns(&columns(requests), &mut numbers, &mut rules)
        // Columns of one batch are as they should be.
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let has_default = policy.default_decision().is_some();
    if misses == 0 || (has_default && !leave_misses) {
        let set = requests
            .session
            .set_verdict_columns(&requests.id, Numbers::Each(&numbers))
            .map_err(raise)?;
        return Ok((numbers, rules, set.codes, misses));
    }
    let mut decided = Vec::with_capacity(rows - misses);
    let mut those = Vec::with_capacity(rows - misses);
    for (row, (number, rule)) in numbers.iter_mut().zip(&rules).enumerate() {
        if *rule == NO_RULE {
            *number = 0;
        } else {
            decided.push(row);
            those.push(*number);
        }
    }
    let set = set_rows(requests, &decided, &those)?;
    let mut outcomes = vec![UNDECIDED; rows];
    for (row, code) in decided.into_iter().zip(set) {
        if let Some(outcome) = outcomes.get_mut(row) {
            *outcome = code;
        }
    }
    Ok((numbers, rules, outcomes, misses))
}

/// What rules look at.
fn columns(requests: &Requests) -> Columns<'_> {
    let keys = &requests.keys;
    Columns {
        version: &keys.version,
        protocol: &keys.protocol,
        direction: &requests.direction,
        local: keys.local_address.as_chunks().0,
        remote: keys.remote_address.as_chunks().0,
        local_port: &keys.local_port,
        remote_port: &keys.remote_port,
        process: &requests.process_id,
    }
}

/// An error of `compile`. A condition of one item has no number in the message, as in a file.
fn refused(error: RuleError, rules: &[Bound<'_, PyAny>]) -> PyErr {
    let RuleError::Rule {
        rule: label,
        field,
        item,
        problem,
    } = error
    else {
        return errors::policy(error.to_string(), None, None, None);
    };
    let index = label.index;
    let many = rules
        .get(index)
        .is_some_and(|rule| rule::len(rule, field.key()) > 1);
    let key = rule::place(field.key(), item.filter(|_| many));
    let message = format!("{label}: {key}: {problem}");
    errors::policy(message, Some(index), Some(key), None)
}

fn in_file(error: TomlError) -> PyErr {
    let message = error.to_string();
    let place = error.place.map(|place| (place.line, place.column));
    let rule = error.rule.map(|rule| rule.index);
    errors::policy(message, rule, error.key, place)
}
