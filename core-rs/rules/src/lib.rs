//! A policy of rules, compiled, and evaluated over whole batches of verdict requests.
//!
//! A [`Rule`] is a set of conditions and a decision; the first rule whose conditions all hold
//! decides. [`Policy::compile`] turns a list of rules into tables, one for each property of a
//! request (ports, addresses, …), that lead from a value to the set of the rules that allow it. A
//! request then costs one look-up in each table and the intersection of the sets that were found,
//! 64 rules at a time, however many rules there are. Deciding allocates nothing.
//!
//! The rules can be built in the program or read from a file ([`Policy::from_toml`]); docs/rules.md
//! describes the file and what its conditions mean. A request that no rule matches is the caller's to
//! decide, unless the policy has a default.
//!
//! ```
//! use kext_rules::{Policy, Request};
//! use kext_types::{Address, Direction, FlowKey, IpVersion, protocol};
//!
//! let policy = Policy::from_toml(
//!     r#"
//!     [[rule]]
//!     name = "no telnet"
//!     verdict = "block"
//!     protocol = "tcp"
//!     remote_port = [23, "6000-6063"]
//!     "#,
//! )?;
//! let request = Request {
//!     flow: FlowKey {
//!         local: Address::v4([10, 0, 0, 1]),
//!         remote: Address::v4([192, 0, 2, 1]),
//!         local_port: 49_152,
//!         remote_port: 23,
//!         version: IpVersion::V4,
//!         protocol: protocol::TCP,
//!     },
//!     direction: Direction::Outbound,
//!     process_id: None,
//! };
//! assert_eq!(policy.decide(&request), Some(0));
//! # Ok::<(), kext_rules::TomlError>(())
//! ```
//!
//! This crate's [`Policy`] is a list of rules; [`kext_types::Policy`] is a setting of the extension,
//! *permit* or *block*.

#![forbid(unsafe_code)]

mod check;
mod columns;
mod error;
mod file;
mod file_error;
mod hits;
mod intervals;
mod policy;
mod rule;
mod sets;
mod tables;
pub mod words;

pub use columns::{Columns, ColumnsError};
pub use error::{Field, Problem, RuleError, RuleLabel};
pub use file_error::{Place, TomlError, TomlProblem};
pub use policy::Policy;
pub use rule::{Request, Rule};

/// The most rules of a policy.
///
/// A set of rules is a bit for each rule, and the summary of a set a bit for each word of it: at this
/// many rules the summary fills one word.
pub const MAX_RULES: usize = 64 * 64;

/// The most items of all conditions of a policy together: networks, port ranges, protocols and
/// process ids.
pub const MAX_ITEMS: usize = 1 << 20;

/// The most memory that the sets of rules of a policy take, in bytes.
///
/// Equal sets are kept once, so a long block list in one rule takes next to nothing. What takes memory
/// is very many networks that overlap in ever new ways.
pub const MAX_SET_BYTES: usize = 64 << 20;

/// The rule of a request that no rule matches, in [`Policy::decide_columns`].
pub const NO_RULE: u16 = u16::MAX;
