//! The I/O manager: driver objects, devices, symbolic links, files.

use std::collections::{BTreeMap, HashMap};

use kext_nt_sys::io::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE, DRIVER_OBJECT, FILE_DEVICE_SECURE_OPEN,
    FILE_OBJECT, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_SHUTDOWN,
};
use kext_nt_sys::status::{
    NTSTATUS, STATUS_ACCESS_DENIED, STATUS_DELETE_PENDING, STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS,
};
use kext_nt_sys::types::{ACCESS_MASK, BOOLEAN, FALSE, TRUE, UNICODE_STRING};
use parking_lot::Mutex;

use crate::check::violation;
use crate::dispatcher;
use crate::exports::{Implementation, implements};
use crate::guest;
use crate::heap::{self, Kind};
use crate::irp::{self, Parameters};
use crate::observe;
use crate::security::Caller;

mod shims {
    use super::*;

    implements! {
        [status] io::IoCreateDevice = create_device;
        io::IoDeleteDevice = delete_device;
        [status] io::IoCreateSymbolicLink = create_link;
        io::IoDeleteSymbolicLink = delete_link;
        [status] io::IoRegisterShutdownNotification = register_shutdown;
        io::IoUnregisterShutdownNotification = unregister_shutdown;
    }
}

pub(crate) fn table() -> Vec<Implementation> {
    let mut table = shims::table();
    table.extend(irp::table());
    table
}

/// Read and write access, as `CreateFile` with `GENERIC_READ | GENERIC_WRITE` asks for it.
pub(crate) const READ_WRITE: ACCESS_MASK = 0x0012_019f;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Device {
    name: Option<String>,
    driver: usize,
    exclusive: bool,
    secure_open: bool,
    dacl: Option<Vec<(String, ACCESS_MASK)>>,
    open: usize,
    deleted: bool,
    shutdown: bool,
}

#[derive(Debug, Default)]
struct Io {
    devices: BTreeMap<usize, Device>,
    links: HashMap<String, String>,
    /// Device of each open file.
    files: HashMap<usize, usize>,
}

static IO: Mutex<Option<Io>> = Mutex::new(None);

fn with<R>(work: impl FnOnce(&mut Io) -> R) -> R {
    work(IO.lock().get_or_insert_default())
}

fn device_at(address: usize) -> *mut DEVICE_OBJECT {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Ends the test unless this is a device.
pub(crate) fn expect_device(device: *mut DEVICE_OBJECT, what: &str) {
    let address = device.expose_provenance();
    let known = with(|io| io.devices.get(&address).map(|device| device.deleted));
    match known {
        Some(false) => {}
        Some(true) => violation!(Device, "{what} of a device that was deleted"),
        None => violation!(Device, "{what} of {address:#x}, which is no device"),
    }
}

extern "win64" fn create_device(
    driver: *mut DRIVER_OBJECT,
    extension: u32,
    name: *mut UNICODE_STRING,
    kind: u32,
    characteristics: u32,
    exclusive: BOOLEAN,
    result: *mut *mut DEVICE_OBJECT,
) -> NTSTATUS {
    let name = (!name.is_null()).then(|| guest::string(name, "the name of a device"));
    let taken = name.as_ref().is_some_and(|name| {
        with(|io| {
            io.devices
                .values()
                .any(|device| device.name.as_ref().is_some_and(|own| same(own, name)))
        })
    });
    if taken {
        return STATUS_OBJECT_NAME_COLLISION;
    }
    let header = size_of::<DEVICE_OBJECT>();
    let memory = heap::allocate(Kind::Device, header + extension as usize, observe::site());
    // SAFETY: the block is that long.
    unsafe { memory.write_bytes(0, header + extension as usize) };
    let object: *mut DEVICE_OBJECT = memory.cast();
    let owner = guest::borrow(driver, "a driver object");
    let device = guest::borrow(object, "a device");
    device.Type = 3;
    device.Size = (header + extension as usize) as u16;
    device.DriverObject = driver;
    device.NextDevice = owner.DeviceObject;
    device.Flags = DO_DEVICE_INITIALIZING | if exclusive == FALSE { 0 } else { DO_EXCLUSIVE };
    device.Characteristics = characteristics;
    device.DeviceType = kind;
    device.StackSize = 1;
    if extension > 0 {
        // SAFETY: behind the header, inside the block.
        device.DeviceExtension = unsafe { memory.add(header) }.cast();
    }
    owner.DeviceObject = object;
    let known = Device {
        name,
        driver: driver.expose_provenance(),
        exclusive: exclusive != FALSE,
        secure_open: characteristics & FILE_DEVICE_SECURE_OPEN != 0,
        dacl: None,
        open: 0,
        deleted: false,
        shutdown: false,
    };
    with(|io| io.devices.insert(object.expose_provenance(), known));
    guest::write(result, object, "the result of IoCreateDevice");
    STATUS_SUCCESS
}

extern "win64" fn delete_device(object: *mut DEVICE_OBJECT) {
    expect_device(object, "IoDeleteDevice");
    let address = object.addr();
    let device = guest::read(object, "a device");
    let owner = guest::borrow(device.DriverObject, "a driver object");
    let mut link = &raw mut owner.DeviceObject;
    loop {
        let next = guest::read(link, "the list of devices");
        if next.is_null() {
            violation!(
                Device,
                "a device that is deleted is not in its driver's list"
            );
        }
        if next == object {
            guest::write(link, device.NextDevice, "the list of devices");
            break;
        }
        link = &raw mut guest::borrow(next, "a device").NextDevice;
    }
    let gone = with(|io| {
        let device = io.devices.get_mut(&address).expect("looked at above");
        if device.shutdown {
            violation!(
                Device,
                "a device is deleted that still waits for the shutdown"
            );
        }
        device.deleted = true;
        device.name = None;
        device.open == 0
    });
    if gone {
        forget(address);
    }
}

fn forget(device: usize) {
    with(|io| io.devices.remove(&device));
    heap::free(device, "the end of a device", observe::site(), |_| {
        dispatcher::in_use(device, size_of::<DEVICE_OBJECT>())
    });
}

/// Names of objects do not differ by case.
fn same(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

extern "win64" fn create_link(link: *mut UNICODE_STRING, target: *mut UNICODE_STRING) -> NTSTATUS {
    let link = guest::string(link, "the name of a link").to_lowercase();
    let target = guest::string(target, "the target of a link");
    with(|io| {
        if io.links.contains_key(&link) {
            return STATUS_OBJECT_NAME_COLLISION;
        }
        io.links.insert(link, target);
        STATUS_SUCCESS
    })
}

extern "win64" fn delete_link(link: *mut UNICODE_STRING) -> NTSTATUS {
    let link = guest::string(link, "the name of a link").to_lowercase();
    match with(|io| io.links.remove(&link)) {
        Some(_) => STATUS_SUCCESS,
        None => STATUS_OBJECT_NAME_NOT_FOUND,
    }
}

extern "win64" fn register_shutdown(device: *mut DEVICE_OBJECT) -> NTSTATUS {
    expect_device(device, "IoRegisterShutdownNotification");
    with(|io| {
        let device = io.devices.get_mut(&device.addr()).expect("looked at above");
        device.shutdown = true;
    });
    STATUS_SUCCESS
}

extern "win64" fn unregister_shutdown(device: *mut DEVICE_OBJECT) {
    expect_device(device, "IoUnregisterShutdownNotification");
    with(|io| {
        let device = io.devices.get_mut(&device.addr()).expect("looked at above");
        device.shutdown = false;
    });
}

/// The list of who may do what.
pub(crate) fn set_dacl(device: usize, list: Option<Vec<(String, ACCESS_MASK)>>) {
    with(|io| {
        if let Some(device) = io.devices.get_mut(&device) {
            device.dacl = list;
        }
    });
}

/// The list of a device with that name: nothing if there is no such device, or no list.
pub(crate) fn dacl(name: &str) -> Option<Vec<(String, ACCESS_MASK)>> {
    with(|io| {
        io.devices
            .values()
            .find(|device| device.name.as_ref().is_some_and(|own| same(own, name)))
            .and_then(|device| device.dacl.clone())
    })
}

/// Names of devices, and links with their targets.
pub(crate) fn names() -> (Vec<String>, Vec<(String, String)>) {
    with(|io| {
        let devices = io
            .devices
            .values()
            .filter_map(|device| device.name.clone())
            .collect();
        let links = io
            .links
            .iter()
            .map(|(link, target)| (link.clone(), target.clone()))
            .collect();
        (devices, links)
    })
}

/// After `DriverEntry` the I/O manager itself opens the devices that it made.
pub(crate) fn entry_done(driver: usize) {
    let devices: Vec<usize> = with(|io| {
        io.devices
            .iter()
            .filter(|(_, device)| device.driver == driver)
            .map(|(address, _)| *address)
            .collect()
    });
    for device in devices {
        guest::borrow(device_at(device), "a device").Flags &= !DO_DEVICE_INITIALIZING;
    }
}

/// What a driver has not deleted.
pub(crate) fn pending(driver: usize) -> Vec<String> {
    with(|io| {
        let mut pending: Vec<String> = io
            .devices
            .values()
            .filter(|device| device.driver == driver)
            .map(|device| {
                format!(
                    "the device {} is there",
                    device.name.as_deref().unwrap_or("without a name")
                )
            })
            .collect();
        let names: Vec<&str> = io
            .devices
            .values()
            .filter_map(|device| device.name.as_deref())
            .collect();
        pending.extend(
            io.links
                .iter()
                .filter(|(_, target)| !names.iter().any(|name| same(name, target)))
                .map(|(link, _)| format!("the symbolic link {link} is there")),
        );
        pending
    })
}

/// How many files of a driver's devices are open.
pub(crate) fn open_files(driver: usize) -> usize {
    with(|io| {
        io.devices
            .values()
            .filter(|device| device.driver == driver)
            .map(|device| device.open)
            .sum()
    })
}

/// Opens `\??\NAME` or `\Device\NAME`, with what may follow. Returns the file and its device.
pub(crate) fn open(path: &str, caller: Caller) -> Result<(usize, usize), NTSTATUS> {
    let (device, rest) = with(|io| {
        let lower = path.to_lowercase();
        let (name, rest) = io
            .links
            .iter()
            .find_map(|(link, target)| {
                let rest = lower.strip_prefix(link.as_str())?;
                (rest.is_empty() || rest.starts_with('\\'))
                    .then(|| (target.clone(), path[link.len()..].to_owned()))
            })
            .unwrap_or_else(|| {
                let known = io
                    .devices
                    .values()
                    .filter_map(|device| device.name.as_ref())
                    .find(|name| {
                        lower
                            .strip_prefix(&name.to_lowercase())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
                    });
                match known {
                    Some(name) => (name.clone(), path[name.len()..].to_owned()),
                    None => (path.to_owned(), String::new()),
                }
            });
        let (address, device) = io
            .devices
            .iter_mut()
            .find(|(_, device)| device.name.as_ref().is_some_and(|own| same(own, &name)))
            .ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
        if device.deleted {
            return Err(STATUS_DELETE_PENDING);
        }
        if device.exclusive && device.open > 0 {
            return Err(STATUS_ACCESS_DENIED);
        }
        // Without FILE_DEVICE_SECURE_OPEN nobody looks at the list for names below the device.
        let guarded = rest.is_empty() || device.secure_open;
        if guarded && !caller.may(device.dacl.as_deref(), READ_WRITE) {
            return Err(STATUS_ACCESS_DENIED);
        }
        Ok((*address, rest))
    })?;
    if guest::read(device_at(device), "a device").Flags & DO_DEVICE_INITIALIZING != 0 {
        return Err(STATUS_OBJECT_NAME_NOT_FOUND);
    }
    with(|io| io.devices.get_mut(&device).expect("found above").open += 1);
    let file = new_file(device, &rest);
    let request = irp::send(device, IRP_MJ_CREATE, file, &Parameters::None);
    let (status, _) = irp::wait(&request);
    if status < 0 {
        end_file(file, device);
        return Err(status);
    }
    with(|io| io.files.insert(file, device));
    Ok((file, device))
}

fn new_file(device: usize, name: &str) -> usize {
    let units: Vec<u16> = name.encode_utf16().collect();
    let header = size_of::<FILE_OBJECT>();
    let size = header + units.len() * 2;
    let memory = heap::allocate(Kind::File, size, 0);
    // SAFETY: the block is that long.
    unsafe { memory.write_bytes(0, size) };
    let file = guest::borrow(memory.cast::<FILE_OBJECT>(), "a file object");
    file.Type = 5;
    file.Size = header as i16;
    file.DeviceObject = device_at(device);
    file.ReadAccess = TRUE;
    file.WriteAccess = TRUE;
    if !units.is_empty() {
        // SAFETY: behind the header, inside the block.
        let text: *mut u16 = unsafe { memory.add(header) }.cast();
        // SAFETY: as above.
        unsafe { text.copy_from_nonoverlapping(units.as_ptr(), units.len()) };
        file.FileName.Buffer = text;
        file.FileName.Length = (units.len() * 2) as u16;
        file.FileName.MaximumLength = file.FileName.Length;
    }
    memory.expose_provenance()
}

fn end_file(file: usize, device: usize) {
    heap::free(file, "the end of a file object", 0, |_| None);
    let gone = with(|io| {
        io.files.remove(&file);
        let device = io.devices.get_mut(&device).expect("open files keep it");
        device.open -= 1;
        device.deleted && device.open == 0
    });
    if gone {
        forget(device);
    }
}

/// Closes the last handle of a file: CLEANUP, then, when no request is left, CLOSE.
pub(crate) fn close(file: usize, device: usize, cleanup: bool) {
    if cleanup {
        let request = irp::send(device, IRP_MJ_CLEANUP, file, &Parameters::None);
        irp::wait(&request);
        irp::none_left(file, "IRP_MJ_CLEANUP");
    }
    let request = irp::send(device, IRP_MJ_CLOSE, file, &Parameters::None);
    irp::wait(&request);
    irp::none_left(file, "IRP_MJ_CLOSE");
    end_file(file, device);
}

/// The machine is shut down: devices that asked for it are told.
pub(crate) fn shutdown() {
    let devices: Vec<usize> = with(|io| {
        io.devices
            .iter()
            .filter(|(_, device)| device.shutdown)
            .map(|(address, _)| *address)
            .collect()
    });
    for device in devices {
        let request = irp::send(device, IRP_MJ_SHUTDOWN, 0, &Parameters::None);
        irp::wait(&request);
    }
}
