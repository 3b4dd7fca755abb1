//! Names as counted UTF-16.

use kext_nt_sys::types::UNICODE_STRING;

/// UTF-16 of a name in ASCII.
pub(crate) const fn utf16<const N: usize>(ascii: &[u8; N]) -> [u16; N] {
    let mut wide = [0; N];
    let mut at = 0;
    while at < N {
        wide[at] = ascii[at] as u16;
        at += 1;
    }
    wide
}

pub(crate) static DEVICE: [u16; 22] = utf16(br"\Device\PortmasterKext");
pub(crate) static LINK: [u16; 18] = utf16(br"\??\PortmasterKext");
pub(crate) static OTHER: [u16; 13] = utf16(br"\??\SomeOther");

pub(crate) fn counted(name: &'static [u16]) -> UNICODE_STRING {
    UNICODE_STRING {
        Length: (name.len() * 2) as u16,
        MaximumLength: (name.len() * 2) as u16,
        Buffer: name.as_ptr().cast_mut(),
    }
}
