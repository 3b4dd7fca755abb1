//! The filter engine's management: sessions, transactions, and the objects that bring packets to our
//! callouts.

use core::mem::zeroed;
use core::ptr;

use kext_nt_sys::fwp::{
    FWP_ACTION_CALLOUT_INSPECTION, FWP_ACTION_CALLOUT_UNKNOWN, FWP_CONDITION_FLAG_IS_FRAGMENT,
    FWP_EMPTY, FWP_MATCH_FLAGS_NONE_SET, FWP_UINT32,
};
use kext_nt_sys::fwpm::{
    self, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER_CONDITION0, FWPM_FILTER0, FWPM_PROVIDER0,
    FWPM_SESSION0, FWPM_SUBLAYER0,
};
use kext_nt_sys::layers::FWPM_CONDITION_FLAGS;
use kext_nt_sys::types::{GUID, HANDLE};

use crate::irql::Passive;
use crate::status::{Result, Status};
use crate::wide::Text;

/// A session whose objects go with it.
pub struct Session(HANDLE);

// SAFETY: a session is used through functions that any thread may call.
unsafe impl Send for Session {}

/// Objects that come all at once, or not at all: without [`Transaction::commit`] nothing has happened.
pub struct Transaction<'a> {
    session: &'a Session,
    passive: &'a Passive,
    committed: bool,
}

/// Whether a callout may decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides, or says nothing.
    Decide,
    /// It looks, and never decides.
    Inspect,
}

/// A callout at a layer, with the filter that brings everything there to it.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// What it is called.
    pub name: Text,
    /// The callout's key.
    pub callout: GUID,
    /// The layer's key.
    pub layer: GUID,
    /// Among which filters of the layer it stands.
    pub sublayer: GUID,
    /// Whether it decides.
    pub role: Role,
    /// Leaves out fragments that are shown once more as such.
    pub skip_fragments: bool,
}

impl Session {
    /// Opens a session. The filter engine's service has to run.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn open(name: Text, _: &Passive) -> Result<Self> {
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut session: FWPM_SESSION0 = unsafe { zeroed() };
        session.displayData = display(name);
        session.flags = fwpm::FWPM_SESSION_FLAG_DYNAMIC;
        let mut handle = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; the description is whole, and is read only.
        let status = unsafe {
            fwpm::FwpmEngineOpen0(
                ptr::null(),
                fwpm::RPC_C_AUTHN_WINNT,
                ptr::null_mut(),
                &raw const session,
                &raw mut handle,
            )
        };
        Status::check(status).map(|()| Self(handle))
    }

    /// Begins a transaction.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn transaction<'a>(&'a self, passive: &'a Passive) -> Result<Transaction<'a>> {
        // SAFETY: at PASSIVE_LEVEL; the session is open.
        let status = unsafe { fwpm::FwpmTransactionBegin0(self.0, 0) };
        Status::check(status).map(|()| Transaction {
            session: self,
            passive,
            committed: false,
        })
    }
}

impl Drop for Session {
    /// Every object of the session goes.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL; it is not used after this.
        let _ = unsafe { fwpm::FwpmEngineClose0(self.0) };
    }
}

impl Transaction<'_> {
    /// Adds a provider: who the other objects belong to.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn add_provider(&self, key: GUID, name: Text) -> Result<()> {
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut provider: FWPM_PROVIDER0 = unsafe { zeroed() };
        provider.providerKey = key;
        provider.displayData = display(name);
        // SAFETY: the transaction is open; the description is whole, and is read only.
        Status::check(unsafe {
            fwpm::FwpmProviderAdd0(self.session.0, &raw const provider, ptr::null_mut())
        })
    }

    /// Adds a sublayer of this weight: those of higher weight are asked first.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn add_sublayer(
        &self,
        key: GUID,
        mut provider: GUID,
        name: Text,
        weight: u16,
    ) -> Result<()> {
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut sublayer: FWPM_SUBLAYER0 = unsafe { zeroed() };
        sublayer.subLayerKey = key;
        sublayer.displayData = display(name);
        sublayer.providerKey = &raw mut provider;
        sublayer.weight = weight;
        // SAFETY: the transaction is open; the description is whole, and is read only.
        Status::check(unsafe {
            fwpm::FwpmSubLayerAdd0(self.session.0, &raw const sublayer, ptr::null_mut())
        })
    }

    /// Adds a callout at a layer, and the filter that brings everything there to it.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn add_hook(&self, mut provider: GUID, hook: &Hook) -> Result<()> {
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut callout: FWPM_CALLOUT0 = unsafe { zeroed() };
        callout.calloutKey = hook.callout;
        callout.displayData = display(hook.name);
        callout.providerKey = &raw mut provider;
        callout.applicableLayer = hook.layer;
        // SAFETY: the transaction is open; the description is whole, and is read only.
        Status::check(unsafe {
            fwpm::FwpmCalloutAdd0(
                self.session.0,
                &raw const callout,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        })?;
        self.add_filter(&raw mut provider, hook)
    }

    #[inline(never)]
    fn add_filter(&self, provider: *mut GUID, hook: &Hook) -> Result<()> {
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut condition: FWPM_FILTER_CONDITION0 = unsafe { zeroed() };
        condition.fieldKey = FWPM_CONDITION_FLAGS;
        condition.matchType = FWP_MATCH_FLAGS_NONE_SET;
        condition.conditionValue.r#type = FWP_UINT32;
        condition.conditionValue.Anonymous.uint32 = FWP_CONDITION_FLAG_IS_FRAGMENT;
        // SAFETY: as above.
        let mut filter: FWPM_FILTER0 = unsafe { zeroed() };
        filter.displayData = display(hook.name);
        filter.flags = match hook.role {
            // While the driver is being loaded or unloaded packets pass, instead of being blocked.
            Role::Decide => fwpm::FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
            // A filter of this kind is left out then by itself.
            Role::Inspect => fwpm::FWPM_FILTER_FLAG_NONE,
        };
        filter.providerKey = provider;
        filter.layerKey = hook.layer;
        filter.subLayerKey = hook.sublayer;
        filter.weight.r#type = FWP_EMPTY;
        filter.action.r#type = match hook.role {
            Role::Decide => FWP_ACTION_CALLOUT_UNKNOWN,
            Role::Inspect => FWP_ACTION_CALLOUT_INSPECTION,
        };
        filter.action.Anonymous.calloutKey = hook.callout;
        if hook.skip_fragments {
            filter.numFilterConditions = 1;
            filter.filterCondition = &raw mut condition;
        }
        // SAFETY: the transaction is open; everything that the description points to outlives the call.
        Status::check(unsafe {
            fwpm::FwpmFilterAdd0(
                self.session.0,
                &raw const filter,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        })
    }

    /// Makes it happen.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn commit(mut self) -> Result<()> {
        let _: &Passive = self.passive;
        // SAFETY: the transaction is open.
        Status::check(unsafe { fwpm::FwpmTransactionCommit0(self.session.0) })?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // SAFETY: the transaction is open.
            let _ = unsafe { fwpm::FwpmTransactionAbort0(self.session.0) };
        }
    }
}

fn display(name: Text) -> FWPM_DISPLAY_DATA0 {
    FWPM_DISPLAY_DATA0 {
        name: name.as_ptr(),
        description: ptr::null_mut(),
    }
}
