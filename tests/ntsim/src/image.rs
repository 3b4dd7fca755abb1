//! The loader: a PE file becomes code in this process.

use std::fs;
use std::path::{Path, PathBuf};

use kext_nt_sys::{EXPORTS, Export};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{
    ImageNtHeaders as _, ImageOptionalHeader as _, ImageThunkData as _, Import, PeFile64,
};
use parking_lot::RwLock;

use crate::bare;
use crate::exports::{self, Implementation};
use crate::observe::{self, Imported};

const PAGE: usize = 4096;
/// Bytes of code for each import.
const STUB: usize = 24;

/// A driver's file in memory.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    pub(crate) base: usize,
    pub(crate) size: usize,
    pub(crate) entry: usize,
    /// The unwind table: address from the start of the image, and bytes.
    pub(crate) unwind: (usize, usize),
}

static IMAGES: RwLock<Vec<&'static Image>> = RwLock::new(Vec::new());

/// The image that an address is in.
pub(crate) fn containing(address: usize) -> Option<&'static Image> {
    // A handler of access violations comes here as well: it must not wait for a lock.
    let images = IMAGES.try_read()?;
    images
        .iter()
        .copied()
        .find(|image| (image.base..image.base + image.size).contains(&address))
}

impl Image {
    /// Maps a file, or says why it cannot be a driver.
    pub(crate) fn load(path: &Path) -> Result<&'static Self, String> {
        let file = fs::read(path).map_err(|why| format!("{}: {why}", path.display()))?;
        let image = Self::map(path, &file).map_err(|why| format!("{}: {why}", path.display()))?;
        let image: &'static Self = Box::leak(Box::new(image));
        IMAGES.write().push(image);
        Ok(image)
    }

    fn map(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let file = PeFile64::parse(bytes).map_err(|why| format!("not a 64-bit image: {why}"))?;
        let header = file.nt_headers().optional_header();
        if header.subsystem() != pe::IMAGE_SUBSYSTEM_NATIVE {
            return Err("the subsystem is not native: not a driver".into());
        }
        let size = (header.size_of_image() as usize).next_multiple_of(PAGE);
        let base = map_memory(size)?;
        let image = Self {
            path: path.to_owned(),
            base,
            size,
            entry: base + header.address_of_entry_point() as usize,
            unwind: file
                .data_directories()
                .get(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION)
                .map_or((0, 0), |table| {
                    (
                        table.virtual_address.get(LE) as usize,
                        table.size.get(LE) as usize,
                    )
                }),
        };
        let headers = bytes
            .get(..header.size_of_headers() as usize)
            .ok_or("the headers are cut short")?;
        image.write(0, headers)?;
        for section in file.section_table().iter() {
            let data = section
                .pe_data(bytes)
                .map_err(|why| format!("a section: {why}"))?;
            let length = data.len().min(section.virtual_size.get(LE) as usize);
            image.write(section.virtual_address.get(LE) as usize, &data[..length])?;
        }
        image.relocate(&file, header.image_base())?;
        image.link(&file)?;
        image.protect(&file)?;
        Ok(image)
    }

    fn range(&self, at: usize, length: usize) -> Result<*mut u8, String> {
        if at.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(format!("{length} bytes at {at:#x} are outside the image"));
        }
        Ok(std::ptr::with_exposed_provenance_mut(self.base + at))
    }

    fn write(&self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let target = self.range(at, bytes.len())?;
        // SAFETY: the range is inside our mapping, which is writable until `protect`.
        unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn relocate(&self, file: &PeFile64<'_>, preferred: u64) -> Result<(), String> {
        let delta = (self.base as u64).wrapping_sub(preferred);
        let wrong = |why| format!("relocations: {why}");
        let Some(mut blocks) = file
            .data_directories()
            .relocation_blocks(file.data(), &file.section_table())
            .map_err(wrong)?
        else {
            return Err("no relocations: it could only run at one address".into());
        };
        while let Some(block) = blocks.next().map_err(wrong)? {
            for relocation in block {
                match relocation.typ {
                    pe::IMAGE_REL_BASED_ABSOLUTE => {}
                    pe::IMAGE_REL_BASED_DIR64 => {
                        let target = self.range(relocation.virtual_address as usize, 8)?;
                        // SAFETY: eight bytes inside our writable mapping.
                        unsafe {
                            let target = target.cast::<u64>();
                            target.write_unaligned(target.read_unaligned().wrapping_add(delta));
                        }
                    }
                    other => return Err(format!("relocations: unknown kind {other}")),
                }
            }
        }
        Ok(())
    }

    /// Makes a stub for each import, and writes its address where the code looks for it.
    fn link(&self, file: &PeFile64<'_>) -> Result<(), String> {
        let wrong = |why| format!("imports: {why}");
        let Some(table) = file.import_table().map_err(wrong)? else {
            return Ok(());
        };
        let mut stubs = Stubs::new()?;
        let mut descriptors = table.descriptors().map_err(wrong)?;
        while let Some(descriptor) = descriptors.next().map_err(wrong)? {
            let module = table.name(descriptor.name.get(LE)).map_err(wrong)?;
            let module = String::from_utf8_lossy(module).into_owned();
            let first = descriptor.original_first_thunk.get(LE);
            let mut thunks = table.thunks(first).map_err(wrong)?;
            let mut slot = descriptor.first_thunk.get(LE) as usize;
            while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>().map_err(wrong)? {
                let import = table.import::<pe::ImageNtHeaders64>(thunk).map_err(wrong)?;
                let Import::Name(_, name) = import else {
                    return Err(format!("imports: {module} by number {}", thunk.ordinal()));
                };
                let name = String::from_utf8_lossy(name).into_owned();
                let address = stubs.add(resolve(&module, &name)?);
                self.write(slot, &address.to_le_bytes())?;
                slot += 8;
            }
        }
        stubs.finish()
    }

    fn protect(&self, file: &PeFile64<'_>) -> Result<(), String> {
        set_protection(self.base, PAGE, libc::PROT_READ)?;
        for section in file.section_table().iter() {
            let flags = section.characteristics.get(LE);
            let mut protection = libc::PROT_READ;
            if flags & pe::IMAGE_SCN_MEM_WRITE != pe::SectionFlags(0) {
                protection |= libc::PROT_WRITE;
            }
            if flags & pe::IMAGE_SCN_MEM_EXECUTE != pe::SectionFlags(0) {
                protection |= libc::PROT_EXEC;
            }
            let at = section.virtual_address.get(LE) as usize;
            let length = (section.virtual_size.get(LE) as usize).next_multiple_of(PAGE);
            self.range(at, length)?;
            set_protection(self.base + at, length, protection)?;
        }
        Ok(())
    }

    /// After unloading: whoever comes back here is caught. The addresses stay taken.
    pub(crate) fn discard(&self) {
        set_protection(self.base, self.size, libc::PROT_NONE).expect("the image is ours");
    }
}

fn map_memory(size: usize) -> Result<usize, String> {
    // SAFETY: a fresh private mapping, wherever there is room.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(format!("no memory for {size} bytes"));
    }
    Ok(address.expose_provenance())
}

fn set_protection(address: usize, length: usize, protection: i32) -> Result<(), String> {
    // SAFETY: callers name whole pages of a mapping of ours.
    let result = unsafe {
        libc::mprotect(
            std::ptr::with_exposed_provenance_mut(address),
            length,
            protection,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(format!("cannot protect {length} bytes at {address:#x}"))
    }
}

/// What a driver reaches by an import, and what is known about it.
fn resolve(module: &str, name: &str) -> Result<&'static Imported, String> {
    let declared: Option<&'static Export> = EXPORTS
        .iter()
        .copied()
        .flatten()
        .find(|export| export.name == name);
    if let Some(export) = declared
        && export.module != module
    {
        return Err(format!(
            "{name} is imported from {module}, not from {}",
            export.module
        ));
    }
    let checked = exports::find(name);
    let unchecked = bare::is_on().then(|| bare::find(name)).flatten();
    let implementation = unchecked.or(checked);
    Ok(Box::leak(Box::new(Imported {
        name: format!("{module}!{name}").leak(),
        min_irql: declared.map_or(0, |export| export.min_irql),
        max_irql: declared.map_or(u8::MAX, |export| export.max_irql),
        address: implementation.map(|found| found.address),
        direct: implementation.is_some_and(|found| found.direct || bare::is_on()),
        failure: implementation.and_then(|found: Implementation| found.failure),
    })))
}

/// A page of stubs: `mov rax, IMPORTED; jmp COMMON`.
struct Stubs {
    base: usize,
    used: usize,
}

impl Stubs {
    const ROOM: usize = 4 * PAGE;

    fn new() -> Result<Self, String> {
        Ok(Self {
            base: map_memory(Self::ROOM)?,
            used: 0,
        })
    }

    fn add(&mut self, imported: &'static Imported) -> usize {
        if imported.direct {
            return imported.address.expect("what is direct is there");
        }
        let mut code = [0; STUB];
        code[..2].copy_from_slice(&[0x48, 0xb8]);
        code[2..10].copy_from_slice(&(&raw const *imported).expose_provenance().to_le_bytes());
        code[10..16].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        code[16..].copy_from_slice(&observe::entrance().to_le_bytes());
        assert!(self.used + STUB <= Self::ROOM, "too many imports");
        let at = self.base + self.used;
        let target: *mut u8 = std::ptr::with_exposed_provenance_mut(at);
        // SAFETY: inside our writable mapping.
        unsafe { target.copy_from_nonoverlapping(code.as_ptr(), STUB) };
        self.used += STUB;
        at
    }

    fn finish(self) -> Result<(), String> {
        set_protection(self.base, Self::ROOM, libc::PROT_READ | libc::PROT_EXEC)
    }
}
