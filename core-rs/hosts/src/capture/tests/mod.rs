//! Capture files built byte by byte, and what the reader makes of them.

mod files;
mod link;
mod pcap;
mod pcapng;
mod properties;
mod writer;

use super::{CaptureError, CaptureReader, Record};

/// The records of a file, and the error that ended it if one did.
fn read(bytes: &[u8]) -> (Vec<Record>, Option<CaptureError>) {
    let mut reader = match open(bytes) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut records = Vec::new();
    let mut record = Record::default();
    loop {
        match reader.read_into(&mut record) {
            Ok(true) => records.push(record.clone()),
            Ok(false) => {
                assert_eq!(reader.position(), bytes.len() as u64);
                return (records, None);
            }
            Err(error) => {
                assert!(
                    !reader.read_into(&mut record).unwrap(),
                    "no end after {error}"
                );
                return (records, Some(error));
            }
        }
    }
}

fn open(bytes: &[u8]) -> Result<CaptureReader, CaptureError> {
    CaptureReader::from_reader(std::io::Cursor::new(bytes.to_vec()), "test.cap")
}

/// The records of a file that has nothing wrong with it.
fn records(bytes: &[u8]) -> Vec<Record> {
    let (records, error) = read(bytes);
    assert!(error.is_none(), "{}", error.unwrap());
    records
}

/// The records before the error, and its message.
fn failure(bytes: &[u8]) -> (usize, String) {
    let (records, error) = read(bytes);
    (records.len(), error.expect("no error").to_string())
}
