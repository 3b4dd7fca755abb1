//! Our place in the filter engine: which layers are looked at, and the coming and going of its service.
//!
//! Callouts are registered as long as the driver is loaded. The filters that bring packets to them are
//! objects of a session with the filter engine's service: they are added when it runs, all at once, and
//! anew when it was stopped and runs again.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use kext_nt::boxed::try_array;
use kext_nt::callout::Callout;
use kext_nt::device::ControlDevice;
use kext_nt::engine::{Hook, Role, Session, Transaction};
use kext_nt::injection::Injector;
use kext_nt::irql::Passive;
use kext_nt::layer::{Family, Layer};
use kext_nt::service::{self, Changes};
use kext_nt::wide::Text;
use kext_nt::work_item::WorkItem;
use kext_nt::{Lock, Result, Status, log, time, wide};
use kext_nt_sys::fwp::{FWP_CALLOUT_FLAG_ALLOW_OFFLOAD, FWP_CALLOUT_FLAG_ALLOW_RSC};
use kext_nt_sys::status::STATUS_INTERNAL_ERROR;
use kext_nt_sys::types::GUID;

use crate::flows::{Accept, Closure, Connect};
use crate::kext::{KEXT, Kext};
use crate::packets::{Inbound, Outbound};
use crate::payload::{Datagram, Stream};

/// A layer that is looked at.
struct Look {
    name: Text,
    layer: Layer,
    sublayer: GUID,
    role: Role,
    /// Flags of the callout.
    flags: u32,
    register: fn(&ControlDevice, GUID, u32, &Passive) -> Result<Callout>,
}

/// A callout that looks at no packet allows what a network card does for them.
const ALLOW_OFFLOADS: u32 = FWP_CALLOUT_FLAG_ALLOW_OFFLOAD | FWP_CALLOUT_FLAG_ALLOW_RSC;

/// Every layer that is looked at.
///
/// The callouts that decide allow no offload: packets then come as they are to be on the wire, no
/// longer than it takes and with their checksums.
static LOOKS: [Look; 7] = [
    Look {
        name: wide!("portmaster-kext packets in"),
        layer: Layer::INBOUND_IPPACKET,
        sublayer: PACKETS,
        role: Role::Decide,
        flags: 0,
        register: Callout::register::<Inbound>,
    },
    Look {
        name: wide!("portmaster-kext packets out"),
        layer: Layer::OUTBOUND_IPPACKET,
        sublayer: PACKETS,
        role: Role::Decide,
        flags: 0,
        register: Callout::register::<Outbound>,
    },
    Look {
        name: wide!("portmaster-kext connects"),
        layer: Layer::ALE_AUTH_CONNECT,
        sublayer: FLOWS,
        role: Role::Decide,
        flags: ALLOW_OFFLOADS,
        register: Callout::register::<Connect>,
    },
    Look {
        name: wide!("portmaster-kext accepts"),
        layer: Layer::ALE_AUTH_RECV_ACCEPT,
        sublayer: FLOWS,
        role: Role::Inspect,
        flags: ALLOW_OFFLOADS,
        register: Callout::register::<Accept>,
    },
    Look {
        name: wide!("portmaster-kext ends"),
        layer: Layer::ALE_ENDPOINT_CLOSURE,
        sublayer: FLOWS,
        role: Role::Inspect,
        flags: ALLOW_OFFLOADS,
        register: Callout::register::<Closure>,
    },
    Look {
        name: wide!("portmaster-kext streams"),
        layer: Layer::STREAM,
        sublayer: FLOWS,
        role: Role::Inspect,
        flags: ALLOW_OFFLOADS,
        register: Callout::register::<Stream>,
    },
    Look {
        name: wide!("portmaster-kext datagrams"),
        layer: Layer::DATAGRAM_DATA,
        sublayer: FLOWS,
        role: Role::Inspect,
        flags: ALLOW_OFFLOADS,
        register: Callout::register::<Datagram>,
    },
];

/// One of our keys. They differ in the lowest byte of the first part.
const fn key(number: u32) -> GUID {
    GUID {
        Data1: 0xc91a_a900 + number,
        Data2: 0x90da,
        Data3: 0x485b,
        Data4: [0x8a, 0x9b, 0xb3, 0xaa, 0x41, 0x5a, 0xc9, 0xa1],
    }
}

/// Who our objects belong to.
const PROVIDER: GUID = key(0);
/// The sublayer of the callouts that decide. Asked first: who is asked later can only take away.
const PACKETS: GUID = key(1);
const PACKETS_WEIGHT: u16 = u16::MAX;
/// The sublayer of the callouts that look at connections. Below the one in which IPsec works.
const FLOWS: GUID = key(2);
const FLOWS_WEIGHT: u16 = 0x0100;
/// The keys of callouts begin here, two for each layer.
const FIRST_CALLOUT: u32 = 0x10;

const fn callout_key(look: usize, family: Family) -> GUID {
    key(FIRST_CALLOUT + 2 * look as u32 + family as u32)
}

/// What is registered and added, and what keeps it so.
pub(crate) struct Filtering {
    callouts: Box<[Callout]>,
    /// What the filters belong to, while they are there.
    session: Lock<Option<Session>>,
    /// Somebody is changing `session`.
    changing: AtomicBool,
    /// The service was stopped since the session was opened.
    is_stale: AtomicBool,
    /// The filters could not be added though the service runs.
    failed: AtomicBool,
    /// Sees to it that the filters are there exactly while the service runs.
    update: WorkItem<Kext>,
    changes: Lock<Option<Changes<Kext>>>,
}

impl Filtering {
    /// Registers the callouts. Nothing comes to them yet.
    pub(crate) fn try_new(device: &ControlDevice, passive: &Passive) -> Result<Self> {
        let callouts = try_array(LOOKS.len() * Family::ALL.len(), |number| {
            let (look, family) = (number / Family::ALL.len(), number % Family::ALL.len());
            let family = if family == 0 { Family::V4 } else { Family::V6 };
            let row = LOOKS.get(look).ok_or(Status(STATUS_INTERNAL_ERROR))?;
            (row.register)(device, callout_key(look, family), row.flags, passive)
        })?;
        Ok(Self {
            callouts,
            session: Lock::new(None),
            changing: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            update: WorkItem::try_new(device, &KEXT, |kext, passive| {
                if let Err(status) = kext.filtering.update(&kext.host().injector, passive) {
                    log::error(
                        c"filters could not be added; tried again in a second",
                        status,
                    );
                }
            })?,
            changes: Lock::new(None),
        })
    }

    /// Adds the filters, now if the service runs, and whenever it does.
    pub(crate) fn begin(
        &self,
        injector: &Injector,
        device: &ControlDevice,
        passive: &Passive,
    ) -> Result<()> {
        let run = |kext: &Kext, running: bool| kext.filtering.service_changed(running);
        let changes = Changes::subscribe(device, &KEXT, run, passive)?;
        *self.changes.lock() = Some(changes);
        self.update(injector, passive)
    }

    /// Ends everything: no callout is called after this, and none is running.
    pub(crate) fn stop(&self, passive: &Passive) {
        let changes = self.changes.lock().take();
        drop(changes);
        self.update.stop(passive);
        let session = self.session.lock().take();
        drop(session);
        for callout in self.callouts.iter().rev() {
            callout.unregister(passive);
        }
    }

    fn service_changed(&self, running: bool) {
        if !running {
            self.is_stale.store(true, Ordering::SeqCst);
        }
        self.update.queue();
    }

    /// Tries again what has failed. To be called about every second.
    pub(crate) fn retry(&self) {
        if self.failed.load(Ordering::Relaxed) {
            self.update.queue();
        }
    }

    /// Sees to it that the filters are there exactly while the service runs.
    fn update(&self, injector: &Injector, passive: &Passive) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(1);
        // Bound: the other one's update.
        while self.changing.swap(true, Ordering::Acquire) {
            time::sleep(passive, PAUSE);
        }
        let updated = self.update_alone(injector, passive);
        self.failed.store(updated.is_err(), Ordering::Relaxed);
        self.changing.store(false, Ordering::Release);
        updated
    }

    fn update_alone(&self, injector: &Injector, passive: &Passive) -> Result<()> {
        let is_stale = self.is_stale.swap(false, Ordering::SeqCst);
        let is_running = service::is_running();
        if is_stale || !is_running {
            let session = self.session.lock().take();
            drop(session);
        }
        if !is_running || self.session.lock().is_some() {
            return Ok(());
        }
        injector.make_ready(passive)?;
        let session = Session::open(wide!("portmaster-kext"), passive)?;
        let transaction = session.transaction(passive)?;
        add_objects(&transaction)?;
        transaction.commit()?;
        *self.session.lock() = Some(session);
        Ok(())
    }
}

fn add_objects(transaction: &Transaction<'_>) -> Result<()> {
    transaction.add_provider(PROVIDER, wide!("portmaster-kext"))?;
    let packets = wide!("portmaster-kext packets");
    transaction.add_sublayer(PACKETS, PROVIDER, packets, PACKETS_WEIGHT)?;
    let flows = wide!("portmaster-kext flows");
    transaction.add_sublayer(FLOWS, PROVIDER, flows, FLOWS_WEIGHT)?;
    for (number, look) in LOOKS.iter().enumerate() {
        for family in Family::ALL {
            let hook = Hook {
                name: look.name,
                callout: callout_key(number, family),
                layer: look.layer.key(family),
                sublayer: look.sublayer,
                role: look.role,
                skip_fragments: look.layer == Layer::INBOUND_IPPACKET,
            };
            transaction.add_hook(PROVIDER, &hook)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let callouts =
            (0..LOOKS.len()).flat_map(|look| Family::ALL.map(|family| callout_key(look, family)));
        let mut seen = [PROVIDER, PACKETS, FLOWS].to_vec();
        for callout in callouts {
            assert!(!seen.contains(&callout));
            seen.push(callout);
        }
    }
}
