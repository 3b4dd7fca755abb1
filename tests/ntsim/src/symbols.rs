//! Addresses in words: function, file and line, if LLVM's symbolizer is there and the driver's
//! debug information is beside it; else the offset in the image.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::image::{self, Image};

const PROGRAMS: [&str; 2] = ["llvm-symbolizer-19", "llvm-symbolizer"];

/// Each address in words.
pub(crate) fn places(addresses: &[usize]) -> Vec<String> {
    let mut places: Vec<String> = addresses.iter().map(|at| format!("{at:#x}")).collect();
    let mut by_image: BTreeMap<usize, (&Image, Vec<usize>)> = BTreeMap::new();
    for (index, address) in addresses.iter().enumerate() {
        if let Some(image) = image::containing(*address) {
            by_image
                .entry(image.base)
                .or_insert((image, Vec::new()))
                .1
                .push(index);
        }
    }
    for (image, indexes) in by_image.values() {
        // The call, not what follows it.
        let offsets: Vec<usize> = indexes
            .iter()
            .map(|index| (addresses[*index] - image.base).saturating_sub(1))
            .collect();
        let named = symbolize(&image.path, &offsets).unwrap_or_default();
        let file = image.path.file_name().unwrap_or_default().to_string_lossy();
        for (position, index) in indexes.iter().enumerate() {
            let rva = addresses[*index] - image.base;
            places[*index] = match named.get(position) {
                Some(name) => format!("{name} ({file}+{rva:#x})"),
                None => format!("{file}+{rva:#x}"),
            };
        }
    }
    places
}

/// `function file:line` for each offset; inlined functions first, joined with arrows.
fn symbolize(path: &Path, offsets: &[usize]) -> Option<Vec<String>> {
    let output = PROGRAMS.iter().find_map(|program| {
        let mut command = Command::new(program);
        command
            .arg(format!("--obj={}", path.display()))
            .args(["--relative-address", "--output-style=LLVM"])
            .args(offsets.iter().map(|offset| format!("{offset:#x}")))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
            .output()
            .ok()
            .filter(|output| output.status.success())
    })?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut places = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let lines: Vec<&str> = block.lines().collect();
        let frames: Vec<String> = lines
            .chunks(2)
            .map(|pair| {
                let line = pair.get(1).copied().unwrap_or("");
                // Without the column, and from the crate's folder on.
                let line = line.rsplit_once(':').map_or(line, |(line, _)| line);
                format!("{} {line}", pair[0])
            })
            .collect();
        places.push(frames.join(" < "));
    }
    (places.len() == offsets.len()).then_some(places)
}
