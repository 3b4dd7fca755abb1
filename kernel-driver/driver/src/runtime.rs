//! What Rust and the linker want of a program without an operating system under it.

/// `KEXT`: the bug check of a panic. Its parameters are the address and length of the file's name,
/// the line and the column.
#[cfg(windows)]
const BUG_CHECK_PANIC: u32 = 0x4b45_5854;

/// Everything that is allocated is in nonpaged memory.
#[cfg(windows)]
#[global_allocator]
static ALLOCATOR: kext_nt::pool::Nonpaged = kext_nt::pool::Nonpaged;

/// There is no way to go on: a panic is a broken invariant, and the kernel cannot unwind.
#[cfg(windows)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line, column) = info.location().map_or(("", 0, 0), |place| {
        (place.file(), place.line(), place.column())
    });
    // SAFETY: callable at any IRQL; the parameters are numbers to it.
    unsafe {
        kext_nt_sys::ke::KeBugCheckEx(
            BUG_CHECK_PANIC,
            file.as_ptr().addr(),
            file.len(),
            line as usize,
            column as usize,
        )
    }
}

/// The linker asks for it where code touches floating point. Ours is its presence only.
#[cfg(windows)]
#[unsafe(no_mangle)]
#[used]
static _fltused: i32 = 0;

/// A `core` that was compiled elsewhere, for programs that unwind, names this handler in its unwind
/// tables. Nothing here unwinds, so nobody calls it.
#[cfg(windows)]
#[unsafe(no_mangle)]
extern "win64" fn __CxxFrameHandler3() -> i32 {
    0
}
