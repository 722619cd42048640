//! What this host scores with: NeuronCores where it has them, else its CPU.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use models::manifest::Target;
use models::neuron::{self, OpLibraryError, cores_of};

use super::finding::Finding;

/// NeuronCores of one Inferentia chip, which is one device.
const CORES_PER_CHIP: usize = 4;
const VISIBLE_CORES: &str = "NEURON_RT_VISIBLE_CORES";
/// How many, where they are not named.
const CORES: &str = "NEURON_RT_NUM_CORES";
/// Libraries that would bring threads of their own to each replica.
const THREAD_VARIABLES: [&str; 2] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"];

/// What of a host is looked at.
pub struct Host {
    /// Where `neuron<chip>` lie.
    devices: PathBuf,
    variable: fn(&str) -> Option<String>,
    open_op_library: fn() -> Result<(), OpLibraryError>,
}

impl Host {
    pub fn this() -> Self {
        Self {
            devices: PathBuf::from("/dev"),
            variable: |name| std::env::var(name).ok(),
            open_op_library: neuron::open_op_library,
        }
    }
}

/// `targets` are what the models of this process were made for.
pub fn findings(host: &Host, targets: &[Target]) -> Vec<Finding> {
    let chips = chips_in(&host.devices);
    let mut findings = of_threads(host);
    findings.extend(of_cores(host, &chips));
    findings.extend(targets.iter().filter_map(|target| of_target(host, &chips, *target)));
    findings
}

/// Whether the cores that the environment gives to this process lie on chips that are here.
fn of_cores(host: &Host, chips: &BTreeSet<usize>) -> Vec<Finding> {
    let driver = "load the driver (aws-neuronx-dkms), or name cores of chips that are here";
    let Some(cores) = (host.variable)(VISIBLE_CORES) else {
        return of_count(host, chips, driver).into_iter().collect();
    };
    match chips_of(&cores) {
        Some(wanted) => wanted
            .difference(chips)
            .map(|chip| {
                let path = host.devices.join(format!("neuron{chip}"));
                Finding::error("devices", format!("{} of {VISIBLE_CORES}={cores} is missing", path.display()), driver)
            })
            .collect(),
        None => vec![Finding::error(
            "devices",
            format!("{VISIBLE_CORES}={cores:?} is no list of cores"),
            "write a core, a range, or a list of them, such as 0-3",
        )],
    }
}

/// Where cores are counted, and not named.
fn of_count(host: &Host, chips: &BTreeSet<usize>, driver: &str) -> Option<Finding> {
    let here = chips.len() * CORES_PER_CHIP;
    let Some(count) = (host.variable)(CORES) else {
        let problem = format!(
            "{} Neuron devices are here, and {VISIBLE_CORES} is not set: one process would take them all",
            chips.len()
        );
        let fix = "set it to the four cores of one chip for each process, as the units in cdk/ do";
        return (!chips.is_empty()).then(|| Finding::warning("devices", problem, fix));
    };
    match count.trim().parse::<usize>() {
        Ok(wanted) => (wanted > here)
            .then(|| Finding::error("devices", format!("{CORES} is {wanted}, and {here} cores are here"), driver)),
        Err(_invalid) => Some(Finding::error(
            "devices",
            format!("{CORES}={count:?} is no number"),
            "write how many cores, such as 4",
        )),
    }
}

/// Whether this host is one that a model was made for.
fn of_target(host: &Host, chips: &BTreeSet<usize>, target: Target) -> Option<Finding> {
    let given = [VISIBLE_CORES, CORES].into_iter().find(|name| (host.variable)(name).is_some());
    match (target, given) {
        (Target::Neuron, _) if chips.is_empty() => Some(Finding::error(
            "devices",
            format!("the model is compiled for NeuronCores, and {} has no neuron device", host.devices.display()),
            "run it on an inf1 host with the driver (aws-neuronx-dkms), or take a model for CPUs",
        )),
        (Target::Neuron, _) => (host.open_op_library)().err().map(|error| {
            let fix = "bundle the libraries of the wheels again (docs/DEPLOY.md), and set LD_LIBRARY_PATH to them";
            Finding::error("devices", error.to_string(), fix)
        }),
        (Target::Cpu, Some(name)) => Some(Finding::error(
            "devices",
            format!("the model runs on the CPU, and {name} is set: the NeuronCores would stand idle"),
            "take a model that models/training/compile_neuron.py compiled, or unset it",
        )),
        (Target::Cpu, None) => None,
    }
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
        Host { devices: folder.to_owned(), variable, open_op_library: || Ok(()) }
    }

    /// With one thread for each library, and `value` under `name`.
    fn with(asked: &str, name: &str, value: &str) -> Option<String> {
        if THREAD_VARIABLES.contains(&asked) { Some("1".to_owned()) } else { (asked == name).then(|| value.to_owned()) }
    }

    fn folder_with(chips: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for chip in 0..chips {
            std::fs::write(folder.path().join(format!("neuron{chip}")), "").expect("written");
        }
        folder
    }

    #[test]
    fn every_chip_of_the_visible_cores_must_be_there() {
        let folder = folder_with(1);
        assert_eq!(findings(&host(folder.path(), |name| with(name, VISIBLE_CORES, "0-3")), &[]), []);
        let found = findings(&host(folder.path(), |name| with(name, VISIBLE_CORES, "0-3,4-7")), &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].is_error() && found[0].problem.contains("neuron1 of"), "{found:?}");
        let found = findings(&host(folder.path(), |name| with(name, VISIBLE_CORES, "all")), &[]);
        assert!(found[0].problem.contains("is no list of cores"), "{found:?}");
    }

    #[test]
    fn cores_that_are_counted_must_be_there_too() {
        let folder = folder_with(1);
        assert_eq!(findings(&host(folder.path(), |name| with(name, CORES, "4")), &[]), []);
        let five: fn(&str) -> Option<String> = |name| with(name, CORES, "5");
        for (variable, problem) in
            [(five, "is 5, and 4 cores are here"), (|name| with(name, CORES, "four"), "is no number")]
        {
            let found = findings(&host(folder.path(), variable), &[]);
            assert!(found.len() == 1 && found[0].is_error() && found[0].problem.contains(problem), "{found:?}");
        }
    }

    #[test]
    fn devices_that_nobody_divides_are_a_warning() {
        let nothing_set = |name: &str| with(name, "", "");
        assert_eq!(findings(&host(folder_with(0).path(), nothing_set), &[]), []);
        let found = findings(&host(folder_with(1).path(), nothing_set), &[]);
        assert!(found.len() == 1 && !found[0].is_error(), "{found:?}");
    }

    #[test]
    fn a_model_must_be_made_for_the_host() {
        let given = |name: &str| with(name, VISIBLE_CORES, "0-3");
        let nothing_set = |name: &str| with(name, "", "");
        let (inf1, other) = (folder_with(1), folder_with(0));
        assert_eq!(findings(&host(inf1.path(), given), &[Target::Neuron]), []);
        assert_eq!(findings(&host(other.path(), nothing_set), &[Target::Cpu]), []);
        let without_library = Host {
            open_op_library: || Err(OpLibraryError::Missing { reason: "gone".to_owned() }),
            ..host(inf1.path(), given)
        };
        for (host, target, problem) in [
            (host(inf1.path(), given), Target::Cpu, "the NeuronCores would stand idle"),
            (host(other.path(), nothing_set), Target::Neuron, "has no neuron device"),
            (without_library, Target::Neuron, "libtorchneuron.so is not there (gone)"),
        ] {
            let found = findings(&host, &[target]);
            assert!(found.len() == 1 && found[0].is_error() && found[0].problem.contains(problem), "{found:?}");
        }
    }

    #[test]
    fn threads_of_libraries_are_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = findings(&host(folder.path(), |_name| None), &[]);
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
