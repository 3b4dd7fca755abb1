//! A compiled list of rules.

use std::slice::from_ref;

use kext_types::{Decision, ProcessId};

use crate::check::check;
use crate::columns::{Columns, ColumnsError};
use crate::error::RuleError;
use crate::hits::Hits;
use crate::tables::Tables;
use crate::{NO_RULE, Request, Rule};

/// Requests that are looked up together: enough for their reads of memory to overlap, and few enough
/// for what is found to stay in the nearest cache.
const CHUNK: usize = 64;

/// A compiled list of rules: the first that matches decides.
///
/// It is made once and then only read, from any number of threads; the counters are all that changes.
/// Deciding allocates nothing, and takes no lock.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Option<Decision>,
    /// The number of each rule's decision; what a miss gets comes last.
    numbers: Box<[i8]>,
    tables: Tables,
    hits: Hits,
}

impl Policy {
    /// Compiles rules, in the order in which they are tried, without a default.
    ///
    /// # Errors
    ///
    /// A rule that cannot be meant as it stands, or more than [`MAX_RULES`](crate::MAX_RULES),
    /// [`MAX_ITEMS`](crate::MAX_ITEMS) or [`MAX_SET_BYTES`](crate::MAX_SET_BYTES) allow.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, RuleError> {
        check(&rules)?;
        let tables = Tables::compile(&rules)?;
        let numbers = rules.iter().map(|rule| rule.decision.number());
        Ok(Self {
            numbers: numbers.chain([0]).collect(),
            tables,
            hits: Hits::new(rules.len()),
            default: None,
            rules,
        })
    }

    /// The same rules, with this decision for requests that none of them matches.
    #[must_use]
    pub fn with_default(mut self, default: Option<Decision>) -> Self {
        self.default = default;
        if let Some(miss) = self.numbers.last_mut() {
            *miss = default.map_or(0, Decision::number);
        }
        self
    }

    /// The rules, in the order in which they are tried.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The decision for requests that no rule matches; `None` leaves them to the caller.
    pub const fn default_decision(&self) -> Option<Decision> {
        self.default
    }

    /// The index of the first rule that matches, and counts it. `None` is a miss, also where there is
    /// a default.
    pub fn decide(&self, request: &Request) -> Option<usize> {
        let flow = &request.flow;
        let columns = Columns {
            version: &[flow.version.number()],
            protocol: from_ref(&flow.protocol),
            direction: &[request.direction.number()],
            local: &[flow.local.bytes()],
            remote: &[flow.remote.bytes()],
            local_port: from_ref(&flow.local_port),
            remote_port: from_ref(&flow.remote_port),
            process: &[request.process_id.map_or(0, ProcessId::get)],
        };
        let mut rule = [NO_RULE];
        self.tables.first_matches::<1>(&columns, &mut rule);
        self.hits.count(&rule);
        let [rule] = rule;
        (rule != NO_RULE).then_some(usize::from(rule))
    }

    /// Decides every request of a batch, and counts what matched.
    ///
    /// Writes for each request the number of the decision, as [`Decision::number`]: 2 to 6, negative
    /// if for this packet only. No rule matched: the default's number, or 0 where there is none. And
    /// the index of the rule that matched, or [`NO_RULE`].
    ///
    /// Returns how many requests no rule matched.
    ///
    /// # Errors
    ///
    /// Columns of different lengths, and versions and directions that are none; nothing is written or
    /// counted then.
    pub fn decide_columns(
        &self,
        requests: &Columns<'_>,
        numbers: &mut [i8],
        rules: &mut [u16],
    ) -> Result<usize, ColumnsError> {
        requests.check(numbers.len(), rules.len())?;
        let miss = self.rules.len();
        let mut misses = 0;
        let chunks = numbers.chunks_mut(CHUNK).zip(rules.chunks_mut(CHUNK));
        for (chunk, (numbers, rules)) in chunks.enumerate() {
            let first = chunk * CHUNK;
            let requests = requests.slice(first..first + rules.len());
            self.tables.first_matches::<CHUNK>(&requests, rules);
            for (number, rule) in numbers.iter_mut().zip(&*rules) {
                let rule = usize::from(*rule).min(miss);
                *number = self.numbers[rule];
                misses += usize::from(rule == miss);
            }
        }
        self.hits.count(rules);
        Ok(misses)
    }

    /// How many requests each rule has matched since the policy was compiled, by index.
    ///
    /// While other threads decide, the figures of different rules may be of slightly different
    /// moments.
    pub fn hits(&self) -> Vec<u64> {
        self.hits.read().take(self.rules.len()).collect()
    }

    /// How many requests no rule has matched since the policy was compiled.
    pub fn misses(&self) -> u64 {
        self.hits.read().last().unwrap_or(0)
    }
}
