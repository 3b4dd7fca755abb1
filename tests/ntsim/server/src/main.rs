//! A machine of its own for a test: loads a driver into ntsim, and serves its device to one client.
//!
//! `kext-ntsim-server SOCKET DRIVER DEVICE [--local NETWORK]... [--realtime] [--defect NAME]`
//!
//! `DRIVER` is the `.sys`; `DEVICE` is `replay:FILE` or `synthetic:COUNT`, whose packets the machine
//! sends and receives while a read waits. It says `ready` when a client may connect to the socket
//! (`socket:PATH` of the client library), and ends when that client has gone, or its standard input
//! ends before one came: what was held must be settled then, counters balance, and the driver leave
//! nothing behind. Its last lines are the counters. Exit status: 0 if all was as it should be, 86 if
//! ntsim reported that a rule was broken, else 1 with the reason.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![forbid(unsafe_code)]

mod balance;
mod serve;
mod traffic;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kext_client::{Device, IpNet};
use kext_hosts::replay::Packets;
use kext_ntsim::{Sim, set_clock};
use kext_ntsim_drivers::Defect;

use traffic::Traffic;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the command line says.
#[derive(Default)]
struct Arguments {
    plain: Vec<String>,
    local: Vec<IpNet>,
    realtime: bool,
    defect: Option<Defect>,
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut read = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--local" => read.local.push(value()?.parse()?),
                "--defect" => read.defect = Some(defect(&value()?)?),
                "--realtime" => read.realtime = true,
                _ => read.plain.push(argument),
            }
        }
        Ok(read)
    }
}

/// The defect of the driver that breaks rules, by its name.
fn defect(name: &str) -> Result<Defect, Failure> {
    let mut all = Defect::ALL.iter().copied();
    all.find(|defect| format!("{defect:?}") == name)
        .ok_or_else(|| format!("{name} is no defect of kext-ntsim-drivers").into())
}

/// Whether nobody will connect any more.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// When the standard input ends, whoever started this has gone, or wants no client any more.
fn give_up_with_input(socket: PathBuf) {
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        GIVEN_UP.store(true, Ordering::SeqCst);
        // Ends the wait for a client; once there is one, nobody listens.
        drop(UnixStream::connect(socket));
    });
}

fn run() -> Result<(), Failure> {
    let arguments = Arguments::read(std::env::args().skip(1))?;
    let [socket, driver, device] = arguments.plain.as_slice() else {
        return Err("usage: kext-ntsim-server SOCKET DRIVER DEVICE [OPTION]...".into());
    };
    let packets = match device.parse()? {
        Device::Replay(file) => Packets::capture(&file, &arguments.local)?,
        Device::Synthetic(what) => Packets::synthetic(what),
        other => return Err(format!("{other} has no packets to send").into()),
    };
    let traffic = Traffic::new(packets, arguments.realtime)?;
    if let Some(first) = traffic.first() {
        set_clock(first);
    }
    // The driver that breaks rules finds which in the name of its service.
    let loaded = match arguments.defect {
        Some(defect) => Sim::load_as(driver.as_ref(), &(defect as u32).to_string()),
        None => Sim::load(driver.as_ref()),
    };
    let sim = loaded.map_err(|error| format!("{driver} does not load: {error:?}"))?;

    let listener = UnixListener::bind(socket)?;
    give_up_with_input(socket.into());
    writeln!(std::io::stdout(), "ready")?;
    let client = listener.accept()?.0;
    drop(listener);
    std::fs::remove_file(socket)?;

    let served = if GIVEN_UP.load(Ordering::SeqCst) {
        Ok(())
    } else {
        serve::serve(&sim, client, traffic)
    };
    let balance = balance::counted(&sim);
    sim.unload();
    served?;
    let mut out = std::io::stdout();
    for (name, value) in balance? {
        writeln!(out, "{name} {value}")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kext-ntsim-server: {error}");
            ExitCode::FAILURE
        }
    }
}
