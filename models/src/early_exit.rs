//! The early exits of an artifact's network: heads on what its first layers make of a row. Where one is
//! sure its answer stands, and the later layers read the other rows alone.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::golden::{GoldenCase, Goldens, Kind};
use crate::manifest::ExitEntry;

/// `early_exit.json`, as `training/early_exit.py` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// In the order of the manifest's entries.
    heads: Vec<FileHead>,
    /// Rows that leave early, with the logits of the trainer's own copy.
    goldens: Vec<GoldenCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHead {
    /// Base64 of bf16, little-endian: (outputs of the hidden layer, 2 hidden).
    hidden_weight: String,
    hidden_bias: Vec<f32>,
    /// (logits, outputs of the hidden layer).
    out_weight: Vec<Vec<f32>>,
    out_bias: Vec<f32>,
}

/// Why an `early_exit.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum EarlyExitError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("heads: there are {found}, and the manifest has {entries} exits")]
    Heads { found: usize, entries: usize },
    #[error("heads[{head}].{reason}")]
    Head { head: usize, reason: HeadError },
    #[error("goldens: no {kind} leave early there")]
    Goldens { kind: Kind },
}

/// What is wrong with one head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error("hidden_weight: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("{field}: there are {found} numbers, which are no rows of a layer of {outputs} outputs")]
    Shape { field: &'static str, found: usize, outputs: usize },
    #[error("{field}: there are {found}, and {kind} have {logits} logits")]
    Logits { field: &'static str, found: usize, kind: Kind, logits: usize },
    #[error("{field}: not every number is finite")]
    NotFinite { field: &'static str },
}

/// A head as the network's own: a hidden layer and the logits, on the first token and the mean.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyExit {
    /// Layers that have run by then; whose rows leave, and how sure the head has to be.
    pub entry: ExitEntry,
    /// (outputs, 2 hidden), row-major.
    pub hidden_weight: Vec<f32>,
    /// (outputs).
    pub hidden_bias: Vec<f32>,
    /// (logits, outputs), row-major.
    pub out_weight: Vec<f32>,
    /// (logits).
    pub out_bias: Vec<f32>,
}

/// All exits, and rows that leave by them.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyExits {
    pub exits: Vec<EarlyExit>,
    pub goldens: Goldens,
}

impl EarlyExits {
    /// Reads the content of an `early_exit.json` for the manifest's `entries`. Whether it fits the network is
    /// seen when it is added to one, and what it says of its goldens when they are scored.
    pub fn read(json: &[u8], entries: &[ExitEntry]) -> Result<Self, EarlyExitError> {
        let File { heads, goldens } = serde_json::from_slice(json)?;
        if heads.len() != entries.len() {
            return Err(EarlyExitError::Heads { found: heads.len(), entries: entries.len() });
        }
        let read = |(head, (file, &entry)): (usize, (FileHead, &ExitEntry))| {
            file.read(entry).map_err(|reason| EarlyExitError::Head { head, reason })
        };
        let exits = heads.into_iter().zip(entries).enumerate().map(read).collect::<Result<_, _>>()?;
        for entry in entries {
            let is_of_kind = |case: &GoldenCase| case.kind == entry.kind() && !case.texts.is_empty();
            if !goldens.iter().any(is_of_kind) {
                return Err(EarlyExitError::Goldens { kind: entry.kind() });
            }
        }
        Ok(Self { exits, goldens: Goldens { cases: goldens } })
    }
}

impl FileHead {
    fn read(self, entry: ExitEntry) -> Result<EarlyExit, HeadError> {
        let Self { hidden_weight, hidden_bias, out_weight, out_bias } = self;
        let hidden_weight = bf16_numbers(&BASE64_STANDARD.decode(hidden_weight)?);
        let (outputs, kind) = (hidden_bias.len(), entry.kind());
        for (field, found) in [("out_weight", out_weight.len()), ("out_bias", out_bias.len())] {
            if found != kind.logits() {
                return Err(HeadError::Logits { field, found, kind, logits: kind.logits() });
            }
        }
        for (field, found, is_whole) in [
            ("hidden_weight", hidden_weight.len(), outputs > 0 && hidden_weight.len().is_multiple_of(outputs)),
            ("out_weight", out_weight[0].len(), out_weight.iter().all(|row| row.len() == outputs)),
        ] {
            if !is_whole {
                return Err(HeadError::Shape { field, found, outputs });
            }
        }
        let out_weight = out_weight.concat();
        for (field, numbers) in [
            ("hidden_weight", &hidden_weight),
            ("hidden_bias", &hidden_bias),
            ("out_weight", &out_weight),
            ("out_bias", &out_bias),
        ] {
            if numbers.iter().any(|number| !number.is_finite()) {
                return Err(HeadError::NotFinite { field });
            }
        }
        Ok(EarlyExit { entry, hidden_weight, hidden_bias, out_weight, out_bias })
    }
}

/// Numbers of bf16, little-endian.
pub(crate) fn bf16_numbers(bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|&pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ENTRIES: [ExitEntry; 2] =
        [ExitEntry::Queries { after: 1, settle_from: 0.9 }, ExitEntry::Pairs { after: 3, distinct_below: 0.1 }];

    fn file() -> Value {
        // 1, -2 and 0.5, 0 in bf16.
        let hidden_weight = BASE64_STANDARD.encode([0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3f, 0x00, 0x00]);
        json!({
            "heads": [
                {"hidden_weight": hidden_weight, "hidden_bias": [0.0, 1.0],
                 "out_weight": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "out_bias": [0.0, 0.1, 0.2, 0.3]},
                {"hidden_weight": hidden_weight, "hidden_bias": [0.0, 1.0],
                 "out_weight": [[1.0, 2.0], [3.0, 4.0]], "out_bias": [0.0, 0.1]},
            ],
            "goldens": [{"name": "plain", "kind": "queries", "length": 8, "texts": [["usb c cable"]],
                         "input_ids": [[1, 2]], "token_types": [[0, 0]], "logits": [[4.0, 0.0, 0.0, 0.0]]},
                        {"name": "apart", "kind": "pairs", "length": 8, "texts": [["kettle", "lamp"]],
                         "input_ids": [[1, 2]], "token_types": [[0, 0]], "logits": [[4.0, 0.0]]}],
        })
    }

    fn read(file: &Value) -> Result<EarlyExits, String> {
        EarlyExits::read(&serde_json::to_vec(file).expect("JSON"), &ENTRIES).map_err(|error| error.to_string())
    }

    #[test]
    fn weights_are_read_row_by_row() {
        let EarlyExits { exits, goldens } = read(&file()).expect("exits");
        assert_eq!((exits.len(), goldens.cases.len()), (2, 2));
        assert_eq!([exits[0].entry, exits[1].entry], ENTRIES);
        assert_eq!(exits[0].hidden_weight, [1.0, -2.0, 0.5, 0.0]);
        assert_eq!(exits[0].out_weight, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(exits[1].out_bias, [0.0, 0.1]);
    }

    #[test]
    fn files_that_are_no_exits_are_refused_with_the_reason() {
        for (at, value, reason) in [
            ("", json!([]), "invalid"),
            ("/heads", json!([]), "heads: there are 0, and the manifest has 2 exits"),
            ("/heads/0/hidden_weight", json!("?"), "heads[0].hidden_weight: Invalid"),
            ("/heads/1/hidden_weight", json!("AAAA"), "heads[1].hidden_weight: there are 1 numbers, which are no rows"),
            ("/heads/0/hidden_weight", json!(BASE64_STANDARD.encode([0x80, 0x7f, 0, 0])), "not every number is finite"),
            (
                "/heads/0/hidden_bias",
                json!([]),
                "hidden_weight: there are 4 numbers, which are no rows of a layer of 0",
            ),
            ("/heads/0/out_weight/3", json!([1.0]), "out_weight: there are 2 numbers"),
            ("/heads/1/out_weight", json!([[1.0, 2.0]]), "heads[1].out_weight: there are 1, and pairs have 2 logits"),
            ("/heads/1/out_bias", json!([]), "heads[1].out_bias: there are 0, and pairs have 2 logits"),
            ("/heads/0/out_bias/1", json!(1e300), "out_bias: not every number"),
            ("/goldens", json!([]), "goldens: no queries leave early there"),
            ("/goldens/1/kind", json!("queries"), "goldens: no pairs leave early there"),
        ] {
            let mut spoilt = file();
            *spoilt.pointer_mut(at).expect("it is there") = value;
            let said = read(&spoilt).expect_err("it is refused");
            assert!(said.contains(reason), "{at}: {said}");
        }
    }
}
