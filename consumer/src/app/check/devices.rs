//! What this host scores with: NeuronCores where it has them, else its CPU.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use models::neuron::cores_of;

use super::finding::Finding;

/// NeuronCores of one Inferentia chip, which is one device.
const CORES_PER_CHIP: usize = 4;
const VISIBLE_CORES: &str = "NEURON_RT_VISIBLE_CORES";
/// Libraries that would bring threads of their own to each replica.
const THREAD_VARIABLES: [&str; 2] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"];

/// What of a host is looked at.
pub struct Host {
    /// Where `neuron<chip>` lie.
    devices: PathBuf,
    variable: fn(&str) -> Option<String>,
}

impl Host {
    pub fn this() -> Self {
        Self { devices: PathBuf::from("/dev"), variable: |name| std::env::var(name).ok() }
    }
}

pub fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = of_threads(host);
    let chips = chips_in(&host.devices);
    match (host.variable)(VISIBLE_CORES) {
        Some(cores) => match chips_of(&cores) {
            Some(wanted) => findings.extend(wanted.difference(&chips).map(|chip| {
                let path = host.devices.join(format!("neuron{chip}"));
                let fix = "load the driver (aws-neuronx-dkms), or name cores of chips that are here";
                Finding::error("devices", format!("{} of {VISIBLE_CORES}={cores} is missing", path.display()), fix)
            })),
            None => findings.push(Finding::error(
                "devices",
                format!("{VISIBLE_CORES}={cores:?} is no list of cores"),
                "write a core, a range, or a list of them, such as 0-3",
            )),
        },
        None if !chips.is_empty() => findings.push(Finding::warning(
            "devices",
            format!(
                "{} Neuron devices are here, and {VISIBLE_CORES} is not set: one process would take them all",
                chips.len()
            ),
            "set it to the four cores of one chip for each process, as the units in cdk/ do",
        )),
        None => {}
    }
    findings
}

fn of_threads(host: &Host) -> Vec<Finding> {
    let other = THREAD_VARIABLES.into_iter().filter(|name| (host.variable)(name).as_deref() != Some("1"));
    let finding = |name| {
        let problem =
            format!("{name} is not 1: replicas bring their own threads, and two levels of them halve the speed");
        Finding::warning("devices", problem, format!("set {name}=1"))
    };
    other.map(finding).collect()
}

/// Numbers of the Neuron devices in a folder.
fn chips_in(folder: &Path) -> BTreeSet<usize> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("neuron")?.parse().ok()).collect()
}

/// Chips that the listed cores lie on; none if they are no list.
fn chips_of(cores: &str) -> Option<BTreeSet<usize>> {
    Some(cores_of(cores)?.into_iter().map(|core| core / CORES_PER_CHIP).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(folder: &Path, variable: fn(&str) -> Option<String>) -> Host {
        Host { devices: folder.to_owned(), variable }
    }

    fn with(name: &str, cores: Option<&str>) -> Option<String> {
        if name == VISIBLE_CORES { cores.map(str::to_owned) } else { Some("1".to_owned()) }
    }

    #[test]
    fn every_chip_of_the_visible_cores_must_be_there() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("neuron0"), "").expect("written");
        assert_eq!(findings(&host(folder.path(), |name| with(name, Some("0-3")))), []);
        let found = findings(&host(folder.path(), |name| with(name, Some("0-3,4-7"))));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].is_error() && found[0].problem.contains("neuron1 of"), "{found:?}");
        let found = findings(&host(folder.path(), |name| with(name, Some("all"))));
        assert!(found[0].problem.contains("is no list of cores"), "{found:?}");
    }

    #[test]
    fn devices_that_nobody_divides_are_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(findings(&host(folder.path(), |name| with(name, None))), []);
        std::fs::write(folder.path().join("neuron0"), "").expect("written");
        let found = findings(&host(folder.path(), |name| with(name, None)));
        assert!(found.len() == 1 && !found[0].is_error(), "{found:?}");
    }

    #[test]
    fn threads_of_libraries_are_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = findings(&host(folder.path(), |_name| None));
        assert_eq!(
            found.iter().map(|finding| finding.fix.as_str()).collect::<Vec<_>>(),
            ["set OMP_NUM_THREADS=1", "set OPENBLAS_NUM_THREADS=1"]
        );
    }

    #[test]
    fn four_cores_in_a_row_are_a_chip() {
        assert_eq!(chips_of("0-3"), Some(BTreeSet::from([0])));
        assert_eq!(chips_of("4,9-12"), Some(BTreeSet::from([1, 2, 3])));
        assert_eq!(chips_of("x"), None);
    }
}
