//! Status codes as results.

use core::fmt;

use kext_nt_sys::status::{NTSTATUS, STATUS_INSUFFICIENT_RESOURCES};

/// A status code. As the error of a [`Result`] it is a warning or an error: its top bit is set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub NTSTATUS);

/// What a call of the kernel came to.
pub type Result<T> = core::result::Result<T, Status>;

impl Status {
    /// There is no memory.
    pub const NO_MEMORY: Self = Self(STATUS_INSUFFICIENT_RESOURCES);

    /// The number, as Windows prints it.
    pub const fn number(self) -> u32 {
        self.0.cast_unsigned()
    }

    /// A success or a message as `Ok`; warnings and errors as themselves, as `NT_SUCCESS` has it.
    ///
    /// IRQL: any.
    pub const fn check(status: NTSTATUS) -> Result<()> {
        if status >= 0 {
            Ok(())
        } else {
            Err(Self(status))
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn only_negative_numbers_are_errors() {
        assert_eq!(Status::check(0), Ok(()));
        assert_eq!(Status::check(0x103), Ok(()));
        let busy = 0x8000_0011_u32.cast_signed();
        assert_eq!(Status::check(busy), Err(Status(busy)));
    }
}
