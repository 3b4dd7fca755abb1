//! The device of a loaded driver as the client's transport.

use std::sync::Mutex;

use kext_client::{Error, ReplayReport, Transport};
use kext_ntsim::{Device, Pending};
use kext_wire::Status;

/// A handle to the driver's device.
pub(crate) struct DeviceTransport {
    device: Mutex<Option<Device>>,
    waiting: Mutex<Vec<Pending>>,
}

impl DeviceTransport {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            device: Mutex::new(Some(device)),
            waiting: Mutex::default(),
        }
    }
}

impl Transport for DeviceTransport {
    fn ioctl(&self, code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let pending = match &*self.device.lock().unwrap() {
            Some(device) => device.start(code, input, output.len()),
            None => return Err(Status::FILE_CLOSED),
        };
        self.waiting.lock().unwrap().push(pending.clone());
        let answer = pending.wait();
        self.waiting
            .lock()
            .unwrap()
            .retain(|waiting| !waiting.ended());
        match answer {
            Ok(bytes) => {
                output[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Err(status) => Err(Status(status.0.cast_unsigned())),
        }
    }

    fn cancel(&self) {
        let waiting = self.waiting.lock().unwrap().clone();
        for pending in waiting {
            pending.cancel();
        }
    }

    fn close(&self) -> Result<(), Error> {
        if let Some(device) = self.device.lock().unwrap().take() {
            device.close();
        }
        Ok(())
    }

    fn failure(&self) -> Option<Error> {
        None
    }

    fn report(&self) -> Option<ReplayReport> {
        None
    }
}
