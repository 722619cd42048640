//! The part of the first stage that reads a query's tokens: the mean of their vectors, a hidden layer and logits.
//! The network knows more words than the training queries say, and its word vectors, made narrow, bring that here.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::INTENTS;
use crate::early_exit::bf16_numbers;

/// `tokens` of a `query_cascade.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Base64 of signed bytes: (vocabulary, inputs).
    vectors: String,
    /// Base64 of bf16, little-endian: (inputs, outputs).
    hidden_weight: String,
    hidden_bias: Vec<f32>,
    /// (outputs, intents).
    out_weight: Vec<[f32; INTENTS]>,
}

/// Why the tokens' part of a `query_cascade.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    #[error("{field}: {source}")]
    Base64 { field: &'static str, source: base64::DecodeError },
    #[error("{field}: there are {found} numbers, which are no rows of {width}")]
    Shape { field: &'static str, found: usize, width: usize },
    #[error("{field}: not every number is finite")]
    NotFinite { field: &'static str },
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenVectors {
    /// (vocabulary, inputs).
    vectors: Vec<i8>,
    inputs: usize,
    /// (inputs, outputs), so that all outputs of an input lie side by side.
    hidden_weight: Vec<f32>,
    hidden_bias: Vec<f32>,
    /// (outputs, intents).
    out_weight: Vec<[f32; INTENTS]>,
}

impl TokenVectors {
    pub(super) fn read(file: File) -> Result<Self, VectorsError> {
        let File { vectors, hidden_weight, hidden_bias, out_weight } = file;
        let decode =
            |field, text: String| BASE64_STANDARD.decode(text).map_err(|source| VectorsError::Base64 { field, source });
        let vectors: Vec<i8> = decode("vectors", vectors)?.into_iter().map(|byte| byte as i8).collect();
        let hidden_weight = bf16_numbers(&decode("hidden_weight", hidden_weight)?);
        let outputs = hidden_bias.len();
        let inputs = hidden_weight.len().checked_div(outputs).unwrap_or_default();
        for (field, found, width, is_whole) in [
            ("hidden_weight", hidden_weight.len(), outputs, hidden_weight.len().is_multiple_of(outputs)),
            ("vectors", vectors.len(), inputs, vectors.len().is_multiple_of(inputs)),
            ("out_weight", out_weight.len(), outputs, out_weight.len() == outputs),
        ] {
            if found == 0 || !is_whole {
                return Err(VectorsError::Shape { field, found, width });
            }
        }
        for (field, numbers) in [
            ("hidden_weight", &hidden_weight[..]),
            ("hidden_bias", &hidden_bias[..]),
            ("out_weight", out_weight.as_flattened()),
        ] {
            if numbers.iter().any(|number| !number.is_finite()) {
                return Err(VectorsError::NotFinite { field });
            }
        }
        Ok(Self { vectors, inputs, hidden_weight, hidden_bias, out_weight })
    }

    /// What the tokens add to the logits of each intent. Those beyond the vocabulary count as nothing.
    pub fn logits(&self, token_ids: &[i64]) -> [f32; INTENTS] {
        let mut sums = vec![0_i32; self.inputs];
        for &id in token_ids {
            let start = usize::try_from(id).ok().and_then(|id| id.checked_mul(self.inputs));
            let vector = start.and_then(|start| self.vectors.get(start..)?.get(..self.inputs));
            for (sum, &byte) in sums.iter_mut().zip(vector.into_iter().flatten()) {
                *sum += i32::from(byte);
            }
        }
        let count = token_ids.len().max(1) as f32;
        let means: Vec<f32> = sums.into_iter().map(|sum| sum as f32 / count).collect();
        let mut hidden = self.hidden_bias.clone();
        add_products(&means, &self.hidden_weight, &mut hidden);
        let mut logits = [0.0; INTENTS];
        for (output, weights) in hidden.into_iter().zip(&self.out_weight) {
            let output = output.max(0.0);
            for (logit, weight) in logits.iter_mut().zip(weights) {
                *logit += output * weight;
            }
        }
        logits
    }
}

/// `outputs += means · weights`, weights of (means, outputs), in AVX2's registers where the CPU has them. Each output's
/// products are rounded and added in one order, so that it is the same with and without.
fn add_products(means: &[f32], weights: &[f32], outputs: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the function is compiled for instructions that were just detected")]
        // SAFETY: the CPU has AVX2.
        return unsafe { add_products_avx2(means, weights, outputs) };
    }
    add_products_anyhow(means, weights, outputs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_products_avx2(means: &[f32], weights: &[f32], outputs: &mut [f32]) {
    add_products_anyhow(means, weights, outputs);
}

#[inline(always)]
fn add_products_anyhow(means: &[f32], weights: &[f32], outputs: &mut [f32]) {
    for (mean, weights) in means.iter().zip(weights.chunks_exact(outputs.len())) {
        for (output, weight) in outputs.iter_mut().zip(weights) {
            *output += mean * weight;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Three tokens of two numbers, and two outputs: the first number, and the second less one.
    pub fn file() -> Value {
        // 1, 0 and 0, 1 in bf16.
        let hidden_weight = [0x80, 0x3f, 0, 0, 0, 0, 0x80, 0x3f];
        json!({
            "vectors": BASE64_STANDARD.encode([2_i8, 0, 4, -100, -3, 6].map(|byte| byte as u8)),
            "hidden_weight": BASE64_STANDARD.encode(hidden_weight), "hidden_bias": [0.0, -1.0],
            "out_weight": [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]],
        })
    }

    fn read(file: &Value) -> Result<TokenVectors, String> {
        let file: File = serde_json::from_value(file.clone()).map_err(|error| error.to_string())?;
        TokenVectors::read(file).map_err(|error| error.to_string())
    }

    #[test]
    fn logits_are_of_the_mean_and_of_what_is_above_zero() {
        let vectors = read(&file()).expect("vectors");
        assert_eq!(vectors.logits(&[0]), [0.0, 2.0, 0.0, 0.0]);
        assert_eq!(vectors.logits(&[0, 1]), [0.0, 3.0, 0.0, 0.0]);
        assert_eq!(vectors.logits(&[2]), [0.0, 0.0, 0.0, 2.5]);
        assert_eq!(vectors.logits(&[0, 2]), [0.0, 0.0, 0.0, 1.0]);
        // Others count among the tokens, and have no vector.
        for other in [3, -1, i64::MAX, i64::MIN] {
            assert_eq!(vectors.logits(&[0, other]), [0.0, 1.0, 0.0, 0.0], "{other}");
        }
        assert_eq!(vectors.logits(&[]), [0.0; INTENTS]);
    }

    #[test]
    fn files_that_are_no_vectors_are_refused_with_the_reason() {
        for (at, value, reason) in [
            ("/vectors", json!("?"), "vectors: Invalid"),
            ("/vectors", json!("AAAA"), "vectors: there are 3 numbers, which are no rows of 2"),
            ("/vectors", json!(""), "vectors: there are 0 numbers"),
            ("/hidden_weight", json!("AAAAAAAA"), "hidden_weight: there are 3 numbers, which are no rows of 2"),
            ("/hidden_weight", json!(""), "hidden_weight: there are 0 numbers"),
            ("/hidden_weight", json!("gH8AAAAAgD8="), "hidden_weight: not every number is finite"),
            ("/hidden_bias", json!([]), "hidden_weight: there are 4 numbers, which are no rows of 0"),
            ("/hidden_bias/0", json!(1e300), "hidden_bias: not every number is finite"),
            ("/out_weight/1", json!([1.0]), "invalid length 1"),
            ("/out_weight/1/3", json!(1e300), "out_weight: not every number is finite"),
            ("/out_weight", json!(vec![[0.0; INTENTS]; 4]), "out_weight: there are 4 numbers"),
        ] {
            let mut spoilt = file();
            *spoilt.pointer_mut(at).expect("it is there") = value;
            let said = read(&spoilt).expect_err("it is refused");
            assert!(said.contains(reason), "{at}: {said}");
        }
    }

    proptest! {
        #[test]
        fn products_are_the_same_in_registers_of_any_width(
            numbers in proptest::collection::vec(-1e3f32..1e3, 3 * 37 + 3 + 37),
        ) {
            let (means, rest) = numbers.split_at(3);
            let (weights, outputs) = rest.split_at(3 * 37);
            let (mut one, mut other) = (outputs.to_vec(), outputs.to_vec());
            add_products(means, weights, &mut one);
            add_products_anyhow(means, weights, &mut other);
            prop_assert_eq!(one, other);
        }

        #[test]
        fn any_ids_have_finite_logits(ids in proptest::collection::vec(any::<i64>(), 0..40)) {
            let vectors = read(&file()).expect("vectors");
            prop_assert!(vectors.logits(&ids).iter().all(|logit| logit.is_finite()));
        }
    }
}
