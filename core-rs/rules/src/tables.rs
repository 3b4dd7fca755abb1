//! A policy's rules as tables, and the look-up of requests in them.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use kext_types::{Direction, IpVersion};

use crate::columns::Columns;
use crate::error::RuleError;
use crate::intervals::Intervals;
use crate::sets::{SetId, Sets, SetsBuilder};
use crate::{NO_RULE, Rule};

/// Values of protocol, direction and version together.
const HEADERS: usize = 1 << 10;

/// One table for each property that a rule has a condition on. `None`: no rule has one.
#[derive(Debug)]
pub(crate) struct Tables {
    header: Option<Box<[SetId; HEADERS]>>,
    local: Option<Addresses>,
    remote: Option<Addresses>,
    local_port: Option<Intervals<u16>>,
    remote_port: Option<Intervals<u16>>,
    process: Option<Intervals<u64>>,
    sets: Sets,
}

impl Tables {
    /// The tables of rules that have been checked.
    pub(crate) fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        let mut sets = SetsBuilder::new(rules.len());
        let ports = |condition: &Option<Vec<RangeInclusive<u16>>>| condition.clone();
        let header = compile_header(rules, &mut sets)?;
        let local = Addresses::compile(rules, |rule| rule.local.as_deref(), &mut sets)?;
        let remote = Addresses::compile(rules, |rule| rule.remote.as_deref(), &mut sets)?;
        let local_port =
            Intervals::compile(rules.iter().map(|rule| ports(&rule.local_port)), &mut sets)?;
        let remote_port =
            Intervals::compile(rules.iter().map(|rule| ports(&rule.remote_port)), &mut sets)?;
        let processes = rules.iter().map(|rule| {
            let ids = rule.process.as_ref()?.iter();
            Some(ids.map(|id| id.get()..=id.get()).collect())
        });
        let process = Intervals::compile(processes, &mut sets)?;
        Ok(Self {
            header,
            local,
            remote,
            local_port,
            remote_port,
            process,
            sets: sets.build(),
        })
    }

    /// Writes the first rule that matches each request, or [`NO_RULE`].
    ///
    /// The columns have been checked; there are at most `N` requests, and as many places.
    pub(crate) fn first_matches<const N: usize>(&self, requests: &Columns<'_>, rules: &mut [u16]) {
        debug_assert!(requests.len() <= N && requests.len() == rules.len());
        // Column by column: the look-ups of one column do not wait for each other.
        let mut header = [SetId::ALL; N];
        if let Some(table) = &self.header {
            let columns = requests
                .version
                .iter()
                .zip(requests.protocol)
                .zip(requests.direction);
            for (set, ((version, protocol), direction)) in header.iter_mut().zip(columns) {
                *set = table[header_index(*version, *protocol, *direction)];
            }
        }
        let mut local = [SetId::ALL; N];
        if let Some(table) = &self.local {
            table.find_all(requests.version, requests.local, &mut local);
        }
        let mut remote = [SetId::ALL; N];
        if let Some(table) = &self.remote {
            table.find_all(requests.version, requests.remote, &mut remote);
        }
        let mut local_port = [SetId::ALL; N];
        if let Some(table) = &self.local_port {
            table.find_all(requests.local_port, &mut local_port);
        }
        let mut remote_port = [SetId::ALL; N];
        if let Some(table) = &self.remote_port {
            table.find_all(requests.remote_port, &mut remote_port);
        }
        let mut process = [SetId::ALL; N];
        if let Some(table) = &self.process {
            table.find_all(requests.process, &mut process);
        }
        for (i, rule) in rules.iter_mut().enumerate() {
            let sets = [
                remote[i],
                remote_port[i],
                local[i],
                local_port[i],
                header[i],
                process[i],
            ];
            // Fewer than NO_RULE rules.
            *rule = self
                .sets
                .first_common(sets)
                .map_or(NO_RULE, |rule| rule as u16);
        }
    }
}

/// The place of a protocol, a direction (0, 1) and a version (4, 6) in the table of headers.
#[inline]
fn header_index(version: u8, protocol: u8, direction: u8) -> usize {
    // 4 and 6 differ in one bit.
    let version = usize::from(version >> 1 & 1);
    let direction = usize::from(direction & 1);
    version << 9 | direction << 8 | usize::from(protocol)
}

fn compile_header(
    rules: &[Rule],
    sets: &mut SetsBuilder,
) -> Result<Option<Box<[SetId; HEADERS]>>, RuleError> {
    let conditional = rules.iter().any(|rule| {
        rule.protocol.is_some() || rule.direction.is_some() || rule.ip_version.is_some()
    });
    if !conditional {
        return Ok(None);
    }
    let mut table = Box::new([SetId::ALL; HEADERS]);
    // At most MAX_RULES × 1,024 steps.
    for version in [IpVersion::V4, IpVersion::V6] {
        for direction in [Direction::Outbound, Direction::Inbound] {
            let mut by_protocol = vec![sets.empty(); 256];
            for (index, rule) in rules.iter().enumerate() {
                if rule.ip_version.is_some_and(|wanted| wanted != version)
                    || rule.direction.is_some_and(|wanted| wanted != direction)
                {
                    continue;
                }
                match &rule.protocol {
                    None => by_protocol.iter_mut().for_each(|set| set.insert(index)),
                    Some(protocols) => {
                        for protocol in protocols {
                            by_protocol[usize::from(*protocol)].insert(index);
                        }
                    }
                }
            }
            for (protocol, set) in (0..=u8::MAX).zip(&by_protocol) {
                let at = header_index(version.number(), protocol, direction.number());
                table[at] = sets.intern(set)?;
            }
        }
    }
    Ok(Some(table))
}

/// The addresses of one end, in both families.
#[derive(Debug)]
struct Addresses {
    v4: Intervals<u32>,
    v6: Intervals<u128>,
}

impl Addresses {
    fn compile<'a>(
        rules: &'a [Rule],
        networks: impl Fn(&'a Rule) -> Option<&'a [IpNet]>,
        sets: &mut SetsBuilder,
    ) -> Result<Option<Self>, RuleError> {
        let v4 = rules.iter().map(|rule| {
            let networks = networks(rule)?.iter().filter_map(|network| match network {
                IpNet::V4(v4) => Some(u32::from(v4.network())..=u32::from(v4.broadcast())),
                IpNet::V6(_) => None,
            });
            Some(networks.collect())
        });
        let v4 = Intervals::compile(v4, sets)?;
        let v6 = rules.iter().map(|rule| {
            let networks = networks(rule)?.iter().filter_map(|network| match network {
                IpNet::V4(_) => None,
                IpNet::V6(v6) => Some(u128::from(v6.network())..=u128::from(v6.broadcast())),
            });
            Some(networks.collect())
        });
        let v6 = Intervals::compile(v6, sets)?;
        // Networks of one family only are a condition on the other one, too: none of its addresses.
        Ok(v4.zip(v6).map(|(v4, v6)| Self { v4, v6 }))
    }

    #[inline]
    fn find_all(&self, versions: &[u8], addresses: &[[u8; 16]], sets: &mut [SetId]) {
        for ((set, version), address) in sets.iter_mut().zip(versions).zip(addresses) {
            *set = if *version == IpVersion::V4.number() {
                let [.., a, b, c, d] = *address;
                self.v4.find(u32::from_be_bytes([a, b, c, d]))
            } else {
                self.v6.find(u128::from_be_bytes(*address))
            };
        }
    }
}
