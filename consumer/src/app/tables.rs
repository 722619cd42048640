//! `tables`: the definition of the tables, for those who create them by other means.

use std::io::{Write, stdout};
use std::process::ExitCode;

use shared::table::ALL;

use super::CommandResult;

/// Print the definition of the tables as JSON; docs/schema/tables.json is this output.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(Args {}: Args) -> CommandResult {
    stdout().lock().write_all(definition().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// [`ALL`], as a list of objects, with a line break at the end.
fn definition() -> String {
    let mut json = serde_json::to_string_pretty(&ALL).expect("names and flags are JSON");
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CDK creates its tables from the file.
    #[test]
    fn the_committed_definition_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/tables.json");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == definition(),
            "docs/schema/tables.json is not what the worker creates; write it anew with \
             catalog-labels tables >docs/schema/tables.json"
        );
    }
}
