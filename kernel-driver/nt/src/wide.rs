//! Constant text in UTF-16, as the kernel takes it.

use kext_nt_sys::types::UNICODE_STRING;

/// ASCII text of `N - 1` characters as UTF-16, with a terminator.
#[derive(Debug)]
pub struct Wide<const N: usize>([u16; N]);

impl<const N: usize> Wide<N> {
    /// Of a literal that ends in a zero; anything else does not compile. Use [`wide!`](crate::wide!).
    #[doc(hidden)]
    pub const fn new(ascii: &[u8; N]) -> Self {
        assert!(N > 0 && N < 0x4000 && ascii[N - 1] == 0);
        let mut wide = [0; N];
        let mut at = 0;
        // Bound: the length of a literal.
        while at < N {
            assert!(ascii[at].is_ascii());
            wide[at] = ascii[at] as u16;
            at += 1;
        }
        Self(wide)
    }

    /// With its length.
    pub const fn text(&'static self) -> Text {
        Text(&self.0)
    }
}

/// Constant text: UTF-16 that ends in a zero.
#[derive(Clone, Copy, Debug)]
pub struct Text(&'static [u16]);

impl Text {
    /// Where it starts, for functions that look for the zero. They do not write to it, though they
    /// are declared so.
    pub(crate) const fn as_ptr(self) -> *mut u16 {
        self.0.as_ptr().cast_mut()
    }

    /// With its length, without the zero. Nobody writes to it either.
    pub(crate) const fn counted(self) -> UNICODE_STRING {
        let bytes = (self.0.len() - 1) * 2;
        UNICODE_STRING {
            Length: bytes as u16,
            MaximumLength: bytes as u16 + 2,
            Buffer: self.as_ptr(),
        }
    }
}

/// Constant text in UTF-16 from a literal in ASCII.
#[macro_export]
macro_rules! wide {
    ($text:literal) => {{
        const LEN: usize = $text.len() + 1;
        static WIDE: $crate::wide::Wide<LEN> = {
            let text = $text.as_bytes();
            let mut ascii = [0; LEN];
            let mut at = 0;
            while at < text.len() {
                ascii[at] = text[at];
                at += 1;
            }
            $crate::wide::Wide::new(&ascii)
        };
        WIDE.text()
    }};
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_counted_without_its_zero() {
        let text = wide!(r"\Device\X");
        let counted = text.counted();
        assert_eq!((counted.Length, counted.MaximumLength), (18, 20));
        assert_eq!(text.0[8..], [u16::from(b'X'), 0]);
    }
}
