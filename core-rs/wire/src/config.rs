//! `GET_CONFIG` and `SET_CONFIG`: the policies, changed while the extension runs.

use core::mem::offset_of;

use kext_types::{Address, Config, FragmentPolicy, Policy, RedirectTarget, Special};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{HEADER_LEN, RawHeader, decode_bare, open_fixed};
use crate::layout::put;
use crate::{BufferTooSmall, ControlCode, DecodeError};

/// Asks for the configuration in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GetConfigRequest;

impl GetConfigRequest {
    /// The message's length in bytes.
    pub const LEN: usize = HEADER_LEN;

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("GET_CONFIG request");
        decode_bare(place, ControlCode::GetConfig, bytes).map(|()| Self)
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        put(&RawHeader::new(ControlCode::GetConfig, Self::LEN), out)
    }
}

/// Which of the three messages that carry a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigMessage {
    /// The answer to `GET_CONFIG`.
    GetResponse,
    /// `SET_CONFIG`, the configuration wanted.
    SetRequest,
    /// The answer to `SET_CONFIG`, the configuration now in force.
    SetResponse,
}

impl ConfigMessage {
    const fn code(self) -> ControlCode {
        match self {
            Self::GetResponse => ControlCode::GetConfig,
            Self::SetRequest | Self::SetResponse => ControlCode::SetConfig,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::GetResponse => "GET_CONFIG response",
            Self::SetRequest => "SET_CONFIG request",
            Self::SetResponse => "SET_CONFIG response",
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawConfig {
    no_reader: u8,
    unparsable: u8,
    hold_limit: u8,
    fragments: u8,
    infrastructure: u8,
    broadcast: u8,
    multicast: u8,
    fast_track: u8,
    ask_each_packet: u8,
    loop_limit: u8,
    dns_port: U16,
    tunnel_port: U16,
    hold_connects: u8,
    reserved: [u8; 1],
    hold_limit_ms: U32,
    flow_idle_ms: U32,
    flow_closed_ms: U32,
    replies_per_second: U32,
    dns_v4: [u8; 4],
    tunnel_v4: [u8; 4],
    dns_v6: [u8; 16],
    tunnel_v6: [u8; 16],
}

layout!(RawConfig: 72 {
    no_reader: 0, unparsable: 1, hold_limit: 2, fragments: 3, infrastructure: 4, broadcast: 5,
    multicast: 6, fast_track: 7, ask_each_packet: 8, loop_limit: 9, dns_port: 10,
    tunnel_port: 12, hold_connects: 14, reserved: 15, hold_limit_ms: 16, flow_idle_ms: 20, flow_closed_ms: 24,
    replies_per_second: 28, dns_v4: 32, tunnel_v4: 36, dns_v6: 40, tunnel_v6: 56,
});

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMessage {
    header: RawHeader,
    config: RawConfig,
}

layout!(RawMessage: 88 { header: 0, config: 16 });

/// The length in bytes of the messages that carry a configuration.
pub const CONFIG_LEN: usize = size_of::<RawMessage>();

/// Reads a message that carries a configuration. A value out of its range is an error that names
/// the field as [`Config`] does.
pub fn decode(message: ConfigMessage, bytes: &[u8]) -> Result<Config, DecodeError> {
    let place = Place::of(message.name());
    let raw = open_fixed::<RawMessage>(place, message.code(), bytes)?;
    raw.config
        .read(place.row(offset_of!(RawMessage, config), 0, 0))
}

/// Writes a message that carries a configuration and gives its length. Ranges are checked by who
/// reads it, see [`Config::validate`].
pub fn encode(
    message: ConfigMessage,
    config: &Config,
    out: &mut [u8],
) -> Result<usize, BufferTooSmall> {
    let raw = RawMessage {
        header: RawHeader::new(message.code(), CONFIG_LEN),
        config: RawConfig::from(config),
    };
    put(&raw, out)
}

impl From<&Config> for RawConfig {
    fn from(config: &Config) -> Self {
        let (dns, tunnel) = (&config.redirect_dns, &config.redirect_tunnel);
        Self {
            no_reader: config.no_reader.number(),
            unparsable: config.unparsable.number(),
            hold_limit: config.hold_limit.number(),
            fragments: config.fragments.number(),
            infrastructure: config.infrastructure.number(),
            broadcast: config.broadcast.number(),
            multicast: config.multicast.number(),
            fast_track: config.fast_track.number(),
            ask_each_packet: config.ask_each_packet.into(),
            loop_limit: config.loop_limit,
            dns_port: U16::new(dns.port),
            tunnel_port: U16::new(tunnel.port),
            hold_connects: config.hold_connects.into(),
            reserved: [0; 1],
            hold_limit_ms: U32::new(config.hold_limit_ms),
            flow_idle_ms: U32::new(config.flow_idle_ms),
            flow_closed_ms: U32::new(config.flow_closed_ms),
            replies_per_second: U32::new(config.replies_per_second),
            dns_v4: dns.v4.v4_bytes(),
            tunnel_v4: tunnel.v4.v4_bytes(),
            dns_v6: dns.v6.bytes(),
            tunnel_v6: tunnel.v6.bytes(),
        }
    }
}

/// Reads a one-byte field of [`RawConfig`] with the function given.
macro_rules! number {
    ($raw:ident, $place:ident, $field:ident, $read:expr) => {
        $read($raw.$field).ok_or_else(|| {
            $place.unknown(
                stringify!($field),
                offset_of!(RawConfig, $field),
                $raw.$field,
            )
        })?
    };
}

impl RawConfig {
    fn read(&self, place: Place) -> Result<Config, DecodeError> {
        place.reserved(offset_of!(Self, reserved), &self.reserved)?;
        let config = Config {
            no_reader: number!(self, place, no_reader, Policy::from_number),
            unparsable: number!(self, place, unparsable, Policy::from_number),
            hold_limit: number!(self, place, hold_limit, Policy::from_number),
            fragments: number!(self, place, fragments, FragmentPolicy::from_number),
            infrastructure: number!(self, place, infrastructure, Special::from_number),
            broadcast: number!(self, place, broadcast, Special::from_number),
            multicast: number!(self, place, multicast, Special::from_number),
            fast_track: number!(self, place, fast_track, Special::from_number),
            ask_each_packet: number!(self, place, ask_each_packet, flag),
            hold_connects: number!(self, place, hold_connects, flag),
            loop_limit: self.loop_limit,
            hold_limit_ms: self.hold_limit_ms.get(),
            flow_idle_ms: self.flow_idle_ms.get(),
            flow_closed_ms: self.flow_closed_ms.get(),
            replies_per_second: self.replies_per_second.get(),
            redirect_dns: target(self.dns_v4, self.dns_v6, self.dns_port),
            redirect_tunnel: target(self.tunnel_v4, self.tunnel_v6, self.tunnel_port),
        };
        // The ranges are stated once, beside the fields; here they get their place.
        config.validate().map_err(|error| {
            let kind = crate::DecodeErrorKind::OutOfRange {
                value: error.value,
                min: error.min,
                max: error.max,
            };
            place.error(error.field, offset_of_field(error.field), kind)
        })?;
        Ok(config)
    }
}

/// The flag with this number, if it is 0 or 1.
const fn flag(number: u8) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

const fn target(v4: [u8; 4], v6: [u8; 16], port: U16) -> RedirectTarget {
    RedirectTarget {
        v4: Address::v4(v4),
        v6: Address::v6(v6),
        port: port.get(),
    }
}

/// Where the field is that [`Config::validate`] names; the structure's beginning for one that it
/// does not name today.
fn offset_of_field(field: &str) -> usize {
    match field {
        "loop_limit" => offset_of!(RawConfig, loop_limit),
        "hold_limit_ms" => offset_of!(RawConfig, hold_limit_ms),
        "flow_idle_ms" => offset_of!(RawConfig, flow_idle_ms),
        "flow_closed_ms" => offset_of!(RawConfig, flow_closed_ms),
        "replies_per_second" => offset_of!(RawConfig, replies_per_second),
        "redirect_dns.port" => offset_of!(RawConfig, dns_port),
        "redirect_tunnel.port" => offset_of!(RawConfig, tunnel_port),
        _ => 0,
    }
}
