//! Compiled policies against a model of a few lines: try each rule in turn, each condition in turn.
//!
//! Rules and requests take their values from small pools, so that they meet often, and so that rules
//! overlap in many ways.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kext_rules::{Columns, NO_RULE, Policy, Request, Rule};
use kext_types::{Address, Decision, Direction, FlowKey, IpVersion, ProcessId, Verdict};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Whether every condition of the rule holds.
fn matches(rule: &Rule, request: &Request) -> bool {
    let flow = &request.flow;
    let within = |networks: &[IpNet], address: Address| {
        let ip = address.to_ip(flow.version);
        networks.iter().any(|network| network.contains(&ip))
    };
    let any = |ranges: &[RangeInclusive<u16>], port: u16| {
        ranges.iter().any(|range| range.contains(&port))
    };
    holds(rule.direction.as_ref(), |it| *it == request.direction)
        && holds(rule.ip_version.as_ref(), |it| *it == flow.version)
        && holds(rule.protocol.as_ref(), |it| it.contains(&flow.protocol))
        && holds(rule.local.as_ref(), |it| within(it, flow.local))
        && holds(rule.remote.as_ref(), |it| within(it, flow.remote))
        && holds(rule.local_port.as_ref(), |it| any(it, flow.local_port))
        && holds(rule.remote_port.as_ref(), |it| any(it, flow.remote_port))
        && holds(rule.process.as_ref(), |it| {
            request.process_id.is_some_and(|id| it.contains(&id))
        })
}

fn holds<T>(condition: Option<&T>, test: impl FnOnce(&T) -> bool) -> bool {
    condition.is_none_or(test)
}

fn decisions() -> impl Strategy<Value = Decision> {
    (select(Verdict::ALL.to_vec()), any::<bool>())
        .prop_map(|(verdict, permanent)| Decision { verdict, permanent })
}

fn versions() -> impl Strategy<Value = IpVersion> {
    select(vec![IpVersion::V4, IpVersion::V6])
}

fn directions() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Outbound, Direction::Inbound])
}

fn protocols() -> impl Strategy<Value = u8> {
    prop_oneof![8 => select(vec![1, 6, 17, 58]), 1 => any::<u8>()]
}

fn processes() -> impl Strategy<Value = ProcessId> {
    let ids = prop_oneof![8 => 1..6_u64, 1 => Just(u64::MAX), 1 => 1..=u64::MAX];
    ids.prop_map(|id| ProcessId::new(id).expect("not 0"))
}

/// Corners of a few neighbouring networks, and of all addresses.
fn v4() -> impl Strategy<Value = u32> {
    let near = (
        select(vec![0x0a00_0000_u32, 0xc000_0200]),
        0..4_u32,
        0..4_u32,
    );
    prop_oneof![
        8 => near.prop_map(|(network, third, last)| network | third << 8 | last),
        1 => select(vec![0, 1, u32::MAX]),
        1 => any::<u32>(),
    ]
}

/// The same in IPv6; some are IPv4 addresses in mapped form, and still are IPv6.
fn v6() -> impl Strategy<Value = u128> {
    let networks = vec![0x2001_0db8_u128 << 96, 0xfe80_u128 << 112];
    let near = (select(networks), 0..3_u128, 0..4_u128);
    prop_oneof![
        8 => near.prop_map(|(network, middle, last)| network | middle << 64 | last),
        2 => v4().prop_map(|v4| 0xffff_0000_0000 | u128::from(v4)),
        1 => select(vec![0, 1, u128::MAX]),
        1 => any::<u128>(),
    ]
}

fn address(version: IpVersion) -> BoxedStrategy<Address> {
    match version {
        IpVersion::V4 => v4().prop_map(|v4| Address::v4(v4.to_be_bytes())).boxed(),
        IpVersion::V6 => v6().prop_map(|v6| Address::v6(v6.to_be_bytes())).boxed(),
    }
}

fn network(version: IpVersion) -> BoxedStrategy<IpNet> {
    match version {
        IpVersion::V4 => (v4(), select(vec![0, 1, 8, 16, 22, 23, 24, 30, 31, 32]))
            .prop_map(|(v4, len)| {
                let network = Ipv4Net::new(v4.into(), len).expect("a length up to 32");
                network.trunc().into()
            })
            .boxed(),
        IpVersion::V6 => (v6(), select(vec![0, 3, 10, 32, 63, 64, 126, 127, 128]))
            .prop_map(|(v6, len)| {
                Ipv6Net::new(v6.into(), len)
                    .expect("a length up to 128")
                    .trunc()
            })
            .prop_filter("a mapped network", |network| {
                network.prefix_len() < 96 || network.addr().to_ipv4_mapped().is_none()
            })
            .prop_map(IpNet::from)
            .boxed(),
    }
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..12_u16, 1 => select(vec![u16::MAX - 1, u16::MAX]), 1 => any::<u16>()]
}

fn port_ranges() -> impl Strategy<Value = RangeInclusive<u16>> {
    prop_oneof![
        3 => ports().prop_map(|port| port..=port),
        2 => (ports(), ports()).prop_map(|(a, b)| a.min(b)..=a.max(b)),
    ]
}

/// Rules of which each condition is mostly absent, else they would match nothing together.
fn rules() -> impl Strategy<Value = Rule> {
    versions().prop_flat_map(|family| {
        // Both families in one rule, without losing the one that other conditions need.
        let networks = move || {
            let either = versions().prop_flat_map(network);
            option::weighted(0.4, (network(family), vec(either, 0..3))).prop_map(|networks| {
                networks.map(|(first, mut rest)| {
                    rest.push(first);
                    rest
                })
            })
        };
        let sets = (
            option::weighted(0.3, vec(protocols(), 1..4)),
            networks(),
            networks(),
            option::weighted(0.3, vec(port_ranges(), 1..4)),
            option::weighted(0.3, vec(port_ranges(), 1..4)),
            option::weighted(0.2, vec(processes(), 1..4)),
        );
        (
            decisions(),
            option::weighted(0.2, directions()),
            option::weighted(0.2, Just(family)),
            sets,
        )
            .prop_map(|(decision, direction, ip_version, sets)| {
                let (protocol, local, remote, local_port, remote_port, process) = sets;
                Rule {
                    name: None,
                    decision,
                    direction,
                    ip_version,
                    protocol,
                    local,
                    remote,
                    local_port,
                    remote_port,
                    process,
                }
            })
    })
}

fn requests() -> impl Strategy<Value = Request> {
    versions().prop_flat_map(|version| {
        (
            (address(version), address(version)),
            (ports(), ports()),
            protocols(),
            directions(),
            option::of(processes()),
        )
            .prop_map(
                move |((local, remote), ports, protocol, direction, process_id)| Request {
                    flow: FlowKey {
                        local,
                        remote,
                        local_port: ports.0,
                        remote_port: ports.1,
                        version,
                        protocol,
                    },
                    direction,
                    process_id,
                },
            )
    })
}

fn column<T>(requests: &[Request], value: impl FnMut(&Request) -> T) -> Vec<T> {
    requests.iter().map(value).collect()
}

/// Numbers, rules and misses of requests as one batch.
fn batch(policy: &Policy, requests: &[Request]) -> (Vec<i8>, Vec<u16>, usize) {
    let mut numbers = vec![99; requests.len()];
    let mut rules = vec![99; requests.len()];
    let columns = Columns {
        version: &column(requests, |it| it.flow.version.number()),
        protocol: &column(requests, |it| it.flow.protocol),
        direction: &column(requests, |it| it.direction.number()),
        local: &column(requests, |it| it.flow.local.bytes()),
        remote: &column(requests, |it| it.flow.remote.bytes()),
        local_port: &column(requests, |it| it.flow.local_port),
        remote_port: &column(requests, |it| it.flow.remote_port),
        process: &column(requests, |it| it.process_id.map_or(0, ProcessId::get)),
    };
    let misses = policy
        .decide_columns(&columns, &mut numbers, &mut rules)
        .expect("columns of one length");
    (numbers, rules, misses)
}

fn check(
    rules: Vec<Rule>,
    default: Option<Decision>,
    requests: &[Request],
) -> Result<(), TestCaseError> {
    let policy = Policy::compile(rules.clone())
        .expect("rules that can match")
        .with_default(default);
    let (numbers, found, misses) = batch(&policy, requests);
    let mut hits = vec![0; rules.len()];
    let mut expected_misses = 0;
    for (i, request) in requests.iter().enumerate() {
        let first = rules.iter().position(|rule| matches(rule, request));
        let decision = first.map_or(default, |rule| Some(rules[rule].decision));
        let number = decision.map_or(0, Decision::number);
        match first {
            Some(rule) => hits[rule] += 1,
            None => expected_misses += 1,
        }
        let index = first.map_or(NO_RULE, |rule| u16::try_from(rule).expect("few rules"));
        prop_assert_eq!((numbers[i], found[i]), (number, index), "{:?}", request);
    }
    prop_assert_eq!(misses as u64, expected_misses);
    prop_assert_eq!(policy.hits(), hits.clone());
    prop_assert_eq!(policy.misses(), expected_misses);
    // One by one, the same; and counted in the same counters.
    for (request, rule) in requests.iter().zip(found) {
        let index = (rule != NO_RULE).then_some(usize::from(rule));
        prop_assert_eq!(policy.decide(request), index);
    }
    for count in &mut hits {
        *count *= 2;
    }
    prop_assert_eq!(policy.hits(), hits);
    prop_assert_eq!(policy.misses(), 2 * expected_misses);
    Ok(())
}

proptest! {
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in vec(rules(), 0..40),
        default in option::of(decisions()),
        requests in vec(requests(), 0..200),
    ) {
        check(rules, default, &requests)?;
    }
}

proptest! {
    // Sets of several words, with summaries.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn so_it_is_with_many_rules(
        rules in vec(rules(), 60..400),
        requests in vec(requests(), 300..400),
    ) {
        // Rules with few conditions come last, or nothing would get past them.
        let mut rules = rules;
        rules.sort_by_key(|rule| {
            [rule.local.is_some(), rule.remote.is_some(), rule.remote_port.is_some(),
             rule.local_port.is_some(), rule.protocol.is_some(), rule.process.is_some()]
                .iter()
                .filter(|there| !**there)
                .count()
        });
        check(rules, None, &requests)?;
    }
}
