//! Packets as the filter engine shows them, one by one to the extension, and what it says of them.
//!
//! # Loopback
//!
//! A packet of this machine to itself is shown as it leaves and as it comes. It is presented as it
//! leaves. As it comes only what may be an answer of a redirect target is, for its way back.
//!
//! # Lists of several packets
//!
//! The answer is about all packets of a list. If some go on and others do not, all are taken away, and
//! copies of those that go on are injected in their order. A copy that cannot be made or injected is counted
//! as a packet that is dropped for that.

use core::cell::OnceCell;
use core::net::IpAddr;

use kext_extension::{Classification, PacketBytes};
use kext_nt::blocks::Block;
use kext_nt::callout::Classifier;
use kext_nt::classify::Classify;
use kext_nt::injection::Way;
use kext_nt::irql::at_dispatch;
use kext_nt::layer::{Family, Layer};
use kext_nt::net_buffer::{FromHeader, Packet, PacketList, Packets};
use kext_types::{Arrival, Direction, Interface, PathMtu, Reason};

use crate::checksums::Missing;
use crate::kext::{Here, Kext};
use crate::passed::Passed;

/// Packets from the network.
pub(crate) struct Inbound;
/// Packets to the network.
pub(crate) struct Outbound;

impl Classifier for Inbound {
    fn classify(call: Classify<'_>) {
        classify(call, &Layer::INBOUND_IPPACKET, Direction::Inbound);
    }
}

impl Classifier for Outbound {
    fn classify(call: Classify<'_>) {
        classify(call, &Layer::OUTBOUND_IPPACKET, Direction::Outbound);
    }
}

/// What the packets of one call have in common.
struct Shown {
    family: Family,
    arrival: Arrival,
    /// How far before their start the IP header begins; `None` if that is not told.
    back: Option<u32>,
    /// Source and destination, where a header has to be looked for: what is found there must have them.
    ends: Option<Ends>,
    /// This machine sends them to itself.
    loopback: bool,
}

/// Source and destination of a header, as they stand there.
#[derive(Clone, Copy)]
enum Ends {
    V4([u8; 8]),
    V6([u8; 32]),
}

/// What is to become of all packets of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing is said of them.
    PassOn,
    Permit,
    Absorb,
}

fn classify(mut call: Classify<'_>, layer: &Layer, direction: Direction) {
    // Without the right somebody has decided for good, and nothing of ours could change it.
    if !call.may_decide() {
        return;
    }
    let flags = call.flags(&layer.fields);
    let Some((kext, family)) = Kext::working().zip(call.family(layer)) else {
        return call.pass_on();
    };
    if flags.was_indicated_before() {
        return call.pass_on();
    }
    let fields = &layer.fields;
    let value = |field: Option<u32>| field.and_then(|field| call.u32(field)).unwrap_or(0);
    // What leaves begins with its header. What came does not; where the header is found by a length that
    // leaves extension headers out, there are bytes that their sender has chosen.
    let ends = match direction {
        Direction::Inbound => call
            .address(fields.remote_address, family)
            .zip(call.address(fields.local_address, family))
            .and_then(|(source, destination)| Ends::of(source, destination)),
        Direction::Outbound => None,
    };
    let shown = Shown {
        family,
        ends,
        arrival: Arrival {
            direction,
            interface: Interface {
                index: value(fields.interface),
                sub_index: value(fields.sub_interface),
            },
            compartment: call.compartment(),
            process_id: None,
            passes: 0,
            path_mtu: call.path_mtu().and_then(path_mtu),
        },
        back: match direction {
            Direction::Inbound => call.ip_header_size(),
            Direction::Outbound => Some(0),
        },
        loopback: flags.is_loopback(),
    };
    let packets = call.packets(layer);
    let fate = at_dispatch(|dispatch| {
        kext.here(dispatch).map_or(Fate::PassOn, |here| {
            here.while_presenting(shown.loopback, || kext.present(here, &packets, &shown))
        })
    });
    match fate {
        Fate::PassOn => call.pass_on(),
        Fate::Permit => call.permit(),
        Fate::Absorb => call.absorb(),
    }
}

impl Kext {
    /// Presents every packet.
    fn present(&self, here: &Here, lists: &PacketList<'_>, shown: &Shown) -> Fate {
        let way = shown.way();
        let mut fate = Fate::PassOn;
        let mut passed = Passed::new();
        // Bound: what the filter engine shows in one call.
        for list in lists.lists() {
            let arrival = self.arrival_of(list, shown);
            let missing = missing(list, way);
            for mut packet in list.packets() {
                let said = self.present_one(here, &mut packet, shown, &arrival, missing);
                let (goes_on, reason) = match said {
                    None => (true, None),
                    Some(Classification::Permit(reason)) => (true, Some(reason)),
                    Some(Classification::Discard(_) | Classification::Absorb(_)) => (false, None),
                };
                if fate != Fate::Absorb {
                    if goes_on && passed.push(reason) {
                        if reason.is_some() {
                            fate = Fate::Permit;
                        }
                        continue;
                    }
                    self.let_first_go(here, lists, &passed, shown);
                    fate = Fate::Absorb;
                }
                if goes_on {
                    self.let_go(here, &mut packet, reason, shown, &arrival, missing);
                }
            }
        }
        fate
    }

    /// What is known of the packets of a list: how often each was injected differs from list to list.
    fn arrival_of(&self, list: Packets<'_>, shown: &Shown) -> Arrival {
        let mark = self
            .host()
            .injector
            .mark_of(list, shown.family, shown.way());
        Arrival {
            passes: mark.map_or(0, passes),
            ..shown.arrival
        }
    }

    /// What the extension says of a packet; `None` if it is not asked.
    fn present_one(
        &self,
        here: &Here,
        packet: &mut Packet<'_>,
        shown: &Shown,
        arrival: &Arrival,
        missing: Missing,
    ) -> Option<Classification> {
        let comes_from_here = shown.loopback && arrival.direction == Direction::Inbound;
        let view = if arrival.passes > 0 {
            // Of a packet of ours nothing is looked at.
            None
        } else {
            shown.back.and_then(|back| packet.from_header(back))
        };
        let missing = if comes_from_here {
            Missing::Left
        } else {
            missing
        };
        let packet = Presented::new(self, view.as_ref(), shown, missing);
        let len = packet.len;
        if comes_from_here && !self.extension.may_answer_redirect(&packet, len) {
            return None;
        }
        Some(self.extension.classify(&here.lane, &packet, len, arrival))
    }

    /// Copies a packet; `None` if there is no memory for it.
    fn copy(&self, view: &FromHeader<'_>) -> Option<Block> {
        let mut block = self.host().take_block(view.len())?;
        view.copy_to(block.as_mut()).then_some(block)
    }

    /// Lets the first packets go, so many as have passed before one did not.
    #[cold]
    fn let_first_go(&self, here: &Here, lists: &PacketList<'_>, passed: &Passed, shown: &Shown) {
        let way = shown.way();
        let packets = lists.lists().flat_map(|list| {
            let arrival = self.arrival_of(list, shown);
            let missing = missing(list, way);
            list.packets().map(move |packet| (packet, arrival, missing))
        });
        // Bound: what the filter engine shows in one call.
        for ((mut packet, arrival, missing), reason) in packets.zip(passed.reasons()) {
            self.let_go(here, &mut packet, reason, shown, &arrival, missing);
        }
    }

    /// Lets a packet go on that its list does not. It was permitted for this reason, or was not asked
    /// about.
    #[cold]
    fn let_go(
        &self,
        here: &Here,
        packet: &mut Packet<'_>,
        permitted: Option<Reason>,
        shown: &Shown,
        arrival: &Arrival,
        missing: Missing,
    ) {
        let view = shown.back.and_then(|back| packet.from_header(back));
        let mut copy = view.and_then(|view| self.copy(&view));
        if let Some(copy) = &mut copy {
            missing.complete(copy.as_mut());
        }
        if let Err(lost) = self.host().let_go(copy, arrival) {
            match permitted {
                Some(reason) => here.lane.correct(reason, lost),
                None => here.lane.lose(lost),
            }
        }
    }
}

/// A packet in its pieces, which are copied together when somebody asks for all of it: of most packets
/// nobody does.
struct Presented<'a> {
    kext: &'a Kext,
    /// `None` if it cannot be read, or is not to be.
    view: Option<&'a FromHeader<'a>>,
    /// What is in its first piece; nothing if that is no packet of the layer's family.
    first: &'a [u8],
    /// How long it is.
    len: usize,
    shown: &'a Shown,
    /// The first piece is not all of it, or its checksums are to be completed first.
    is_to_copy: bool,
    missing: Missing,
    copy: OnceCell<Option<Block>>,
}

impl<'a> Presented<'a> {
    #[inline]
    fn new(
        kext: &'a Kext,
        view: Option<&'a FromHeader<'a>>,
        shown: &'a Shown,
        missing: Missing,
    ) -> Self {
        let first = view.map_or(&[][..], FromHeader::first_bytes);
        let len = view.map_or(0, FromHeader::len);
        Self {
            kext,
            view,
            first: of_layer(first, shown),
            len,
            shown,
            is_to_copy: first.len() < len || missing == Missing::Left,
            missing,
            copy: OnceCell::new(),
        }
    }

    #[cold]
    #[inline(never)]
    fn copied(&self) -> Option<&[u8]> {
        let copy = self.copy.get_or_init(|| {
            let mut copy = self.kext.copy(self.view?)?;
            self.missing.complete(copy.as_mut());
            Some(copy)
        });
        let copy = copy.as_ref()?;
        Some(of_layer(copy.as_ref(), self.shown))
    }
}

impl PacketBytes for Presented<'_> {
    #[inline]
    fn first(&self) -> &[u8] {
        self.first
    }

    #[inline]
    fn all(&self) -> Option<&[u8]> {
        // That a checksum is missing which the card vouches for is rare, and found only where all is asked.
        if self.is_to_copy || self.missing.is_of(self.first) {
            self.copied()
        } else {
            Some(self.first)
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.is_to_copy
    }
}

/// The number of times that a packet with this mark was injected: once at least.
fn passes(mark: usize) -> u8 {
    u8::try_from(mark).unwrap_or(u8::MAX).max(1)
}

/// A path MTU for the extension: none where every packet fits.
fn path_mtu(bytes: u32) -> Option<PathMtu> {
    u16::try_from(bytes).ok().and_then(PathMtu::new)
}

impl Shown {
    const fn way(&self) -> Way {
        match self.arrival.direction {
            Direction::Inbound => Way::Receive,
            Direction::Outbound => Way::Send,
        }
    }
}

/// Whose checksums of a list's packets are missing.
#[inline]
fn missing(list: Packets<'_>, way: Way) -> Missing {
    match way {
        Way::Send if list.leaves_checksums() => Missing::Left,
        Way::Send => Missing::None,
        Way::Receive => Missing::vouched(list.vouched_checksums()),
    }
}

impl Ends {
    fn of(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ends = [0; 8];
                let (first, second) = ends.split_at_mut(4);
                first.copy_from_slice(&source.octets());
                second.copy_from_slice(&destination.octets());
                Some(Self::V4(ends))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ends = [0; 32];
                let (first, second) = ends.split_at_mut(16);
                first.copy_from_slice(&source.octets());
                second.copy_from_slice(&destination.octets());
                Some(Self::V6(ends))
            }
            _ => None,
        }
    }

    /// Whether a header with these ends is where the bytes begin.
    #[inline]
    fn are_of(&self, bytes: &[u8]) -> bool {
        match self {
            Self::V4(ends) => bytes.get(12..20) == Some(ends),
            Self::V6(ends) => bytes.get(8..40) == Some(ends),
        }
    }
}

/// Nothing, where the bytes are not the packet that the layer is called for: its header is somewhere else.
#[inline]
fn of_layer<'a>(bytes: &'a [u8], shown: &Shown) -> &'a [u8] {
    let bytes = of_family(bytes, shown.family);
    match &shown.ends {
        Some(ends) if !ends.are_of(bytes) => &[],
        _ => bytes,
    }
}

/// Nothing, where the bytes are no packet of this family.
fn of_family(bytes: &[u8], family: Family) -> &[u8] {
    let version = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    match bytes.first() {
        Some(first) if first >> 4 == version => bytes,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_at_least_once_and_saturates() {
        assert_eq!([0, 1, 3, 300].map(passes), [1, 1, 3, 255]);
    }

    #[test]
    fn a_path_that_takes_every_packet_has_no_limit() {
        assert_eq!(path_mtu(1500).map(PathMtu::get), Some(1500));
        assert_eq!([0, 65_536, u32::MAX].map(path_mtu), [None; 3]);
    }

    #[test]
    fn the_header_has_the_ends_that_the_layer_tells() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ends = Ends::of(ip("192.0.2.1"), ip("192.0.2.2")).unwrap();
        let mut v4 = [0; 20];
        v4[12..].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
        assert!(ends.are_of(&v4) && !ends.are_of(&v4[..19]));
        v4[19] = 3;
        assert!(!ends.are_of(&v4));
        let ends = Ends::of(ip("::1"), ip("::2")).unwrap();
        let mut v6 = [0; 40];
        (v6[23], v6[39]) = (1, 2);
        assert!(ends.are_of(&v6) && !ends.are_of(&v6[1..]));
        assert!(Ends::of(ip("::1"), ip("192.0.2.1")).is_none());
    }

    #[test]
    fn only_packets_of_the_family_are_looked_at() {
        let [v4, v6] = [&[0x45, 0][..], &[0x60, 0][..]];
        assert_eq!(of_family(v4, Family::V4), v4);
        assert_eq!(of_family(v6, Family::V6), v6);
        assert!(of_family(v4, Family::V6).is_empty());
        assert!(of_family(&[], Family::V4).is_empty());
    }
}
