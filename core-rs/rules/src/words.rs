//! The values of rules in the form in which people write them, and what to write instead of others.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use kext_types::{Direction, Verdict, protocol};

const PROTOCOLS: [(&str, u8); 9] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
    ("dccp", protocol::DCCP),
    ("udp_lite", protocol::UDP_LITE),
    ("esp", protocol::ESP),
    ("ah", protocol::AH),
];

/// What a value was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A verdict by name.
    Verdict,
    /// A default: a verdict by name, or with the switch `permanent`.
    Default,
    /// A direction by name.
    Direction,
    /// An IP version by number.
    IpVersion,
    /// A protocol by name or number.
    Protocol,
    /// A network, or one address.
    Network,
    /// A port or a range of ports.
    Port,
    /// A process id.
    Process,
    /// True or false.
    Switch,
    /// The name of a rule.
    Name,
    /// A rule of a file.
    Rule,
}

impl Kind {
    /// What it is called.
    const fn noun(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Default => "default",
            Self::Direction => "direction",
            Self::IpVersion => "IP version",
            Self::Protocol => "protocol",
            Self::Network => "network or address",
            Self::Port => "port or range of ports",
            Self::Process => "process id",
            Self::Switch => "switch",
            Self::Name => "name",
            Self::Rule => "list of rules",
        }
    }

    /// What to write.
    const fn forms(self) -> &'static str {
        match self {
            Self::Verdict => r#""accept", "block", "drop", "redirect_dns" or "redirect_tunnel""#,
            Self::Default => {
                r#""accept", "block", "drop", "redirect_dns" or "redirect_tunnel", or { verdict = "block", permanent = false }"#
            }
            Self::Direction => r#""outbound" or "inbound""#,
            Self::IpVersion => "4 or 6",
            Self::Protocol => {
                r#""tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udp_lite", "esp" or "ah", or a number from 0 to 255"#
            }
            Self::Network => r#""192.0.2.1", "10.0.0.0/8", "2001:db8::1" or "2001:db8::/32""#,
            Self::Port => r#"a number from 0 to 65535, or a range such as "6000-6063""#,
            Self::Process => "a number from 1 to 9223372036854775807",
            Self::Switch => "true or false",
            Self::Name => r#"text, such as "no telnet""#,
            Self::Rule => "[[rule]], in double brackets, above the keys of each rule",
        }
    }
}

/// A value that is not what it was to be; the message says what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// What it was to be.
    pub kind: Kind,
    /// The value, in the form in which it was written.
    pub shown: String,
}

impl BadValue {
    /// For a value that is not text; `shown` as it was written.
    pub fn new(kind: Kind, shown: impl fmt::Display) -> Self {
        Self {
            kind,
            shown: shown.to_string(),
        }
    }

    fn text(kind: Kind, text: &str) -> Self {
        Self::new(kind, format_args!("{text:?}"))
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (noun, forms) = (self.kind.noun(), self.kind.forms());
        write!(f, "{} is no {noun}: write {forms}", self.shown)
    }
}

impl std::error::Error for BadValue {}

/// `accept`, `block`, `drop`, `redirect_dns` or `redirect_tunnel`.
pub fn verdict(text: &str) -> Result<Verdict, BadValue> {
    let mut all = Verdict::ALL.into_iter();
    all.find(|verdict| verdict_name(*verdict) == text)
        .ok_or_else(|| BadValue::text(Kind::Verdict, text))
}

/// The name of a verdict, as [`verdict`] reads it.
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Block => "block",
        Verdict::Drop => "drop",
        Verdict::RedirectDns => "redirect_dns",
        Verdict::RedirectTunnel => "redirect_tunnel",
    }
}

/// `outbound` or `inbound`.
pub fn direction(text: &str) -> Result<Direction, BadValue> {
    match text {
        "outbound" => Ok(Direction::Outbound),
        "inbound" => Ok(Direction::Inbound),
        _ => Err(BadValue::text(Kind::Direction, text)),
    }
}

/// The number of a protocol by its name.
pub fn protocol(text: &str) -> Result<u8, BadValue> {
    PROTOCOLS
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number)
        .ok_or_else(|| BadValue::text(Kind::Protocol, text))
}

/// A network in CIDR notation, or an address, which is the network of that address alone.
///
/// Bits behind the prefix are kept: [`Policy::compile`](crate::Policy::compile) judges them.
pub fn network(text: &str) -> Result<IpNet, BadValue> {
    let network = if text.contains('/') {
        text.parse().ok()
    } else {
        text.parse::<IpAddr>().ok().map(IpNet::from)
    };
    network.ok_or_else(|| BadValue::text(Kind::Network, text))
}

/// A port, or a range with a hyphen, both ends included.
///
/// A range whose end is below its start is kept: [`Policy::compile`](crate::Policy::compile) judges it.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, BadValue> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    // The standard library would also take a plus sign.
    let port = |text: &str| match text.parse() {
        Ok(port) if !text.starts_with('+') => Ok(port),
        _ => Err(()),
    };
    match (port(start), port(end)) {
        (Ok(start), Ok(end)) => Ok(start..=end),
        _ => Err(BadValue::text(Kind::Port, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_messages_list_all_of_them() {
        for of in Verdict::ALL {
            assert_eq!(verdict(verdict_name(of)), Ok(of));
            for kind in [Kind::Verdict, Kind::Default] {
                assert!(kind.forms().contains(&format!("{:?}", verdict_name(of))));
            }
        }
        for (name, number) in PROTOCOLS {
            assert_eq!(protocol(name), Ok(number));
            assert!(Kind::Protocol.forms().contains(&format!("{name:?}")));
        }
        assert_eq!(direction("outbound"), Ok(Direction::Outbound));
        assert_eq!(direction("inbound"), Ok(Direction::Inbound));
    }

    #[test]
    fn an_address_is_a_network() {
        for (text, means) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1/8", "10.0.0.1/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), means);
        }
        for text in [
            "",
            "10.0.0/8",
            "10.0.0.0/33",
            "::/129",
            "/8",
            "10.0.0.0/",
            "fe80::1%eth0",
            "a.example",
        ] {
            assert_eq!(
                network(text).unwrap_err().to_string(),
                format!(
                    "{text:?} is no network or address: write \"192.0.2.1\", \"10.0.0.0/8\", \
                     \"2001:db8::1\" or \"2001:db8::/32\""
                )
            );
        }
    }

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(ports("0"), Ok(0..=0));
        assert_eq!(ports("6000-6063"), Ok(6_000..=6_063));
        assert!(ports("2-1").unwrap().is_empty());
        for text in [
            "", "-", "1-", "-1", "1-2-3", "65536", "+1", "1-+2", " 1", "http",
        ] {
            let error = ports(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is no port")),
                "{error}"
            );
        }
    }

    #[test]
    fn names_have_one_spelling() {
        for error in [
            verdict("Block").unwrap_err(),
            direction("out").unwrap_err(),
            protocol("17").unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains(": write \""), "{message}");
        }
    }
}
