//! The version resource of the driver, as Explorer, `sigverif` and crash dumps show it.
//!
//! Written here, so that building the driver needs no resource compiler: those are found on Windows
//! or in large packages only, and this is one resource of fixed form. The form is that of
//! `VS_VERSIONINFO` and of resource files in Microsoft's documentation.

/// What the resource says.
pub(super) struct Version<'a> {
    /// `major.minor.patch`.
    pub(super) number: &'a str,
    pub(super) file_name: &'a str,
    pub(super) product: &'a str,
    pub(super) description: &'a str,
    pub(super) company: &'a str,
    pub(super) copyright: &'a str,
}

/// The type of a version resource, its name, and its language: US English.
pub(super) const RT_VERSION: u16 = 16;
pub(super) const VS_VERSION_INFO: u16 = 1;
pub(super) const LANGUAGE: u16 = 0x0409;

/// The character set of the strings: UTF-16.
const CODE_PAGE: u16 = 1200;

const SIGNATURE: u32 = 0xfeef_04bd;
const VFF_ALL: u32 = 0x3f;
const VFF_PRERELEASE: u32 = 0x02;
const VOS_NT_WINDOWS32: u32 = 0x0004_0004;
const VFT_DRV: u32 = 3;
const VFT2_DRV_NETWORK: u32 = 6;

/// A resource file with the version in it, for the linker.
pub(super) fn file(version: &Version<'_>) -> Vec<u8> {
    let mut file = entry(0, 0, 0, &[]);
    file.extend(entry(
        RT_VERSION,
        VS_VERSION_INFO,
        LANGUAGE,
        &version.bytes(),
    ));
    file
}

/// One entry of a resource file. The first is empty: it says that the file is of the 32-bit kind.
fn entry(kind: u16, name: u16, language: u16, data: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 32;
    let mut bytes = Vec::new();
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(HEADER.to_le_bytes());
    for word in [0xffff, kind, 0xffff, name] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes()); // version of the data
    bytes.extend(0_u16.to_le_bytes()); // memory flags, which nothing reads
    bytes.extend(language.to_le_bytes());
    bytes.extend([0; 8]); // version and characteristics of our own
    bytes.extend(data);
    align(&mut bytes);
    bytes
}

impl Version<'_> {
    /// The resource itself.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let strings: Vec<Vec<u8>> = [
            ("CompanyName", self.company),
            ("FileDescription", self.description),
            ("FileVersion", self.number),
            ("InternalName", self.file_name),
            ("LegalCopyright", self.copyright),
            ("OriginalFilename", self.file_name),
            ("ProductName", self.product),
            ("ProductVersion", self.number),
        ]
        .iter()
        .map(|(key, text)| {
            let value = utf16(text);
            // The length of text is in characters, not in bytes.
            block(key, Value::Text, (value.len() / 2) as u16, &value, &[])
        })
        .collect();
        let table = format!("{LANGUAGE:04x}{CODE_PAGE:04x}");
        let table = block(&table, Value::Text, 0, &[], &strings);
        let strings = block("StringFileInfo", Value::Text, 0, &[], &[table]);
        let mut translation = LANGUAGE.to_le_bytes().to_vec();
        translation.extend(CODE_PAGE.to_le_bytes());
        let translation = block("Translation", Value::Binary, 4, &translation, &[]);
        let variables = block("VarFileInfo", Value::Text, 0, &[], &[translation]);
        let fixed = self.fixed();
        block(
            "VS_VERSION_INFO",
            Value::Binary,
            fixed.len() as u16,
            &fixed,
            &[strings, variables],
        )
    }

    /// `VS_FIXEDFILEINFO`.
    fn fixed(&self) -> Vec<u8> {
        let (numbers, prerelease) = numbers(self.number);
        let [major, minor, patch] = numbers.map(u32::from);
        let (high, low) = (major << 16 | minor, patch << 16);
        [
            SIGNATURE,
            0x0001_0000, // version of this structure
            high,
            low,
            high,
            low,
            VFF_ALL,
            if prerelease { VFF_PRERELEASE } else { 0 },
            VOS_NT_WINDOWS32,
            VFT_DRV,
            VFT2_DRV_NETWORK,
            0, // no date, so that two builds are equal
            0,
        ]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
    }
}

/// The numbers of `1.2.3` or `1.2.3-rc.1`, and whether it is the latter.
fn numbers(version: &str) -> ([u16; 3], bool) {
    let (release, prerelease) = match version.split_once('-') {
        Some((release, _)) => (release, true),
        None => (version, false),
    };
    let mut numbers = [0; 3];
    for (number, text) in numbers.iter_mut().zip(release.split('.')) {
        *number = text.parse().unwrap_or(0);
    }
    (numbers, prerelease)
}

#[derive(Clone, Copy)]
enum Value {
    Binary = 0,
    Text = 1,
}

/// The block that everything in the resource is made of: lengths, key, value, blocks in it.
fn block(key: &str, kind: Value, value_length: u16, value: &[u8], inner: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 2];
    bytes.extend(value_length.to_le_bytes());
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend(utf16(key));
    align(&mut bytes);
    bytes.extend(value);
    for block in inner {
        align(&mut bytes);
        bytes.extend(block);
    }
    let length = bytes.len() as u16;
    bytes[..2].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// UTF-16 with a terminator.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version<'_> = Version {
        number: "1.20.300-rc.1",
        file_name: "a.sys",
        product: "a product",
        description: "what it is",
        company: "who made it",
        copyright: "whose it is",
    };

    /// A block read back: its key, its value, the blocks in it.
    #[derive(Debug)]
    struct Read {
        key: String,
        value: Vec<u8>,
        inner: Vec<Read>,
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
    }

    fn text(bytes: &[u8]) -> String {
        let units: Vec<u16> = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        String::from_utf16(&units).unwrap()
    }

    fn read(bytes: &[u8]) -> Read {
        let key = text(&bytes[6..]);
        let mut at = (6 + 2 * (key.len() + 1)).next_multiple_of(4);
        let unit = if word(bytes, 4) == 1 { 2 } else { 1 };
        let value = bytes[at..at + unit * word(bytes, 2)].to_vec();
        at += value.len();
        let mut inner = Vec::new();
        while at.next_multiple_of(4) < bytes.len() {
            at = at.next_multiple_of(4);
            let length = word(bytes, at);
            inner.push(read(&bytes[at..at + length]));
            at += length;
        }
        Read { key, value, inner }
    }

    #[test]
    fn the_strings_are_read_back() {
        let resource = VERSION.bytes();
        assert_eq!(word(&resource, 0), resource.len());
        let root = read(&resource);
        assert_eq!(root.key, "VS_VERSION_INFO");
        let table = &root.inner[0].inner[0];
        assert_eq!(table.key, "040904b0");
        let found: Vec<(&str, String)> = table
            .inner
            .iter()
            .map(|string| (string.key.as_str(), text(&string.value)))
            .collect();
        assert!(found.contains(&("ProductName", "a product".to_owned())));
        assert!(found.contains(&("ProductVersion", "1.20.300-rc.1".to_owned())));
        assert_eq!(found.len(), 8);
        assert_eq!(root.inner[1].inner[0].value, [0x09, 0x04, 0xb0, 0x04]);
    }

    #[test]
    fn the_numbers_are_in_the_fixed_part() {
        let fixed = read(&VERSION.bytes()).value;
        assert_eq!(fixed.len(), 52);
        assert_eq!(&fixed[..4], &SIGNATURE.to_le_bytes());
        assert_eq!((word(&fixed, 10), word(&fixed, 8)), (1, 20));
        assert_eq!((word(&fixed, 14), word(&fixed, 12)), (300, 0));
        assert_eq!(u32::from(fixed[28]), VFF_PRERELEASE);
        assert_eq!(numbers("0.1.0"), ([0, 1, 0], false));
    }

    #[test]
    fn a_resource_file_starts_with_its_empty_entry() {
        let file = file(&VERSION);
        let resource = VERSION.bytes();
        assert_eq!(&file[..8], &[0, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(word(&file, 32), resource.len());
        assert_eq!(&file[64..64 + resource.len()], &resource[..]);
        assert_eq!(file.len() % 4, 0);
    }
}
