//! The control device: a name for programs to open, and the requests that come by it.

use core::ptr::{self, NonNull};

use kext_nt_sys::io::{self, DEVICE_OBJECT, DRIVER_OBJECT, IRP};
use kext_nt_sys::ke;
use kext_nt_sys::rtl::ZwClose;
use kext_nt_sys::se::{self, ACE_HEADER, ACL, SECURITY_DESCRIPTOR, SID};
use kext_nt_sys::status::{NTSTATUS, STATUS_DEVICE_NOT_READY};
use kext_nt_sys::types::{FALSE, HANDLE, OBJ_KERNEL_HANDLE, TRUE};

use crate::global::Global;
use crate::irql::Passive;
use crate::request::{Answered, Request};
use crate::status::{Result, Status};
use crate::wide::Text;

/// What a driver does with the requests of its device. Each has to be answered.
///
/// IRQL: all are called at `PASSIVE_LEVEL`, for programs.
pub trait Requests: Sync + Sized + 'static {
    /// Where the driver's state is, once it is ready for requests.
    fn state() -> &'static Global<Self>;

    /// A program opens the device.
    fn create(&self, passive: &Passive, request: Request) -> Answered;

    /// The last handle of an open file is closed. Requests of the file may still be under way.
    fn cleanup(&self, passive: &Passive, request: Request) -> Answered;

    /// Nothing of the file is left.
    fn close(&self, passive: &Passive, request: Request) -> Answered;

    /// A device request.
    fn control(&self, passive: &Passive, request: Request) -> Answered;

    /// The machine goes down.
    fn shutdown(&self, passive: &Passive, request: Request) -> Answered;
}

/// The driver as its entry point is given it.
pub struct DriverObject(NonNull<DRIVER_OBJECT>);

impl DriverObject {
    /// # Safety
    ///
    /// `driver` is what the kernel has given to the entry point or the unload routine, which runs.
    pub unsafe fn new(driver: *mut DRIVER_OBJECT) -> Option<Self> {
        NonNull::new(driver).map(Self)
    }

    /// Says what requests are to come to `R`, and what the kernel is to call at the end.
    ///
    /// IRQL: `PASSIVE_LEVEL`, in the entry point.
    pub fn serve<R: Requests>(&mut self, _: &Passive, unload: io::DRIVER_UNLOAD) {
        // SAFETY: the object is the driver's, as `new` says, and nobody else uses it meanwhile.
        let driver = unsafe { self.0.as_mut() };
        driver.DriverUnload = Some(unload);
        let mut set = |major: u8, dispatch| {
            if let Some(slot) = driver.MajorFunction.get_mut(usize::from(major)) {
                *slot = Some(dispatch);
            }
        };
        set(io::IRP_MJ_CREATE, create::<R>);
        set(io::IRP_MJ_CLEANUP, cleanup::<R>);
        set(io::IRP_MJ_CLOSE, close::<R>);
        set(io::IRP_MJ_DEVICE_CONTROL, control::<R>);
        set(io::IRP_MJ_SHUTDOWN, shutdown::<R>);
    }
}

/// The device, by its name in the kernel and the one for programs.
pub struct ControlDevice {
    object: NonNull<DEVICE_OBJECT>,
    /// The name for programs, once it is there.
    link: Option<Text>,
    told_of_shutdown: bool,
}

// SAFETY: the handle is an address that stays; the kernel guards the object.
unsafe impl Send for ControlDevice {}
// SAFETY: as above.
unsafe impl Sync for ControlDevice {}

impl ControlDevice {
    /// Makes the device, for the system and administrators only. Programs do not find it yet.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn create(passive: &Passive, driver: &DriverObject, name: Text) -> Result<Self> {
        let mut name = name.counted();
        let mut object = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL with our driver object; the name outlives the call, which does not
        // write to it. Not exclusive: who owns the device is for the driver to say, with a status.
        let status = unsafe {
            io::IoCreateDevice(
                driver.0.as_ptr(),
                0,
                &raw mut name,
                io::FILE_DEVICE_NETWORK,
                io::FILE_DEVICE_SECURE_OPEN,
                FALSE,
                &raw mut object,
            )
        };
        Status::check(status)?;
        let device = Self {
            object: NonNull::new(object).ok_or(Status(STATUS_DEVICE_NOT_READY))?,
            link: None,
            told_of_shutdown: false,
        };
        device.restrict(passive)?;
        Ok(device)
    }

    /// Lets programs find the device, and has the driver told when the machine goes down.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn publish(&mut self, name: Text, link: Text, _: &Passive) -> Result<()> {
        let (mut name, mut link_name) = (name.counted(), link.counted());
        // SAFETY: at PASSIVE_LEVEL; both names outlive the call, which does not write to them.
        let status = unsafe { io::IoCreateSymbolicLink(&raw mut link_name, &raw mut name) };
        Status::check(status)?;
        self.link = Some(link);
        // SAFETY: at PASSIVE_LEVEL; the device is ours.
        let status = unsafe { io::IoRegisterShutdownNotification(self.object.as_ptr()) };
        Status::check(status)?;
        self.told_of_shutdown = true;
        // SAFETY: the device is ours, and nobody else changes its flags before they say it is ready.
        let device = unsafe { self.object.as_mut() };
        device.Flags &= !io::DO_DEVICE_INITIALIZING;
        Ok(())
    }

    /// For functions that want a device.
    pub(crate) fn object(&self) -> *mut DEVICE_OBJECT {
        self.object.as_ptr()
    }

    /// Replaces the device's security: everything for the system and the administrators, nothing for
    /// others.
    fn restrict(&self, _: &Passive) -> Result<()> {
        let mut list = AccessList::new()?;
        list.allow(&se::SID_LOCAL_SYSTEM)?;
        list.allow(&se::SID_ADMINISTRATORS)?;
        // SAFETY: a descriptor is plain numbers and pointers, for which zero is a value.
        let mut descriptor: SECURITY_DESCRIPTOR = unsafe { core::mem::zeroed() };
        let descriptor = &raw mut descriptor;
        // SAFETY: the descriptor is ours to write.
        let status = unsafe {
            se::RtlCreateSecurityDescriptor(descriptor, se::SECURITY_DESCRIPTOR_REVISION)
        };
        Status::check(status)?;
        // SAFETY: the list is whole, and outlives the descriptor.
        let status =
            unsafe { se::RtlSetDaclSecurityDescriptor(descriptor, TRUE, list.as_ptr(), FALSE) };
        Status::check(status)?;

        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; the device is an object of the kernel and stays meanwhile.
        let status = unsafe {
            se::ObOpenObjectByPointer(
                self.object.as_ptr().cast(),
                OBJ_KERNEL_HANDLE,
                ptr::null_mut(),
                se::WRITE_DAC,
                ptr::null_mut(),
                ke::KernelMode,
                &raw mut handle,
            )
        };
        Status::check(status)?;
        // SAFETY: the handle is open; the descriptor is whole.
        let status =
            unsafe { se::ZwSetSecurityObject(handle, se::DACL_SECURITY_INFORMATION, descriptor) };
        // SAFETY: the handle is open, and not used after this.
        let _ = unsafe { ZwClose(handle) };
        Status::check(status)
    }
}

impl Drop for ControlDevice {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        if self.told_of_shutdown {
            // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL; it was registered.
            unsafe { io::IoUnregisterShutdownNotification(self.object.as_ptr()) };
        }
        if let Some(link) = self.link {
            let mut link = link.counted();
            // SAFETY: at PASSIVE_LEVEL; the name outlives the call, which does not write to it.
            let _ = unsafe { io::IoDeleteSymbolicLink(&raw mut link) };
        }
        // SAFETY: the device is ours, and used by nobody after this.
        unsafe { io::IoDeleteDevice(self.object.as_ptr()) };
    }
}

/// An access control list with room for two entries, as bytes of the kernel's form.
#[repr(C, align(8))]
struct AccessList([u8; Self::LEN]);

impl AccessList {
    const ENTRIES: usize = 2 * (size_of::<ACE_HEADER>() + size_of::<u32>());
    const LEN: usize = size_of::<ACL>() + Self::ENTRIES + size_of::<SID<1>>() + size_of::<SID<2>>();

    fn new() -> Result<Self> {
        let mut list = Self([0; Self::LEN]);
        // SAFETY: the memory is ours, as long as it says, and aligned.
        let status = unsafe { se::RtlCreateAcl(list.as_ptr(), Self::LEN as u32, se::ACL_REVISION) };
        Status::check(status).map(|()| list)
    }

    fn allow<const N: usize>(&mut self, sid: &SID<N>) -> Result<()> {
        let sid = (&raw const *sid).cast_mut().cast();
        // SAFETY: the list is one that `new` made; the kernel checks that the entry fits, and does
        // not write to the identifier.
        let status = unsafe {
            se::RtlAddAccessAllowedAce(self.as_ptr(), se::ACL_REVISION, se::FILE_ALL_ACCESS, sid)
        };
        Status::check(status)
    }

    fn as_ptr(&mut self) -> *mut ACL {
        self.0.as_mut_ptr().cast()
    }
}

/// Defines the dispatch routine of one kind of request.
macro_rules! dispatch {
    ($($name:ident)+) => {$(
        /// # Safety
        ///
        /// Called by the I/O manager at `PASSIVE_LEVEL`, with a request that is the driver's now.
        unsafe extern "win64" fn $name<R: Requests>(
            _: *mut DEVICE_OBJECT,
            irp: *mut IRP,
        ) -> NTSTATUS {
            // SAFETY: the request is ours from here on, until it is answered.
            let request = unsafe { Request::new(irp) };
            // SAFETY: the I/O manager calls for a program, and so at PASSIVE_LEVEL.
            let passive = unsafe { Passive::assume() };
            let answered = match R::state().get() {
                Some(state) => state.$name(&passive, request),
                None => request.fail(Status(STATUS_DEVICE_NOT_READY)),
            };
            answered.status()
        }
    )+};
}

dispatch! { create cleanup close control shutdown }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_room_for_both_owners_and_no_more() {
        assert_eq!(AccessList::LEN, 52);
    }
}
