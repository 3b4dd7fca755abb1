//! Which side of a captured packet is local.
//!
//! A capture does not say which of its hosts it was taken for, unless its link layer tells the
//! direction. Given addresses decide; else they are inferred from who takes part in most packets.
//! Where that leaves it open (both ends local, or neither) the lower end is taken as local, so that
//! both directions of a flow still agree.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use kext_packet::Headers;
use kext_types::{Address, Direction, IpVersion};

use crate::capture::{CaptureError, CaptureReader, LinkPacket, LinkType, Record, network_layer};

/// How many records an inference looks at.
const INFERENCE_RECORDS: u64 = 100_000;

/// The local side of a capture.
pub(super) struct LocalSide {
    nets: Vec<IpNet>,
    description: String,
    inferred: bool,
}

impl LocalSide {
    /// The local side of this capture: what the user gave, or what is inferred.
    pub(super) fn of(path: &Path, given: &[IpNet]) -> Result<Self, CaptureError> {
        if given.is_empty() {
            Self::infer(path)
        } else {
            Ok(Self::given(given.to_vec()))
        }
    }

    /// The addresses that the user gave.
    fn given(nets: Vec<IpNet>) -> Self {
        Self {
            description: join(&nets),
            nets,
            inferred: false,
        }
    }

    /// Infers the local addresses: one of each scope, that of the host in most packets.
    ///
    /// From what is no regular file nothing is inferred: it can be read only once.
    fn infer(path: &Path) -> Result<Self, CaptureError> {
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(Self {
                nets: Vec::new(),
                description: "none (not inferred: no regular file)".to_owned(),
                inferred: true,
            });
        }
        let mut reader = CaptureReader::open(path)?;
        let mut census = Census::default();
        let mut record = Record::default();
        // A capture that breaks off later says so when it is replayed.
        while reader.read_into(&mut record).unwrap_or(false) && record.number <= INFERENCE_RECORDS {
            let found = network_layer(record.link_type, &record.data, record.original_len);
            if let LinkPacket::Ip {
                offset, direction, ..
            } = found
                && let Some((source, destination)) = record.data.get(offset..).and_then(addresses)
            {
                let hardware = match record.link_type {
                    LinkType::Ethernet => record.data.get(6..).and_then(<[u8]>::first_chunk),
                    _ => None,
                };
                census.add(source, destination, direction, hardware.copied());
            }
        }
        let nets: Vec<IpNet> = census.busiest().into_iter().map(IpNet::from).collect();
        let description = if nets.is_empty() {
            "none (inferred: no packet names one)".to_owned()
        } else {
            format!("{} (inferred: {})", join(&nets), census.grounds())
        };
        Ok(Self {
            nets,
            description,
            inferred: true,
        })
    }

    /// Which side is local, in words.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    pub(super) fn is_inferred(&self) -> bool {
        self.inferred
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }

    /// Which way a packet goes, and whether that was guessed by the lower end. `told` is what the
    /// link layer says of it, which counts where nobody has given addresses.
    pub(super) fn direction(
        &self,
        packet: &[u8],
        on_wire: usize,
        told: Option<Direction>,
    ) -> (Direction, bool) {
        let known = |direction| (direction, false);
        let Some((source, destination)) = addresses(packet) else {
            return known(told.unwrap_or(Direction::Inbound));
        };
        let loops = source == destination || source.is_loopback() || destination.is_loopback();
        if let Some(direction) = told
            && self.inferred
            && !loops
        {
            return known(direction);
        }
        if source.is_unspecified() {
            // Who has no address yet asks for one.
            return known(Direction::Outbound);
        }
        match (self.contains(source), self.contains(destination)) {
            (true, false) => known(Direction::Outbound),
            (false, true) => known(Direction::Inbound),
            (false, false) if is_group(destination) => known(Direction::Inbound),
            (true, true) | (false, false) => {
                let direction = lower_is_local(packet, on_wire, source, destination);
                (direction, true)
            }
        }
    }
}

fn lower_is_local(packet: &[u8], on_wire: usize, source: IpAddr, destination: IpAddr) -> Direction {
    let (source_port, destination_port) = Headers::parse(packet, on_wire)
        .map_or((0, 0), |headers| {
            (headers.source_port, headers.destination_port)
        });
    if (source, source_port) <= (destination, destination_port) {
        Direction::Outbound
    } else {
        Direction::Inbound
    }
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::from([255; 4])
}

/// Source and destination by an IP header, as far as it is there.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(Address::v4(*packet.get(at..)?.first_chunk()?));
    let v6 = |at: usize| Some(Address::v6(*packet.get(at..)?.first_chunk()?));
    let version = IpVersion::from_number(packet.first()? >> 4)?;
    let (source, destination) = match version {
        IpVersion::V4 => (v4(12)?, v4(16)?),
        IpVersion::V6 => (v6(8)?, v6(24)?),
    };
    Some((source.to_ip(version), destination.to_ip(version)))
}

fn join(nets: &[IpNet]) -> String {
    let mut text = String::new();
    for net in nets {
        let separator = if text.is_empty() { "" } else { ", " };
        let single = net.prefix_len() == net.max_prefix_len();
        // Writing to a string cannot fail.
        let _ = if single {
            write!(text, "{separator}{}", net.addr())
        } else {
            write!(text, "{separator}{net}")
        };
    }
    text
}

/// Scopes that have a local address each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    V4,
    V6,
    V6Link,
}

impl Scope {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::V6Link];

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::V6Link,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A hardware address.
type Mac = [u8; 6];

/// How often each address takes part.
#[derive(Default)]
struct Census {
    seen: HashMap<IpAddr, Standing>,
    packets: u64,
    /// Packets whose direction the link layer told.
    told: u64,
    /// Who sent without an address first, as one that asks for its address does.
    without_address: Option<Mac>,
}

#[derive(Clone, Copy, Default)]
struct Standing {
    /// Packets in which the link layer says that this is the local end.
    told_local: u64,
    /// Packets with this end.
    packets: u64,
    /// Before how many packets it first sent one; `None` if it never did.
    first_sent: Option<u64>,
    /// The hardware address that it first sent from.
    hardware: Option<Mac>,
}

impl Census {
    fn add(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        told: Option<Direction>,
        hardware: Option<Mac>,
    ) {
        self.told += u64::from(told.is_some());
        if source == IpAddr::from([0; 4]) {
            self.without_address = self.without_address.or(hardware);
        }
        let ends = [
            (source, Direction::Outbound),
            (destination, Direction::Inbound),
        ];
        for (address, local_if) in ends {
            if address.is_unspecified() || is_group(address) {
                continue;
            }
            let standing = self.seen.entry(address).or_default();
            standing.packets += 1;
            standing.told_local += u64::from(told == Some(local_if));
            if local_if == Direction::Outbound {
                standing.first_sent.get_or_insert(self.packets);
                standing.hardware = standing.hardware.or(hardware);
            }
        }
        self.packets += 1;
    }

    /// The address of each scope that is most often local or, that being equal, has the local
    /// hardware address, takes part most often, sends first, and is the lowest.
    fn busiest(&self) -> Vec<IpAddr> {
        let local = self.local_hardware();
        Scope::ALL
            .iter()
            .filter_map(|scope| self.first(local, |address| Scope::of(address) == *scope))
            .collect()
    }

    /// The hardware address of the local side: who asked for an address, else who has the address
    /// that takes part most often.
    fn local_hardware(&self) -> Option<Mac> {
        self.without_address.or_else(|| {
            let busiest = self.first(None, |address| Scope::of(address) != Scope::V6Link)?;
            self.seen.get(&busiest)?.hardware
        })
    }

    /// The first of the addresses that `wanted` wants.
    fn first(&self, local: Option<Mac>, wanted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let rank = |(address, standing): &(&IpAddr, &Standing)| {
            let is_local = local.is_some() && standing.hardware == local;
            (
                std::cmp::Reverse((standing.told_local, is_local, standing.packets)),
                standing.first_sent.unwrap_or(u64::MAX),
                **address,
            )
        };
        self.seen
            .iter()
            .filter(|(address, _)| wanted(**address))
            .min_by_key(rank)
            .map(|(address, _)| *address)
    }

    fn grounds(&self) -> &'static str {
        if self.told > 0 {
            "the link layer tells the direction"
        } else if self.without_address.is_some() {
            "it asked for its address"
        } else {
            "in most packets, or the first to send"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn packet(source: &str, destination: &str) -> Vec<u8> {
        let mut buffer = [0; 64];
        let end = |address: &str, port| std::net::SocketAddr::new(ip(address), port);
        kext_packet::testing::udp(&mut buffer, end(source, 7), end(destination, 9), b"x").to_vec()
    }

    fn direction(local: &LocalSide, source: &str, destination: &str) -> Direction {
        let packet = packet(source, destination);
        local.direction(&packet, packet.len(), None).0
    }

    #[test]
    fn given_addresses_decide() {
        let local = LocalSide::given(vec!["10.0.0.0/24".parse().unwrap()]);
        assert_eq!(
            direction(&local, "10.0.0.9", "192.0.2.1"),
            Direction::Outbound
        );
        assert_eq!(
            direction(&local, "192.0.2.1", "10.0.0.9"),
            Direction::Inbound
        );
        assert_eq!(local.description(), "10.0.0.0/24");
    }

    #[test]
    fn both_directions_agree_where_addresses_do_not_decide() {
        let local = LocalSide::given(vec!["10.0.0.0/24".parse().unwrap()]);
        for (a, b) in [
            ("10.0.0.1", "10.0.0.2"),
            ("192.0.2.1", "192.0.2.2"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            let there = packet(a, b);
            // The same flow in the other direction: ends swapped, ports too.
            let mut buffer = [0; 64];
            let end = |address: &str, port| std::net::SocketAddr::new(ip(address), port);
            let back = kext_packet::testing::udp(&mut buffer, end(b, 9), end(a, 7), b"x").to_vec();
            let key = |bytes: &[u8]| {
                let (direction, guessed) = local.direction(bytes, bytes.len(), None);
                assert!(guessed);
                Headers::parse(bytes, bytes.len())
                    .unwrap()
                    .flow_key(direction)
            };
            assert_eq!(key(&there), key(&back));
        }
    }

    #[test]
    fn who_has_no_address_sends_and_groups_receive() {
        let local = LocalSide::given(vec!["10.0.0.1/32".parse().unwrap()]);
        assert_eq!(
            direction(&local, "0.0.0.0", "255.255.255.255"),
            Direction::Outbound
        );
        assert_eq!(
            direction(&local, "10.0.0.7", "224.0.0.251"),
            Direction::Inbound
        );
        assert_eq!(
            direction(&local, "10.0.0.1", "224.0.0.251"),
            Direction::Outbound
        );
    }

    #[test]
    fn the_busiest_address_of_each_scope_is_local() {
        let mut census = Census::default();
        for server in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            census.add(ip("10.0.0.1"), ip(server), None, None);
            census.add(ip(server), ip("10.0.0.1"), None, None);
        }
        census.add(ip("fe80::2"), ip("fe80::1"), None, None);
        census.add(ip("fe80::1"), ip("fe80::2"), None, None);
        census.add(ip("10.0.0.1"), ip("224.0.0.251"), None, None);
        assert_eq!(census.busiest(), [ip("10.0.0.1"), ip("fe80::2")]);
    }

    #[test]
    fn what_the_link_layer_tells_counts_more_than_numbers() {
        let mut census = Census::default();
        for _ in 0..5 {
            census.add(ip("10.0.0.9"), ip("10.0.0.8"), None, None);
        }
        census.add(
            ip("10.0.0.9"),
            ip("10.0.0.1"),
            Some(Direction::Inbound),
            None,
        );
        assert_eq!(census.busiest(), [ip("10.0.0.1")]);
    }

    #[test]
    fn hardware_addresses_tell_which_of_two_equals_is_local() {
        const HOST: Option<Mac> = Some([2, 0, 0, 0, 0, 1]);
        const ROUTER: Option<Mac> = Some([2, 0, 0, 0, 0, 2]);
        let mut census = Census::default();
        // The router speaks first and as often, but the host is in every other packet.
        census.add(ip("fe80::1"), ip("fe80::9"), None, ROUTER);
        census.add(ip("fe80::9"), ip("fe80::1"), None, HOST);
        for _ in 0..3 {
            census.add(ip("2001:db8::9"), ip("2001:db8:2::1"), None, HOST);
        }
        census.add(ip("2001:db8::9"), ip("2001:db8:2::2"), None, HOST);
        assert_eq!(census.busiest(), [ip("2001:db8::9"), ip("fe80::9")]);
        // Whoever asks for an address is the host, even if a server answers more often.
        let mut census = Census::default();
        census.add(ip("0.0.0.0"), ip("255.255.255.255"), None, HOST);
        census.add(ip("192.0.2.1"), ip("192.0.2.10"), None, ROUTER);
        census.add(ip("192.0.2.1"), ip("224.0.0.1"), None, ROUTER);
        census.add(ip("192.0.2.10"), ip("224.0.0.251"), None, HOST);
        census.add(ip("192.0.2.1"), ip("192.0.2.10"), None, ROUTER);
        assert_eq!(census.busiest(), [ip("192.0.2.10")]);
    }
}
