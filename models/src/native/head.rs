//! The heads of the network.

use super::linear::Linear;
use super::network::{Parameter, Parameters};
use super::outputs::{Activated, At, Outputs};
use super::rows::Rows;
use super::simd::Simd;
use super::values::{self, Values};
use crate::early_exit::EarlyExit;
use crate::engine::RowLogits;
use crate::golden::Kind;

/// A hidden layer and the logits, on the first token and the mean.
pub struct Head<const N: usize> {
    pub hidden: Linear,
    /// (N, hidden).
    pub out: Vec<f32>,
    pub bias: [f32; N],
}

impl<const N: usize> Head<N> {
    /// Logits of each row of `pooled`. `hidden` is kept for the next call.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, simd: &S, pooled: &Rows, hidden: &mut Vec<f32>) -> Vec<[f32; N]> {
        let width = self.hidden.outputs();
        hidden.resize(pooled.count() * width, 0.0);
        self.hidden.apply(simd, pooled, Hidden { to: hidden, width });
        let logits = |row: &[f32]| {
            let mut out = self.bias;
            for (logit, weights) in out.iter_mut().zip(self.out.chunks_exact(width)) {
                *logit += row.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
            }
            out
        };
        hidden.chunks_exact(width).map(logits).collect()
    }
}

/// Outputs of a head's hidden layer, (rows, width).
struct Hidden<'h> {
    to: &'h mut [f32],
    width: usize,
}

impl Outputs for Hidden<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        let values = Activated(values);
        for (i, row) in self.to[at.row * self.width..].chunks_exact_mut(self.width).enumerate().take(count) {
            let to = row[at.column..].first_chunk_mut().expect("a block's columns are of the row");
            values::store::<S>(values.row(i), to);
        }
    }
}

/// An exit after some layers, for the rows of one kind that its head is sure of.
pub struct Exit {
    pub after: usize,
    settles: Settles,
}

enum Settles {
    /// With an intent of at least this probability.
    Queries { head: Head<4>, settle_from: f32 },
    /// With the logit of `duplicate` less than this above that of `distinct`.
    Pairs { head: Head<2>, margin_below: f32 },
}

impl Exit {
    pub fn of_queries(after: usize, head: Head<4>, settle_from: f32) -> Self {
        Self { after, settles: Settles::Queries { head, settle_from } }
    }

    /// Of pairs of a smaller probability than `distinct_below`, once their logits are divided by `temperature`.
    pub fn of_pairs(after: usize, head: Head<2>, distinct_below: f32, temperature: f32) -> Self {
        let margin_below = temperature * (distinct_below / (1.0 - distinct_below)).ln();
        Self { after, settles: Settles::Pairs { head, margin_below } }
    }

    pub fn kind(&self) -> Kind {
        match self.settles {
            Settles::Queries { .. } => Kind::Queries,
            Settles::Pairs { .. } => Kind::Pairs,
        }
    }

    /// What each row of `pooled` leaves with, if the head is sure of it. `hidden` is kept for the next call.
    #[inline(always)]
    pub fn answers<S: Simd>(&self, simd: &S, pooled: &Rows, hidden: &mut Vec<f32>) -> Vec<Option<RowLogits>> {
        let left = RowLogits { left_early: true, ..RowLogits::default() };
        match &self.settles {
            Settles::Queries { head, settle_from } => {
                let answer = |intent| (certainty(intent) >= *settle_from).then_some(RowLogits { intent, ..left });
                head.apply(simd, pooled, hidden).into_iter().map(answer).collect()
            }
            Settles::Pairs { head, margin_below } => {
                let answer = |pair: [f32; 2]| (pair[1] - pair[0] < *margin_below).then_some(RowLogits { pair, ..left });
                head.apply(simd, pooled, hidden).into_iter().map(answer).collect()
            }
        }
    }
}

/// The probability of the most probable intent; not a number where a logit is none.
fn certainty(logits: [f32; 4]) -> f32 {
    let largest = logits.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.into_iter().map(|logit| (logit - largest).exp()).sum();
    1.0 / sum
}

/// The weights of an exit, by the names that a head's have.
pub struct ExitParameters<'e>(pub &'e EarlyExit);

impl Parameters for ExitParameters<'_> {
    fn has(&self, name: &str) -> bool {
        name.starts_with("exit_")
    }

    fn take(&mut self, name: &str) -> Option<Parameter<f32>> {
        let EarlyExit { hidden_weight, hidden_bias, out_weight, out_bias, entry: _ } = self.0;
        let outputs = hidden_bias.len();
        let (shape, values) = match name {
            "exit_hidden.weight" => (vec![outputs, hidden_weight.len() / outputs], hidden_weight.clone()),
            "exit_hidden.bias" => (vec![outputs], hidden_bias.clone()),
            "exit_out.weight" => (vec![out_bias.len(), outputs], out_weight.clone()),
            "exit_out.bias" => (vec![out_bias.len()], out_bias.clone()),
            _ => return None,
        };
        Some(Parameter { shape, values })
    }

    fn take_bf16(&mut self, _name: &str) -> Option<Parameter<u16>> {
        None
    }
}
