//! Filters: conditions, weights, and what they do when they match.

use kext_nt_sys::fwp::*;
use kext_nt_sys::fwpm::{FWPM_FILTER_CONDITION0, FWPM_FILTER0};
use kext_nt_sys::fwps::FWPS_INCOMING_VALUE0;
use kext_nt_sys::status::{
    NTSTATUS, STATUS_FWP_CONDITION_NOT_FOUND, STATUS_FWP_INVALID_ACTION_TYPE,
    STATUS_FWP_INVALID_WEIGHT, STATUS_FWP_LAYER_NOT_FOUND, STATUS_FWP_MATCH_TYPE_MISMATCH,
    STATUS_FWP_NULL_DISPLAY_NAME, STATUS_FWP_TYPE_MISMATCH,
};
use kext_nt_sys::types::GUID;

use super::layer::{self, Layer};
use crate::guest;

/// A condition on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    field: usize,
    matches: FWP_MATCH_TYPE,
    value: u64,
    mask: u64,
}

/// A filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) id: u64,
    pub(crate) key: GUID,
    pub(crate) layer: &'static Layer,
    pub(crate) sublayer: GUID,
    pub(crate) weight: u64,
    pub(crate) action: FWP_ACTION_TYPE,
    pub(crate) callout: GUID,
    pub(crate) flags: u32,
    pub(crate) context: u64,
    conditions: Vec<Condition>,
}

fn bits(kind: FWP_DATA_TYPE, value: &FWP_CONDITION_VALUE0_0) -> Option<(u64, u64)> {
    // SAFETY: the type says which arm holds.
    unsafe {
        Some(match kind {
            FWP_UINT8 => (value.uint8.into(), u64::MAX),
            FWP_UINT16 => (value.uint16.into(), u64::MAX),
            FWP_UINT32 => (value.uint32.into(), u64::MAX),
            FWP_UINT64 => (guest::read(value.uint64, "a condition"), u64::MAX),
            FWP_V4_ADDR_MASK => {
                let address = guest::read(value.v4AddrMask, "a condition");
                (address.addr.into(), address.mask.into())
            }
            _ => return None,
        })
    }
}

impl Condition {
    fn of(layer: &Layer, condition: &FWPM_FILTER_CONDITION0) -> Result<Self, NTSTATUS> {
        let field = layer
            .fields
            .of_condition(&condition.fieldKey)
            .ok_or(STATUS_FWP_CONDITION_NOT_FOUND)?;
        let value = &condition.conditionValue;
        let (value, mask) = bits(value.r#type, &value.Anonymous).ok_or(STATUS_FWP_TYPE_MISMATCH)?;
        if !(FWP_MATCH_EQUAL..=FWP_MATCH_NOT_EQUAL).contains(&condition.matchType) {
            return Err(STATUS_FWP_MATCH_TYPE_MISMATCH);
        }
        Ok(Self {
            field,
            matches: condition.matchType,
            value,
            mask,
        })
    }

    fn holds(&self, values: &[FWPS_INCOMING_VALUE0]) -> bool {
        let value = &values[self.field].value;
        // SAFETY: the type says which arm holds.
        let actual: u64 = unsafe {
            match value.r#type {
                FWP_UINT8 => value.Anonymous.uint8.into(),
                FWP_UINT16 => value.Anonymous.uint16.into(),
                FWP_UINT32 => value.Anonymous.uint32.into(),
                _ => return false,
            }
        };
        match self.matches {
            FWP_MATCH_EQUAL => actual & self.mask == self.value & self.mask,
            FWP_MATCH_NOT_EQUAL => actual & self.mask != self.value & self.mask,
            FWP_MATCH_GREATER => actual > self.value,
            FWP_MATCH_LESS => actual < self.value,
            FWP_MATCH_GREATER_OR_EQUAL => actual >= self.value,
            FWP_MATCH_LESS_OR_EQUAL => actual <= self.value,
            FWP_MATCH_FLAGS_ALL_SET => actual & self.value == self.value,
            FWP_MATCH_FLAGS_ANY_SET => actual & self.value != 0,
            FWP_MATCH_FLAGS_NONE_SET => actual & self.value == 0,
            _ => false,
        }
    }
}

impl Filter {
    /// A filter as it is added.
    pub(crate) fn of(filter: &FWPM_FILTER0, id: u64) -> Result<Self, NTSTATUS> {
        let layer = layer::by_key(&filter.layerKey).ok_or(STATUS_FWP_LAYER_NOT_FOUND)?;
        if guest::wide(filter.displayData.name).is_none_or(|name| name.is_empty()) {
            return Err(STATUS_FWP_NULL_DISPLAY_NAME);
        }
        let known = [
            FWP_ACTION_BLOCK,
            FWP_ACTION_PERMIT,
            FWP_ACTION_CALLOUT_TERMINATING,
            FWP_ACTION_CALLOUT_INSPECTION,
            FWP_ACTION_CALLOUT_UNKNOWN,
        ];
        if !known.contains(&filter.action.r#type) {
            return Err(STATUS_FWP_INVALID_ACTION_TYPE);
        }
        // Automatic weights lie below 2^60; the earlier of two is the heavier here.
        let automatic = (1 << 59) - id;
        // SAFETY: the type says which arm holds; the pointer is one if it is said to be.
        let weight = unsafe {
            match filter.weight.r#type {
                FWP_EMPTY => automatic,
                FWP_UINT8 if filter.weight.Anonymous.uint8 < 16 => {
                    u64::from(filter.weight.Anonymous.uint8) << 60 | automatic
                }
                FWP_UINT64 => guest::read(filter.weight.Anonymous.uint64, "a weight"),
                _ => return Err(STATUS_FWP_INVALID_WEIGHT),
            }
        };
        let conditions = (0..filter.numFilterConditions as usize)
            .map(|at| {
                let condition = filter.filterCondition.wrapping_add(at);
                Condition::of(layer, &guest::read(condition, "a condition"))
            })
            .collect::<Result<_, _>>()?;
        // SAFETY: both arms are plain numbers.
        let (callout, context) = unsafe {
            (
                filter.action.Anonymous.calloutKey,
                filter.Anonymous.rawContext,
            )
        };
        Ok(Self {
            id,
            key: filter.filterKey,
            layer,
            sublayer: filter.subLayerKey,
            weight,
            action: filter.action.r#type,
            callout,
            flags: filter.flags,
            context,
            conditions,
        })
    }

    /// Whether it calls a callout.
    pub(crate) fn calls(&self) -> bool {
        self.action & FWP_ACTION_FLAG_CALLOUT != 0
    }

    /// Whether it is about these values. Conditions on one field are alternatives.
    pub(crate) fn matches(&self, values: &[FWPS_INCOMING_VALUE0]) -> bool {
        self.conditions.iter().all(|one| {
            self.conditions
                .iter()
                .any(|other| other.field == one.field && other.holds(values))
        })
    }
}
