//! An artifact whose module fails on purpose: see `models/training/faulty.py`.

use std::fs;

use models::manifest::{
    CASCADE_FILE, EARLY_EXIT_FILE, GOLDENS_FILE, MANIFEST_FILE, MODULE_FILE, QUERY_CASCADE_FILE, TOKENIZER_FILE,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::worker::{artifact, repository};

/// The shipped artifact with the faulty module, vouched for by its manifest.
pub fn faulty_artifact() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::copy(artifact().join(TOKENIZER_FILE), path(TOKENIZER_FILE)).expect("the tokenizer is copied");
    fs::copy(repository().join("tests/data/faulty.ts"), path(MODULE_FILE)).expect("the module is copied");
    let mut goldens = read(GOLDENS_FILE);
    for case in goldens["cases"].as_array_mut().expect("cases are a list") {
        let logits = if case["kind"] == "pairs" { json!([0.0, 4.0]) } else { json!([4.0, 0.0, 0.0, 0.0]) };
        let rows = case["texts"].as_array().map_or(0, Vec::len);
        case["logits"] = Value::Array(vec![logits; rows]);
    }
    fs::write(path(GOLDENS_FILE), goldens.to_string()).expect("writable");
    let mut manifest = read(MANIFEST_FILE);
    // Every pair and query has to reach the module, and once.
    manifest.as_object_mut().expect("a manifest is an object").remove("second_reading");
    let stages = [("cascade", CASCADE_FILE), ("query_cascade", QUERY_CASCADE_FILE), ("early_exit", EARLY_EXIT_FILE)];
    for (stage, file) in stages {
        manifest.as_object_mut().expect("a manifest is an object").remove(stage);
        manifest["files"].as_object_mut().expect("files are an object").remove(file);
    }
    for name in [TOKENIZER_FILE, MODULE_FILE, GOLDENS_FILE] {
        let bytes = fs::read(path(name)).expect("readable");
        let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        manifest["files"][name] = json!({"sha256": hex, "bytes": bytes.len()});
    }
    fs::write(path(MANIFEST_FILE), manifest.to_string()).expect("writable");
    folder
}

fn read(name: &str) -> Value {
    let bytes = fs::read(artifact().join(name)).expect("the shipped file is readable");
    serde_json::from_slice(&bytes).expect("the shipped file is JSON")
}
