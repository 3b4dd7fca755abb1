//! Capacities, fixed when the extension starts, and policies, changed while it runs.

use core::fmt;

use crate::{Address, IpVersion, Verdict};

/// Declares a policy enum with its wire numbers, counted from 0 in the order given.
macro_rules! policy {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $number,)+ }

        impl $name {
            /// The number in the extended interface.
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The policy with this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

policy! {
    /// What happens to packets that nobody can decide.
    Policy {
        /// Let them go.
        Permit = 0,
        /// Refuse them, with an answer where one is allowed.
        Block = 1,
    }
}

policy! {
    /// What happens to fragments after the first, which carry no ports.
    FragmentPolicy {
        /// They go with their first fragment's flow.
        Follow = 0,
        /// They are blocked.
        Block = 1,
        /// They are permitted.
        Permit = 2,
    }
}

policy! {
    /// What happens to a class of packets that the machine needs to work at all.
    Special {
        /// Let them go without asking.
        Permit = 0,
        /// Treat them like any other packet.
        Ask = 1,
    }
}

/// Where redirected packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RedirectTarget {
    /// The target for IPv4 flows; 0.0.0.0 stands for the packet's own local address.
    pub v4: Address,
    /// The target for IPv6 flows; `::` stands for the packet's own local address.
    pub v6: Address,
    /// The target port, 1 to 65,535.
    pub port: u16,
}

impl RedirectTarget {
    const fn own_address(port: u16) -> Self {
        Self {
            v4: Address::v4([0; 4]),
            v6: Address::UNSPECIFIED,
            port,
        }
    }

    /// The target's address for a flow of this family whose local address is `local`.
    pub fn address(&self, version: IpVersion, local: Address) -> Address {
        let address = match version {
            IpVersion::V4 => self.v4,
            IpVersion::V6 => self.v6,
        };
        if address.is_unspecified(version) {
            local
        } else {
            address
        }
    }
}

/// Everything that can be changed while the extension runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// For misses while nobody reads, and for packets held when the last reader goes away.
    pub no_reader: Policy,
    /// For packets whose headers cannot be parsed.
    pub unparsable: Policy,
    /// For packets held up to the hold limit.
    pub hold_limit: Policy,
    /// For fragments after the first.
    pub fragments: FragmentPolicy,
    /// For neighbour discovery, router advertisement, DHCP and DHCPv6.
    pub infrastructure: Special,
    /// For packets to 255.255.255.255.
    pub broadcast: Special,
    /// For packets to 224.0.0.0/4 and `ff00::/8`.
    pub multicast: Special,
    /// For packets between this machine and its own redirect targets.
    pub fast_track: Special,
    /// Raise a request for each held packet, not only for the first of a flow.
    pub ask_each_packet: bool,
    /// Hold a TCP connect until its verdict, where the host can, so that a program that is refused
    /// is told so at once.
    pub hold_connects: bool,
    /// How many times a packet may be injected by us before the loop guard drops it, 1 to 255.
    pub loop_limit: u8,
    /// The longest time a packet is held, in milliseconds, 100 to 600,000.
    pub hold_limit_ms: u32,
    /// How long a cached flow may be idle, in milliseconds, 1,000 to 86,400,000.
    pub flow_idle_ms: u32,
    /// The same for a TCP flow that was closed, in milliseconds, 1,000 to 86,400,000.
    pub flow_closed_ms: u32,
    /// How many answers to blocked packets may be injected a second, 0 to 1,000,000.
    pub replies_per_second: u32,
    /// Where [`Verdict::RedirectDns`] sends packets.
    pub redirect_dns: RedirectTarget,
    /// Where [`Verdict::RedirectTunnel`] sends packets.
    pub redirect_tunnel: RedirectTarget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            no_reader: Policy::Permit,
            unparsable: Policy::Permit,
            hold_limit: Policy::Permit,
            fragments: FragmentPolicy::Follow,
            infrastructure: Special::Permit,
            broadcast: Special::Permit,
            multicast: Special::Permit,
            fast_track: Special::Permit,
            ask_each_packet: false,
            hold_connects: false,
            loop_limit: 3,
            hold_limit_ms: 30_000,
            flow_idle_ms: 600_000,
            flow_closed_ms: 60_000,
            replies_per_second: 1_000,
            redirect_dns: RedirectTarget::own_address(53),
            redirect_tunnel: RedirectTarget::own_address(717),
        }
    }
}

/// A configuration value outside its range; the field's name as in [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// The smallest value allowed.
    pub min: u64,
    /// The largest value allowed.
    pub max: u64,
    /// The value given.
    pub value: u64,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, and must be from {} to {}",
            self.field, self.value, self.min, self.max
        )
    }
}

impl core::error::Error for ConfigError {}

fn in_range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError {
            field,
            min,
            max,
            value,
        })
    }
}

impl Config {
    /// A configuration that asks for every flow: no special class is permitted unasked.
    pub fn ask_all() -> Self {
        Self {
            infrastructure: Special::Ask,
            broadcast: Special::Ask,
            multicast: Special::Ask,
            fast_track: Special::Ask,
            ..Self::default()
        }
    }

    /// Checks every range that the fields' documentation states.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const DAY_MS: u64 = 86_400_000;
        in_range("loop_limit", self.loop_limit.into(), 1, 255)?;
        in_range("hold_limit_ms", self.hold_limit_ms.into(), 100, 600_000)?;
        in_range("flow_idle_ms", self.flow_idle_ms.into(), 1_000, DAY_MS)?;
        in_range("flow_closed_ms", self.flow_closed_ms.into(), 1_000, DAY_MS)?;
        let replies = self.replies_per_second.into();
        in_range("replies_per_second", replies, 0, 1_000_000)?;
        let port = u64::from(u16::MAX);
        in_range("redirect_dns.port", self.redirect_dns.port.into(), 1, port)?;
        let tunnel = self.redirect_tunnel.port.into();
        in_range("redirect_tunnel.port", tunnel, 1, port)
    }

    /// The target of a redirecting verdict; `None` for the others.
    pub fn redirect_target(&self, verdict: Verdict) -> Option<&RedirectTarget> {
        match verdict {
            Verdict::RedirectDns => Some(&self.redirect_dns),
            Verdict::RedirectTunnel => Some(&self.redirect_tunnel),
            Verdict::Accept | Verdict::Block | Verdict::Drop => None,
        }
    }
}

/// How much the extension can hold; all memory is allocated from these at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capacities {
    /// Flows in the verdict cache, 1,024 to 1,048,576.
    pub flows: u32,
    /// Packets in the packet cache, 16 to 65,536. The request queue is as large.
    pub packets: u32,
    /// Bytes in the packet cache, 131,072 to 1,073,741,824.
    pub packet_bytes: u32,
    /// Held packets of one flow, 1 to 1,024.
    pub flow_packets: u32,
    /// Fragmented datagrams followed at once, 16 to 65,536.
    pub fragments: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            flows: 65_536,
            packets: 1_024,
            packet_bytes: 16 << 20,
            flow_packets: 64,
            fragments: 1_024,
        }
    }
}

/// A capacity outside its range.
pub type CapacityError = ConfigError;

impl Capacities {
    /// Checks every range that the fields' documentation states.
    pub fn validate(&self) -> Result<(), CapacityError> {
        in_range("flows", self.flows.into(), 1_024, 1 << 20)?;
        in_range("packets", self.packets.into(), 16, 1 << 16)?;
        in_range("packet_bytes", self.packet_bytes.into(), 1 << 17, 1 << 30)?;
        in_range("flow_packets", self.flow_packets.into(), 1, 1_024)?;
        in_range("fragments", self.fragments.into(), 16, 1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(Config::ask_all().validate(), Ok(()));
        assert_eq!(Capacities::default().validate(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let config = Config {
            hold_limit_ms: 99,
            ..Config::default()
        };
        let error = config.validate().unwrap_err();
        assert_eq!(error.field, "hold_limit_ms");
        assert_eq!((error.min, error.max, error.value), (100, 600_000, 99));
    }

    #[test]
    fn an_unspecified_target_is_the_local_address() {
        let config = Config::default();
        let local = Address::v4([192, 0, 2, 1]);
        let target = config.redirect_target(Verdict::RedirectDns).unwrap();
        assert_eq!(target.address(IpVersion::V4, local), local);
        assert_eq!(target.port, 53);
        assert!(config.redirect_target(Verdict::Block).is_none());
    }
}
