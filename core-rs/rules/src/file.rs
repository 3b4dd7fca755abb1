//! Policies as TOML files. docs/rules.md describes the format.

use std::ops::{Range, RangeInclusive};

use kext_types::{Decision, IpVersion, ProcessId};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::error::{Field, RuleError, RuleLabel};
use crate::file_error::{Place, TomlError, TomlProblem};
use crate::words::{self, BadValue, Kind};
use crate::{MAX_RULES, Policy, Rule};

/// The keys of a file.
const KEYS: &[&str] = &["default", "rule"];

/// The keys of a default that is a table.
const DEFAULT_KEYS: &[&str] = &["verdict", "permanent"];

/// The keys of a rule.
const RULE_KEYS: &[&str] = &[
    "name",
    "verdict",
    "permanent",
    "direction",
    Field::IpVersion.key(),
    Field::Protocol.key(),
    Field::Local.key(),
    Field::Remote.key(),
    Field::LocalPort.key(),
    Field::RemotePort.key(),
    Field::Process.key(),
];

impl Policy {
    /// Reads and compiles the rules of a TOML text.
    ///
    /// # Errors
    ///
    /// A text that is not TOML, keys and values that mean nothing, and what
    /// [`compile`](Self::compile) refuses; each with its place in the text.
    pub fn from_toml(text: &str) -> Result<Self, TomlError> {
        let file = File::parse(text)?;
        let (rules, default) = file.read()?;
        Self::compile(rules)
            .map(|policy| policy.with_default(default))
            .map_err(|error| file.refused(error))
    }
}

type Value<'t> = Spanned<DeValue<'t>>;

/// A parsed file.
struct File<'t> {
    text: &'t str,
    root: DeTable<'t>,
}

/// A table of the file whose keys have been looked at, and the rule that it is.
struct Section<'f> {
    text: &'f str,
    rule: Option<RuleLabel>,
    table: &'f DeTable<'f>,
    span: Range<usize>,
}

impl<'t> File<'t> {
    fn parse(text: &'t str) -> Result<Self, TomlError> {
        let root = DeTable::parse(text).map_err(|error| TomlError {
            place: error.span().map(|span| Place::of(text, span.start)),
            rule: None,
            key: None,
            problem: Box::new(TomlProblem::Syntax {
                message: error.message().to_owned(),
            }),
        })?;
        let root = root.into_inner();
        Ok(Self { text, root })
    }

    fn read(&self) -> Result<(Vec<Rule>, Option<Decision>), TomlError> {
        let root = self.section(&self.root, 0..0, None, KEYS)?;
        let default = match root.get("default") {
            Some(value) => Some(self.default(&root, value)?),
            None => None,
        };
        let rules = match root.get("rule") {
            Some(value) => self.rules(&root, value)?,
            None => Vec::new(),
        };
        if rules.is_empty() && default.is_none() {
            return Err(TomlError {
                place: None,
                rule: None,
                key: None,
                problem: Box::new(TomlProblem::NoRules),
            });
        }
        Ok((rules, default))
    }

    fn default(&self, root: &Section<'_>, value: &Value<'_>) -> Result<Decision, TomlError> {
        match value.get_ref() {
            DeValue::Table(table) => self
                .section(table, value.span(), None, DEFAULT_KEYS)?
                .decision(),
            DeValue::String(text) => match words::verdict(text) {
                Ok(verdict) => Ok(Decision {
                    verdict,
                    permanent: true,
                }),
                Err(_) => Err(root.bad("default", None, value, Kind::Default)),
            },
            _ => Err(root.bad("default", None, value, Kind::Default)),
        }
    }

    fn rules(&self, root: &Section<'_>, value: &Value<'_>) -> Result<Vec<Rule>, TomlError> {
        let DeValue::Array(tables) = value.get_ref() else {
            return Err(root.bad("rule", None, value, Kind::Rule));
        };
        // One step for each rule of the file; no more than a policy can have are read, and one more
        // for `compile` to refuse.
        let mut rules = Vec::new();
        for (index, value) in tables.iter().enumerate() {
            if index > MAX_RULES {
                let rules = tables.len();
                return Err(self.refused(RuleError::TooManyRules { rules }));
            }
            let DeValue::Table(table) = value.get_ref() else {
                return Err(root.bad("rule", Some(index), value, Kind::Rule));
            };
            let name = table
                .get("name")
                .and_then(|name| name.get_ref().as_str())
                .map(str::to_owned);
            let label = RuleLabel { index, name };
            rules.push(
                self.section(table, value.span(), Some(label), RULE_KEYS)?
                    .rule()?,
            );
        }
        Ok(rules)
    }

    /// A table that has no keys but these.
    fn section<'f>(
        &'f self,
        table: &'f DeTable<'f>,
        span: Range<usize>,
        rule: Option<RuleLabel>,
        known: &'static [&'static str],
    ) -> Result<Section<'f>, TomlError> {
        let section = Section {
            text: self.text,
            rule,
            table,
            span,
        };
        // The first in the file, not in the alphabet.
        let unknown = table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            Some(key) => Err(section.error(
                key.span(),
                Some(key.get_ref().clone().into_owned()),
                TomlProblem::UnknownKey { known },
            )),
            None => Ok(section),
        }
    }

    /// The error of `compile`, with its place in this file.
    fn refused(&self, error: RuleError) -> TomlError {
        let tables = self.root.get("rule").map(Spanned::get_ref);
        let table = |index: usize| tables.and_then(|tables| tables.get(index));
        let at = |value: Option<&Value<'_>>| value.map(|it| Place::of(self.text, it.span().start));
        match error {
            RuleError::Rule {
                rule,
                field,
                item,
                problem,
            } => {
                let value = table(rule.index).and_then(|table| table.get_ref().get(field.key()));
                let listed = value
                    .zip(item)
                    .and_then(|(value, item)| value.get_ref().get(item));
                // A value without a list is no item of one.
                let item = item.filter(|_| listed.is_some());
                TomlError {
                    place: at(listed.or(value).or_else(|| table(rule.index))),
                    key: Some(key(field.key(), item)),
                    rule: Some(rule),
                    problem: Box::new(TomlProblem::Condition(problem)),
                }
            }
            bound => TomlError {
                place: match &bound {
                    RuleError::TooManyRules { .. } => at(table(MAX_RULES)),
                    RuleError::TooManyItems { rule, .. } => at(table(rule.index)),
                    _ => None,
                },
                rule: None,
                key: None,
                problem: Box::new(TomlProblem::Bound(bound)),
            },
        }
    }
}

impl<'f> Section<'f> {
    fn get(&self, key: &str) -> Option<&'f Value<'f>> {
        self.table.get(key)
    }

    fn error(&self, span: Range<usize>, key: Option<String>, problem: TomlProblem) -> TomlError {
        TomlError {
            place: Some(Place::of(self.text, span.start)),
            rule: self.rule.clone(),
            key,
            problem: Box::new(problem),
        }
    }

    fn bad(&self, name: &str, item: Option<usize>, value: &Value<'_>, kind: Kind) -> TomlError {
        let bad = BadValue::new(kind, shown(value.get_ref()));
        self.error(value.span(), Some(key(name, item)), TomlProblem::Value(bad))
    }

    /// A single value, if the key is there.
    fn one<T>(
        &self,
        key: &'static str,
        kind: Kind,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<Option<T>, TomlError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value.get_ref()) {
            Some(read) => Ok(Some(read)),
            None => Err(self.bad(key, None, value, kind)),
        }
    }

    /// The items of a list, or a single value as a list of one.
    fn many<T>(
        &self,
        field: Field,
        kind: Kind,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, TomlError> {
        let Some(value) = self.get(field.key()) else {
            return Ok(None);
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Ok(self.one(field.key(), kind, read)?.map(|one| vec![one]));
        };
        let items = items.iter().enumerate().map(|(item, value)| {
            read(value.get_ref()).ok_or_else(|| self.bad(field.key(), Some(item), value, kind))
        });
        items.collect::<Result<_, _>>().map(Some)
    }

    /// `verdict` and `permanent`.
    fn decision(&self) -> Result<Decision, TomlError> {
        let verdict = self.one("verdict", Kind::Verdict, |value| {
            words::verdict(value.as_str()?).ok()
        })?;
        let Some(verdict) = verdict else {
            return Err(self.error(self.span.clone(), None, TomlProblem::NoVerdict));
        };
        let permanent = self.one("permanent", Kind::Switch, |value| match value {
            DeValue::Boolean(switch) => Some(*switch),
            _ => None,
        })?;
        Ok(Decision {
            verdict,
            permanent: permanent.unwrap_or(true),
        })
    }

    fn rule(&self) -> Result<Rule, TomlError> {
        let network = |value: &DeValue<'_>| words::network(value.as_str()?).ok();
        Ok(Rule {
            name: self.one("name", Kind::Name, |value| {
                value.as_str().map(str::to_owned)
            })?,
            decision: self.decision()?,
            direction: self.one("direction", Kind::Direction, |value| {
                words::direction(value.as_str()?).ok()
            })?,
            ip_version: self.one(Field::IpVersion.key(), Kind::IpVersion, |value| {
                IpVersion::from_number(number(value)?)
            })?,
            protocol: self.many(Field::Protocol, Kind::Protocol, |value| {
                match value.as_str() {
                    Some(name) => words::protocol(name).ok(),
                    None => number(value),
                }
            })?,
            local: self.many(Field::Local, Kind::Network, network)?,
            remote: self.many(Field::Remote, Kind::Network, network)?,
            local_port: self.many(Field::LocalPort, Kind::Port, ports)?,
            remote_port: self.many(Field::RemotePort, Kind::Port, ports)?,
            process: self.many(Field::Process, Kind::Process, |value| {
                ProcessId::new(number(value)?)
            })?,
        })
    }
}

fn ports(value: &DeValue<'_>) -> Option<RangeInclusive<u16>> {
    match value.as_str() {
        Some(text) => words::ports(text).ok(),
        None => number(value).map(|port| port..=port),
    }
}

/// An integer of the file, if it is one of `T`.
fn number<T: TryFrom<i64>>(value: &DeValue<'_>) -> Option<T> {
    let integer: &DeInteger<'_> = value.as_integer()?;
    // TOML's integers are those of 64 bits with a sign.
    let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    T::try_from(number).ok()
}

/// `remote`, or `remote[2]`.
fn key(name: &str, item: Option<usize>) -> String {
    item.map_or_else(|| name.to_owned(), |item| format!("{name}[{item}]"))
}

/// A value for a message.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
