//! The user-mode client: a [`Session`] over a [`Transport`].
//!
//! Everything crosses the transport as the bytes of `kext-wire`, in both directions and in process
//! too, so what works with the replay host works with the driver. The crate holds no policy: it
//! opens a device by its name ([`Device`]), says hello, and turns calls into messages and answers
//! into values or an [`Error`].
//!
//! A session may be used from any number of threads at once. Waiting calls end at once when the
//! session is closed or its waits are cancelled.
//!
//! Requests and verdicts come one by one or as [columns](RequestColumns); single verdicts can be
//! [deferred](Session::defer_verdict), so that they too are sent together. Who must not wait has a
//! [`Reader`] wait in its place.

#![forbid(unsafe_code)]

mod calls;
mod columns;
mod counters;
mod device;
mod error;
mod flows;
mod fork;
mod known;
mod queue;
mod reader;
mod receive;
mod replay;
mod session;
#[cfg(unix)]
pub mod socket;
mod transport;
mod verdicts;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use calls::{EventPage, ProcessPath};
pub use columns::{CUT_SHORT, FlowColumns, KeyColumns, RequestColumns};
pub use counters::Counters;
pub use device::{BadDevice, Device, FORMS};
pub use error::{Error, NotHeld};
pub use flows::{FlowPage, Flows};
pub use fork::after_fork_in_child;
/// A network, for [`OpenOptions::local`].
pub use ipnet::IpNet;
pub use kext_hosts::replay::{ReplayError, ReplayReport, Synthetic};
pub use kext_wire::counters::Counter;
pub use kext_wire::hello::{Features, HelloResponse, HostKind};
pub use kext_wire::receive::{PayloadMode, ReceivedRequest};
pub use queue::Deferred;
pub use reader::{Arrival, Reader, Wish, Wished};
pub use receive::{Batch, MAX_MESSAGE, Received, Request, Wait};
pub use session::{FLUSH_INTERVAL, OpenOptions, Session};
pub use transport::{LOST, Transport};
pub use verdicts::{Numbers, Outcomes};

/// The version of the extended interface that this client speaks.
pub const PROTOCOL_VERSION: u16 = kext_wire::VERSION;
