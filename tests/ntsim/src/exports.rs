//! The table of functions that are there, by name.

use std::collections::HashMap;
use std::sync::LazyLock;

use kext_nt_sys::status::{NTSTATUS, STATUS_DEVICE_BUSY, STATUS_INSUFFICIENT_RESOURCES};

/// A function of the simulated kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Implementation {
    pub(crate) name: &'static str,
    pub(crate) address: usize,
    /// Called without a look at it: too common, and nothing can be wrong.
    pub(crate) direct: bool,
    /// What stands in for it when it fails.
    pub(crate) failure: Option<usize>,
}

/// Declares `table()`: functions by the names of Windows, each compared with its signature there.
///
/// `[null]`, `[status]` and `[busy]` say how a function can fail; `[direct]` that nobody looks at calls.
macro_rules! implements {
    ($($([$kind:ident])? $module:ident::$name:ident = $function:path;)+) => {
        pub(crate) fn table() -> Vec<$crate::exports::Implementation> {
            vec![$({
                let function: kext_nt_sys::$module::$name = $function;
                $crate::exports::Implementation {
                    name: stringify!($name),
                    address: function as usize,
                    direct: implements!(@direct $($kind)?),
                    failure: implements!(@failure $($kind)?),
                }
            }),+]
        }
    };
    (@direct direct) => { true };
    (@direct $($other:ident)?) => { false };
    (@failure null) => { Some($crate::exports::fail_null as *const () as usize) };
    (@failure status) => { Some($crate::exports::fail_status as *const () as usize) };
    (@failure busy) => { Some($crate::exports::fail_busy as *const () as usize) };
    (@failure $($other:ident)?) => { None };
}
pub(crate) use implements;

pub(crate) extern "win64" fn fail_null() -> usize {
    0
}

pub(crate) extern "win64" fn fail_status() -> NTSTATUS {
    STATUS_INSUFFICIENT_RESOURCES
}

pub(crate) extern "win64" fn fail_busy() -> NTSTATUS {
    STATUS_DEVICE_BUSY
}

static TABLE: LazyLock<HashMap<&'static str, Implementation>> = LazyLock::new(|| {
    [
        crate::crt::table(),
        crate::dispatcher::table(),
        crate::io::table(),
        crate::locks::table(),
        crate::mdl::table(),
        crate::misc::table(),
        crate::misc::variadic(),
        crate::pool::table(),
        crate::process::table(),
        crate::rundown::table(),
        crate::security::table(),
        crate::wfp::table(),
        crate::work::table(),
    ]
    .into_iter()
    .flatten()
    .map(|function| (function.name, function))
    .collect()
});

/// The function of that name, if it is there.
pub(crate) fn find(name: &str) -> Option<Implementation> {
    TABLE.get(name).copied()
}

/// The names of all functions that are there.
pub fn implemented() -> Vec<&'static str> {
    let mut names: Vec<_> = TABLE.keys().copied().collect();
    names.sort_unstable();
    names
}
