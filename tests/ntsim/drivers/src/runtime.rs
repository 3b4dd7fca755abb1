//! What Rust and the linker want of a program without an operating system under it.

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line, column) = info.location().map_or(("", 0, 0), |place| {
        (place.file(), place.line(), place.column())
    });
    unsafe {
        kext_nt_sys::ke::KeBugCheckEx(
            0x4b45_5854,
            file.as_ptr().addr(),
            file.len(),
            line as usize,
            column as usize,
        )
    }
}

/// The linker asks for it where code touches floating point.
#[unsafe(no_mangle)]
#[used]
static _fltused: i32 = 0;
