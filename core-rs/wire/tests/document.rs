//! The tables of codes and status values in `docs/wire-format.md` are those of the code.

use std::collections::BTreeSet;
use std::path::Path;

use kext_wire::{ControlCode, Status};

/// The cells of every table row of the document.
fn rows() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/wire-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

fn hex(cell: &str) -> u32 {
    let digits = cell.strip_prefix("0x").expect("a hexadecimal number");
    u32::from_str_radix(digits, 16).unwrap()
}

#[test]
fn status_values_are_those_of_the_document() {
    let documented: BTreeSet<_> = rows()
        .into_iter()
        .filter(|row| row[0].starts_with("STATUS_"))
        .map(|row| (row[0].clone(), hex(&row[1])))
        .collect();
    let known = Status::ALL.map(|status| (status.name().unwrap().to_owned(), status.0));
    assert_eq!(documented, BTreeSet::from(known));
}

#[test]
fn control_codes_are_those_of_the_document() {
    let documented: BTreeSet<_> = rows()
        .into_iter()
        .filter(|row| row[0].starts_with("0x8"))
        .map(|row| {
            (
                hex(&row[0]),
                hex(&row[1]),
                row[2].clone(),
                row[3] == "extended",
            )
        })
        .collect();
    let known = ControlCode::ALL.map(|code| {
        let name = code.name().to_owned();
        let function = u32::from(code.function());
        (function, code.to_u32(), name, code.is_extended())
    });
    assert_eq!(documented, BTreeSet::from(known));
}
