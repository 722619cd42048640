//! The early exit of an artifact's network: a head on what the first layers make of a query. Where it is
//! sure its answer stands, and the later layers read the other queries alone.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::golden::{GoldenCase, Goldens, Kind};

const INTENTS: usize = 4;

/// `early_exit.json`, as `training/early_exit.py` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    after: usize,
    /// Base64 of bf16, little-endian: (outputs of the hidden layer, 2 hidden).
    hidden_weight: String,
    hidden_bias: Vec<f32>,
    /// (4, outputs of the hidden layer).
    out_weight: [Vec<f32>; INTENTS],
    out_bias: [f32; INTENTS],
    /// Queries that leave early, with the logits of the trainer's own copy.
    goldens: Vec<GoldenCase>,
}

/// Why an `early_exit.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum EarlyExitError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("hidden_weight: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("{field}: there are {found} numbers, which are no rows of a layer of {outputs} outputs")]
    Shape { field: &'static str, found: usize, outputs: usize },
    #[error("{field}: not every number is finite")]
    NotFinite { field: &'static str },
    #[error("goldens: there are no queries, or there is something else")]
    Goldens,
}

/// A head as the network's own: a hidden layer and the logits, on the first token and the mean.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyExit {
    /// Layers that have run by then.
    pub after: usize,
    /// An intent of at least this probability stands.
    pub settle_from: f32,
    /// (outputs, 2 hidden), row-major.
    pub hidden_weight: Vec<f32>,
    /// (outputs).
    pub hidden_bias: Vec<f32>,
    /// (4, outputs), row-major.
    pub out_weight: Vec<f32>,
    pub out_bias: [f32; INTENTS],
    pub goldens: Goldens,
}

impl EarlyExit {
    /// Reads the content of an `early_exit.json`. Whether it fits the network is seen when it is added to
    /// one, and what it says of its goldens when they are scored.
    pub fn read(json: &[u8], settle_from: f32) -> Result<Self, EarlyExitError> {
        let File { after, hidden_weight, hidden_bias, out_weight, out_bias, goldens } = serde_json::from_slice(json)?;
        let hidden_weight = numbers(&BASE64_STANDARD.decode(hidden_weight)?);
        let outputs = hidden_bias.len();
        for (field, found, is_whole) in [
            ("hidden_weight", hidden_weight.len(), outputs > 0 && hidden_weight.len().is_multiple_of(outputs)),
            ("out_weight", out_weight[0].len(), out_weight.iter().all(|row| row.len() == outputs)),
        ] {
            if !is_whole {
                return Err(EarlyExitError::Shape { field, found, outputs });
            }
        }
        let out_weight = out_weight.concat();
        for (field, numbers) in [
            ("hidden_weight", &hidden_weight[..]),
            ("hidden_bias", &hidden_bias),
            ("out_weight", &out_weight),
            ("out_bias", &out_bias),
        ] {
            if numbers.iter().any(|number| !number.is_finite()) {
                return Err(EarlyExitError::NotFinite { field });
            }
        }
        let is_good = |case: &GoldenCase| case.kind == Kind::Queries && !case.texts.is_empty();
        if goldens.is_empty() || !goldens.iter().all(is_good) {
            return Err(EarlyExitError::Goldens);
        }
        let goldens = Goldens { cases: goldens };
        Ok(Self { after, settle_from, hidden_weight, hidden_bias, out_weight, out_bias, goldens })
    }
}

/// Numbers of bf16.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|&pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file() -> Value {
        // 1, -2 and 0.5, 0 in bf16.
        let hidden_weight = BASE64_STANDARD.encode([0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3f, 0x00, 0x00]);
        json!({
            "after": 1, "hidden_weight": hidden_weight, "hidden_bias": [0.0, 1.0],
            "out_weight": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "out_bias": [0.0, 0.1, 0.2, 0.3],
            "goldens": [{"name": "plain", "kind": "queries", "length": 8, "texts": [["usb c cable"]],
                         "input_ids": [[1, 2]], "token_types": [[0, 0]], "logits": [[4.0, 0.0, 0.0, 0.0]]}],
        })
    }

    fn read(file: &Value) -> Result<EarlyExit, String> {
        EarlyExit::read(&serde_json::to_vec(file).expect("JSON"), 0.9).map_err(|error| error.to_string())
    }

    #[test]
    fn weights_are_read_row_by_row() {
        let exit = read(&file()).expect("an exit");
        assert_eq!((exit.after, exit.settle_from, exit.goldens.cases.len()), (1, 0.9, 1));
        assert_eq!(exit.hidden_weight, [1.0, -2.0, 0.5, 0.0]);
        assert_eq!(exit.out_weight, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn files_that_are_no_exit_are_refused_with_the_reason() {
        for (at, value, reason) in [
            ("", json!([]), "invalid"),
            ("/after", json!(-1), "invalid value"),
            ("/hidden_weight", json!("?"), "hidden_weight: Invalid"),
            ("/hidden_weight", json!("AAAA"), "hidden_weight: there are 1 numbers, which are no rows of a layer of 2"),
            ("/hidden_weight", json!(BASE64_STANDARD.encode([0x80, 0x7f, 0, 0])), "hidden_weight: not every number"),
            ("/hidden_bias", json!([]), "hidden_weight: there are 4 numbers, which are no rows of a layer of 0"),
            ("/out_weight/3", json!([1.0]), "out_weight: there are 2 numbers"),
            ("/out_bias/1", json!(1e300), "out_bias: not every number is finite"),
            ("/goldens", json!([]), "goldens: there are no queries"),
            ("/goldens/0/kind", json!("pairs"), "goldens: there are no queries, or there is something else"),
        ] {
            let mut spoilt = file();
            *spoilt.pointer_mut(at).expect("it is there") = value;
            let said = read(&spoilt).expect_err("it is refused");
            assert!(said.contains(reason), "{at}: {said}");
        }
    }
}
