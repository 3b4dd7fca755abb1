//! Files of rules: what they mean, and what each way of being wrong is answered with.

use std::fmt::Write as _;

use kext_rules::words::verdict_name;
use kext_rules::{Policy, Rule, TomlError};
use kext_types::{Decision, Direction, IpVersion, ProcessId, Verdict};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const WHOLE: &str = r#"
default = "accept"

[[rule]]
name = "no telnet"
verdict = "block"
permanent = false
direction = "outbound"
ip_version = 6
protocol = ["tcp", 17]
local = "::/0"
remote = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]
local_port = "32768-65535"
remote_port = [23, "6000-6063", 0x1f_90]
process = [4, 1_234]

[[rule]]
verdict = "redirect_dns"
remote_port = 53
"#;

fn decision(verdict: Verdict, permanent: bool) -> Decision {
    Decision { verdict, permanent }
}

#[test]
fn every_key_is_read() {
    let policy = Policy::from_toml(WHOLE).unwrap();
    assert_eq!(
        policy.default_decision(),
        Some(decision(Verdict::Accept, true))
    );
    let networks = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect());
    let first = Rule {
        name: Some("no telnet".to_owned()),
        decision: decision(Verdict::Block, false),
        direction: Some(Direction::Outbound),
        ip_version: Some(IpVersion::V6),
        protocol: Some(vec![6, 17]),
        local: networks(&["::/0"]),
        remote: networks(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]),
        local_port: Some(vec![32_768..=65_535]),
        remote_port: Some(vec![23..=23, 6_000..=6_063, 8_080..=8_080]),
        process: Some([4, 1_234].into_iter().filter_map(ProcessId::new).collect()),
    };
    let mut second = Rule::any(decision(Verdict::RedirectDns, true));
    second.remote_port = Some(vec![53..=53]);
    assert_eq!(policy.rules(), [first, second]);
}

#[test]
fn a_default_can_be_for_one_packet() {
    let default = |text| Policy::from_toml(text).unwrap().default_decision();
    let table = "default = { verdict = \"drop\", permanent = false }";
    assert_eq!(default(table), Some(decision(Verdict::Drop, false)));
    let table = "[default]\nverdict = \"drop\"";
    assert_eq!(default(table), Some(decision(Verdict::Drop, true)));
    assert_eq!(default("[[rule]]\nverdict = \"drop\""), None);
}

/// The message for a file of a rule, and one more with these lines; the lines begin at line 5.
fn message(lines: &str) -> String {
    let text = format!("[[rule]]\nverdict = \"drop\"\n[[rule]]\nname = \"x\"\n{lines}");
    Policy::from_toml(&text).unwrap_err().to_string()
}

#[test]
fn faults_of_values_name_line_rule_and_key() {
    let faults = [
        (
            "verdict = \"deny\"",
            "column 11: rule[1] \"x\": verdict: \"deny\" is no verdict: write \"accept\", \"block\", \"drop\", \"redirect_dns\" or \"redirect_tunnel\"",
        ),
        (
            "verdict = [\"drop\"]",
            "column 11: rule[1] \"x\": verdict: a list is no verdict: write \"accept\"",
        ),
        (
            "permanent = \"no\"\nverdict = \"drop\"",
            "column 13: rule[1] \"x\": permanent: \"no\" is no switch: write true or false",
        ),
        (
            "direction = \"in\"\nverdict = \"drop\"",
            "column 13: rule[1] \"x\": direction: \"in\" is no direction: write \"outbound\" or \"inbound\"",
        ),
        (
            "ip_version = 5\nverdict = \"drop\"",
            "column 14: rule[1] \"x\": ip_version: 5 is no IP version: write 4 or 6",
        ),
        (
            "protocol = [6, \"tpc\"]\nverdict = \"drop\"",
            "column 16: rule[1] \"x\": protocol[1]: \"tpc\" is no protocol: write \"tcp\", ",
        ),
        (
            "protocol = 256\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": protocol: 256 is no protocol: ",
        ),
        (
            "local = \"10.0.0\"\nverdict = \"drop\"",
            "column 9: rule[1] \"x\": local: \"10.0.0\" is no network or address: write ",
        ),
        (
            "remote = [10.5]\nverdict = \"drop\"",
            "column 11: rule[1] \"x\": remote[0]: 10.5 is no network or address: write ",
        ),
        (
            "local_port = -1\nverdict = \"drop\"",
            "column 14: rule[1] \"x\": local_port: -1 is no port or range of ports: write ",
        ),
        (
            "remote_port = [1, 0x1_0000]\nverdict = \"drop\"",
            "column 19: rule[1] \"x\": remote_port[1]: 0x10000 is no port or range of ports: write a number from 0 to 65535, or a range such as \"6000-6063\"",
        ),
        (
            "process = [0]\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": process[0]: 0 is no process id: write a number from 1 to ",
        ),
        (
            "process = [true]\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": process[0]: true is no process id: ",
        ),
        (
            "process = [99999999999999999999]\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": process[0]: 99999999999999999999 is no process id: ",
        ),
        (
            "protocol = {}\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": protocol: a table is no protocol: ",
        ),
        (
            "protocol = 1979-05-27\nverdict = \"drop\"",
            "column 12: rule[1] \"x\": protocol: 1979-05-27 is no protocol: ",
        ),
    ];
    for (lines, expected) in faults {
        let message = message(lines);
        assert!(
            message.starts_with(&format!("line 5, {expected}")),
            "{message}"
        );
    }
    let error = Policy::from_toml("[[rule]]\nname = 7\nverdict = \"drop\"").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 8: rule[0]: name: 7 is no name: write text, such as \"no telnet\""
    );
}

#[test]
fn faults_of_conditions_name_line_rule_and_key() {
    let faults = [
        (
            "remote = []",
            "line 6, column 10: rule[1] \"x\": remote: an empty list matches nothing: leave the condition out to match everything",
        ),
        (
            "remote = [\n  '::1',\n  '10.0.0.1/8',\n]",
            "line 8, column 3: rule[1] \"x\": remote[1]: 10.0.0.1/8 is an address in a network: write 10.0.0.0/8 for the network, or 10.0.0.1 for the address alone",
        ),
        (
            "remote = '10.0.0.1/8'",
            "line 6, column 10: rule[1] \"x\": remote: 10.0.0.1/8 is an address",
        ),
        (
            "local = ['::ffff:0:0/96']",
            "line 6, column 10: rule[1] \"x\": local[0]: ::ffff:0.0.0.0/96 is an IPv4 network in IPv6 form: write 0.0.0.0/0",
        ),
        (
            "local_port = ['9-8']",
            "line 6, column 15: rule[1] \"x\": local_port[0]: the range 9-8 is empty: write 8-9",
        ),
        (
            "local = '::1'\nremote = '10.0.0.1'",
            "line 7, column 10: rule[1] \"x\": remote: no packet can match: this is IPv4 only, and local IPv6 only",
        ),
    ];
    for (lines, expected) in faults {
        let message = message(&format!("verdict = \"drop\"\n{lines}"));
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn keys_that_mean_nothing_are_refused() {
    assert_eq!(
        message("zone = 1\nremote_prot = 23\nverdict = \"drop\""),
        "line 5, column 1: rule[1] \"x\": zone: there is no such key: use name, verdict, permanent, \
         direction, ip_version, protocol, local, remote, local_port, remote_port, process"
    );
    assert_eq!(
        Policy::from_toml("\n[[rules]]\nverdict = \"drop\"")
            .unwrap_err()
            .to_string(),
        "line 2, column 3: rules: there is no such key: use default, rule"
    );
    let error =
        Policy::from_toml("default = { permanent = true, verdikt = \"drop\" }").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1, column 31: verdikt: there is no such key: use verdict, permanent"
    );
}

#[test]
fn what_is_missing_is_said() {
    assert_eq!(
        message(""),
        "line 3, column 1: rule[1] \"x\": the verdict is missing: add verdict = \"block\", \
         or another verdict"
    );
    for text in ["", "# nothing", "rule = []"] {
        assert_eq!(
            Policy::from_toml(text).unwrap_err().to_string(),
            "there is no rule: write [[rule]], and the keys of the rule below it"
        );
    }
    for (text, expected) in [
        (
            "[rule]\nverdict = \"drop\"",
            "rule: a table is no list of rules: write [[rule]], in double brackets, above the keys of each rule",
        ),
        (
            "rule = [1]",
            "line 1, column 9: rule[0]: 1 is no list of rules",
        ),
        (
            "default = 2",
            "line 1, column 11: default: 2 is no default: write \"accept\"",
        ),
        (
            "default = \"permit\"",
            "line 1, column 11: default: \"permit\" is no default: write \"accept\"",
        ),
        ("default = {}", "line 1, column 11: the verdict is missing"),
    ] {
        let error = Policy::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_not_toml_is_said_with_its_place() {
    let place = |error: TomlError| error.place.map(|place| (place.line, place.column));
    let text = "# ü\n[[rule]]\nverdict = drop\n";
    let error = Policy::from_toml(text).unwrap_err();
    assert!(error.to_string().contains("this is not TOML: "), "{error}");
    assert_eq!(place(error), Some((3, 11)));
    let text = "[[rule]]\nverdict = \"drop\"\nname = \"ü\" 1";
    assert_eq!(place(Policy::from_toml(text).unwrap_err()), Some((3, 12)));
    // One key twice.
    let text = "[[rule]]\nverdict = \"drop\"\nverdict = \"drop\"";
    let error = Policy::from_toml(text).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 3, column 1: this is not TOML: duplicate key"),
        "{error}"
    );
}

#[test]
fn bounds_are_said_where_they_are_passed() {
    let text = "[[rule]]\nverdict = \"drop\"\n".repeat(kext_rules::MAX_RULES + 2);
    let error = Policy::from_toml(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("line 8193, column 1: 4098 rules are too many"),
        "{error}"
    );
    let ports = "7,".repeat(kext_rules::MAX_ITEMS + 1);
    let text = format!("default = \"drop\"\n[[rule]]\nverdict = \"drop\"\nlocal_port = [{ports}]");
    let error = Policy::from_toml(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("line 2, column 1: rule[0]: the networks"),
        "{error}"
    );
}

#[test]
fn the_documented_examples_are_policies() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/rules.md");
    let document = std::fs::read_to_string(document).unwrap();
    let examples: Vec<&str> = document
        .split("```toml")
        .skip(1)
        // A title may stand behind the language.
        .filter_map(|rest| rest.split_once('\n')?.1.split("```").next())
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        Policy::from_toml(example).unwrap();
    }
}

/// A rule as a file has it: each value in one of its forms.
fn written(rule: &Rule) -> String {
    fn list(text: &mut String, key: &str, items: Option<Vec<String>>) {
        match items.as_deref() {
            None => {}
            Some([one]) => writeln!(text, "{key} = {one}").unwrap(),
            Some(items) => writeln!(text, "{key} = [{}]", items.join(", ")).unwrap(),
        }
    }
    fn quoted<T: ToString>(items: Option<&Vec<T>>) -> Option<Vec<String>> {
        items.map(|items| {
            items
                .iter()
                .map(|item| format!("\"{}\"", item.to_string()))
                .collect()
        })
    }
    let ports = |ranges: &Option<Vec<std::ops::RangeInclusive<u16>>>| {
        ranges.as_ref().map(|ranges| {
            let write = |range: &std::ops::RangeInclusive<u16>| {
                let (start, end) = (range.start(), range.end());
                if start == end {
                    start.to_string()
                } else {
                    format!("\"{start}-{end}\"")
                }
            };
            ranges.iter().map(write).collect()
        })
    };
    let mut text = String::from("[[rule]]\n");
    if let Some(name) = &rule.name {
        writeln!(text, "name = \"{name}\"").unwrap();
    }
    writeln!(
        text,
        "verdict = \"{}\"",
        verdict_name(rule.decision.verdict)
    )
    .unwrap();
    if !rule.decision.permanent {
        text.push_str("permanent = false\n");
    }
    if let Some(direction) = rule.direction {
        let name = match direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        writeln!(text, "direction = \"{name}\"").unwrap();
    }
    if let Some(version) = rule.ip_version {
        writeln!(text, "ip_version = {}", version.number()).unwrap();
    }
    let numbers = |items: &Vec<u8>| items.iter().map(u8::to_string).collect();
    list(&mut text, "protocol", rule.protocol.as_ref().map(numbers));
    list(&mut text, "local", quoted(rule.local.as_ref()));
    list(&mut text, "remote", quoted(rule.remote.as_ref()));
    list(&mut text, "local_port", ports(&rule.local_port));
    list(&mut text, "remote_port", ports(&rule.remote_port));
    let ids = |ids: &Vec<ProcessId>| ids.iter().map(ProcessId::to_string).collect();
    list(&mut text, "process", rule.process.as_ref().map(ids));
    text
}

fn rules() -> impl Strategy<Value = Rule> {
    let ports = || {
        let range = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let port = any::<u16>().prop_map(|port| port..=port);
        option::of(vec(prop_oneof![port, range], 1..3))
    };
    let networks = || {
        let network = select(vec![
            "10.0.0.0/8",
            "192.0.2.1/32",
            "2001:db8::/32",
            "::/0",
            "0.0.0.0/0",
        ])
        .prop_map(|text| text.parse().expect("a network"));
        option::of(vec(network, 2..4))
    };
    let decision = (select(Verdict::ALL.to_vec()), any::<bool>())
        .prop_map(|(verdict, permanent)| Decision { verdict, permanent });
    let process = (1..=i64::MAX).prop_map(|id| ProcessId::new(id.cast_unsigned()).expect("not 0"));
    (
        option::of("[a-z äöü]{0,8}"),
        decision,
        option::of(select(vec![Direction::Outbound, Direction::Inbound])),
        option::of(select(vec![IpVersion::V4, IpVersion::V6])),
        option::of(vec(any::<u8>(), 1..3)),
        (networks(), networks()),
        (ports(), ports()),
        option::of(vec(process, 1..3)),
    )
        .prop_map(
            |(name, decision, direction, ip_version, protocol, networks, ports, process)| Rule {
                name,
                decision,
                direction,
                ip_version,
                protocol,
                local: networks.0,
                remote: networks.1,
                local_port: ports.0,
                remote_port: ports.1,
                process,
            },
        )
        .prop_filter("no packet can match", |rule| {
            Policy::compile(vec![rule.clone()]).is_ok()
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(rules in vec(rules(), 1..8)) {
        let text: String = rules.iter().map(written).collect();
        let policy = Policy::from_toml(&text).map_err(|error| {
            TestCaseError::fail(format!("{error}\n{text}"))
        })?;
        prop_assert_eq!(policy.rules(), rules);
    }

    #[test]
    fn a_damaged_file_is_a_policy_or_an_error_within_it(
        at in 0..WHOLE.len(),
        cut in 0..12_usize,
        put in "[\\[\\]{}\"',.=\n#a0-]{0,4}",
    ) {
        let end = (at + cut).min(WHOLE.len());
        let text = format!("{}{put}{}", &WHOLE[..at], &WHOLE[end..]);
        if let Err(error) = Policy::from_toml(&text) {
            prop_assert!(!error.to_string().is_empty());
            if let Some(place) = error.place {
                // The place behind the last character is one, too.
                let line = text.split('\n').nth(place.line - 1);
                prop_assert!(
                    line.is_some_and(|line| place.column <= line.chars().count() + 1),
                    "{}\n{}", error, text
                );
            }
        }
    }
}
