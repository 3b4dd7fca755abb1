//! Every call from the driver into the simulated kernel passes here first.
//!
//! A stub of the import jumps to `common`, which asks [`observe`] where to go on: there the IRQL is
//! compared with the limits of the function, the call is remembered for reports, the depth of the
//! stack is measured, and a failure may be chosen in place of the function.

use std::cell::Cell;

use kext_nt_sys::ke::KIRQL;

use crate::check::violation;
use crate::cpu;
use crate::faults;
use crate::moment;
use crate::unwind;

/// An import of a driver.
#[derive(Debug)]
pub(crate) struct Imported {
    /// `module!function`.
    pub(crate) name: &'static str,
    pub(crate) min_irql: KIRQL,
    pub(crate) max_irql: KIRQL,
    /// Where it is implemented, if it is.
    pub(crate) address: Option<usize>,
    /// Called without a look at it.
    pub(crate) direct: bool,
    /// How it fails, if it can: what it returns then.
    pub(crate) failure: Option<usize>,
}

/// A call that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// The address after the call.
    pub(crate) from: usize,
}

const REMEMBERED: usize = 64;
const SHOWN: usize = 16;

thread_local! {
    static RECENT: [Cell<Option<Call>>; REMEMBERED] = const { [const { Cell::new(None) }; REMEMBERED] };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    /// The last call: its return address and the stack pointer after it returns.
    static LAST: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Where stubs jump to.
pub(crate) fn entrance() -> usize {
    common as *const () as usize
}

/// In: rax is the import; the stack and the argument registers are the caller's.
#[unsafe(naked)]
extern "win64" fn common() {
    core::arch::naked_asm!(
        "push rcx",
        "push rdx",
        "push r8",
        "push r9",
        "sub rsp, 0x28",
        "mov rcx, rax",
        "mov rdx, [rsp + 0x48]",
        "lea r8, [rsp + 0x50]",
        "call {observe}",
        "add rsp, 0x28",
        "pop r9",
        "pop r8",
        "pop rdx",
        "pop rcx",
        "jmp rax",
        observe = sym observe,
    )
}

extern "win64" fn observe(imported: &'static Imported, from: usize, stack: usize) -> usize {
    LAST.set((from, stack));
    let at = NEXT.get();
    RECENT.with(|recent| {
        recent[at % REMEMBERED].set(Some(Call {
            name: imported.name,
            from,
        }));
    });
    NEXT.set(at.wrapping_add(1));
    let Some(address) = imported.address else {
        violation!(Import, "{} is not there", imported.name);
    };
    let irql = cpu::irql();
    if irql < imported.min_irql || irql > imported.max_irql {
        violation!(
            Irql,
            "{} was called at {}; it may be called {}",
            imported.name,
            cpu::irql_name(irql),
            limits(imported)
        );
    }
    cpu::measure_stack(stack);
    moment::reached(imported);
    // If something was done meanwhile, the driver may have called from inside it.
    LAST.set((from, stack));
    faults::choose(imported).unwrap_or(address)
}

fn limits(imported: &Imported) -> String {
    let highest = cpu::irql_name(imported.max_irql);
    if imported.min_irql == imported.max_irql {
        format!("at {highest} only")
    } else if imported.min_irql == 0 {
        format!("up to {highest}")
    } else {
        format!("from {} to {highest}", cpu::irql_name(imported.min_irql))
    }
}

/// The driver's frames at the last call, the innermost first.
pub(crate) fn stack() -> Vec<usize> {
    let (from, stack) = LAST.get();
    unwind::frames(from, stack)
}

/// The last calls of this thread, the last first.
pub(crate) fn recent() -> Vec<Call> {
    let next = NEXT.get();
    (1..=SHOWN)
        .filter_map(|back| {
            let at = next.wrapping_sub(back);
            RECENT.with(|recent| recent[at % REMEMBERED].get())
        })
        .collect()
}

/// The functions that this thread has the driver call in `run`, in their order; of very many, the
/// last ones.
pub fn calls_of(run: impl FnOnce()) -> Vec<&'static str> {
    let before = NEXT.get();
    run();
    let count = NEXT.get().wrapping_sub(before).min(REMEMBERED);
    (1..=count)
        .rev()
        .filter_map(|back| {
            let at = NEXT.get().wrapping_sub(back);
            RECENT.with(|recent| recent[at % REMEMBERED].get())
        })
        .map(|call| call.name)
        .collect()
}

/// What called last, for what wants to say later who it was.
pub(crate) fn site() -> usize {
    LAST.get().0
}

/// For a failure by call site: the return address, and those of the driver's frames around it.
pub(crate) fn whole_site() -> Vec<usize> {
    stack()
}
