//! The heads of the network.

use super::linear::{Linear, Outputs};
use super::math;
use super::rows::Rows;
use super::simd::Simd;

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
    fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats) {
        S::store(math::gelu::<S>(values), &mut self.to[row * self.width + column..]);
    }
}

/// An exit after some layers, for the queries of which its head is sure.
pub struct Exit {
    pub after: usize,
    pub settle_from: f32,
    pub head: Head<4>,
}

impl Exit {
    /// Whether the most probable intent is probable enough. Never of logits that are not finite.
    pub fn is_sure(&self, logits: [f32; 4]) -> bool {
        let largest = logits.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.into_iter().map(|logit| (logit - largest).exp()).sum();
        1.0 / sum >= self.settle_from
    }
}
