//! The path of a process's program, as much of it as is remembered.

/// The path of a process's program, as the host names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessPath<'a> {
    /// UTF-16 in little endian, as Windows has it: two bytes for each unit. It need not be well-formed.
    pub utf16: &'a [u8],
    /// Whether there is more of it than is remembered.
    pub is_cut: bool,
}

impl<'a> ProcessPath<'a> {
    /// The most bytes that are remembered: 260 units.
    pub const MAX_LEN: usize = 520;

    /// What is to be remembered of a path that a host tells. Half a unit at the end is left out, and so is
    /// the zero that ends a text; a pair of surrogates is not cut in two.
    pub fn of(told: &'a [u8]) -> Self {
        let (mut units, _) = told.as_chunks::<2>();
        if let [rest @ .., [0, 0]] = units {
            units = rest;
        }
        let is_cut = units.len() * 2 > Self::MAX_LEN;
        if is_cut {
            units = units.get(..Self::MAX_LEN / 2).unwrap_or_default();
            if let [rest @ .., [_, 0xd8..=0xdb]] = units {
                units = rest;
            }
        }
        Self {
            utf16: units.as_flattened(),
            is_cut,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn a_path_is_without_what_ends_it() {
        let path = utf16(r"\device\harddiskvolume1\program.exe");
        for end in [&b""[..], b"\0", b"\0\0", b"\0\0\0"] {
            let told = [&path, end].concat();
            let kept = ProcessPath::of(&told);
            assert_eq!((kept.utf16, kept.is_cut), (&*path, false), "{end:?}");
        }
        assert!(ProcessPath::of(b"\0\0").utf16.is_empty());
        assert!(ProcessPath::of(b"x").utf16.is_empty());
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let exact = utf16(&"x".repeat(260));
        assert!(!ProcessPath::of(&exact).is_cut);
        let told = utf16(&"x".repeat(261));
        let longer = ProcessPath::of(&told);
        assert_eq!((longer.utf16, longer.is_cut), (&*exact, true));
        // The pair of the smile begins with the last unit that has room.
        let told = utf16(&("x".repeat(259) + "\u{1f642}"));
        let pair = ProcessPath::of(&told);
        assert_eq!(pair.utf16, utf16(&"x".repeat(259)));
        assert!(pair.is_cut);
    }
}
