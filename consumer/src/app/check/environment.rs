//! Variables that look like options and are none: a misspelt one would be ignored in silence.

use std::collections::BTreeSet;

use clap::CommandFactory;

use super::finding::Finding;
use crate::app::{Cli, telemetry};

const PREFIX: &str = "CATALOG_LABELS_";
/// Read by the tests of this repository only.
const OF_TESTS: &str = "CATALOG_LABELS_MINISTACK";

/// One finding for each of `names` that no command reads.
pub fn unknown(names: impl Iterator<Item = String>) -> Vec<Finding> {
    let known = known();
    let unknown = names.filter(|name| name.starts_with(PREFIX) && !known.contains(name.as_str()));
    let mut unknown: Vec<String> = unknown.collect();
    unknown.sort();
    let finding = |name: String| {
        let fix = "correct the name, or unset it; docs/CONFIGURATION.md has them all";
        Finding::error("configuration", format!("{name} is no option of this build"), fix)
    };
    unknown.into_iter().map(finding).collect()
}

fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::from([telemetry::FILTER_VARIABLE.to_owned(), OF_TESTS.to_owned()]);
    collect(&Cli::command(), &mut known);
    known
}

fn collect(command: &clap::Command, known: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    known.extend(variables.map(str::to_owned));
    for subcommand in command.get_subcommands() {
        collect(subcommand, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_with_our_prefix_that_no_command_reads_are_found() {
        let names = ["PATH", "CATALOG_LABELS_LEASE", "CATALOG_LABELS_LOG", "CATALOG_LABELS_LEASES"];
        let found = unknown(names.into_iter().map(str::to_owned));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].problem, "CATALOG_LABELS_LEASES is no option of this build");
    }
}
