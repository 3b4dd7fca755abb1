//! What carries a device request to the extension and its answer back.

use kext_hosts::replay::ReplayReport;
use kext_wire::Status;

use crate::Error;

/// `STATUS_DEVICE_NOT_CONNECTED`: the device is not there any more; [`Transport::failure`] says why.
pub const LOST: Status = Status(0xC000_009D);

/// A device that is open: the replay host in this process, or a handle to a driver.
///
/// Every method may be called from any thread, several at once.
pub trait Transport: Send + Sync {
    /// Sends a device request and waits for its answer, as `DeviceIoControl` does: the bytes of
    /// `output` that were written, or the status that the request ended with.
    fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status>;

    /// Ends every request that waits now with [`Status::CANCELLED`]. Nothing is lost by it.
    fn cancel(&self);

    /// Closes the device: what is held is settled by policy. Closing again does nothing.
    fn close(&self) -> Result<(), Error>;

    /// Why the source of packets ended before its time, or the device is lost, if so.
    fn failure(&self) -> Option<Error>;

    /// How far a replay has come; `None` for live devices.
    fn report(&self) -> Option<ReplayReport>;
}
