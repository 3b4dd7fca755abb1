//! The driver that ships, in the simulated kernel.

mod captures;
mod connects;
mod device;
mod flows;
mod large;
mod lists;
mod nested;
mod packets;
mod pieces;
mod traffic;
mod transport;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use kext_ntsim::Sim;
use kext_ntsim::harness::{self, Outcome, Test};

fn driver() -> PathBuf {
    harness::built("PortmasterKext64.sys")
}

pub(crate) fn load() -> Sim {
    Sim::load(&driver()).expect("the driver loads")
}

/// A test that has to pass.
pub(crate) const fn passes(name: &'static str, run: fn()) -> Test {
    Test {
        name,
        outcome: Outcome::Passes,
        run,
    }
}

static TESTS: LazyLock<Vec<Test>> = LazyLock::new(|| {
    [
        device::TESTS,
        packets::TESTS,
        flows::TESTS,
        large::TESTS,
        lists::TESTS,
        nested::TESTS,
        pieces::TESTS,
        connects::TESTS,
        captures::TESTS,
    ]
    .concat()
});

fn main() -> ExitCode {
    harness::main(&TESTS, &[driver(), harness::built("NtsimBroken64.sys")])
}
