//! What is left: processors, the end of the system, messages, random numbers.

use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use kext_nt_sys::bcrypt::BCRYPT_USE_SYSTEM_PREFERRED_RNG;
use kext_nt_sys::ke::{PASSIVE_LEVEL, PROCESSOR_NUMBER};
use kext_nt_sys::status::{NTSTATUS, STATUS_SUCCESS};
use kext_nt_sys::types::HANDLE;
use parking_lot::Mutex;

use crate::check::violation;
use crate::cpu::{self, PROCESSORS};
use crate::exports::{Implementation, implements};
use crate::guest;
use crate::image;

implements! {
    ke::KeGetCurrentProcessorNumberEx = current_processor;
    ke::KeQueryActiveProcessorCountEx = processors;
    ke::KeQueryMaximumProcessorCountEx = processors;
    ke::KeBugCheckEx = bug_check;
    [status] bcrypt::BCryptGenRandom = random;
}

/// `DbgPrintEx` takes any number of arguments, which our side cannot declare: it takes eight.
pub(crate) fn variadic() -> Vec<Implementation> {
    vec![Implementation {
        name: "DbgPrintEx",
        address: print as *const () as usize,
        direct: false,
        failure: None,
    }]
}

extern "win64" fn current_processor(number: *mut PROCESSOR_NUMBER) -> u32 {
    let processor = cpu::processor();
    let found = PROCESSOR_NUMBER {
        Group: 0,
        Number: processor as u8,
        Reserved: 0,
    };
    guest::write_optional(number, found, "the number of a processor");
    processor as u32
}

extern "win64" fn processors(_: u16) -> u32 {
    PROCESSORS as u32
}

extern "win64" fn bug_check(code: u32, a: usize, b: usize, c: usize, d: usize) -> ! {
    // A panic of ours names its file: the address and length of the name, line and column.
    let file = (image::containing(a).is_some() && image::containing(a + b).is_some() && b < 4096)
        .then(|| String::from_utf8_lossy(guest::bytes(place(a), b, "a file's name")).into_owned());
    match file {
        Some(file) => {
            violation!(BugCheck, "bug check {code:#x}: panic at {file}:{c}:{d}")
        }
        None => violation!(
            BugCheck,
            "bug check {code:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x})"
        ),
    }
}

fn place(address: usize) -> *const u8 {
    std::ptr::with_exposed_provenance(address)
}

static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());
const MOST_MESSAGES: usize = 1000;

/// What the driver has said.
pub(crate) fn messages() -> Vec<String> {
    MESSAGES.lock().clone()
}

#[expect(
    clippy::many_single_char_names,
    reason = "as many as our messages can have"
)]
extern "win64" fn print(
    _component: u32,
    level: u32,
    format: *const c_char,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> NTSTATUS {
    if format.is_null() {
        violation!(Argument, "DbgPrintEx without a format");
    }
    // SAFETY: the driver promises a string that ends.
    let format = unsafe { CStr::from_ptr(format) }
        .to_string_lossy()
        .into_owned();
    if cpu::irql() > PASSIVE_LEVEL
        && ["%ws", "%ls", "%S", "%wZ", "%C", "%lc"]
            .iter()
            .any(|wide| format.contains(wide))
    {
        violation!(
            Irql,
            "DbgPrintEx of wide text at {}",
            cpu::irql_name(cpu::irql())
        );
    }
    let text = formatted(&format, &[a, b, c, d, e, f]);
    let mut messages = MESSAGES.lock();
    if messages.len() < MOST_MESSAGES {
        messages.push(format!("{level}: {}", text.trim_end()));
    }
    STATUS_SUCCESS
}

/// A message with its arguments: numbers, addresses, and text with or without a length.
fn formatted(format: &str, arguments: &[usize]) -> String {
    let mut arguments = arguments.iter().copied();
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut length = None;
        let mut wide = false;
        for part in rest.by_ref() {
            match part {
                '.' | '-' | '#' | '0'..='9' => continue,
                '*' => {
                    length = arguments.next();
                    continue;
                }
                'l' | 'I' => {
                    wide = true;
                    continue;
                }
                's' => text.push_str(&narrow(arguments.next().unwrap_or(0), length)),
                'd' | 'i' | 'u' | 'x' | 'X' | 'p' => {
                    let value = arguments.next().unwrap_or(0);
                    let wide = wide || part == 'p';
                    let value = if wide { value } else { value as u32 as usize };
                    let _ = match part {
                        'd' | 'i' if wide => write!(text, "{}", value.cast_signed()),
                        'd' | 'i' => write!(text, "{}", (value as u32).cast_signed()),
                        'u' => write!(text, "{value}"),
                        _ => write!(text, "{value:x}"),
                    };
                }
                other => text.push(other),
            }
            break;
        }
    }
    text
}

fn narrow(address: usize, length: Option<usize>) -> String {
    let at = place(address);
    let bytes = match length {
        Some(length) => guest::bytes(at, length & 0xffff, "text of a message"),
        None if at.is_null() => b"(null)",
        // SAFETY: the driver promises a string that ends.
        None => unsafe { CStr::from_ptr(at.cast()) }.to_bytes(),
    };
    String::from_utf8_lossy(bytes).into_owned()
}

static RANDOM: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// The same numbers in every run.
extern "win64" fn random(algorithm: HANDLE, buffer: *mut u8, length: u32, flags: u32) -> NTSTATUS {
    if algorithm.is_null() {
        if flags & BCRYPT_USE_SYSTEM_PREFERRED_RNG == 0 {
            violation!(
                Argument,
                "BCryptGenRandom with neither a provider nor the system's"
            );
        }
        if cpu::irql() > PASSIVE_LEVEL {
            violation!(
                Irql,
                "BCryptGenRandom with the system's provider at {}",
                cpu::irql_name(cpu::irql())
            );
        }
    }
    for byte in guest::bytes_mut(buffer, length as usize, "random bytes") {
        let state = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        *byte = (mixed >> 56) as u8;
    }
    STATUS_SUCCESS
}
