//! What is checked, and how a violation ends the process.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::observe;
use crate::symbols;

/// The status with which a process ends whose driver broke a rule.
pub const EXIT_VIOLATION: i32 = 86;

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)+) => {
        /// The rules that a driver can break here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Check { $($(#[doc = $doc])* $name,)+ }

        impl Check {
            /// As a report names it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

checks! {
    /// A function was called, or a routine returned, at an IRQL that is not allowed.
    Irql = "irql";
    /// Memory of the pool: wrong tag, freed twice, overrun, wrong kind.
    Pool = "pool";
    /// Memory was touched after it was given back.
    UseAfterFree = "use after free";
    /// Something was not given back when the driver was unloaded.
    Leak = "leak";
    /// A spin lock was misused.
    SpinLock = "spin lock";
    /// Two locks are taken in both orders.
    LockOrder = "lock order";
    /// A wait that nothing can end.
    Deadlock = "deadlock";
    /// A request was completed twice, never, wrongly, or touched afterwards.
    Irp = "irp";
    /// A request was not cancelled as it should.
    Cancel = "cancel";
    /// An object was used before it was initialised, or given back while in use.
    Object = "object";
    /// A device, a link or a driver object was misused.
    Device = "device";
    /// An argument that the function does not allow.
    Argument = "argument";
    /// What a callout returned, or did to what it was lent.
    Callout = "callout";
    /// A packet that was lent was not left as it was.
    Lent = "lent packet";
    /// An injection that is not allowed.
    Injection = "injection";
    /// A net buffer list or its pool was misused.
    NetBuffer = "net buffer";
    /// A call of the filter engine that is not allowed.
    Engine = "filter engine";
    /// A pended operation or classification was not completed exactly once.
    Pended = "pended operation";
    /// The driver used more of the stack than its share.
    Stack = "stack";
    /// A function that is imported and not there.
    Import = "import";
    /// An access to memory that is not there, or a forbidden instruction.
    Access = "access";
    /// The driver stopped the system.
    BugCheck = "bug check";
}

static REPORTED: AtomicBool = AtomicBool::new(false);

/// Ends the process with a report: the rule, what happened, where, and the calls before it.
pub(crate) fn end_with(check: Check, what: &str) -> ! {
    report(check, what, &observe::stack())
}

/// As [`end_with`], for code at these addresses, the innermost first.
pub(crate) fn report(check: Check, what: &str, stack: &[usize]) -> ! {
    if REPORTED.swap(true, Ordering::SeqCst) {
        // Another thread is reporting, and ends the process; or the report itself failed.
        // SAFETY: both functions may be called anywhere.
        unsafe {
            libc::sleep(20);
            libc::_exit(EXIT_VIOLATION);
        }
    }
    // A report that hangs, on a lock that the fault left taken, must not hang the test.
    // SAFETY: changes the action of one signal, and starts a timer.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(15);
    }
    let mut text = format!("ntsim: violation: {}\n  {what}\n", check.name());
    let recent = observe::recent();
    let mut addresses = stack.to_vec();
    addresses.extend(recent.iter().map(|call| call.from));
    // Printed first without places, in case that looking them up fails.
    eprint!("{text}");
    text.clear();
    let places = symbols::places(&addresses);
    for place in &places[..stack.len()] {
        let _ = writeln!(text, "  at {place}");
    }
    let _ = writeln!(text, "  recent calls of this thread, the last first:");
    for (call, place) in recent.iter().zip(&places[stack.len()..]) {
        let _ = writeln!(text, "    {} from {place}", call.name);
    }
    eprint!("{text}");
    // SAFETY: ends the process; nothing may unwind across the driver's frames.
    unsafe { libc::_exit(EXIT_VIOLATION) }
}

/// `violation!(Irql, "…", …)`.
macro_rules! violation {
    ($check:ident, $($text:tt)+) => {
        $crate::check::end_with($crate::check::Check::$check, &format!($($text)+))
    };
}
pub(crate) use violation;
