//! `cargo xtask deps`: who imports whom, against the tables below.
//!
//! The layers of docs/architecture.md are these tables. A dependency that is not listed is a
//! fault, and so is a crate that is not listed: adding one is a decision, and its place is here.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::run::output;
use crate::workspace::Workspace;

/// A crate of ours, and what it may depend on outside its tests.
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    /// Crates of ours.
    ours: &'static [&'static str],
    /// Crates of others.
    theirs: &'static [&'static str],
}

/// The crates that also run inside a kernel: no std, and no unsafe code but for [`PREFETCHES`].
pub(crate) const NO_STD: &[Layer] = &[
    Layer {
        name: "kext-types",
        ours: &[],
        theirs: &[],
    },
    Layer {
        name: "kext-wire",
        ours: &["kext-types"],
        theirs: &["zerocopy"],
    },
    Layer {
        name: "kext-packet",
        ours: &["kext-types"],
        theirs: &["zerocopy"],
    },
    Layer {
        name: "kext-sync",
        ours: &[],
        theirs: &["lock_api"],
    },
    Layer {
        name: "kext-engine",
        ours: &["kext-types", "kext-packet", "kext-sync"],
        theirs: &["foldhash"],
    },
    Layer {
        name: "kext-extension",
        ours: &[
            "kext-types",
            "kext-wire",
            "kext-packet",
            "kext-sync",
            "kext-engine",
        ],
        theirs: &[],
    },
];

/// The crates that are Windows kernel and nothing else: no std, and all the unsafe code of it.
const KERNEL: &[Layer] = &[
    Layer {
        name: "kext-nt-sys",
        ours: &[],
        theirs: &[],
    },
    Layer {
        // Of our own crates only the lock: what is decided about a packet is none of its business.
        name: "kext-nt",
        ours: &["kext-sync", "kext-nt-sys"],
        theirs: &[],
    },
    Layer {
        // A driver for the tests of ntsim, built as the real one.
        name: "kext-ntsim-drivers",
        ours: &["kext-nt-sys"],
        theirs: &[],
    },
    Layer {
        name: "kext-driver",
        ours: &[
            "kext-types",
            "kext-wire",
            "kext-packet",
            "kext-extension",
            "kext-nt",
            "kext-nt-sys",
        ],
        theirs: &[],
    },
];

/// The crates that run in user mode only, and stand-ins for a kernel.
const STD: &[Layer] = &[
    Layer {
        name: "kext-hosts",
        ours: &[
            "kext-types",
            "kext-wire",
            "kext-packet",
            "kext-sync",
            "kext-engine",
            "kext-extension",
        ],
        theirs: &[
            "ipnet",
            "parking_lot",
            "pcap-file",
            "pcap-parser",
            "thiserror",
        ],
    },
    Layer {
        name: "kext-client",
        ours: &["kext-types", "kext-wire", "kext-hosts"],
        theirs: &["ipnet", "parking_lot", "thiserror"],
    },
    Layer {
        // Not kext-client: rules are about requests in columns, whoever received them.
        name: "kext-rules",
        ours: &["kext-types"],
        theirs: &["ipnet", "thiserror", "toml"],
    },
    Layer {
        // Not kext-wire: the Python half must not be able to parse the protocol itself.
        name: "portmaster-kext-native",
        ours: &["kext-types", "kext-client", "kext-rules"],
        theirs: &[
            "arrow-array",
            "arrow-buffer",
            "arrow-schema",
            "ipnet",
            "numpy",
            "parking_lot",
            "pyo3",
        ],
    },
    Layer {
        // What benches share; only they depend on it.
        name: "kext-bench",
        ours: &["kext-types", "kext-sync", "kext-engine"],
        theirs: &[],
    },
    Layer {
        // Only the raw declarations: it stands in for Windows, and knows nothing of the driver.
        name: "kext-ntsim",
        ours: &["kext-nt-sys"],
        theirs: &["libc", "libtest-mimic", "object", "parking_lot"],
    },
    Layer {
        // Serves a driver in ntsim to clients: it has the packets of a replay and the client's frames.
        name: "kext-ntsim-server",
        ours: &[
            "kext-types",
            "kext-wire",
            "kext-hosts",
            "kext-client",
            "kext-ntsim",
            "kext-ntsim-drivers",
        ],
        theirs: &[],
    },
    Layer {
        name: "xtask",
        ours: &[],
        theirs: &["object", "serde_json"],
    },
];

/// A model checker, in place of locks and atomics in builds that set this flag and no others.
const CHECKED: (&str, &str, &str) = ("kext-sync", "shuttle", "cfg(shuttle)");

/// Crates that nothing may depend on, not even a test.
const LEAVES: [&str; 3] = ["kext-driver", "portmaster-kext-native", "xtask"];

/// What the root file of every crate in [`NO_STD`] says; of those in [`KERNEL`] the first only.
const ATTRIBUTES: [&str; 2] = ["#![no_std]", "#![forbid(unsafe_code)]"];
/// What the one crate in [`NO_STD`] says that asks the processor to prefetch, which is unsafe.
const PREFETCHES: (&str, [&str; 2]) = ("kext-sync", ["#![no_std]", "#![deny(unsafe_code)]"]);

/// Every row, whatever the crate runs in.
fn layers() -> impl Iterator<Item = &'static Layer> {
    NO_STD.iter().chain(KERNEL).chain(STD)
}

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let text = output(&mut cargo)?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::Faults(vec![format!(
            "cargo metadata is not JSON as expected: {error}"
        )])
    })?;
    let mut faults = check(&metadata);
    faults.extend(attributes_missing(&metadata)?);
    Failure::unless_empty(faults)
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// A text field, or nothing.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn check(metadata: &Value) -> Vec<String> {
    let layers: Vec<&Layer> = layers().collect();
    let ours: BTreeSet<&str> = packages(metadata)
        .map(|package| text(package, "name"))
        .collect();
    let mut faults = Vec::new();
    for layer in &layers {
        if !ours.contains(layer.name) {
            faults.push(format!(
                "{} has a row in xtask/src/deps.rs but no crate",
                layer.name
            ));
        }
    }
    for package in packages(metadata) {
        let name = text(package, "name");
        let Some(layer) = layers.iter().find(|layer| layer.name == name) else {
            faults.push(format!("{name} needs a row in xtask/src/deps.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let wanted = text(dependency, "name");
            let for_tests = text(dependency, "kind") == "dev";
            let allowed = if LEAVES.contains(&wanted) {
                false
            } else if for_tests || (name, wanted, text(dependency, "target")) == CHECKED {
                true
            } else if ours.contains(wanted) {
                layer.ours.contains(&wanted)
            } else {
                layer.theirs.contains(&wanted)
            };
            if !allowed {
                faults.push(format!("{name} may not depend on {wanted}"));
            }
        }
    }
    faults
}

fn attributes_missing(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in packages(metadata) {
        let name = text(package, "name");
        let has = |layers: &[Layer]| layers.iter().any(|layer| layer.name == name);
        let wanted = match (has(NO_STD), has(KERNEL)) {
            (true, _) if name == PREFETCHES.0 => &PREFETCHES.1[..],
            (true, _) => &ATTRIBUTES[..],
            (false, true) => &ATTRIBUTES[..1],
            (false, false) => continue,
        };
        for target in package["targets"].as_array().into_iter().flatten() {
            if !target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.contains(&"lib".into()))
            {
                continue;
            }
            let path = text(target, "src_path");
            let source = fs::read_to_string(path).map_err(|source| Failure::file(path, source))?;
            for attribute in wanted {
                if source.lines().all(|line| line.trim_end() != *attribute) {
                    faults.push(format!("the root file of {name} does not say {attribute}"));
                }
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace in which every crate depends on all that it may, and one more thing.
    fn workspace(extra: &[(&str, Value)]) -> Value {
        let packages: Vec<Value> = layers()
            .map(|layer| {
                let mut dependencies: Vec<Value> = layer
                    .ours
                    .iter()
                    .chain(layer.theirs)
                    .map(|name| json!({"name": name, "kind": null}))
                    .collect();
                dependencies.extend(
                    extra
                        .iter()
                        .filter(|(name, _)| *name == layer.name)
                        .map(|(_, dependency)| dependency.clone()),
                );
                json!({"name": layer.name, "dependencies": dependencies})
            })
            .collect();
        json!({ "packages": packages })
    }

    fn fault(name: &str, dependency: &Value) -> Vec<String> {
        check(&workspace(&[(name, dependency.clone())]))
    }

    #[test]
    fn the_table_allows_what_it_lists() {
        assert_eq!(check(&workspace(&[])), Vec::<String>::new());
    }

    #[test]
    fn a_layer_may_not_look_up() {
        let upwards = json!({"name": "kext-wire", "kind": null});
        assert_eq!(
            fault("kext-engine", &upwards),
            ["kext-engine may not depend on kext-wire"]
        );
        assert_eq!(
            fault("portmaster-kext-native", &upwards),
            ["portmaster-kext-native may not depend on kext-wire"]
        );
    }

    #[test]
    fn a_foreign_crate_needs_a_decision_outside_tests() {
        let foreign = json!({"name": "rand", "kind": null});
        assert_eq!(
            fault("kext-packet", &foreign),
            ["kext-packet may not depend on rand"]
        );
        let for_tests = json!({"name": "rand", "kind": "dev"});
        assert_eq!(fault("kext-packet", &for_tests), Vec::<String>::new());
        let for_build = json!({"name": "cc", "kind": "build"});
        assert_eq!(
            fault("kext-packet", &for_build),
            ["kext-packet may not depend on cc"]
        );
    }

    #[test]
    fn the_model_checker_is_for_builds_with_its_flag() {
        let (name, wanted, target) = CHECKED;
        let checked = json!({"name": wanted, "kind": null, "target": target});
        assert_eq!(fault(name, &checked), Vec::<String>::new());
        assert_eq!(
            fault("kext-engine", &checked),
            ["kext-engine may not depend on shuttle"]
        );
        let always = json!({"name": wanted, "kind": null, "target": null});
        assert_eq!(
            fault(name, &always),
            ["kext-sync may not depend on shuttle"]
        );
    }

    #[test]
    fn nothing_depends_on_the_chores() {
        let chores = json!({"name": "xtask", "kind": "dev"});
        assert_eq!(
            fault("kext-hosts", &chores),
            ["kext-hosts may not depend on xtask"]
        );
    }

    #[test]
    fn a_new_crate_needs_a_row_and_a_row_needs_a_crate() {
        let mut metadata = workspace(&[]);
        if let Some(name) = metadata.pointer_mut("/packages/0/name") {
            *name = json!("kext-new");
        }
        assert_eq!(
            check(&metadata)[..2],
            [
                "kext-types has a row in xtask/src/deps.rs but no crate",
                "kext-new needs a row in xtask/src/deps.rs"
            ]
        );
    }
}
