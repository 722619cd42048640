//! The network of `training/model.py`, layer by layer.

use std::cell::RefCell;

use super::Avx512;
use super::attention::{self, HEAD, attend};
use super::linear::{Converted, Linear, Precision};
use super::math::{self, from_bf16};
use crate::encode::Encoded;
use crate::engine::RowLogits;

/// Tokens that go through the layers together: their activations stay in a core's cache of
/// the second level (1 MiB), and each load of weights still serves twenty tiles.
const TOKENS_AT_ONCE: usize = 192;

/// A tensor of a module: its shape, and its values in row-major order.
pub struct Parameter<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

/// A module's parameters by name, which it gives up one at a time: a second copy of all
/// weights would double the memory that a start needs.
pub trait Parameters {
    fn has(&self, name: &str) -> bool;

    /// None for a name that it does not have, or was asked for before.
    fn take(&mut self, name: &str) -> Option<Parameter<f32>>;

    /// As [`Parameters::take`], as bits of bf16.
    fn take_bf16(&mut self, name: &str) -> Option<Parameter<u16>>;
}

/// The module is not the network that is written down here. libtorch may still run it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: {reason}")]
pub struct OtherNetwork {
    name: String,
    reason: String,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    qkv: Linear,
    out: Linear,
    norm1: Norm,
    up: Linear,
    down: Linear,
    norm2: Norm,
}

/// A hidden layer and the logits, on the first token and the mean.
struct Head<const N: usize> {
    hidden: Linear,
    /// (N, hidden).
    out: Vec<f32>,
    bias: [f32; N],
}

pub struct Network {
    cpu: Avx512,
    /// Bits of bf16, (vocabulary, hidden): half of all weights, and read one row a token.
    words: Vec<u16>,
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    pair: Head<2>,
    intent: Head<4>,
    hidden: usize,
}

/// Activations of one thread; kept, so that no batch allocates.
#[derive(Default)]
struct Activations {
    x: Vec<f32>,
    wide: Vec<f32>,
    context: Vec<f32>,
    added: Vec<f32>,
    pooled: Vec<f32>,
    converted: Converted,
    attention: attention::Scratch,
}

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

impl Network {
    /// Packs the weights for `precision`. The heads and the last layer stay in bf16 under
    /// int8: they decide, and cost little.
    pub fn new(weights: &mut dyn Parameters, precision: Precision, cpu: Avx512) -> Result<Self, OtherNetwork> {
        let mut take = Take(weights);
        let norm_weight = take.tensor("norm.weight")?;
        let hidden = norm_weight.values.len();
        if hidden == 0 || !hidden.is_multiple_of(HEAD) {
            let reason = format!("has {hidden} values; a multiple of {HEAD} is due");
            return Err(OtherNetwork { name: "norm.weight".to_owned(), reason });
        }
        let words = take.words("words.weight", hidden)?;
        let positions = take.matrix("positions.weight", hidden)?;
        let types = take.matrix("types.weight", hidden)?;
        let norm = Norm { weight: norm_weight.values, bias: take.vector("norm.bias", hidden)? };
        let mut layers = Vec::new();
        let count = take.layers();
        for i in 0..count {
            let precision = if i + 1 == count { Precision::Bf16 } else { precision };
            let mut linear = |name, inputs| take.linear(&format!("layers.{i}.{name}"), inputs, precision);
            let (qkv, out, up) = (linear("qkv", hidden)?, linear("out", hidden)?, linear("up", hidden)?);
            let down = linear("down", up.outputs())?;
            let (norm1, norm2) =
                (take.norm(&format!("layers.{i}.norm1"), hidden)?, take.norm(&format!("layers.{i}.norm2"), hidden)?);
            layers.push(Layer { qkv, out, norm1, up, down, norm2 });
        }
        let (pair, intent) = (take.head("pair", hidden)?, take.head("intent", hidden)?);
        Ok(Self { cpu, words, positions, types, norm, layers, pair, intent, hidden })
    }

    /// Scores rows, whose order is of no consequence to speed or result.
    ///
    /// # Errors
    /// A token id, type or length that the network has no vector for.
    pub fn forward<'r>(&self, rows: impl Iterator<Item = &'r Encoded>) -> Result<Vec<RowLogits>, String> {
        let rows: Vec<&Encoded> = rows.collect();
        rows.iter().try_for_each(|row| self.check(row))?;
        let mut logits = Vec::with_capacity(rows.len());
        ACTIVATIONS.with_borrow_mut(|activations| {
            let mut rest = &rows[..];
            while !rest.is_empty() {
                let mut tokens = 0;
                let fits = rest.iter().take_while(|row| {
                    tokens += row.ids.len();
                    tokens <= TOKENS_AT_ONCE
                });
                let (now, later) = rest.split_at(fits.count().max(1));
                self.run(now, activations, &mut logits);
                rest = later;
            }
        });
        Ok(logits)
    }

    fn check(&self, row: &Encoded) -> Result<(), String> {
        let rows_of = |values: usize| values / self.hidden;
        let beyond = |values: &[i64], count: usize| values.iter().find(|v| !(0..count as i64).contains(v)).copied();
        if row.ids.is_empty() || row.ids.len() > rows_of(self.positions.len()) || row.types.len() != row.ids.len() {
            return Err(format!("a row has {} ids and {} types", row.ids.len(), row.types.len()));
        }
        if let Some(id) = beyond(&row.ids, rows_of(self.words.len())) {
            return Err(format!("token id {id} is beyond the vocabulary"));
        }
        match beyond(&row.types, rows_of(self.types.len())) {
            Some(kind) => Err(format!("token type {kind} is unknown to the network")),
            None => Ok(()),
        }
    }

    #[allow(unsafe_code, reason = "the CPU was asked for the instructions of the kernels")]
    fn run(&self, rows: &[&Encoded], activations: &mut Activations, logits: &mut Vec<RowLogits>) {
        let Avx512(()) = self.cpu;
        // SAFETY: `Avx512` exists only where every feature was detected.
        unsafe { self.run_avx512(rows, activations, logits) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn run_avx512(&self, rows: &[&Encoded], activations: &mut Activations, logits: &mut Vec<RowLogits>) {
        let Activations { x, wide, context, added, pooled, converted, attention } = activations;
        self.embed(rows, x);
        context.resize(x.len(), 0.0);
        for layer in &self.layers {
            layer.qkv.apply(x, converted, wide);
            let mut start = 0;
            for row in rows {
                let end = start + row.ids.len();
                let (qkv, context) = (
                    &wide[start * 3 * self.hidden..end * 3 * self.hidden],
                    &mut context[start * self.hidden..end * self.hidden],
                );
                attend(qkv, self.hidden / HEAD, context, attention);
                start = end;
            }
            layer.out.apply(context, converted, added);
            math::add_and_norm(x, added, &layer.norm1.weight, &layer.norm1.bias);
            layer.up.apply(x, converted, wide);
            math::gelu(wide);
            layer.down.apply(wide, converted, added);
            math::add_and_norm(x, added, &layer.norm2.weight, &layer.norm2.bias);
        }
        self.pool(rows, x, pooled);
        let pair = self.pair.apply(pooled, converted, wide);
        let intent = self.intent.apply(pooled, converted, wide);
        logits.extend(pair.into_iter().zip(intent).map(|(pair, intent)| RowLogits { pair, intent }));
    }

    /// Sums of word, position and type vectors, normalised: (tokens, hidden).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn embed(&self, rows: &[&Encoded], x: &mut Vec<f32>) {
        let hidden = self.hidden;
        x.clear();
        for row in rows {
            for (position, (&id, &kind)) in row.ids.iter().zip(&row.types).enumerate() {
                let start = x.len();
                let word = &self.words[id as usize * hidden..][..hidden];
                let place = &self.positions[position * hidden..][..hidden];
                let kind = &self.types[kind as usize * hidden..][..hidden];
                x.extend(word.iter().zip(place).zip(kind).map(|((word, place), kind)| from_bf16(*word) + place + kind));
                math::norm(&mut x[start..], &self.norm.weight, &self.norm.bias);
            }
        }
    }

    /// The first token and the mean of all, of each row: (rows, 2 hidden).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn pool(&self, rows: &[&Encoded], x: &[f32], pooled: &mut Vec<f32>) {
        let hidden = self.hidden;
        pooled.clear();
        let mut rest = x;
        for row in rows {
            let (tokens, later) = rest.split_at(row.ids.len() * hidden);
            rest = later;
            pooled.extend_from_slice(&tokens[..hidden]);
            let start = pooled.len();
            pooled.resize(start + hidden, 0.0);
            let mean = &mut pooled[start..];
            for token in tokens.chunks_exact(hidden) {
                for (sum, value) in mean.iter_mut().zip(token) {
                    *sum += value;
                }
            }
            let scale = 1.0 / row.ids.len() as f32;
            for value in mean {
                *value *= scale;
            }
        }
    }
}

impl<const N: usize> Head<N> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn apply(&self, pooled: &[f32], converted: &mut Converted, wide: &mut Vec<f32>) -> Vec<[f32; N]> {
        self.hidden.apply(pooled, converted, wide);
        math::gelu(wide);
        let mut logits = Vec::with_capacity(wide.len() / self.hidden.outputs());
        for row in wide.chunks_exact(self.hidden.outputs()) {
            let mut out = self.bias;
            for (logit, weights) in out.iter_mut().zip(self.out.chunks_exact(row.len())) {
                *logit += row.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
            }
            logits.push(out);
        }
        logits
    }
}

fn missing(name: &str) -> OtherNetwork {
    OtherNetwork { name: name.to_owned(), reason: "is missing".to_owned() }
}

impl<T> Parameter<T> {
    fn matrix(self, name: &str, columns: usize) -> Result<Vec<T>, OtherNetwork> {
        match self {
            Self { shape, values } if shape.len() == 2 && shape[1] == columns => Ok(values),
            Self { shape, .. } => {
                Err(OtherNetwork { name: name.to_owned(), reason: format!("is {shape:?}; {columns} columns are due") })
            }
        }
    }
}

/// Takes parameters by name, each with its shape checked.
struct Take<'w>(&'w mut dyn Parameters);

impl Take<'_> {
    fn layers(&self) -> usize {
        (0..).take_while(|i| self.0.has(&format!("layers.{i}.qkv.weight"))).count()
    }

    fn tensor(&mut self, name: &str) -> Result<Parameter<f32>, OtherNetwork> {
        self.0.take(name).ok_or_else(|| missing(name))
    }

    fn matrix(&mut self, name: &str, columns: usize) -> Result<Vec<f32>, OtherNetwork> {
        self.tensor(name)?.matrix(name, columns)
    }

    fn words(&mut self, name: &str, columns: usize) -> Result<Vec<u16>, OtherNetwork> {
        self.0.take_bf16(name).ok_or_else(|| missing(name))?.matrix(name, columns)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, OtherNetwork> {
        match self.tensor(name)? {
            Parameter { shape, values } if shape == [length] => Ok(values),
            Parameter { shape, .. } => {
                Err(OtherNetwork { name: name.to_owned(), reason: format!("is {shape:?}; [{length}] is due") })
            }
        }
    }

    fn norm(&mut self, name: &str, hidden: usize) -> Result<Norm, OtherNetwork> {
        let weight = self.vector(&format!("{name}.weight"), hidden)?;
        Ok(Norm { weight, bias: self.vector(&format!("{name}.bias"), hidden)? })
    }

    fn linear(&mut self, name: &str, inputs: usize, precision: Precision) -> Result<Linear, OtherNetwork> {
        let weight = self.matrix(&format!("{name}.weight"), inputs)?;
        let outputs = weight.len() / inputs;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        if !outputs.is_multiple_of(super::kernel::PANEL) {
            let reason = format!("has {outputs} outputs; a multiple of {} is due", super::kernel::PANEL);
            return Err(OtherNetwork { name: name.to_owned(), reason });
        }
        Ok(Linear::pack(&weight, &bias, precision))
    }

    fn head<const N: usize>(&mut self, name: &str, hidden: usize) -> Result<Head<N>, OtherNetwork> {
        let first = self.linear(&format!("{name}_hidden"), 2 * hidden, Precision::Bf16)?;
        let out = self.matrix(&format!("{name}_out.weight"), first.outputs())?;
        let bias = self.vector(&format!("{name}_out.bias"), N)?;
        if out.len() != N * first.outputs() {
            let reason = format!("has {} outputs; {N} are due", out.len() / first.outputs());
            return Err(OtherNetwork { name: format!("{name}_out"), reason });
        }
        let bias = bias.try_into().expect("its length was checked");
        Ok(Head { hidden: first, out, bias })
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
