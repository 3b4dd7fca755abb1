//! Packets that nobody captured: as many new UDP flows as are asked for.
//!
//! For benches, and for people who want to know how fast their policy goes. Each packet is made in
//! place in one buffer, so a long run takes no more memory than a short one, and two runs are equal.

use kext_packet::checksum::Sum;
use kext_types::{Arrival, Direction, Interface, Timestamp, protocol};

/// The local address of every packet.
const LOCAL: [u8; 4] = [10, 0, 0, 1];
/// The first octet of the lowest remote address; 28 bits of remote addresses begin here, all of them
/// ordinary unicast.
const REMOTE: u32 = 16 << 24;
/// The time of the first packet, 2023-11-14 22:13:20 UTC.
const START: u64 = 1_700_000_000_000_000_000;
/// The time from one packet to the next, in nanoseconds.
const STEP: u64 = 1_000;

/// Remote ports as often as clients ask for them: web (QUIC too), DNS, NTP, SIP, STUN and others.
const PORTS: [u16; 16] = [
    443, 443, 443, 443, 443, 443, 53, 53, 53, 53, 80, 80, 123, 3_478, 5_060, 8_443,
];
/// The local ports used with one of the [`PORTS`], and the lowest of all.
const LOCAL_PORTS: u32 = 2_500;
const FIRST_LOCAL_PORT: u32 = 20_000;

const IP_HEADER: usize = 20;
const HEADERS: usize = IP_HEADER + 8;

/// What packets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// How many packets, each of a flow of its own.
    pub count: u32,
    /// How many bytes of data each carries behind its UDP header, 0 to [`Synthetic::MAX_PAYLOAD`].
    pub payload: u16,
}

impl Synthetic {
    /// The most data of a UDP packet over IPv4.
    pub const MAX_PAYLOAD: u16 = u16::MAX - HEADERS as u16;
    /// The data of a packet where nothing else is said.
    pub const DEFAULT_PAYLOAD: u16 = 64;
}

/// The packets of a [`Synthetic`], one after the other.
pub(super) struct Generator {
    count: u32,
    /// How many were made.
    made: u32,
    /// The packet that was made last.
    packet: Box<[u8]>,
    /// The sums of the words that are the same in each packet (RFC 1071): of the IP header, and of
    /// what the UDP checksum covers.
    ip_sum: Sum,
    udp_sum: Sum,
}

impl Generator {
    pub(super) const ARRIVAL: Arrival = Arrival {
        direction: Direction::Outbound,
        interface: Interface {
            index: 0,
            sub_index: 0,
        },
        compartment: 0,
        process_id: None,
        passes: 0,
        path_mtu: None,
    };

    pub(super) fn new(what: Synthetic) -> Self {
        let payload = what.payload.min(Synthetic::MAX_PAYLOAD);
        let len = HEADERS as u16 + payload;
        let mut packet = vec![0; len.into()];
        let [total_high, total_low] = len.to_be_bytes();
        let [udp_high, udp_low] = (len - IP_HEADER as u16).to_be_bytes();
        // RFC 791: version and header length, total length, don't fragment, 64 hops.
        let header = [0x45, 0, total_high, total_low, 0, 0, 0x40, 0, 64];
        for (slot, byte) in packet.iter_mut().zip(header) {
            *slot = byte;
        }
        put(&mut packet, 9, [protocol::UDP]);
        put(&mut packet, 12, LOCAL);
        put(&mut packet, 24, [udp_high, udp_low]);
        for (slot, byte) in packet.iter_mut().skip(HEADERS).zip((0..=u8::MAX).cycle()) {
            *slot = byte;
        }
        let (ip, udp) = packet.split_at(IP_HEADER);
        // RFC 768: the pseudo header is addresses, protocol and length.
        let pseudo = Sum::new()
            .add_bytes(&LOCAL)
            .add_word(protocol::UDP.into())
            .add_word(len - IP_HEADER as u16);
        Self {
            count: what.count,
            made: 0,
            ip_sum: Sum::new().add_bytes(ip),
            udp_sum: pseudo.add_bytes(udp),
            packet: packet.into(),
        }
    }

    /// Makes the next packet; `false` if there are no more.
    pub(super) fn advance(&mut self) -> bool {
        if self.made == self.count {
            return false;
        }
        let number = self.made;
        self.made += 1;
        // Multiplying by an odd number and shifting in are reversible, so no two flows are the same:
        // 28 bits are the remote address, and four choose the remote port and a range of local ones.
        let mut mixed = number.wrapping_mul(0x9e37_79b1);
        mixed ^= mixed >> 15;
        mixed = mixed.wrapping_mul(0x85eb_ca77);
        let choice = mixed & 0xf;
        let remote = REMOTE + (mixed >> 4);
        let remote_port = PORTS.get(choice as usize).copied().unwrap_or_default();
        let local_port = (FIRST_LOCAL_PORT + choice * LOCAL_PORTS + number % LOCAL_PORTS) as u16;

        let identification = number as u16;
        let remote = remote.to_be_bytes();
        let ip = self.ip_sum.add_word(identification).add_bytes(&remote);
        let udp = self.udp_sum.add_bytes(&remote);
        let udp = udp.add_word(local_port).add_word(remote_port);
        // RFC 768: a sum of zero is sent as all ones, since zero says that there is none.
        let udp = match udp.checksum() {
            0 => u16::MAX,
            checksum => checksum,
        };
        let packet = &mut self.packet;
        put(packet, 4, identification.to_be_bytes());
        put(packet, 10, ip.checksum().to_be_bytes());
        put(packet, 16, remote);
        put(packet, 20, local_port.to_be_bytes());
        put(packet, 22, remote_port.to_be_bytes());
        put(packet, 26, udp.to_be_bytes());
        true
    }

    /// The packet that was made last.
    pub(super) fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Its time.
    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_nanos(START + u64::from(self.made.saturating_sub(1)) * STEP)
    }

    /// Its number, counted from 1.
    pub(super) fn number(&self) -> u64 {
        self.made.into()
    }

    /// How many bytes were made.
    pub(super) fn position(&self) -> u64 {
        u64::from(self.made) * self.packet.len() as u64
    }

    /// How many bytes will be made.
    pub(super) fn total(&self) -> u64 {
        u64::from(self.count) * self.packet.len() as u64
    }

    pub(super) fn description() -> String {
        let [a, b, c, d] = LOCAL;
        format!("{a}.{b}.{c}.{d} (synthetic)")
    }
}

fn put<const N: usize>(packet: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(slot) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *slot = bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use kext_packet::{checksum, testing};

    use super::*;

    fn made(count: u32, payload: u16) -> Generator {
        Generator::new(Synthetic { count, payload })
    }

    #[test]
    fn each_packet_is_a_flow_of_its_own_and_whole() {
        for payload in [0, 1, 64, 512, Synthetic::MAX_PAYLOAD] {
            let count = if payload > 1_000 { 50 } else { 20_000 };
            let mut generator = made(count, payload);
            let mut flows = HashSet::new();
            let mut last = None;
            while generator.advance() {
                let headers = testing::parse(generator.packet());
                assert_eq!(checksum::is_right(generator.packet(), &headers), Some(true));
                let header = Sum::new().add_bytes(&generator.packet()[..IP_HEADER]);
                assert_eq!(header.folded(), 0xffff);
                assert_eq!(headers.total_len as usize, generator.packet().len());
                assert_eq!(headers.source.v4_bytes(), LOCAL);
                let destination = headers.destination;
                assert!((16..32).contains(&destination.v4_bytes()[0]));
                flows.insert((destination, headers.source_port, headers.destination_port));
                assert!(Some(generator.time()) > last);
                last = Some(generator.time());
            }
            assert_eq!(flows.len(), count as usize);
            assert_eq!(generator.position(), generator.total());
            assert!(!generator.advance());
        }
    }

    #[test]
    fn two_runs_are_equal() {
        let (mut one, mut other) = (made(1_000, 20), made(1_000, 20));
        while one.advance() {
            assert!(other.advance());
            assert_eq!((one.packet(), one.time()), (other.packet(), other.time()));
        }
    }
}
