//! Batches of requests as columns.

use kext_types::{Direction, IpVersion};

/// What rules look at in a batch of verdict requests: one slice for each property, all of the same
/// length, with the values of one request at the same place in each.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The families of the addresses: 4 or 6.
    pub version: &'a [u8],
    /// Numbers of the IP protocol field.
    pub protocol: &'a [u8],
    /// Which way the packets go: 0 outbound, 1 inbound.
    pub direction: &'a [u8],
    /// This machine's addresses in network order, IPv4 mapped (`::ffff:a.b.c.d`).
    pub local: &'a [[u8; 16]],
    /// The other ends' addresses, in the same form.
    pub remote: &'a [[u8; 16]],
    /// This machine's ports, in the order of the machine; identifiers of ICMP echoes; 0 where the
    /// protocol has none.
    pub local_port: &'a [u16],
    /// The other ends' ports, in the order of the machine; 0 where the protocol has none.
    pub remote_port: &'a [u16],
    /// The processes that the packets belong to; 0 if unknown.
    pub process: &'a [u64],
}

/// Columns that are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// A column is longer or shorter than `version`.
    #[error("the column {column} has {len} values, and version has {expected}")]
    Length {
        /// The column, or `numbers` or `rules` for those that are written to.
        column: &'static str,
        /// Its length.
        len: usize,
        /// The length of `version`.
        expected: usize,
    },
    /// A version that is neither 4 nor 6.
    #[error("request {row}: {version} is no IP version: 4 or 6")]
    Version {
        /// The request, from 0.
        row: usize,
        /// The value.
        version: u8,
    },
    /// A direction that is neither 0 nor 1.
    #[error("request {row}: {direction} is no direction: 0 is outbound, 1 inbound")]
    Direction {
        /// The request, from 0.
        row: usize,
        /// The value.
        direction: u8,
    },
}

impl Columns<'_> {
    /// How many requests there are.
    pub const fn len(&self) -> usize {
        self.version.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.version.is_empty()
    }

    /// Whether all columns, and the two more that are written to, have one length, and all values can
    /// be.
    pub(crate) fn check(&self, numbers: usize, rules: usize) -> Result<(), ColumnsError> {
        let expected = self.len();
        let lengths = [
            ("protocol", self.protocol.len()),
            ("direction", self.direction.len()),
            ("local", self.local.len()),
            ("remote", self.remote.len()),
            ("local_port", self.local_port.len()),
            ("remote_port", self.remote_port.len()),
            ("process", self.process.len()),
            ("numbers", numbers),
            ("rules", rules),
        ];
        for (column, len) in lengths {
            if len != expected {
                return Err(ColumnsError::Length {
                    column,
                    len,
                    expected,
                });
            }
        }
        if let Some(row) = bad(self.version, |v| IpVersion::from_number(v).is_some()) {
            let version = self.version[row];
            return Err(ColumnsError::Version { row, version });
        }
        if let Some(row) = bad(self.direction, |d| Direction::from_number(d).is_some()) {
            let direction = self.direction[row];
            return Err(ColumnsError::Direction { row, direction });
        }
        Ok(())
    }

    /// The rows of a range; the columns are of one length.
    pub(crate) fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            version: &self.version[rows.clone()],
            protocol: &self.protocol[rows.clone()],
            direction: &self.direction[rows.clone()],
            local: &self.local[rows.clone()],
            remote: &self.remote[rows.clone()],
            local_port: &self.local_port[rows.clone()],
            remote_port: &self.remote_port[rows.clone()],
            process: &self.process[rows],
        }
    }
}

/// The first value that is not good. Without an early end while all are, so that many are looked at
/// in one instruction.
fn bad(values: &[u8], good: impl Fn(u8) -> bool) -> Option<usize> {
    let all = values.iter().fold(true, |all, value| all & good(*value));
    if all {
        return None;
    }
    values.iter().position(|value| !good(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns<'_> = Columns {
        version: &[4, 6],
        protocol: &[6, 255],
        direction: &[0, 1],
        local: &[[0; 16]; 2],
        remote: &[[255; 16]; 2],
        local_port: &[0, 1],
        remote_port: &[0, 1],
        process: &[0, 1],
    };

    #[test]
    fn every_column_has_the_length_of_the_first() {
        assert_eq!(COLUMNS.check(2, 2), Ok(()));
        let wrong = [
            (
                "protocol",
                Columns {
                    protocol: &[6],
                    ..COLUMNS
                },
            ),
            (
                "direction",
                Columns {
                    direction: &[],
                    ..COLUMNS
                },
            ),
            (
                "local",
                Columns {
                    local: &[[0; 16]; 3],
                    ..COLUMNS
                },
            ),
            (
                "remote",
                Columns {
                    remote: &[],
                    ..COLUMNS
                },
            ),
            (
                "local_port",
                Columns {
                    local_port: &[1],
                    ..COLUMNS
                },
            ),
            (
                "remote_port",
                Columns {
                    remote_port: &[1],
                    ..COLUMNS
                },
            ),
            (
                "process",
                Columns {
                    process: &[1],
                    ..COLUMNS
                },
            ),
        ];
        for (name, columns) in wrong {
            let error = columns.check(2, 2).unwrap_err();
            assert!(
                matches!(error, ColumnsError::Length { column, expected: 2, .. } if column == name),
                "{error}"
            );
        }
        assert_eq!(
            COLUMNS.check(1, 2).unwrap_err().to_string(),
            "the column numbers has 1 values, and version has 2"
        );
        assert!(
            COLUMNS
                .check(2, 3)
                .unwrap_err()
                .to_string()
                .contains("rules has 3")
        );
    }

    #[test]
    fn values_that_cannot_be_are_named_with_their_request() {
        let columns = Columns {
            version: &[6, 5],
            ..COLUMNS
        };
        let error = columns.check(2, 2).unwrap_err();
        assert_eq!(error.to_string(), "request 1: 5 is no IP version: 4 or 6");
        let columns = Columns {
            direction: &[2, 1],
            ..COLUMNS
        };
        let error = columns.check(2, 2).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("request 0: 2 is no direction")
        );
    }
}
