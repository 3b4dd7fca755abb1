//! The management side: the base filtering engine, sessions, transactions, and objects in them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kext_nt_sys::fwpm::*;
use kext_nt_sys::fwps::{
    FWPS_ACTION0, FWPS_CALLOUT_NOTIFY_ADD_FILTER, FWPS_CALLOUT_NOTIFY_DELETE_FILTER,
    FWPS_CALLOUT_NOTIFY_TYPE, FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT,
    FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FWPS_FILTER2,
};
use kext_nt_sys::ke::PASSIVE_LEVEL;
use kext_nt_sys::status::*;
use kext_nt_sys::types::{GUID, HANDLE, PVOID};
use parking_lot::{Mutex, RwLock};

use super::callout;
use super::filter::Filter;
use super::layer;
use crate::check::violation;
use crate::cpu;
use crate::exports::implements;
use crate::guest;
use crate::io;

implements! {
    fwpm::FwpmBfeStateGet0 = state;
    [status] fwpm::FwpmBfeStateSubscribeChanges0 = subscribe;
    fwpm::FwpmBfeStateUnsubscribeChanges0 = unsubscribe;
    [status] fwpm::FwpmEngineOpen0 = open;
    fwpm::FwpmEngineClose0 = close;
    [status] fwpm::FwpmTransactionBegin0 = begin;
    [status] fwpm::FwpmTransactionCommit0 = commit;
    fwpm::FwpmTransactionAbort0 = abort;
    [status] fwpm::FwpmProviderAdd0 = add_provider;
    [status] fwpm::FwpmSubLayerAdd0 = add_sublayer;
    fwpm::FwpmSubLayerDeleteByKey0 = delete_sublayer;
    [status] fwpm::FwpmCalloutAdd0 = add_callout;
    fwpm::FwpmCalloutDeleteById0 = delete_callout_by_id;
    fwpm::FwpmCalloutDeleteByKey0 = delete_callout;
    [status] fwpm::FwpmFilterAdd0 = add_filter;
    fwpm::FwpmFilterDeleteById0 = delete_filter;
    fwpm::FwpmFilterDeleteByKey0 = delete_filter_by_key;
    fwpm::FwpmFreeMemory0 = free_memory;
}

const SESSIONS: usize = 0xe000;

/// Keys of the sessions that own objects; 0 for those of nobody.
#[derive(Clone, Debug, Default)]
struct Objects {
    providers: HashMap<Key, usize>,
    sublayers: HashMap<Key, (usize, u16)>,
    callouts: HashMap<Key, (usize, u32, u16)>,
    filters: BTreeMap<u64, (usize, Arc<Filter>)>,
}

type Key = [u8; 16];

fn raw(key: &GUID) -> Key {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&key.Data1.to_le_bytes());
    bytes[4..6].copy_from_slice(&key.Data2.to_le_bytes());
    bytes[6..8].copy_from_slice(&key.Data3.to_le_bytes());
    bytes[8..].copy_from_slice(&key.Data4);
    bytes
}

#[derive(Debug, Default)]
struct Session {
    dynamic: bool,
    aborted: bool,
    /// What its transaction has made of the objects.
    transaction: Option<Objects>,
}

#[derive(Debug)]
struct Engine {
    state: FWPM_SERVICE_STATE,
    subscribers: BTreeMap<usize, (FWPM_SERVICE_STATE_CHANGE_CALLBACK0, usize)>,
    sessions: BTreeMap<usize, Session>,
    objects: Objects,
    next: usize,
    /// Filters of others: weight of the sublayer, whether they block, whether that is final.
    foreign: Vec<(u16, bool, bool)>,
}

static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

/// A filter that is in force.
pub(crate) struct Active {
    pub(crate) sublayer_weight: u16,
    pub(crate) filter: Arc<Filter>,
    /// As callouts see it.
    pub(crate) seen: FWPS_FILTER2,
}

// SAFETY: pointers in it are null.
unsafe impl Send for Active {}
// SAFETY: as above.
unsafe impl Sync for Active {}

/// Filters by the number of their layer.
pub(crate) type ByLayer = HashMap<u16, Vec<Active>>;

static ACTIVE: RwLock<Option<Arc<ByLayer>>> = RwLock::new(None);

/// Filters by layer.
pub(crate) fn active() -> Option<Arc<ByLayer>> {
    ACTIVE.read().clone()
}

fn with<R>(work: impl FnOnce(&mut Engine) -> R) -> R {
    let mut engine = ENGINE.lock();
    work(engine.get_or_insert_with(|| Engine {
        state: FWPM_SERVICE_RUNNING,
        subscribers: BTreeMap::new(),
        sessions: BTreeMap::new(),
        objects: Objects::default(),
        next: SESSIONS,
        foreign: Vec::new(),
    }))
}

fn handle(number: usize) -> HANDLE {
    std::ptr::without_provenance_mut(number)
}

extern "win64" fn state() -> FWPM_SERVICE_STATE {
    with(|engine| engine.state)
}

extern "win64" fn subscribe(
    device: PVOID,
    callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    context: PVOID,
    change: *mut HANDLE,
) -> NTSTATUS {
    io::expect_device(device.cast(), "FwpmBfeStateSubscribeChanges0");
    let number = with(|engine| {
        engine.next += 4;
        engine
            .subscribers
            .insert(engine.next, (callback, context.expose_provenance()));
        engine.next
    });
    guest::write(change, handle(number), "a subscription");
    STATUS_SUCCESS
}

thread_local! {
    static TELLING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

extern "win64" fn unsubscribe(change: HANDLE) -> NTSTATUS {
    if TELLING.get() {
        violation!(
            Engine,
            "a subscription is ended from its own callback, which waits for itself"
        );
    }
    match with(|engine| engine.subscribers.remove(&change.addr())) {
        Some(_) => STATUS_SUCCESS,
        None => violation!(Engine, "a subscription is ended that there is not"),
    }
}

/// The base filtering engine starts or stops.
pub(crate) fn set_state(new: FWPM_SERVICE_STATE) {
    let subscribers: Vec<_> = with(|engine| {
        engine.state = new;
        if new != FWPM_SERVICE_RUNNING {
            for session in engine.sessions.values_mut() {
                session.aborted = true;
                session.transaction = None;
            }
            engine.objects = Objects::default();
        }
        engine.subscribers.values().copied().collect()
    });
    publish();
    for (callback, context) in subscribers {
        TELLING.set(true);
        cpu::call("a callback of the engine's state", PASSIVE_LEVEL, || {
            // SAFETY: the driver gave both for this.
            unsafe { callback(std::ptr::with_exposed_provenance_mut(context), new) };
        });
        TELLING.set(false);
    }
}

extern "win64" fn open(
    server: *const u16,
    authentication: u32,
    _: PVOID,
    session: *const FWPM_SESSION0,
    result: *mut HANDLE,
) -> NTSTATUS {
    if !server.is_null() || ![RPC_C_AUTHN_WINNT, RPC_C_AUTHN_DEFAULT].contains(&authentication) {
        violation!(
            Argument,
            "FwpmEngineOpen0 of another machine, or in another way"
        );
    }
    let dynamic = !session.is_null()
        && guest::read(session, "a session").flags & FWPM_SESSION_FLAG_DYNAMIC != 0;
    let number = with(|engine| {
        if engine.state != FWPM_SERVICE_RUNNING {
            return None;
        }
        engine.next += 4;
        engine.sessions.insert(
            engine.next,
            Session {
                dynamic,
                ..Session::default()
            },
        );
        Some(engine.next)
    });
    match number {
        Some(number) => {
            guest::write(result, handle(number), "a session");
            STATUS_SUCCESS
        }
        None => STATUS_DEVICE_NOT_READY,
    }
}

extern "win64" fn close(session: HANDLE) -> NTSTATUS {
    let number = session.addr();
    with(|engine| {
        let Some(session) = engine.sessions.remove(&number) else {
            violation!(
                Engine,
                "FwpmEngineClose0 of {number:#x}, which is no session"
            );
        };
        if session.dynamic {
            let objects = &mut engine.objects;
            objects.providers.retain(|_, owner| *owner != number);
            objects.sublayers.retain(|_, (owner, _)| *owner != number);
            objects.callouts.retain(|_, (owner, ..)| *owner != number);
            objects.filters.retain(|_, (owner, _)| *owner != number);
        }
    });
    publish();
    STATUS_SUCCESS
}

fn session<R>(
    handle: HANDLE,
    work: impl FnOnce(&mut Engine, usize) -> Result<R, NTSTATUS>,
) -> Result<R, NTSTATUS> {
    let number = handle.addr();
    with(|engine| {
        let Some(session) = engine.sessions.get(&number) else {
            violation!(Engine, "{number:#x} is no session of the filter engine");
        };
        if session.aborted {
            return Err(STATUS_FWP_SESSION_ABORTED);
        }
        work(engine, number)
    })
}

fn status(result: Result<(), NTSTATUS>) -> NTSTATUS {
    result.err().unwrap_or(STATUS_SUCCESS)
}

extern "win64" fn begin(handle: HANDLE, flags: u32) -> NTSTATUS {
    if flags & !FWPM_TXN_READ_ONLY != 0 {
        return STATUS_FWP_INVALID_FLAGS;
    }
    status(session(handle, |engine, number| {
        if engine.sessions[&number].transaction.is_some() {
            return Err(STATUS_FWP_TXN_IN_PROGRESS);
        }
        if engine
            .sessions
            .values()
            .any(|other| other.transaction.is_some())
        {
            return Err(STATUS_FWP_TIMEOUT);
        }
        let copy = engine.objects.clone();
        engine
            .sessions
            .get_mut(&number)
            .expect("looked at above")
            .transaction = Some(copy);
        Ok(())
    }))
}

extern "win64" fn commit(handle: HANDLE) -> NTSTATUS {
    let done = session(handle, |engine, number| {
        let session = engine
            .sessions
            .get_mut(&number)
            .expect("looked at by the caller");
        engine.objects = session
            .transaction
            .take()
            .ok_or(STATUS_FWP_NO_TXN_IN_PROGRESS)?;
        Ok(())
    });
    if done.is_ok() {
        publish();
    }
    status(done)
}

extern "win64" fn abort(handle: HANDLE) -> NTSTATUS {
    status(session(handle, |engine, number| {
        let session = engine
            .sessions
            .get_mut(&number)
            .expect("looked at by the caller");
        session
            .transaction
            .take()
            .map(|_| ())
            .ok_or(STATUS_FWP_NO_TXN_IN_PROGRESS)
    }))
}

/// Changes the objects, in the transaction of the session or at once.
fn change(
    handle: HANDLE,
    work: impl FnOnce(&mut Objects, usize, u64) -> Result<(), NTSTATUS>,
) -> NTSTATUS {
    let mut at_once = false;
    let result = session(handle, |engine, number| {
        engine.next += 1;
        let id = engine.next as u64;
        let session = engine
            .sessions
            .get_mut(&number)
            .expect("looked at by the caller");
        let owner = if session.dynamic { number } else { 0 };
        if let Some(objects) = &mut session.transaction {
            work(objects, owner, id)
        } else {
            at_once = true;
            work(&mut engine.objects, owner, id)
        }
    });
    if at_once && result.is_ok() {
        publish();
    }
    status(result)
}

fn expect_name(name: &FWPM_DISPLAY_DATA0) -> Result<(), NTSTATUS> {
    match guest::wide(name.name) {
        Some(name) if !name.is_empty() => Ok(()),
        _ => Err(STATUS_FWP_NULL_DISPLAY_NAME),
    }
}

fn expect_provider(objects: &Objects, key: *mut GUID) -> Result<(), NTSTATUS> {
    if key.is_null()
        || objects
            .providers
            .contains_key(&raw(&guest::read(key, "a key")))
    {
        Ok(())
    } else {
        Err(STATUS_FWP_PROVIDER_NOT_FOUND)
    }
}

fn insert<V>(map: &mut HashMap<Key, V>, key: &GUID, value: V) -> Result<(), NTSTATUS> {
    if map.contains_key(&raw(key)) {
        return Err(STATUS_FWP_ALREADY_EXISTS);
    }
    map.insert(raw(key), value);
    Ok(())
}

extern "win64" fn add_provider(
    handle: HANDLE,
    provider: *const FWPM_PROVIDER0,
    _: PVOID,
) -> NTSTATUS {
    let provider = guest::read(provider, "a provider");
    change(handle, |objects, owner, _| {
        expect_name(&provider.displayData)?;
        insert(&mut objects.providers, &provider.providerKey, owner)
    })
}

extern "win64" fn add_sublayer(
    handle: HANDLE,
    sublayer: *const FWPM_SUBLAYER0,
    _: PVOID,
) -> NTSTATUS {
    let sublayer = guest::read(sublayer, "a sublayer");
    change(handle, |objects, owner, _| {
        expect_name(&sublayer.displayData)?;
        expect_provider(objects, sublayer.providerKey)?;
        insert(
            &mut objects.sublayers,
            &sublayer.subLayerKey,
            (owner, sublayer.weight),
        )
    })
}

extern "win64" fn delete_sublayer(handle: HANDLE, key: *const GUID) -> NTSTATUS {
    let key = guest::read(key, "a key");
    change(handle, |objects, _, _| {
        if objects
            .filters
            .values()
            .any(|(_, filter)| filter.sublayer == key)
        {
            return Err(STATUS_FWP_IN_USE);
        }
        objects
            .sublayers
            .remove(&raw(&key))
            .map(|_| ())
            .ok_or(STATUS_FWP_SUBLAYER_NOT_FOUND)
    })
}

extern "win64" fn add_callout(
    handle: HANDLE,
    callout: *const FWPM_CALLOUT0,
    _: PVOID,
    id: *mut u32,
) -> NTSTATUS {
    let callout = guest::read(callout, "a callout");
    let mut number = 0;
    let status = change(handle, |objects, owner, fresh| {
        expect_name(&callout.displayData)?;
        expect_provider(objects, callout.providerKey)?;
        let layer = layer::by_key(&callout.applicableLayer).ok_or(STATUS_FWP_LAYER_NOT_FOUND)?;
        // A callout that is registered has its number already.
        number = callout::by_key(&callout.calloutKey).map_or(fresh as u32, |known| known.id);
        insert(
            &mut objects.callouts,
            &callout.calloutKey,
            (owner, number, layer.id),
        )
    });
    if status == STATUS_SUCCESS {
        guest::write_optional(id, number, "the number of a callout");
    }
    status
}

extern "win64" fn delete_callout(handle: HANDLE, key: *const GUID) -> NTSTATUS {
    let key = guest::read(key, "a key");
    change(handle, |objects, _, _| {
        if objects
            .filters
            .values()
            .any(|(_, filter)| filter.calls() && filter.callout == key)
        {
            return Err(STATUS_FWP_IN_USE);
        }
        objects
            .callouts
            .remove(&raw(&key))
            .map(|_| ())
            .ok_or(STATUS_FWP_CALLOUT_NOT_FOUND)
    })
}

extern "win64" fn delete_callout_by_id(handle: HANDLE, id: u32) -> NTSTATUS {
    change(handle, |objects, _, _| {
        let before = objects.callouts.len();
        objects.callouts.retain(|_, (_, number, _)| *number != id);
        if objects.callouts.len() == before {
            return Err(STATUS_FWP_CALLOUT_NOT_FOUND);
        }
        Ok(())
    })
}

extern "win64" fn add_filter(
    handle: HANDLE,
    filter: *const FWPM_FILTER0,
    _: PVOID,
    id: *mut u64,
) -> NTSTATUS {
    let filter = guest::read(filter, "a filter");
    let mut number = 0;
    let status = change(handle, |objects, owner, fresh| {
        number = fresh;
        expect_provider(objects, filter.providerKey)?;
        let filter = Filter::of(&filter, fresh)?;
        if !objects.sublayers.contains_key(&raw(&filter.sublayer)) {
            return Err(STATUS_FWP_SUBLAYER_NOT_FOUND);
        }
        if filter.calls() {
            let (_, _, layer) = objects
                .callouts
                .get(&raw(&filter.callout))
                .ok_or(STATUS_FWP_CALLOUT_NOT_FOUND)?;
            if *layer != filter.layer.id {
                return Err(STATUS_FWP_INCOMPATIBLE_LAYER);
            }
        }
        let zero = [0; 16];
        if raw(&filter.key) != zero
            && objects
                .filters
                .values()
                .any(|(_, other)| other.key == filter.key)
        {
            return Err(STATUS_FWP_ALREADY_EXISTS);
        }
        objects.filters.insert(fresh, (owner, Arc::new(filter)));
        Ok(())
    });
    if status == STATUS_SUCCESS {
        guest::write_optional(id, number, "the number of a filter");
    }
    status
}

extern "win64" fn delete_filter(handle: HANDLE, id: u64) -> NTSTATUS {
    change(handle, |objects, _, _| {
        objects
            .filters
            .remove(&id)
            .map(|_| ())
            .ok_or(STATUS_FWP_FILTER_NOT_FOUND)
    })
}

extern "win64" fn delete_filter_by_key(handle: HANDLE, key: *const GUID) -> NTSTATUS {
    let key = guest::read(key, "a key");
    change(handle, |objects, _, _| {
        let found = objects
            .filters
            .iter()
            .find(|(_, (_, filter))| filter.key == key);
        let id = *found.ok_or(STATUS_FWP_FILTER_NOT_FOUND)?.0;
        objects.filters.remove(&id);
        Ok(())
    })
}

extern "win64" fn free_memory(memory: *mut PVOID) {
    let held = guest::borrow(memory, "memory of the filter engine");
    if !held.is_null() {
        violation!(
            Engine,
            "FwpmFreeMemory0 of what the filter engine has not given"
        );
    }
}

fn seen(filter: &Filter, sublayer_weight: u16) -> FWPS_FILTER2 {
    let mut flags = 0;
    if filter.flags & FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT != 0 {
        flags |= FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT;
    }
    if filter.flags & FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED != 0 {
        flags |= FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED;
    }
    // SAFETY: zero is a value of each field.
    let mut seen: FWPS_FILTER2 = unsafe { std::mem::zeroed() };
    seen.filterId = filter.id;
    seen.subLayerWeight = sublayer_weight;
    seen.flags = flags;
    seen.action = FWPS_ACTION0 {
        r#type: filter.action,
        calloutId: callout::by_key(&filter.callout).map_or(0, |callout| callout.id),
    };
    seen.context = filter.context;
    seen
}

/// Makes the objects the filters in force, and tells the callouts of those that come and go.
fn publish() {
    let (old, new, told) = {
        let mut active = ACTIVE.write();
        let new = with(|engine| {
            let mut layers: HashMap<u16, Vec<Active>> = HashMap::new();
            for (_, filter) in engine.objects.filters.values() {
                if filter.flags & FWPM_FILTER_FLAG_DISABLED != 0 {
                    continue;
                }
                let (_, sublayer_weight) = engine.objects.sublayers[&raw(&filter.sublayer)];
                layers.entry(filter.layer.id).or_default().push(Active {
                    sublayer_weight,
                    filter: Arc::clone(filter),
                    seen: seen(filter, sublayer_weight),
                });
            }
            for filters in layers.values_mut() {
                filters.sort_by_key(|active| {
                    std::cmp::Reverse((active.sublayer_weight, active.filter.weight))
                });
            }
            Arc::new(layers)
        });
        let old = active.replace(Arc::clone(&new));
        let flat = |map: &HashMap<u16, Vec<Active>>| -> BTreeMap<u64, Arc<Filter>> {
            map.values()
                .flatten()
                .map(|active| (active.filter.id, Arc::clone(&active.filter)))
                .collect()
        };
        let before = old.as_deref().map(flat).unwrap_or_default();
        let after = flat(&new);
        let gone: Vec<_> = before
            .iter()
            .filter(|(id, _)| !after.contains_key(*id))
            .map(|(_, filter)| (FWPS_CALLOUT_NOTIFY_DELETE_FILTER, Arc::clone(filter)))
            .collect();
        let come: Vec<_> = after
            .iter()
            .filter(|(id, _)| !before.contains_key(*id))
            .map(|(_, filter)| (FWPS_CALLOUT_NOTIFY_ADD_FILTER, Arc::clone(filter)))
            .collect();
        (old, new, [gone, come].concat())
    };
    for (what, filter) in told {
        notify(what, &filter);
    }
    drop((old, new));
}

fn notify(what: FWPS_CALLOUT_NOTIFY_TYPE, filter: &Filter) {
    if !filter.calls() {
        return;
    }
    callout::enter(&filter.callout, |callout| {
        let Some(routine) = callout.notify else {
            return;
        };
        let mut seen = seen(filter, 0);
        let key = match what {
            FWPS_CALLOUT_NOTIFY_DELETE_FILTER => std::ptr::null(),
            _ => &raw const filter.key,
        };
        cpu::call("notifyFn", PASSIVE_LEVEL, || {
            // SAFETY: the driver gave the routine for this.
            unsafe { routine(what, key, &raw mut seen) }
        });
    });
}

/// There are filters of others at every layer: weight of the sublayer, whether they block, whether
/// that is final.
pub(crate) fn set_foreign(filters: &[(u16, bool, bool)]) {
    with(|engine| engine.foreign = filters.to_vec());
}

/// Filters of others.
pub(crate) fn foreign() -> Vec<(u16, bool, bool)> {
    with(|engine| engine.foreign.clone())
}

/// What is there: providers, sublayers, callouts, and filters by layer.
pub(crate) fn counts() -> (usize, usize, usize, usize) {
    with(|engine| {
        let objects = &engine.objects;
        (
            objects.providers.len(),
            objects.sublayers.len(),
            objects.callouts.len(),
            objects.filters.len(),
        )
    })
}

pub(crate) fn pending() -> Vec<String> {
    with(|engine| {
        let mut pending = Vec::new();
        if !engine.sessions.is_empty() {
            pending.push(format!(
                "{} sessions of the filter engine are open",
                engine.sessions.len()
            ));
        }
        if !engine.subscribers.is_empty() {
            pending.push(format!(
                "{} subscriptions to the state of the filter engine are there",
                engine.subscribers.len()
            ));
        }
        pending
    })
}
