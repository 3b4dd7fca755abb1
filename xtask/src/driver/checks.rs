//! What has to be true of a built driver, each rule with its reason. Every rule is asked of the file
//! that ships, not of the build that made it.

#![allow(clippy::unnecessary_wraps, reason = "all rules have one form")]

use std::collections::{BTreeMap, BTreeSet};

use object::LittleEndian as LE;
use object::pe;
use object::read::Object as _;
use object::read::pe::{
    ImageNtHeaders as _, ImageOptionalHeader as _, ImageThunkData as _, PeFile64,
};

use super::resource;
use super::unwind;

/// Stacks in the kernel have 24 KiB for everybody on them, and packets nest deeply there.
const MAX_FRAME: u64 = 1024;

/// Pages of x64: a section that does not start on one cannot have its own protection.
const PAGE: u32 = 4096;

/// Modules that a driver for this platform can import from; a program's library never loads here.
const MODULES: [&str; 4] = ["fwpkclnt.sys", "ksecdd.sys", "ndis.sys", "ntoskrnl.exe"];

/// What a file is compared with.
pub(super) struct Expected<'a> {
    /// `module!function`, as reviewed.
    pub(super) imports: &'a BTreeSet<String>,
    /// The version resource.
    pub(super) version: &'a [u8],
    /// The file that debuggers ask for, and what is in it.
    pub(super) pdb: (&'a str, &'a [u8]),
    /// Names by address, for messages.
    pub(super) names: &'a BTreeMap<u32, String>,
}

/// One rule. It returns what is wrong, a line each.
pub(super) struct Check {
    pub(super) name: &'static str,
    run: fn(&Image<'_>, &Expected<'_>) -> Result<Vec<String>, String>,
}

/// Every rule.
pub(super) const CHECKS: [Check; 12] = [
    Check {
        name: "a 64-bit program for the kernel",
        run: kind,
    },
    Check {
        name: "the PDB is found",
        run: symbols,
    },
    Check {
        name: "the entry point is code",
        run: entry,
    },
    Check {
        name: "no-execute data, any address",
        run: flags,
    },
    Check {
        name: "no section is writable and executable",
        run: write_or_execute,
    },
    Check {
        name: "sections start on pages",
        run: alignment,
    },
    Check {
        name: "nothing is paged or discarded",
        run: resident,
    },
    Check {
        name: "it can be moved",
        run: relocations,
    },
    Check {
        name: "the checksum is right",
        run: checksum,
    },
    Check {
        name: "the version resource is there",
        run: version,
    },
    Check {
        name: "imports are those reviewed",
        run: imports,
    },
    Check {
        name: "every stack frame is small",
        run: stack,
    },
];

impl Check {
    /// What is wrong with the file, each fault with the name of the rule.
    pub(super) fn faults(&self, file: &[u8], expected: &Expected<'_>) -> Vec<String> {
        Image::parse(file)
            .and_then(|image| (self.run)(&image, expected))
            .unwrap_or_else(|why| vec![why])
            .into_iter()
            .map(|fault| format!("{}: {fault}", self.name))
            .collect()
    }
}

/// A driver, taken apart.
struct Image<'data> {
    bytes: &'data [u8],
    file: PeFile64<'data>,
}

impl<'data> Image<'data> {
    fn parse(bytes: &'data [u8]) -> Result<Self, String> {
        let file = PeFile64::parse(bytes).map_err(|why| format!("not a 64-bit image: {why}"))?;
        Ok(Self { bytes, file })
    }

    fn sections(&self) -> impl Iterator<Item = Section> {
        self.file.section_table().iter().map(|header| Section {
            name: String::from_utf8_lossy(header.raw_name()).into_owned(),
            address: header.virtual_address.get(LE),
            size: header.virtual_size.get(LE),
            flags: header.characteristics.get(LE),
        })
    }

    /// A table that the optional header points to; empty if it points nowhere.
    fn table(&self, index: usize) -> Result<&'data [u8], String> {
        match self.file.data_directory(index) {
            Some(place) if place.virtual_address.get(LE) != 0 => place
                .data(self.bytes, &self.file.section_table())
                .map_err(|why| format!("table {index} of the header: {why}")),
            _ => Ok(&[]),
        }
    }

    /// The bytes from an address on, to the end of their section.
    fn at(&self, address: u32) -> Option<&'data [u8]> {
        self.file.section_table().pe_data_at(self.bytes, address)
    }
}

struct Section {
    name: String,
    address: u32,
    size: u32,
    flags: pe::SectionFlags,
}

/// A fault unless a rule holds.
fn unless(holds: bool, fault: impl FnOnce() -> String) -> Option<String> {
    (!holds).then(fault)
}

fn kind(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let headers = image.file.nt_headers();
    let machine = headers.file_header().machine.get(LE);
    let subsystem = headers.optional_header().subsystem();
    let attributes = headers.file_header().characteristics.get(LE);
    let mut faults = Vec::new();
    faults.extend(unless(machine == pe::IMAGE_FILE_MACHINE_AMD64, || {
        format!("the machine is {machine:#x}, not x86-64")
    }));
    faults.extend(unless(subsystem == pe::IMAGE_SUBSYSTEM_NATIVE, || {
        format!("the subsystem is {subsystem}, not native")
    }));
    faults.extend(unless(
        attributes.contains(pe::IMAGE_FILE_EXECUTABLE_IMAGE)
            && !attributes.contains(pe::IMAGE_FILE_DLL),
        || format!("the attributes {attributes:#x} are not those of a program"),
    ));
    Ok(faults)
}

/// Debuggers find the PDB by its name; a folder in that would be the one of whoever built the file.
/// They take it if both have the same identifier.
fn symbols(image: &Image<'_>, expected: &Expected<'_>) -> Result<Vec<String>, String> {
    let (name, pdb) = expected.pdb;
    let info = image
        .file
        .pdb_info()
        .map_err(|why| format!("the debug directory: {why}"))?
        .ok_or("it names none")?;
    let found = String::from_utf8_lossy(info.path());
    let mut faults = Vec::new();
    faults.extend(unless(found == name, || {
        format!("it is called {found}, not {name}")
    }));
    let same = pdb.windows(16).any(|bytes| bytes == info.guid());
    faults.extend(unless(same, || "it is that of another build".into()));
    Ok(faults)
}

fn entry(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let entry = image
        .file
        .nt_headers()
        .optional_header()
        .address_of_entry_point();
    let code = image.sections().any(|section| {
        section.flags.contains(pe::IMAGE_SCN_MEM_EXECUTE)
            && entry
                .checked_sub(section.address)
                .is_some_and(|offset| offset < section.size)
    });
    Ok(unless(code, || format!("nothing executable at {entry:#x}"))
        .into_iter()
        .collect())
}

fn flags(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let set = image
        .file
        .nt_headers()
        .optional_header()
        .dll_characteristics();
    let wanted = [
        (pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT, "NX_COMPAT"),
        (pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, "DYNAMIC_BASE"),
        (
            pe::IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
            "HIGH_ENTROPY_VA",
        ),
    ];
    Ok(wanted
        .iter()
        .filter(|(flag, _)| !set.contains(*flag))
        .map(|(_, name)| format!("{name} is not set"))
        .collect())
}

/// Windows with memory integrity refuses such a driver.
fn write_or_execute(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    Ok(image
        .sections()
        .filter(|section| {
            section
                .flags
                .contains(pe::IMAGE_SCN_MEM_WRITE | pe::IMAGE_SCN_MEM_EXECUTE)
        })
        .map(|section| format!("{} is", section.name))
        .collect())
}

fn alignment(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let alignment = image
        .file
        .nt_headers()
        .optional_header()
        .section_alignment();
    let mut faults: Vec<String> = unless(alignment == PAGE, || {
        format!("the alignment is {alignment}, not {PAGE}")
    })
    .into_iter()
    .collect();
    faults.extend(
        image
            .sections()
            .filter(|section| !section.address.is_multiple_of(PAGE))
            .map(|section| format!("{} is at {:#x}", section.name, section.address)),
    );
    Ok(faults)
}

/// Callouts run where a page fault ends the system.
fn resident(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    Ok(image
        .sections()
        .filter(|section| {
            let gone =
                section.flags.contains(pe::IMAGE_SCN_MEM_DISCARDABLE) && section.name != ".reloc";
            gone || section.name.starts_with("PAGE") || section.name.starts_with("INIT")
        })
        .map(|section| format!("{} is not resident", section.name))
        .collect())
}

fn relocations(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let attributes = image
        .file
        .nt_headers()
        .file_header()
        .characteristics
        .get(LE);
    let mut faults = Vec::new();
    faults.extend(unless(
        !attributes.contains(pe::IMAGE_FILE_RELOCS_STRIPPED),
        || "relocations are stripped".into(),
    ));
    let table = image.table(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC)?;
    faults.extend(unless(!table.is_empty(), || {
        "there are no relocations".into()
    }));
    Ok(faults)
}

/// Windows does not load a driver whose checksum is wrong.
fn checksum(image: &Image<'_>, _: &Expected<'_>) -> Result<Vec<String>, String> {
    let headers = image.file.nt_headers();
    let found = headers.optional_header().check_sum();
    // 64 bytes into the optional header, which comes after the signature and the file header.
    let field = image.file.dos_header().nt_headers_offset() as usize + 4 + 20 + 64;
    let right = sum(image.bytes, field);
    Ok(unless(found == right, || {
        format!("it is {found:#x}, and should be {right:#x}")
    })
    .into_iter()
    .collect())
}

/// The checksum of an image: the sum of its 16-bit words with the carry added again, and its length.
/// The field itself counts as zero.
fn sum(bytes: &[u8], field: usize) -> u32 {
    let mut sum = 0_u32;
    for (index, word) in bytes.chunks(2).enumerate() {
        let at = 2 * index;
        if at < field || at >= field + 4 {
            let high = word.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_le_bytes([word[0], high]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum + bytes.len() as u32
}

fn version(image: &Image<'_>, expected: &Expected<'_>) -> Result<Vec<String>, String> {
    let found = version_resource(image).map_err(|why| format!("the resources: {why}"))?;
    let found = found.and_then(|place| {
        let bytes = image.at(place.offset_to_data.get(LE))?;
        bytes.get(..place.size.get(LE) as usize)
    });
    Ok(match found {
        None => vec!["there is none".into()],
        Some(found) if found == expected.version => Vec::new(),
        Some(_) => vec!["it is not that of this version".into()],
    })
}

fn version_resource(image: &Image<'_>) -> object::Result<Option<pe::ImageResourceDataEntry>> {
    let sections = image.file.section_table();
    let Some(root) = image
        .file
        .data_directories()
        .resource_directory(image.bytes, &sections)?
    else {
        return Ok(None);
    };
    let mut level = root.root()?;
    let path = [resource::RT_VERSION, resource::VS_VERSION_INFO];
    for id in path {
        let Some(entry) = level
            .entries
            .iter()
            .find(|entry| entry.name_or_id().id() == Some(id))
        else {
            return Ok(None);
        };
        let Some(table) = entry.data(root)?.table() else {
            return Ok(None);
        };
        level = table;
    }
    match level.entries.first() {
        Some(entry) => Ok(entry.data(root)?.data().copied()),
        None => Ok(None),
    }
}

/// A missing export stops the driver from loading, and a new import is a decision.
fn imports(image: &Image<'_>, expected: &Expected<'_>) -> Result<Vec<String>, String> {
    let found = import_names(image).map_err(|why| format!("the import table: {why}"))?;
    let mut faults = Vec::new();
    for import in &found {
        let (module, name) = import.split_once('!').unwrap_or((import, ""));
        faults.extend(unless(MODULES.contains(&module), || {
            format!("{module} is not a module that a driver imports from")
        }));
        faults.extend(unless(!name.starts_with("__"), || {
            format!("{name} is the compiler's: a frame over 4 KiB, or a check of the C library")
        }));
    }
    faults.extend(
        found
            .difference(expected.imports)
            .map(|import| format!("{import} is imported, but not in the list")),
    );
    faults.extend(
        expected
            .imports
            .difference(&found)
            .map(|import| format!("{import} is in the list, but not imported")),
    );
    let delayed = image.table(pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT)?;
    faults.extend(unless(delayed.is_empty(), || {
        "there are delayed imports".into()
    }));
    let exported = image.table(pe::IMAGE_DIRECTORY_ENTRY_EXPORT)?;
    faults.extend(unless(exported.is_empty(), || "there are exports".into()));
    Ok(faults)
}

fn import_names(image: &Image<'_>) -> object::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let Some(table) = image.file.import_table()? else {
        return Ok(names);
    };
    let mut descriptors = table.descriptors()?;
    while let Some(descriptor) = descriptors.next()? {
        let module = String::from_utf8_lossy(table.name(descriptor.name.get(LE))?).into_owned();
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE))?;
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
            let name = if thunk.is_ordinal() {
                format!("#{}", thunk.ordinal())
            } else {
                let (_, name) = table.hint_name(thunk.address())?;
                String::from_utf8_lossy(name).into_owned()
            };
            names.insert(format!("{module}!{name}"));
        }
    }
    Ok(names)
}

fn stack(image: &Image<'_>, expected: &Expected<'_>) -> Result<Vec<String>, String> {
    let table = image.table(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION)?;
    let frames = unwind::frames(table, |address| image.at(address))?;
    if frames.is_empty() {
        return Err("there are no unwind tables".into());
    }
    Ok(frames
        .iter()
        .filter(|frame| frame.bytes >= MAX_FRAME)
        .map(|frame| {
            let name = expected
                .names
                .get(&frame.begin)
                .cloned()
                .unwrap_or_else(|| format!("the function at {:#x}", frame.begin));
            format!(
                "{name} takes {} bytes, at most {} may be",
                frame.bytes,
                MAX_FRAME - 1
            )
        })
        .collect())
}

/// The largest frame, for the report.
pub(super) fn largest_frame(file: &[u8]) -> Option<u64> {
    let image = Image::parse(file).ok()?;
    let table = image.table(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION).ok()?;
    let frames = unwind::frames(table, |address| image.at(address)).ok()?;
    frames.iter().map(|frame| frame.bytes).max()
}

#[cfg(test)]
mod tests;
