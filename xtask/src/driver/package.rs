//! `cargo xtask package [--boot] [--certificate PEM --key PEM]`: the driver ready to be installed
//! for tests, and ready to be sent to Microsoft for signing.
//!
//! - `target/package/test-signed`: driver, INF, PDB and the certificate, which a test machine trusts
//!   once it is told to. Without `--certificate`, one is made that is good for nothing else.
//! - `target/package/PortmasterKext64.cab`: driver, INF and PDB without a signature.
//!
//! No catalog is made: there is no free tool for it on Linux. Microsoft's service makes its own, and
//! for tests the signature in the driver is enough. Nothing is installed, and nothing is sent.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::failure::{Failure, Result};
use crate::report::Counts;
use crate::run::{output, run as run_command, works};
use crate::workspace::Workspace;

use super::{CHECKS, Driver, NAME, VERSION, read, write};

const PACKAGE: &str = "target/package";
const INF: &str = "kernel-driver/driver/PortmasterKext64.inf";
const USAGE: &str = "usage: cargo xtask package [--boot] [--certificate PEM --key PEM]";

/// What Windows calls the start types of a service.
const BOOT_START: &str = "0";
const DEMAND_START: &str = "3";

const DAY: u64 = 24 * 60 * 60;

/// What the caller wants.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    boot: bool,
    /// A certificate of the caller's and its key.
    signer: Option<Signer>,
}

/// Files in PEM form.
#[derive(Debug, PartialEq, Eq)]
struct Signer {
    certificate: PathBuf,
    key: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let package = Package::make(workspace, options)?;
    Failure::unless_empty(package.faults(workspace)?)?;
    println!("for tests:    {}", workspace.shown(&package.for_tests));
    println!("for signing:  {}", workspace.shown(&package.cabinet));
    println!("docs/windows.md says how to go on; there is no catalog, which Linux has no tool for");
    Ok(())
}

/// The same as a test tier, with a certificate of its own.
pub(crate) fn tier(workspace: &Workspace) -> Result<Counts> {
    let package = Package::make(workspace, Options::default())?;
    let faults = package.faults(workspace)?;
    Failure::unless_empty(faults)?;
    let mut counts = Counts::ONE;
    let tampered = workspace.path(PACKAGE).join("tampered.sys");
    let mut bytes = read(&package.for_tests.join(format!("{NAME}.sys")))?;
    // The first byte of code: the signature has to cover it.
    bytes[0x400] ^= 1;
    write(&tampered, &bytes)?;
    if verifies(workspace, &tampered, &package.signer.certificate) {
        return Err(Failure::Faults(vec![
            "the signature of a changed driver verifies".into(),
        ]));
    }
    counts.passed += 1;
    Ok(counts)
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let usage = || Failure::Usage(USAGE.into());
        let mut options = Self::default();
        let (mut certificate, mut key) = (None, None);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--boot" => options.boot = true,
                "--certificate" => certificate = Some(arguments.next().ok_or_else(usage)?),
                "--key" => key = Some(arguments.next().ok_or_else(usage)?),
                _ => return Err(usage()),
            }
        }
        options.signer = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Signer {
                certificate: certificate.into(),
                key: key.into(),
            }),
            (None, None) => None,
            _ => return Err(usage()),
        };
        Ok(options)
    }
}

/// What was made.
struct Package {
    driver: Driver,
    /// The folder for a test machine.
    for_tests: PathBuf,
    cabinet: PathBuf,
    signer: Signer,
}

impl Package {
    fn make(workspace: &Workspace, options: Options) -> Result<Self> {
        tools()?;
        let driver = Driver::build(workspace, super::BUILD, super::RESULT)?;
        let folder = workspace.path(PACKAGE);
        let time = source_time(workspace)?;
        let start = if options.boot {
            BOOT_START
        } else {
            DEMAND_START
        };
        let template = read(&workspace.path(INF))?;
        let inf = inf(&String::from_utf8_lossy(&template), time, start);

        let plain = folder.join(NAME);
        let for_tests = folder.join("test-signed");
        for folder in [&plain, &for_tests] {
            empty(folder)?;
            write(&folder.join(format!("{NAME}.inf")), inf.as_bytes())?;
            write(&folder.join(format!("{NAME}.pdb")), &driver.pdb)?;
        }
        write(&plain.join(format!("{NAME}.sys")), &driver.sys)?;
        let cabinet = folder.join(format!("{NAME}.cab"));
        pack(workspace, &plain, &cabinet, time)?;

        let signer = match options.signer {
            Some(signer) => signer,
            None => test_signer(workspace)?,
        };
        sign(
            workspace,
            &signer,
            &plain.join(format!("{NAME}.sys")),
            &for_tests.join(format!("{NAME}.sys")),
        )?;
        // Windows reads the form without text.
        let mut convert = workspace.command("openssl");
        convert.args(["x509", "-outform", "DER", "-in"]);
        convert.arg(&signer.certificate).arg("-out");
        run_command(convert.arg(for_tests.join("certificate.cer")))?;
        Ok(Self {
            driver,
            for_tests,
            cabinet,
            signer,
        })
    }

    /// What is wrong with the package: the rules hold for the signed file as well.
    fn faults(&self, workspace: &Workspace) -> Result<Vec<String>> {
        let path = self.for_tests.join(format!("{NAME}.sys"));
        let signed = read(&path)?;
        let mut faults: Vec<String> = CHECKS
            .iter()
            .flat_map(|check| check.faults(&signed, &self.driver.expected()))
            .collect();
        if !verifies(workspace, &path, &self.signer.certificate) {
            faults.push("the signature does not verify".into());
        }
        let mut list = workspace.command("gcab");
        let listed = output(list.arg("--list").arg(&self.cabinet))?;
        // Microsoft's service wants the files in a folder.
        let wanted = ["inf", "pdb", "sys"].map(|kind| format!("{NAME}\\{NAME}.{kind}"));
        let mut found: Vec<String> = listed
            .lines()
            .map(|name| name.trim().replace('/', "\\"))
            .collect();
        found.sort();
        if found != wanted {
            faults.push(format!("the cabinet has {found:?}"));
        }
        Ok(faults)
    }
}

/// The programs that all this needs.
fn tools() -> Result<()> {
    let lacking: Vec<&str> = [
        ("openssl", "version"),
        ("osslsigncode", "--version"),
        ("gcab", "--version"),
    ]
    .into_iter()
    .filter(|(program, version)| !works(Command::new(program).arg(version)))
    .map(|(program, _)| program)
    .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::missing(
        format!("packaging the driver needs {}", lacking.join(", ")),
        format!("on Debian apt-get install {}", lacking.join(" ")),
    ))
}

/// When the sources were last changed, in seconds since 1970: what is made from them says this, not
/// when it was made.
fn source_time(workspace: &Workspace) -> Result<u64> {
    let text = if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        text
    } else {
        let mut git = workspace.command("git");
        output(git.args(["log", "-1", "--format=%ct"])).map_err(|_| {
            Failure::missing(
                "a driver says when its sources were last changed, and git does not know",
                "set SOURCE_DATE_EPOCH to the seconds since 1970",
            )
        })?
    };
    text.trim()
        .parse()
        .map_err(|_| Failure::Usage(format!("`{}` is no number of seconds", text.trim())))
}

/// The INF with its blanks filled in, in lines of Windows.
fn inf(template: &str, time: u64, start: &str) -> String {
    let release = VERSION.number.split('-').next().unwrap_or_default();
    template
        .replace("@DATE@", &date(time))
        .replace("@VERSION@", &format!("{release}.0"))
        .replace("@START@", start)
        .replace('\n', "\r\n")
}

/// Seconds since 1970 as `MM/DD/YYYY`, UTC.
fn date(time: u64) -> String {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut days = time / DAY;
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{month:02}/{:02}/{year}", days + 1)
}

/// An empty folder, whatever was there.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|source| Failure::file(folder, source))?;
    }
    fs::create_dir_all(folder).map_err(|source| Failure::file(folder, source))
}

/// A cabinet of a folder's files, in a folder of the same name.
fn pack(workspace: &Workspace, folder: &Path, cabinet: &Path, time: u64) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    let mut gcab = workspace.command("gcab");
    gcab.current_dir(folder.parent().unwrap_or(folder));
    gcab.args(["--create", "--zip"]).arg(cabinet);
    for kind in ["inf", "pdb", "sys"] {
        let path = folder.join(format!("{NAME}.{kind}"));
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(time))
            .map_err(|source| Failure::file(&path, source))?;
        gcab.arg(format!("{NAME}/{NAME}.{kind}"));
    }
    run_command(&mut gcab)
}

/// A certificate that signs code and is trusted by nobody, made once and kept.
fn test_signer(workspace: &Workspace) -> Result<Signer> {
    let folder = workspace.path(PACKAGE).join("test-certificate");
    let signer = Signer {
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    let mut still_good = workspace.command("openssl");
    still_good
        .args([
            "x509",
            "-noout",
            "-checkend",
            &(30 * DAY).to_string(),
            "-in",
        ])
        .arg(&signer.certificate);
    if signer.key.exists() && works(&mut still_good) {
        return Ok(signer);
    }
    empty(&folder)?;
    let mut make = workspace.command("openssl");
    make.args([
        "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-sha256", "-days", "365",
    ]);
    make.args(["-subj", "/CN=portmaster-kext test, do not trust"]);
    for extension in [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=codeSigning",
    ] {
        make.args(["-addext", extension]);
    }
    make.arg("-keyout").arg(&signer.key);
    make.arg("-out").arg(&signer.certificate);
    run_command(&mut make)?;
    Ok(signer)
}

fn sign(workspace: &Workspace, signer: &Signer, from: &Path, to: &Path) -> Result<()> {
    let mut sign = workspace.command("osslsigncode");
    sign.args(["sign", "-h", "sha256", "-n", VERSION.description]);
    sign.arg("-certs").arg(&signer.certificate);
    sign.arg("-key").arg(&signer.key);
    run_command(sign.arg("-in").arg(from).arg("-out").arg(to))
}

/// Whether the signature of a file is right and by this certificate.
fn verifies(workspace: &Workspace, file: &Path, certificate: &Path) -> bool {
    let mut verify = workspace.command("osslsigncode");
    verify.arg("verify").arg("-CAfile").arg(certificate);
    works(verify.arg("-in").arg(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const TEMPLATE: &str = include_str!("../../../kernel-driver/driver/PortmasterKext64.inf");

    fn parse(arguments: &[&str]) -> Result<Options> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        assert_eq!(parse(&[]).unwrap(), Options::default());
        let options = parse(&["--boot", "--key", "k", "--certificate", "c"]).unwrap();
        let signer = Signer {
            certificate: "c".into(),
            key: "k".into(),
        };
        assert!(options.boot);
        assert_eq!(options.signer, Some(signer));
        for bad in [&["--key", "k"][..], &["--certificate"], &["extra"]] {
            assert!(matches!(parse(bad), Err(Failure::Usage(_))), "{bad:?}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "01/01/1970");
        assert_eq!(date(951_782_400), "02/29/2000");
        assert_eq!(date(951_868_800), "03/01/2000");
        assert_eq!(date(1_767_225_599), "12/31/2025");
        assert_eq!(date(1_798_675_200), "12/31/2026");
        assert_eq!(date(4_107_542_400), "03/01/2100");
    }

    #[test]
    fn the_blanks_of_the_inf_are_filled() {
        let inf = inf(TEMPLATE, 0, BOOT_START);
        let comment = |line: &&str| !line.starts_with(';');
        assert!(inf.lines().filter(comment).all(|line| !line.contains('@')));
        let version = format!("DriverVer   = 01/01/1970,{}.0", env!("CARGO_PKG_VERSION"));
        assert!(inf.contains(&version), "{inf}");
        assert!(inf.contains("StartType     = 0\r\n"));
        assert_eq!(inf.matches('\n').count(), inf.matches("\r\n").count());
    }

    /// The lines of a section, as key and value; `None` if there is no such section.
    fn section<'a>(name: &str) -> Option<Vec<(&'a str, &'a str)>> {
        let heading = format!("[{name}]");
        let mut lines = TEMPLATE.lines().skip_while(|line| *line != heading);
        lines.next()?;
        let lines = lines
            .take_while(|line| !line.starts_with('['))
            .filter(|line| !line.is_empty() && !line.starts_with(';'))
            .map(|line| line.split_once('=').unwrap_or((line, "")))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        Some(lines)
    }

    #[test]
    fn what_the_inf_names_is_there() {
        let value = |name: &str, key: &str| {
            let lines = section(name).unwrap();
            lines.iter().find(|line| line.0 == key).unwrap().1
        };
        assert_eq!(value("Version", "Class"), "WFPCALLOUTS");
        let files = section(value("DefaultInstall.NTamd64", "CopyFiles")).unwrap();
        assert_eq!(files, [("PortmasterKext64.sys", "")]);
        assert_eq!(value("SourceDisksFiles", "PortmasterKext64.sys"), "1");
        let service = value("DefaultInstall.NTamd64.Services", "AddService");
        let service = service.split(',').next_back().unwrap();
        assert_eq!(
            value(service, "ServiceBinary"),
            r"%13%\PortmasterKext64.sys"
        );
        assert_eq!(value(service, "ServiceType"), "1");

        let strings: BTreeSet<&str> = section("Strings")
            .unwrap()
            .iter()
            .map(|line| line.0)
            .collect();
        let used = TEMPLATE
            .lines()
            .filter_map(|line| line.split_once("= %")?.1.split_once('%'))
            .map(|(name, _)| name)
            .filter(|name| *name != "13");
        assert_eq!(used.collect::<BTreeSet<_>>(), strings);
    }
}
