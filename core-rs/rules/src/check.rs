//! Whether rules can be meant as they stand. What is wrong with them for certain is an error here, so
//! that no rule is accepted that could never match.

use ipnet::{IpNet, Ipv4Net};
use kext_types::IpVersion;

use crate::error::{Field, Problem, RuleError, RuleLabel};
use crate::{MAX_ITEMS, MAX_RULES, Rule};

/// Refuses lists that are too long and rules that cannot match.
pub(crate) fn check(rules: &[Rule]) -> Result<(), RuleError> {
    if rules.len() > MAX_RULES {
        return Err(RuleError::TooManyRules { rules: rules.len() });
    }
    let mut items = 0_usize;
    for (index, rule) in rules.iter().enumerate() {
        let label = || RuleLabel {
            index,
            name: rule.name.clone(),
        };
        items = items.saturating_add(rule.items());
        if items > MAX_ITEMS {
            let rule = label();
            return Err(RuleError::TooManyItems { rule, items });
        }
        check_rule(rule).map_err(|(field, item, problem)| RuleError::Rule {
            rule: label(),
            field,
            item,
            problem,
        })?;
    }
    Ok(())
}

/// A fault: the condition, the item, what is wrong.
type Fault = (Field, Option<usize>, Problem);

fn check_rule(rule: &Rule) -> Result<(), Fault> {
    filled(Field::Protocol, rule.protocol.as_deref())?;
    filled(Field::Process, rule.process.as_deref())?;
    for (field, ports) in [
        (Field::LocalPort, &rule.local_port),
        (Field::RemotePort, &rule.remote_port),
    ] {
        for (item, range) in filled(field, ports.as_deref())?.iter().enumerate() {
            if range.is_empty() {
                let range = range.clone();
                return Err((field, Some(item), Problem::Reversed { range }));
            }
        }
    }
    for (field, networks) in [(Field::Local, &rule.local), (Field::Remote, &rule.remote)] {
        for (item, network) in filled(field, networks.as_deref())?.iter().enumerate() {
            check_network(*network).map_err(|problem| (field, Some(item), problem))?;
        }
    }
    check_families(rule)
}

/// The items of a condition; none for a condition that is absent. None for one that is there is an
/// error.
fn filled<T>(field: Field, items: Option<&[T]>) -> Result<&[T], Fault> {
    match items {
        Some([]) => Err((field, None, Problem::Empty)),
        Some(items) => Ok(items),
        None => Ok(&[]),
    }
}

fn check_network(network: IpNet) -> Result<(), Problem> {
    if network.addr() != network.network() {
        return Err(Problem::HostBits { network });
    }
    if let IpNet::V6(v6) = network
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(address, prefix)
    {
        return Err(Problem::Mapped { network, v4 });
    }
    Ok(())
}

/// Families that several conditions admit each, and none together.
fn check_families(rule: &Rule) -> Result<(), Fault> {
    let only = [
        (Field::IpVersion, rule.ip_version),
        (Field::Local, rule.local.as_deref().and_then(family)),
        (Field::Remote, rule.remote.as_deref().and_then(family)),
    ];
    let mut first: Option<(Field, IpVersion)> = None;
    for (field, version) in only {
        let Some(version) = version else { continue };
        match first {
            Some((other, family)) if family != version => {
                let here = version.number();
                return Err((field, None, Problem::Families { here, other }));
            }
            _ => first = Some((field, version)),
        }
    }
    Ok(())
}

/// The family of all the networks, if they have one.
fn family(networks: &[IpNet]) -> Option<IpVersion> {
    let v4 = networks
        .iter()
        .filter(|network| matches!(network, IpNet::V4(_)))
        .count();
    match v4 {
        0 => Some(IpVersion::V6),
        _ if v4 == networks.len() => Some(IpVersion::V4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kext_types::{Decision, Verdict};

    const BLOCK: Decision = Decision {
        verdict: Verdict::Block,
        permanent: true,
    };

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn fault(rule: Rule) -> String {
        let rule = Rule {
            name: Some("r".to_owned()),
            ..rule
        };
        check(&[Rule::any(BLOCK), rule]).unwrap_err().to_string()
    }

    #[test]
    fn empty_conditions_are_refused() {
        let any = Rule::any(BLOCK);
        let rules = [
            (
                Field::Protocol,
                Rule {
                    protocol: Some(vec![]),
                    ..any.clone()
                },
            ),
            (
                Field::Local,
                Rule {
                    local: Some(vec![]),
                    ..any.clone()
                },
            ),
            (
                Field::Remote,
                Rule {
                    remote: Some(vec![]),
                    ..any.clone()
                },
            ),
            (
                Field::LocalPort,
                Rule {
                    local_port: Some(vec![]),
                    ..any.clone()
                },
            ),
            (
                Field::RemotePort,
                Rule {
                    remote_port: Some(vec![]),
                    ..any.clone()
                },
            ),
            (
                Field::Process,
                Rule {
                    process: Some(vec![]),
                    ..any
                },
            ),
        ];
        for (field, rule) in rules {
            assert_eq!(
                fault(rule),
                format!(
                    "rule[1] \"r\": {field}: an empty list matches nothing: \
                     leave the condition out to match everything"
                )
            );
        }
    }

    #[test]
    fn networks_have_no_bits_behind_the_prefix() {
        let mut rule = Rule::any(BLOCK);
        rule.remote = Some(networks(&["10.0.0.0/8", "10.1.2.3/8"]));
        assert_eq!(
            fault(rule.clone()),
            "rule[1] \"r\": remote[1]: 10.1.2.3/8 is an address in a network: \
             write 10.0.0.0/8 for the network, or 10.1.2.3 for the address alone"
        );
        rule.remote = Some(networks(&["2001:db8::1/32"]));
        assert!(fault(rule.clone()).contains("write 2001:db8::/32 for"));
        rule.remote = Some(networks(&["10.1.2.3/32", "::1/128", "0.0.0.0/0", "::/0"]));
        assert_eq!(check(&[rule]), Ok(()));
    }

    #[test]
    fn mapped_networks_are_meant_as_ipv4() {
        let mut rule = Rule::any(BLOCK);
        rule.local = Some(networks(&["::ffff:10.0.0.0/104"]));
        assert_eq!(
            fault(rule.clone()),
            "rule[1] \"r\": local[0]: ::ffff:10.0.0.0/104 is an IPv4 network in IPv6 form: \
             write 10.0.0.0/8"
        );
        // These hold more than mapped addresses, or none.
        rule.local = Some(networks(&["::/80", "::fffe:0:0/96"]));
        assert_eq!(check(&[rule]), Ok(()));
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn ranges_go_up() {
        let mut rule = Rule::any(BLOCK);
        rule.remote_port = Some(vec![1..=1, 0..=65_535, 90..=80]);
        assert_eq!(
            fault(rule),
            "rule[1] \"r\": remote_port[2]: the range 90-80 is empty: write 80-90"
        );
    }

    #[test]
    fn families_of_all_conditions_meet() {
        let mut rule = Rule::any(BLOCK);
        rule.local = Some(networks(&["10.0.0.0/8"]));
        rule.remote = Some(networks(&["2001:db8::/32", "::1/128"]));
        assert_eq!(
            fault(rule.clone()),
            "rule[1] \"r\": remote: no packet can match: this is IPv6 only, and local IPv4 only; \
             make two rules of it, or name networks of one family"
        );
        rule.remote = Some(networks(&["2001:db8::/32", "192.0.2.0/24"]));
        assert_eq!(check(std::slice::from_ref(&rule)), Ok(()));
        rule.ip_version = Some(IpVersion::V6);
        assert!(fault(rule).contains("local: no packet can match: this is IPv4 only"));
    }

    #[test]
    fn there_are_bounds() {
        let rules = vec![Rule::any(BLOCK); MAX_RULES + 1];
        assert_eq!(check(&rules[1..]), Ok(()));
        assert_eq!(
            check(&rules).unwrap_err().to_string(),
            "4097 rules are too many: a policy has at most 4096; rules that differ in one condition \
             only can be one rule with a list there"
        );
        let mut rule = Rule::any(BLOCK);
        rule.local_port = Some(vec![1..=2; MAX_ITEMS / 2]);
        rule.protocol = Some(vec![6; MAX_ITEMS / 2]);
        let mut rules = vec![rule, Rule::any(BLOCK)];
        assert_eq!(check(&rules), Ok(()));
        rules[1].protocol = Some(vec![6]);
        let error = check(&rules).unwrap_err().to_string();
        assert!(error.starts_with("rule[1]: the networks"), "{error}");
        assert!(error.contains("1048577"), "{error}");
    }
}
