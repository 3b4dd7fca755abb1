//! `cargo xtask driver [--twice]`: builds `target/driver/PortmasterKext64.sys` with its PDB, and
//! checks it. Nothing is installed.
//!
//! Works on Linux and on Windows, without the Windows Driver Kit: the crate is compiled to a static
//! library for Windows, which one call of LLVM's linker makes a driver. What decides about the file
//! is all here: flags of the compiler, flags of the linker, the version resource, the checks.

mod checks;
pub(crate) mod package;
mod resource;
#[cfg(test)]
mod sample;
mod unwind;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::failure::{Failure, Result};
use crate::report::Counts;
use crate::run::{run as run_command, works};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

use checks::{CHECKS, Expected};
use resource::Version;

/// The name of the driver, its file and its service. User mode knows it.
const NAME: &str = "PortmasterKext64";
const PACKAGE: &str = "kext-driver";
const LIBRARY: &str = "kext_driver.lib";
const TARGET: &str = "x86_64-pc-windows-msvc";
const PROFILE: &str = "driver";
/// What the driver may import, as reviewed.
const IMPORTS: &str = "kernel-driver/driver/imports.txt";

/// Where the compiler works, and where the result is.
const BUILD: &str = "target/driver-build";
const RESULT: &str = "target/driver";

/// The version resource. Its number is that of the workspace.
const VERSION: Version<'static> = Version {
    number: env!("CARGO_PKG_VERSION"),
    file_name: "PortmasterKext64.sys",
    product: "portmaster-kext",
    description: "Portmaster packet filter driver",
    company: "The portmaster-kext authors",
    copyright: "MIT OR Apache-2.0",
};

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let twice = match arguments {
        [] => false,
        [flag] if flag == "--twice" => true,
        _ => return Err(Failure::Usage("usage: cargo xtask driver [--twice]".into())),
    };
    let driver = Driver::build(workspace, BUILD, RESULT)?;
    let mut faults = Vec::new();
    for check in &CHECKS {
        faults.extend(check.faults(&driver.sys, &driver.expected()));
    }
    if twice {
        faults.extend(driver.differs_from_another_build(workspace)?);
    }
    Failure::unless_empty(faults)?;
    driver.describe(workspace, twice);
    Ok(())
}

/// The same as a test tier: each check is a test, and so is it that two builds are equal.
pub(crate) fn tier(workspace: &Workspace) -> Result<Counts> {
    let driver = Driver::build(workspace, BUILD, RESULT)?;
    let mut counts = Counts::ONE;
    let results = CHECKS
        .iter()
        .map(|check| (check.name, check.faults(&driver.sys, &driver.expected())))
        .chain([(
            "two builds are equal",
            driver.differs_from_another_build(workspace)?,
        )]);
    for (name, faults) in results {
        let word = if faults.is_empty() { "ok" } else { "FAILED" };
        println!("{name} ... {word}");
        for fault in &faults {
            println!("  {fault}");
        }
        if faults.is_empty() {
            counts.passed += 1;
        } else {
            counts.failed += 1;
        }
    }
    driver.describe(workspace, true);
    Ok(counts)
}

/// Builds what the tier `ntsim` loads: the driver that ships, and one that breaks rules.
pub(crate) fn build_for_ntsim(workspace: &Workspace) -> Result<()> {
    const BROKEN: &str = "NtsimBroken64";
    const LIBRARY: &str = "kext_ntsim_drivers.lib";
    Driver::build(workspace, BUILD, RESULT)?;
    let toolchain = Toolchain::find(workspace, TARGET)?;
    let linker = Linker::find(workspace, toolchain)?;
    compile(workspace, toolchain, "kext-ntsim-drivers", BUILD)?;
    let folder = workspace.path(BUILD).join(TARGET).join(PROFILE);
    let mut link = linker.command();
    link.current_dir(&folder)
        .args(link_arguments(BROKEN, LIBRARY));
    run_command(&mut link)?;
    let result = workspace.path(RESULT);
    for extension in ["sys", "pdb"] {
        let name = format!("{BROKEN}.{extension}");
        let from = folder.join(&name);
        fs::copy(&from, result.join(&name)).map_err(|source| Failure::file(&from, source))?;
    }
    Ok(())
}

/// A driver that was built, and what it is compared with.
struct Driver {
    path: PathBuf,
    sys: Vec<u8>,
    pdb: Vec<u8>,
    imports: BTreeSet<String>,
    version: Vec<u8>,
    names: BTreeMap<u32, String>,
}

impl Driver {
    /// Builds into two folders: the compiler's, and that of the result.
    fn build(workspace: &Workspace, build: &str, result: &str) -> Result<Self> {
        let toolchain = Toolchain::find(workspace, TARGET)?;
        let linker = Linker::find(workspace, toolchain)?;
        compile(workspace, toolchain, PACKAGE, build)?;

        let result = workspace.path(result);
        fs::create_dir_all(&result).map_err(|source| Failure::file(&result, source))?;
        // Everything the linker reads lies beside what it writes, under a name without a folder: the
        // PDB records these names.
        let library = workspace
            .path(build)
            .join(TARGET)
            .join(PROFILE)
            .join(LIBRARY);
        fs::copy(&library, result.join(LIBRARY))
            .map_err(|source| Failure::file(&library, source))?;
        write(
            &result.join(format!("{NAME}.res")),
            &resource::file(&VERSION),
        )?;
        let mut link = linker.command();
        link.current_dir(&result)
            .args(link_arguments(NAME, LIBRARY))
            .arg(format!("{NAME}.res"));
        run_command(&mut link)?;

        let path = result.join(format!("{NAME}.sys"));
        Ok(Self {
            sys: read(&path)?,
            pdb: read(&path.with_extension("pdb"))?,
            names: names(&String::from_utf8_lossy(&read(
                &path.with_extension("map"),
            )?)),
            imports: reviewed(&String::from_utf8_lossy(&read(&workspace.path(IMPORTS))?)),
            version: VERSION.bytes(),
            path,
        })
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            imports: &self.imports,
            version: &self.version,
            pdb: (PDB, &self.pdb),
            names: &self.names,
        }
    }

    /// Builds once more, from nothing and elsewhere, and compares the bytes.
    fn differs_from_another_build(&self, workspace: &Workspace) -> Result<Vec<String>> {
        const BUILD: &str = "target/driver-build-again";
        const RESULT: &str = "target/driver-again";
        for folder in [BUILD, RESULT].map(|folder| workspace.path(folder)) {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|source| Failure::file(&folder, source))?;
            }
        }
        let other = Self::build(workspace, BUILD, RESULT)?;
        let files = [
            ("sys", &self.sys, &other.sys),
            ("pdb", &self.pdb, &other.pdb),
        ];
        Ok(files
            .iter()
            .filter(|(_, one, other)| one != other)
            .map(|(kind, one, other)| {
                let at = one.iter().zip(*other).take_while(|(a, b)| a == b).count();
                format!("two builds of {NAME}.{kind} differ, first at byte {at:#x}")
            })
            .collect())
    }

    fn describe(&self, workspace: &Workspace, twice: bool) {
        println!(
            "{}: {} bytes, {} imports, largest stack frame {} bytes{}",
            workspace.shown(&self.path),
            self.sys.len(),
            self.imports.len(),
            checks::largest_frame(&self.sys).unwrap_or(0),
            if twice { ", equal in two builds" } else { "" },
        );
    }
}

const PDB: &str = "PortmasterKext64.pdb";

/// The arguments of the linker, in the form of Microsoft's.
fn link_arguments(name: &str, library: &str) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "/NOLOGO",
        "/DRIVER",
        "/MACHINE:X64",
        "/SUBSYSTEM:NATIVE,10.00",
        "/ENTRY:DriverEntry",
        "/NODEFAULTLIB",
        "/DYNAMICBASE",
        "/HIGHENTROPYVA",
        "/NXCOMPAT",
        "/OPT:REF",
        "/OPT:ICF",
        // The checksum.
        "/RELEASE",
        // No time and no folder in the result.
        "/BREPRO",
        "/PDBSOURCEPATH:.",
        "/DEBUG",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("/PDB:{name}.pdb"));
    arguments.push(format!("/PDBALTPATH:{name}.pdb"));
    arguments.push(format!("/MAP:{name}.map"));
    arguments.push(format!("/OUT:{name}.sys"));
    arguments.push(library.into());
    arguments
}

/// Compiles the crate to a static library.
fn compile(workspace: &Workspace, toolchain: Toolchain, package: &str, build: &str) -> Result<()> {
    // No features of the standard library: the kernel's own functions copy memory.
    let mut cargo = toolchain.cargo(workspace, "rustc", TARGET, &[]);
    cargo.args(["--package", package, "--lib", "--crate-type", "staticlib"]);
    cargo.args(["--profile", PROFILE, "--target-dir", build]);
    // One flag a piece, since a folder may have a blank in it.
    let flags: Vec<String> = remapped(workspace, toolchain, build)?
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    cargo
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run_command(&mut cargo)
}

/// Folders of this machine, and what stands for them in the driver: panics and debug information
/// name source files.
fn remapped(
    workspace: &Workspace,
    toolchain: Toolchain,
    build: &str,
) -> Result<Vec<(PathBuf, &'static str)>> {
    let sysroot = PathBuf::from(toolchain.sysroot(workspace)?);
    // Of two that fit, the later one counts.
    let mut folders = vec![
        (sysroot.join("lib/rustlib/src/rust"), "/rust"),
        (workspace.path(""), "/portmaster-kext/"),
        (workspace.path(build), "/build"),
    ];
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME").or_else(|| env::var_os("USERPROFILE"))?;
        Some(PathBuf::from(home).join(".cargo"))
    });
    if let Some(registries) = home.map(|home| home.join("registry/src")) {
        // One folder a registry, whose name has a hash of its address.
        let entries = fs::read_dir(&registries).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| (entry.path(), "/cargo")));
    }
    Ok(folders)
}

/// LLVM's linker in its Windows form.
struct Linker {
    program: PathBuf,
    /// The one that comes with Rust is all of LLVM's linkers in one, and asks which.
    flavor: bool,
}

impl Linker {
    fn find(workspace: &Workspace, toolchain: Toolchain) -> Result<Self> {
        for name in ["lld-link-19", "lld-link"] {
            if works(Command::new(name).arg("--version")) {
                return Ok(Self {
                    program: name.into(),
                    flavor: false,
                });
            }
        }
        for toolchain in [toolchain, Toolchain::Current] {
            let Ok(sysroot) = toolchain.sysroot(workspace) else {
                continue;
            };
            if let Some(program) = of_rust(Path::new(&sysroot)) {
                return Ok(Self {
                    program,
                    flavor: true,
                });
            }
        }
        Err(Failure::missing(
            "the driver needs LLVM's linker",
            "on Debian apt-get install lld-19; toolchains of rustup bring their own",
        ))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.flavor {
            command.args(["-flavor", "link"]);
        }
        command
    }
}

/// The linker in the folder of a compiler, whatever machine that is for.
fn of_rust(sysroot: &Path) -> Option<PathBuf> {
    let machines = fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
    machines
        .flatten()
        .map(|machine| {
            let name = format!("rust-lld{}", env::consts::EXE_SUFFIX);
            machine.path().join("bin").join(name)
        })
        .find(|program| program.is_file())
}

/// `module!function`, a line each; the rest of a line after `#` is a remark.
fn reviewed(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or("").trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Names of functions by address from the start of the image, from the linker's map.
fn names(map: &str) -> BTreeMap<u32, String> {
    let base = map
        .lines()
        .find_map(|line| line.trim().strip_prefix("Preferred load address is "))
        .and_then(|base| u64::from_str_radix(base.trim(), 16).ok())
        .unwrap_or(0);
    map.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (_, name, address) = (words.next()?, words.next()?, words.next()?);
            let address = u64::from_str_radix(address, 16).ok()?.checked_sub(base)?;
            (address != 0).then_some((u32::try_from(address).ok()?, name.to_owned()))
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Failure::file(path, source))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Failure::file(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_imports_may_have_remarks() {
        let list = reviewed("# why\n\n ntoskrnl.exe!A # and this\nndis.sys!B\n");
        let expected = ["ndis.sys!B", "ntoskrnl.exe!A"].map(str::to_owned);
        assert_eq!(list, BTreeSet::from(expected));
    }

    #[test]
    fn the_map_of_the_linker_gives_names_to_addresses() {
        let map = " Preferred load address is 0000000140000000\n\
             \n Address  Publics by Value  Rva+Base  Lib:Object\n\
             \n 0001:00000000       DriverEntry   0000000140001000     a:b.o\n\
              0001:00000080       second 0000000140001080     a:b.o\n\
              0000:00000000       absolute 0000000140000000     a:b.o\n";
        let names = names(map);
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0x1000], "DriverEntry");
        assert_eq!(names[&0x1080], "second");
    }
}
