//! The Windows Filtering Platform, as far as a callout driver sees it.

pub(crate) mod ale;
pub(crate) mod callout;
pub(crate) mod checksum;
pub(crate) mod classify;
pub(crate) mod engine;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod inject;
pub(crate) mod layer;
pub(crate) mod lent;
pub(crate) mod ndis;
pub(crate) mod packet;
pub(crate) mod pend;

use crate::exports::Implementation;

pub(crate) fn table() -> Vec<Implementation> {
    [
        callout::table(),
        engine::table(),
        flow::table(),
        inject::table(),
        lent::table(),
        ndis::table(),
        pend::table(),
    ]
    .concat()
}

/// What the driver has not given back.
pub(crate) fn pending() -> Vec<String> {
    [
        callout::pending(),
        engine::pending(),
        flow::pending(),
        inject::pending(),
        lent::pending(),
        pend::pending(),
    ]
    .concat()
}
