//! A device request that is built once and sent many times.

use kext_nt_sys::io::{
    DEVICE_OBJECT, DRIVER_DISPATCH, IO_STACK_LOCATION, IRP, IRP_MJ_DEVICE_CONTROL,
};
use kext_nt_sys::ke::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use kext_nt_sys::status::STATUS_PENDING;

use super::functions::REUSED;
use crate::cpu;
use crate::guest;
use crate::heap::{self, Kind};
use crate::irp;
use crate::sim::{Device, Status};

/// A request with a buffer.
#[derive(Debug)]
pub struct Control {
    device: *mut DEVICE_OBJECT,
    routine: DRIVER_DISPATCH,
    irp: *mut IRP,
    location: *mut IO_STACK_LOCATION,
    buffer: *mut u8,
    room: usize,
}

impl Control {
    /// A request to a device, with so much room for its input and for its output.
    ///
    /// # Panics
    ///
    /// If the driver takes no device requests.
    pub fn new(device: &Device, room: usize) -> Self {
        let (object, file) = device.addresses();
        let irp = irp::blank(object, IRP_MJ_DEVICE_CONTROL, file);
        let buffer = heap::allocate(Kind::SystemBuffer, room, 0);
        let fields = guest::borrow(irp, "a request");
        fields.AssociatedIrp.SystemBuffer = buffer.cast();
        fields.AllocationFlags = REUSED;
        let device: *mut DEVICE_OBJECT = std::ptr::with_exposed_provenance_mut(object);
        let driver = guest::read(device, "a device").DriverObject;
        let driver = guest::borrow(driver, "a driver object");
        Self {
            device,
            routine: driver.MajorFunction[usize::from(IRP_MJ_DEVICE_CONTROL)]
                .expect("it takes device requests"),
            irp,
            location: irp::location(irp),
            buffer,
            room,
        }
    }

    /// Sends it at `PASSIVE_LEVEL`, and gives what was written. It has to end at once.
    ///
    /// # Errors
    ///
    /// A status of failure.
    ///
    /// # Panics
    ///
    /// If it is pended, or there is not enough room.
    #[inline]
    pub fn send(&mut self, code: u32, input: &[u8], output: usize) -> Result<&[u8], Status> {
        assert!(input.len().max(output) <= self.room, "there is no room");
        // SAFETY: request, location and buffer are ours; the driver uses them until it has completed the
        // request.
        let (returned, end, complete) = unsafe {
            self.buffer
                .copy_from_nonoverlapping(input.as_ptr(), input.len());
            let control = &mut (*self.location).Parameters.DeviceIoControl;
            control.OutputBufferLength = output as u32;
            control.InputBufferLength = input.len() as u32;
            control.IoControlCode = code;
            (*self.irp).CurrentLocation = (*self.irp).StackCount;
            cpu::set_irql(PASSIVE_LEVEL);
            let returned = (self.routine)(self.device, self.irp);
            cpu::set_irql(DISPATCH_LEVEL);
            let complete = (*self.irp).CurrentLocation > (*self.irp).StackCount;
            (returned, (*self.irp).IoStatus, complete)
        };
        assert!(complete && returned != STATUS_PENDING, "it was pended");
        if returned < 0 {
            return Err(Status(returned));
        }
        // SAFETY: the driver has written so many bytes, and no more than there was room for.
        Ok(unsafe { std::slice::from_raw_parts(self.buffer, end.Information.min(output)) })
    }
}
