//! The configuration in force, readable without a lock where every packet reads it.

use core::time::Duration;

use kext_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kext_sync::{Lock, RawLock};
use kext_types::{Config, FlowKey, FragmentPolicy, Policy, Special, protocol};

/// A [`Config`] that can be replaced while packets are classified.
///
/// A packet that is classified during a change sees each value either old or new.
pub(crate) struct Settings<R> {
    whole: Lock<R, Config>,
    policies: AtomicU64,
    ports: AtomicU32,
    flow_idle_ms: AtomicU32,
    flow_closed_ms: AtomicU32,
    hold_limit_ms: AtomicU32,
}

/// The policies that every packet reads, packed into one word: a byte each.
#[derive(Clone, Copy)]
pub(crate) struct Policies(u64);

const NO_READER: u32 = 0;
const UNPARSABLE: u32 = 1;
const HOLD_LIMIT: u32 = 2;
const FRAGMENTS: u32 = 3;
const SPECIAL: u32 = 4;
const LOOP_LIMIT: u32 = 5;

const ASK_INFRASTRUCTURE: u8 = 1;
const ASK_BROADCAST: u8 = 2;
const ASK_MULTICAST: u8 = 4;
const ASK_FAST_TRACK: u8 = 8;
const ASK_EACH_PACKET: u8 = 16;
const HOLD_CONNECTS: u8 = 32;

impl Policies {
    fn pack(config: &Config) -> u64 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let special = flag(config.infrastructure == Special::Ask, ASK_INFRASTRUCTURE)
            | flag(config.broadcast == Special::Ask, ASK_BROADCAST)
            | flag(config.multicast == Special::Ask, ASK_MULTICAST)
            | flag(config.fast_track == Special::Ask, ASK_FAST_TRACK)
            | flag(config.ask_each_packet, ASK_EACH_PACKET)
            | flag(config.hold_connects, HOLD_CONNECTS);
        [
            (config.no_reader.number(), NO_READER),
            (config.unparsable.number(), UNPARSABLE),
            (config.hold_limit.number(), HOLD_LIMIT),
            (config.fragments.number(), FRAGMENTS),
            (special, SPECIAL),
            (config.loop_limit, LOOP_LIMIT),
        ]
        .into_iter()
        .fold(0, |word, (value, byte)| {
            word | u64::from(value) << (8 * byte)
        })
    }

    const fn byte(self, byte: u32) -> u8 {
        (self.0 >> (8 * byte)) as u8
    }

    fn policy(self, byte: u32) -> Policy {
        Policy::from_number(self.byte(byte)).unwrap_or(Policy::Permit)
    }

    pub(crate) fn no_reader(self) -> Policy {
        self.policy(NO_READER)
    }

    pub(crate) fn unparsable(self) -> Policy {
        self.policy(UNPARSABLE)
    }

    pub(crate) fn hold_limit(self) -> Policy {
        self.policy(HOLD_LIMIT)
    }

    pub(crate) fn fragments(self) -> FragmentPolicy {
        FragmentPolicy::from_number(self.byte(FRAGMENTS)).unwrap_or(FragmentPolicy::Follow)
    }

    pub(crate) const fn loop_limit(self) -> u8 {
        self.byte(LOOP_LIMIT)
    }

    const fn asks(self, bit: u8) -> bool {
        self.byte(SPECIAL) & bit != 0
    }

    pub(crate) const fn permits_infrastructure(self) -> bool {
        !self.asks(ASK_INFRASTRUCTURE)
    }

    pub(crate) const fn permits_broadcast(self) -> bool {
        !self.asks(ASK_BROADCAST)
    }

    pub(crate) const fn permits_multicast(self) -> bool {
        !self.asks(ASK_MULTICAST)
    }

    pub(crate) const fn permits_fast_track(self) -> bool {
        !self.asks(ASK_FAST_TRACK)
    }

    pub(crate) const fn asks_each_packet(self) -> bool {
        self.asks(ASK_EACH_PACKET)
    }

    pub(crate) const fn holds_connects(self) -> bool {
        self.asks(HOLD_CONNECTS)
    }
}

impl<R: RawLock> Settings<R> {
    pub(crate) fn new(config: Config) -> Self {
        let settings = Self {
            whole: Lock::new(config),
            policies: AtomicU64::new(0),
            ports: AtomicU32::new(0),
            flow_idle_ms: AtomicU32::new(0),
            flow_closed_ms: AtomicU32::new(0),
            hold_limit_ms: AtomicU32::new(0),
        };
        settings.replace(config);
        settings
    }

    pub(crate) fn replace(&self, config: Config) {
        let mut whole = self.whole.lock();
        *whole = config;
        let ports =
            u32::from(config.redirect_dns.port) | u32::from(config.redirect_tunnel.port) << 16;
        self.policies
            .store(Policies::pack(&config), Ordering::Relaxed);
        self.ports.store(ports, Ordering::Relaxed);
        self.flow_idle_ms
            .store(config.flow_idle_ms, Ordering::Relaxed);
        self.flow_closed_ms
            .store(config.flow_closed_ms, Ordering::Relaxed);
        self.hold_limit_ms
            .store(config.hold_limit_ms, Ordering::Relaxed);
    }

    pub(crate) fn whole(&self) -> Config {
        *self.whole.lock()
    }

    pub(crate) fn policies(&self) -> Policies {
        Policies(self.policies.load(Ordering::Relaxed))
    }

    /// How long a cached flow may be idle, in nanoseconds.
    pub(crate) fn idle_limit(&self, closed: bool) -> u64 {
        let limit = if closed {
            &self.flow_closed_ms
        } else {
            &self.flow_idle_ms
        };
        u64::from(limit.load(Ordering::Relaxed)) * 1_000_000
    }

    /// How long every cached flow may be idle, in nanoseconds.
    pub(crate) fn least_idle_limit(&self) -> u64 {
        self.idle_limit(false).min(self.idle_limit(true))
    }

    pub(crate) fn hold_limit(&self) -> Duration {
        Duration::from_millis(self.hold_limit_ms.load(Ordering::Relaxed).into())
    }

    /// Whether a flow runs between this machine and its own redirect target.
    pub(crate) fn is_fast_track(&self, key: &FlowKey) -> bool {
        if key.local != key.remote || !matches!(key.protocol, protocol::TCP | protocol::UDP) {
            return false;
        }
        let ports = self.ports.load(Ordering::Relaxed);
        let targets = [ports as u16, (ports >> 16) as u16];
        targets.contains(&key.local_port) || targets.contains(&key.remote_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_policies_are_those_of_the_configuration() {
        let config = Config {
            no_reader: Policy::Block,
            hold_limit: Policy::Block,
            fragments: FragmentPolicy::Permit,
            broadcast: Special::Ask,
            ask_each_packet: true,
            hold_connects: true,
            loop_limit: 255,
            ..Config::default()
        };
        let policies = Policies(Policies::pack(&config));
        assert_eq!(policies.no_reader(), Policy::Block);
        assert_eq!(policies.unparsable(), Policy::Permit);
        assert_eq!(policies.hold_limit(), Policy::Block);
        assert_eq!(policies.fragments(), FragmentPolicy::Permit);
        assert_eq!(policies.loop_limit(), 255);
        assert!(policies.permits_infrastructure());
        assert!(!policies.permits_broadcast());
        assert!(policies.permits_multicast());
        assert!(policies.permits_fast_track());
        assert!(policies.asks_each_packet());
        assert!(policies.holds_connects());
        assert!(!Policies(Policies::pack(&Config::default())).holds_connects());
    }
}
