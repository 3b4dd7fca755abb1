//! Memory descriptor lists.

use kext_nt_sys::io::{
    IRP, MDL, MDL_ALLOCATED_FIXED_SIZE, MDL_MAPPED_TO_SYSTEM_VA, MDL_PARTIAL,
    MDL_SOURCE_IS_NONPAGED_POOL, MEMORY_CACHING_TYPE,
};
use kext_nt_sys::ke::KPROCESSOR_MODE;
use kext_nt_sys::types::{BOOLEAN, FALSE, PVOID};

use crate::check::violation;
use crate::exports::implements;
use crate::guest;
use crate::heap::{self, Kind};
use crate::image;
use crate::observe;

implements! {
    [null] io::IoAllocateMdl = allocate;
    io::IoFreeMdl = free;
    io::IoBuildPartialMdl = build_partial;
    io::MmBuildMdlForNonPagedPool = build;
    [null] io::MmMapLockedPagesSpecifyCache = map;
    io::MmUnmapLockedPages = unmap;
}

const PAGE: usize = 4096;

extern "win64" fn allocate(
    memory: PVOID,
    length: u32,
    secondary: BOOLEAN,
    quota: BOOLEAN,
    irp: *mut IRP,
) -> *mut MDL {
    if secondary != FALSE || quota != FALSE || !irp.is_null() {
        violation!(Argument, "IoAllocateMdl for a request");
    }
    create(memory, length, Kind::Mdl, observe::site())
}

/// A list for this memory, not yet built.
pub(crate) fn create(memory: PVOID, length: u32, kind: Kind, site: usize) -> *mut MDL {
    let address = memory.expose_provenance();
    let offset = address % PAGE;
    let pages = (offset + length as usize).div_ceil(PAGE);
    let size = size_of::<MDL>() + pages * 8;
    let mdl: *mut MDL = heap::allocate(kind, size, site).cast();
    let fresh = MDL {
        Next: std::ptr::null_mut(),
        Size: size as i16,
        MdlFlags: MDL_ALLOCATED_FIXED_SIZE,
        AllocationProcessorNumber: 0,
        Reserved: 0,
        Process: std::ptr::null_mut(),
        MappedSystemVa: std::ptr::null_mut(),
        StartVa: memory.with_addr(address - offset),
        ByteCount: length,
        ByteOffset: offset as u32,
    };
    guest::write(mdl, fresh, "an MDL");
    mdl
}

extern "win64" fn free(mdl: *mut MDL) {
    heap::free(
        mdl.expose_provenance(),
        "IoFreeMdl",
        observe::site(),
        |block| (block.kind != Kind::Mdl).then(|| "it is no MDL of the driver".into()),
    );
}

/// Where the memory of a list begins.
pub(crate) fn start(mdl: &MDL) -> usize {
    mdl.StartVa.addr() + mdl.ByteOffset as usize
}

/// Ends the test unless all of this memory is there and stays in place.
pub(crate) fn expect_resident(address: usize, length: usize, what: &str) {
    heap::expect_alive(address, what);
    if image::containing(address).is_some() && image::containing(address + length).is_some() {
        return;
    }
    match heap::containing(address) {
        Some(block) if address + length > block.address + block.size => {
            violation!(
                NetBuffer,
                "{what} is longer than its memory, a {}",
                block.describe()
            );
        }
        Some(block) if matches!(block.kind, Kind::Pool { paged: true, .. }) => {
            violation!(
                NetBuffer,
                "{what} is in paged memory, a {}",
                block.describe()
            );
        }
        Some(_) => {}
        None => violation!(
            NetBuffer,
            "{what} at {address:#x} is not in memory of the pool"
        ),
    }
}

pub(crate) extern "win64" fn build(mdl: *mut MDL) {
    heap::expect_alive(mdl.addr(), "an MDL");
    let mdl = guest::borrow(mdl, "an MDL");
    if mdl.MdlFlags & (MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL) != 0 {
        violation!(
            NetBuffer,
            "MmBuildMdlForNonPagedPool of an MDL that was built already"
        );
    }
    expect_resident(start(mdl), mdl.ByteCount as usize, "the memory of an MDL");
    mdl.MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
    mdl.MappedSystemVa = std::ptr::with_exposed_provenance_mut(start(mdl));
}

extern "win64" fn build_partial(source: *mut MDL, target: *mut MDL, memory: PVOID, length: u32) {
    let source = guest::read(source, "an MDL");
    let target = guest::borrow(target, "an MDL");
    let length = if length == 0 {
        source.ByteCount - (memory.addr() - start(&source)) as u32
    } else {
        length
    };
    let inside = memory.addr() >= start(&source)
        && memory.addr() + length as usize <= start(&source) + source.ByteCount as usize;
    if !inside {
        violation!(
            NetBuffer,
            "IoBuildPartialMdl of memory that its source does not have"
        );
    }
    target.StartVa = memory.map_addr(|address| address & !(PAGE - 1));
    target.ByteOffset = (memory.addr() % PAGE) as u32;
    target.ByteCount = length;
    target.MdlFlags |= MDL_PARTIAL | (source.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL);
    target.MappedSystemVa = memory;
}

extern "win64" fn map(
    mdl: *mut MDL,
    _: KPROCESSOR_MODE,
    _: MEMORY_CACHING_TYPE,
    _: PVOID,
    bug_check: u32,
    _: u32,
) -> PVOID {
    if bug_check != 0 {
        violation!(
            Argument,
            "MmMapLockedPagesSpecifyCache with a bug check on failure"
        );
    }
    let mdl = guest::borrow(mdl, "an MDL");
    mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    mdl.MappedSystemVa = std::ptr::with_exposed_provenance_mut(start(mdl));
    mdl.MappedSystemVa
}

extern "win64" fn unmap(_: PVOID, mdl: *mut MDL) {
    let mdl = guest::borrow(mdl, "an MDL");
    if mdl.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA == 0 {
        violation!(NetBuffer, "MmUnmapLockedPages of an MDL that is not mapped");
    }
    mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA;
}
