//! A device that another process has and serves on a Unix socket: for tests.
//!
//! So the driver in a simulated kernel, which ends its process when a rule is broken, can be the device
//! of any program. One connection is one handle: when it ends, the device is closed. A thread reads
//! the answers; several calls may wait at once.

mod frame;
#[cfg(test)]
mod tests;
mod transport;

pub use frame::{Answer, Call, FrameError, MAX_LEN};
pub(crate) use transport::SocketTransport;
