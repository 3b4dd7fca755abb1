//! Faults of the processor: a register of the kernel is emulated, everything else ends the test with
//! what the address was.

use std::ffi::{c_int, c_void};
use std::sync::Once;

use crate::check::{self, Check};
use crate::cpu;
use crate::heap;
use crate::image;
use crate::observe;

/// Shared user data, which the kernel maps at a fixed address.
const SHARED_USER_DATA: std::ops::Range<usize> = 0xffff_f780_0000_0000..0xffff_f780_0000_1000;

/// Catches faults from now on.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGFPE,
        ] {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
            // SAFETY: the action is filled completely, and the handler has this signature.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    });
}

/// A copy of `mov REGISTER, cr8` or the reverse: the register's number, whether it is read, length.
fn level_access(code: &[u8]) -> Option<(usize, bool, usize)> {
    let [
        rex @ 0x44..=0x45,
        0x0f,
        direction @ (0x20 | 0x22),
        modrm,
        ..,
    ] = *code
    else {
        return None;
    };
    // cr8 is register 0 of the second eight.
    if modrm & 0xf8 != 0xc0 {
        return None;
    }
    let register = usize::from(modrm & 7) | usize::from(rex & 1) << 3;
    Some((register, direction == 0x20, 4))
}

/// Where the context of a signal keeps each general register, in the order of their numbers.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes both, and nobody else has them.
    let (address, registers) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        (
            (*info).si_addr().expose_provenance(),
            &mut context.uc_mcontext.gregs,
        )
    };
    let at = registers[libc::REG_RIP as usize] as usize;
    let inside = image::containing(at);
    if let Some(image) = inside
        && signal == libc::SIGSEGV
        && address == 0
    {
        let length = 8.min(image.base + image.size - at);
        // SAFETY: the bytes are those of the instruction that ran, and inside the image.
        let code = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(at), length)
        };
        if let Some((register, true, length)) = level_access(code) {
            registers[REGISTERS[register] as usize] = i64::from(cpu::irql());
            registers[libc::REG_RIP as usize] += length as i64;
            return;
        }
        if level_access(code).is_some() {
            check::report(
                Check::Irql,
                "the level is changed behind the kernel's back",
                &[at],
            );
        }
    }
    let kind = match signal {
        libc::SIGSEGV | libc::SIGBUS => "access to memory that is not there",
        libc::SIGILL => "an instruction that is none",
        libc::SIGTRAP => "a breakpoint",
        _ => "an arithmetic fault",
    };
    let what = if SHARED_USER_DATA.contains(&address) {
        "shared user data, which is read through functions here".to_owned()
    } else if address == 0 {
        "address 0, or one that cannot exist".to_owned()
    } else if let Some(image) = image::containing(address) {
        format!(
            "the image of {}, at offset {:#x}",
            image.path.display(),
            address - image.base
        )
    } else {
        heap::explain(address).unwrap_or_else(|| format!("address {address:#x}"))
    };
    let place = if inside.is_some() {
        "by the driver"
    } else {
        "by a function it called"
    };
    let (check, stack) = if what.contains("freed") {
        (Check::UseAfterFree, [at])
    } else {
        (Check::Access, [at])
    };
    let mut stack = stack.to_vec();
    if inside.is_none() {
        stack.extend(observe::stack());
    }
    check::report(check, &format!("{kind} {place}: {what}"), &stack);
}
