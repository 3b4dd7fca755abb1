//! Fragmentation at the sender: IPv4 as RFC 791 §3.2 has it, IPv6 as RFC 8200 §4.5.

use kext_types::{IpVersion, protocol};

use crate::bytes::{put, word};
use crate::extensions::MAX_EXTENSIONS;
use crate::{Headers, checksum, ipv4, ipv6};

/// How many fragments one packet becomes at most: as many as the longest one does with any options over
/// 576 bytes, which every IPv4 host takes, or with any extension headers over 1,280, which every IPv6
/// link does.
pub const MAX_FRAGMENTS: usize = 128;

/// The smallest path MTU there may be: RFC 791 §3.2 and RFC 8200 §5.
const MIN_MTU: [usize; 2] = [68, 1280];

/// All that options of IPv4 can take.
const MAX_OPTIONS: usize = 40;

const FRAGMENT_HEADER: usize = 8;

/// Where the length, the flags and the offset stand in an IPv4 header, and the length in an IPv6 one.
const IPV4_LENGTH: usize = 2;
const IPV4_FLAGS: usize = 6;
const IPV6_LENGTH: usize = 4;
const IPV6_NEXT: usize = 6;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;

/// Why a packet cannot be sent in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FragmentationError {
    /// Its sender has said that it is not to be fragmented.
    DontFragment,
    /// It is an IPv6 fragment already, which nobody may fragment further.
    IsFragment,
    /// There are fewer bytes than it says.
    NotWhole,
    /// The path MTU is smaller than any may be.
    MtuTooSmall,
    /// More than [`MAX_FRAGMENTS`] were needed.
    TooMany,
}

impl core::fmt::Display for FragmentationError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::DontFragment => "the packet is not to be fragmented",
            Self::IsFragment => "the packet is an IPv6 fragment already",
            Self::NotWhole => "the packet is shorter than its header says",
            Self::MtuTooSmall => "the path MTU is smaller than any may be",
            Self::TooMany => "the packet needs too many fragments",
        })
    }
}

impl core::error::Error for FragmentationError {}

/// How a packet is divided.
#[derive(Clone, Copy, Debug)]
pub struct Fragmentation<'a> {
    packet: &'a [u8],
    version: IpVersion,
    /// How many bytes of headers the first fragment has of the packet.
    head: usize,
    /// The options of later IPv4 fragments.
    options: Options,
    /// Where the last header that each IPv6 fragment repeats says what follows it.
    next_at: usize,
    /// The identification of IPv6 fragments; IPv4 ones have the packet's.
    id: u32,
    /// How many bytes of data each fragment but the last has: a multiple of 8.
    each: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    bytes: [u8; MAX_OPTIONS],
    len: usize,
}

impl<'a> Fragmentation<'a> {
    /// Divides a packet, which `headers` were parsed from, into fragments of at most `mtu` bytes. In IPv6
    /// they get this identification, which the packets of late between the same two ends should not have.
    pub fn new(
        packet: &'a [u8],
        headers: &Headers,
        mtu: usize,
        identification: u32,
    ) -> Result<Self, FragmentationError> {
        let packet = packet
            .get(..headers.total_len as usize)
            .ok_or(FragmentationError::NotWhole)?;
        let mut options = Options {
            bytes: [0; MAX_OPTIONS],
            len: 0,
        };
        let [least_v4, least_v6] = MIN_MTU;
        let (head, next_at, added, least) = match headers.version {
            IpVersion::V4 => {
                let flags = word(packet, IPV4_FLAGS).ok_or(FragmentationError::NotWhole)?;
                if flags & DONT_FRAGMENT != 0 {
                    return Err(FragmentationError::DontFragment);
                }
                let first = packet.first().ok_or(FragmentationError::NotWhole)?;
                let head = usize::from(first & 0x0f) * 4;
                options.keep_copied(packet.get(ipv4::MIN_HEADER..head).unwrap_or_default());
                (head, 0, 0, least_v4)
            }
            IpVersion::V6 => {
                let (head, next_at) = per_fragment_headers(packet)?;
                (head, next_at, FRAGMENT_HEADER, least_v6)
            }
        };
        if mtu < least {
            return Err(FragmentationError::MtuTooSmall);
        }
        let each = mtu.saturating_sub(head + added) & !7;
        let count = packet.len().saturating_sub(head).div_ceil(each.max(1));
        if each == 0 || count > MAX_FRAGMENTS {
            return Err(FragmentationError::TooMany);
        }
        Ok(Self {
            packet,
            version: headers.version,
            head,
            options,
            next_at,
            id: identification,
            each,
            count,
        })
    }

    /// How many fragments there are: at most [`MAX_FRAGMENTS`].
    pub const fn count(&self) -> usize {
        self.count
    }

    /// How long a fragment is; they are counted from 0.
    pub fn len_of(&self, number: usize) -> usize {
        self.headers_of(number) + self.data_of(number).len()
    }

    /// Writes a fragment and gives its length; `None` if it does not fit.
    pub fn write(&self, number: usize, out: &mut [u8]) -> Option<usize> {
        let (headers, data) = (self.headers_of(number), self.data_of(number));
        let len = headers + data.len();
        let out = out.get_mut(..len)?;
        put(out, headers, data)?;
        let offset = (number * self.each) as u16;
        let is_last = number + 1 >= self.count;
        match self.version {
            IpVersion::V4 => self.write_ipv4(out, headers, offset, is_last)?,
            IpVersion::V6 => self.write_ipv6(out, offset, is_last)?,
        }
        Some(len)
    }

    fn headers_of(&self, number: usize) -> usize {
        match self.version {
            IpVersion::V4 if number == 0 => self.head,
            IpVersion::V4 => ipv4::MIN_HEADER + self.options.len,
            IpVersion::V6 => self.head + FRAGMENT_HEADER,
        }
    }

    fn data_of(&self, number: usize) -> &'a [u8] {
        let start = self.head.saturating_add(number.saturating_mul(self.each));
        let rest = self.packet.get(start..).unwrap_or_default();
        rest.get(..self.each).unwrap_or(rest)
    }

    fn write_ipv4(&self, out: &mut [u8], headers: usize, offset: u16, is_last: bool) -> Option<()> {
        put(out, 0, self.packet.get(..ipv4::MIN_HEADER)?)?;
        let options = if offset == 0 {
            self.packet.get(ipv4::MIN_HEADER..self.head)?
        } else {
            self.options.bytes.get(..self.options.len)?
        };
        put(out, ipv4::MIN_HEADER, options)?;
        // At most 60 bytes, so at most 15 words.
        put(out, 0, &[0x40 | (headers / 4) as u8])?;
        let len = out.len() as u16;
        put(out, IPV4_LENGTH, &len.to_be_bytes())?;
        // What is a fragment itself begins where that does, and more follow the last if more followed it.
        let mut flags = word(self.packet, IPV4_FLAGS)?.wrapping_add(offset / 8);
        if !is_last {
            flags |= MORE;
        }
        put(out, IPV4_FLAGS, &flags.to_be_bytes())?;
        checksum::fill_ipv4_header(out)
    }

    fn write_ipv6(&self, out: &mut [u8], offset: u16, is_last: bool) -> Option<()> {
        put(out, 0, self.packet.get(..self.head)?)?;
        let next = *self.packet.get(self.next_at)?;
        put(out, self.next_at, &[protocol::FRAGMENT])?;
        let len = out.len().checked_sub(ipv6::HEADER)? as u16;
        put(out, IPV6_LENGTH, &len.to_be_bytes())?;
        let [o0, o1] = (offset | u16::from(!is_last)).to_be_bytes();
        put(out, self.head, &[next, 0, o0, o1])?;
        put(out, self.head + 4, &self.id.to_be_bytes())
    }
}

impl Options {
    /// Keeps those that later fragments have as well, RFC 791 §3.1: their type begins with a 1.
    fn keep_copied(&mut self, mut options: &[u8]) {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        const COPIED: u8 = 0x80;
        let mut len = 0;
        // Bound: every turn takes a byte or more of the 40 that options have at most.
        while let &[kind, ref rest @ ..] = options {
            if kind == END {
                break;
            }
            if kind == NO_OPERATION {
                options = rest;
                continue;
            }
            let whole = rest.first().map(|length| usize::from(*length).max(2));
            let Some((option, behind)) = whole.and_then(|whole| options.split_at_checked(whole))
            else {
                // It makes no sense, which is its receiver's business: it is in the first fragment.
                break;
            };
            if kind & COPIED != 0 && put(&mut self.bytes, len, option).is_some() {
                len += option.len();
            }
            options = behind;
        }
        // The end of options, which is 0, fills the last word.
        self.len = len.next_multiple_of(4);
    }
}

/// Where the headers of an IPv6 packet end that each fragment repeats, those up to the routing header or
/// else the hop-by-hop options, and where the last of them says what follows.
fn per_fragment_headers(packet: &[u8]) -> Result<(usize, usize), FragmentationError> {
    let mut found = (ipv6::HEADER, IPV6_NEXT);
    let (mut end, mut next_at) = found;
    // Bound: as many as the walk to the transport header takes.
    for _ in 0..MAX_EXTENSIONS {
        let next = *packet.get(next_at).ok_or(FragmentationError::NotWhole)?;
        let is_repeated = match next {
            protocol::HOP_BY_HOP | protocol::ROUTING => true,
            // Ahead of a routing header they are repeated with it, at the end of the chain they are not.
            protocol::DESTINATION_OPTIONS => false,
            protocol::FRAGMENT => return Err(FragmentationError::IsFragment),
            _ => break,
        };
        let units = *packet.get(end + 1).ok_or(FragmentationError::NotWhole)?;
        next_at = end;
        end += (usize::from(units) + 1) * 8;
        if is_repeated {
            found = (end, next_at);
        }
    }
    if found.0 > packet.len() {
        return Err(FragmentationError::NotWhole);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
