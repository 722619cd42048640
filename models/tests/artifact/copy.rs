//! The shipped artifact, spoilt.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use models::features::FEATURES;
use models::manifest::{
    CASCADE_FILE, EARLY_EXIT_FILE, GOLDENS_FILE, MANIFEST_FILE, MODULE_FILE, Problem, QUERY_CASCADE_FILE,
    TOKENIZER_FILE,
};
use models::query_cascade::Pieces;
use models::{Artifact, Scorer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::Intent;
use tempfile::TempDir;

use crate::{ONE_FP32, shipped};

/// A copy of the shipped artifact for a test to spoil; the module is linked, not copied.
pub struct Copy {
    pub folder: TempDir,
}

impl Copy {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for name in [MANIFEST_FILE, TOKENIZER_FILE, GOLDENS_FILE] {
            fs::copy(shipped().join(name), folder.path().join(name)).expect("the file is copied");
        }
        symlink(shipped().join(MODULE_FILE), folder.path().join(MODULE_FILE)).expect("the module is linked");
        for name in [CASCADE_FILE, QUERY_CASCADE_FILE, EARLY_EXIT_FILE] {
            fs::copy(shipped().join(name), folder.path().join(name)).expect("the file is copied");
        }
        Self { folder }
    }

    /// With a cascade that is sure of pairs which share less than a quarter of their words.
    pub fn with_cascade(distinct_below: f32) -> Self {
        let copy = Self::new();
        let shared_words = FEATURES.iter().position(|name| *name == "short_words_share").expect("a feature");
        let cascade = json!({
            "features": FEATURES.to_vec(),
            "base": 0.0,
            "trees": [[[shared_words, 0.25, 1, 2], -5.0, 2.0]],
            "goldens": [{"a": "red kettle", "b": "wool scarf", "probability": 1.0 / (1.0 + 5f64.exp())}],
        });
        copy.change(MANIFEST_FILE, |manifest| {
            manifest["schema_version"] = json!(3);
            manifest["cascade"] = json!({"distinct_below": distinct_below});
            for younger in ["query_cascade", "early_exit", "second_reading"] {
                manifest.as_object_mut().expect("an object").remove(younger);
            }
        });
        copy.change_vouched(CASCADE_FILE, |value| *value = cascade);
        copy
    }

    /// With a first stage that takes every query which says "parcel" for one that wants help, the
    /// surer the fewer words there are.
    pub fn with_query_cascade(settle_from: f32) -> Self {
        let copy = Self::new();
        let parcel = usize::from(Pieces::of("parcel").words[0]);
        copy.change(MANIFEST_FILE, |manifest| manifest["query_cascade"] = json!({"settle_from": settle_from}));
        copy.change_vouched(QUERY_CASCADE_FILE, |file| {
            let buckets = file["buckets"].as_u64().expect("a number") as usize;
            let mut weights = vec![0; 2 * buckets * 4];
            weights[parcel * 4 + Intent::Help as usize] = 100;
            file["weights"] = json!(BASE64_STANDARD.encode(weights));
            file["tokens"] = json!(null);
            file["scale"] = json!([1.0, 1.0, 0.1, 1.0]);
            file["bias"] = json!([0.0, 0.0, 0.0, 0.0]);
            file["goldens"] = json!([{"query": "Parcel", "logits": [0.0, 0.0, 10.0, 0.0]}]);
        });
        copy
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.folder.path().join(name);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).expect("JSON")).expect("writable");
    }

    /// Changes a file and lets the manifest vouch for the change.
    pub fn change_vouched(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.change(name, change);
        let digest = Sha256::digest(fs::read(self.folder.path().join(name)).expect("readable"));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.change(MANIFEST_FILE, |manifest| manifest["files"][name]["sha256"] = json!(hex));
    }

    pub fn problems(&self) -> Vec<Problem> {
        Artifact::open(self.folder.path()).err().expect("the artifact is refused").problems
    }

    /// The error of a start and all of its causes, in one line.
    pub fn refusal(&self) -> String {
        let error = Scorer::start(self.folder.path(), ONE_FP32).err().expect("the artifact is refused");
        let mut said = error.to_string();
        let mut cause: Option<&dyn Error> = error.source();
        while let Some(error) = cause {
            said = format!("{said}: {error}");
            cause = error.source();
        }
        said
    }
}
