//! The shipped artifact, changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use models::manifest::{MANIFEST_FILE, QUERY_CASCADE_FILE};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::worker::artifact;

/// The shipped artifact without its first stage for queries and its early exit, whatever they ask.
///
/// # Panics
/// When the artifact cannot be read.
pub fn network_alone() -> TempDir {
    without(&["query_cascade", "early_exit"])
}

/// The shipped artifact without some of its stages.
///
/// # Panics
/// When the artifact cannot be read.
pub fn without(stages: &[&str]) -> TempDir {
    changed(|manifest| {
        for stage in stages {
            manifest.as_object_mut().expect("an object").remove(*stage);
        }
    })
}

/// The shipped artifact, which also reads pairs in doubt with their texts in the other order.
///
/// # Panics
/// When the artifact cannot be read.
pub fn reading_twice() -> TempDir {
    changed(|manifest| {
        manifest["schema_version"] = json!(7);
        manifest["second_reading"] = json!({"above": 0.2, "below": 0.8});
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for entry in fs::read_dir(artifact()).expect("the artifact is there") {
        let entry = entry.expect("the artifact can be listed");
        symlink(entry.path(), folder.path().join(entry.file_name())).expect("the file is linked");
    }
    let mut manifest = manifest(folder.path());
    change(&mut manifest);
    let path = folder.path().join(MANIFEST_FILE);
    fs::remove_file(&path).expect("the link goes");
    fs::write(&path, manifest.to_string()).expect("writable");
    folder
}

/// Puts the shipped first stage for queries into the artifact in `folder`, to settle what it is sure of by `settle_from`.
///
/// # Panics
/// When one of the two cannot be read.
pub fn give_first_stage(folder: &Path, settle_from: f64) {
    let (shipped, mut own) = (manifest(&artifact()), manifest(folder));
    own["schema_version"] = shipped["schema_version"].clone();
    own["query_cascade"] = shipped["query_cascade"].clone();
    own["query_cascade"]["settle_from"] = settle_from.into();
    own["files"][QUERY_CASCADE_FILE] = shipped["files"][QUERY_CASCADE_FILE].clone();
    fs::copy(artifact().join(QUERY_CASCADE_FILE), folder.join(QUERY_CASCADE_FILE)).expect("it is copied");
    fs::write(folder.join(MANIFEST_FILE), own.to_string()).expect("writable");
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join(MANIFEST_FILE)).expect("readable")).expect("JSON")
}
