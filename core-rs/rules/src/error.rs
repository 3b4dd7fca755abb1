//! What can be wrong with a list of rules.

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use crate::{MAX_ITEMS, MAX_RULES, MAX_SET_BYTES};

/// A list of rules that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A rule cannot be meant as it stands.
    #[error("{rule}: {}: {problem}", place(*field, *item))]
    Rule {
        /// The rule.
        rule: RuleLabel,
        /// The condition.
        field: Field,
        /// The index of the item in the condition, where the problem is one item's.
        item: Option<usize>,
        /// What is wrong.
        problem: Problem,
    },
    /// More rules than [`MAX_RULES`].
    #[error(
        "{rules} rules are too many: a policy has at most {MAX_RULES}; rules that differ in one \
         condition only can be one rule with a list there"
    )]
    TooManyRules {
        /// How many there are.
        rules: usize,
    },
    /// More items than [`MAX_ITEMS`].
    #[error(
        "{rule}: the networks, ports, protocols and processes of the rules up to this one are \
         {items}, and a policy has at most {MAX_ITEMS}; merge networks and port ranges"
    )]
    TooManyItems {
        /// The rule that goes beyond the bound.
        rule: RuleLabel,
        /// How many items there are up to this rule and with it.
        items: usize,
    },
    /// Sets of rules of more than [`MAX_SET_BYTES`].
    #[error(
        "the rules overlap in so many ways that their tables would take more than {} MiB; \
         use fewer rules, or networks and port ranges that overlap less",
        MAX_SET_BYTES >> 20
    )]
    TooLarge,
}

/// A rule in a message: its index from 0, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLabel {
    /// The index in the list, from 0.
    pub index: usize,
    /// The rule's name, if it has one.
    pub name: Option<String>,
}

impl fmt::Display for RuleLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule[{}]", self.index)?;
        self.name
            .as_ref()
            .map_or(Ok(()), |name| write!(f, " {name:?}"))
    }
}

/// A condition of a rule, by the name that it has in [`Rule`](crate::Rule) and in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip_version`.
    IpVersion,
    /// `protocol`.
    Protocol,
    /// `local`.
    Local,
    /// `remote`.
    Remote,
    /// `local_port`.
    LocalPort,
    /// `remote_port`.
    RemotePort,
    /// `process`.
    Process,
}

impl Field {
    /// The name.
    pub const fn key(self) -> &'static str {
        match self {
            Self::IpVersion => "ip_version",
            Self::Protocol => "protocol",
            Self::Local => "local",
            Self::Remote => "remote",
            Self::LocalPort => "local_port",
            Self::RemotePort => "remote_port",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// Why a condition cannot be meant as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A set without items.
    #[error("an empty list matches nothing: leave the condition out to match everything")]
    Empty,
    /// A network's address has bits set behind the prefix.
    #[error(
        "{network} is an address in a network: write {} for the network, or {} for the address alone",
        network.trunc(),
        network.addr()
    )]
    HostBits {
        /// The network as written.
        network: IpNet,
    },
    /// An IPv6 network inside `::ffff:0:0/96`, which only IPv6 packets could match.
    #[error("{network} is an IPv4 network in IPv6 form: write {v4}")]
    Mapped {
        /// The network as written.
        network: IpNet,
        /// What must be meant.
        v4: Ipv4Net,
    },
    /// A port range whose end is below its start.
    #[error(
        "the range {}-{} is empty: write {}-{}",
        range.start(),
        range.end(),
        range.end(),
        range.start()
    )]
    Reversed {
        /// The range as written.
        range: RangeInclusive<u16>,
    },
    /// This condition admits only one family, and another condition only the other one.
    #[error(
        "no packet can match: this is IPv{here} only, and {other} IPv{} only; make two rules of it, \
         or name networks of one family",
        if *here == 4 { 6 } else { 4 }
    )]
    Families {
        /// The family that this condition admits, 4 or 6.
        here: u8,
        /// The condition that does not admit it.
        other: Field,
    },
}

/// `remote`, or `remote[2]`.
fn place(field: Field, item: Option<usize>) -> String {
    item.map_or_else(|| field.key().to_owned(), |item| format!("{field}[{item}]"))
}
