//! What becomes of a linear layer's outputs.

use super::linear::Outputs;
use super::math;
use super::rows::Rows;
use super::simd::Simd;

/// Outputs as they are.
pub struct Plain<'r> {
    pub to: &'r mut Rows,
}

impl Outputs for Plain<'_> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats) {
        self.to.put::<S>(row, column, values);
    }
}

/// Outputs through the activation function.
pub struct Gelu<'r> {
    pub to: &'r mut Rows,
}

impl Outputs for Gelu<'_> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats) {
        self.to.put::<S>(row, column, math::gelu::<S>(values));
    }
}

/// Outputs are added to what is there, (rows, width).
pub struct Add<'x> {
    pub to: &'x mut [f32],
    pub width: usize,
}

impl Outputs for Add<'_> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats) {
        let to = &mut self.to[row * self.width + column..];
        S::store(S::add(S::load(to), values), to);
    }
}
