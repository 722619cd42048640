//! What becomes of a linear layer's outputs.

use super::math;
use super::rows::Rows;
use super::simd::Simd;
use super::values::{self, Row, Values};

/// Where a block of outputs stands among all of a layer: its first row and column.
#[derive(Clone, Copy)]
pub struct At {
    pub row: usize,
    pub column: usize,
}

/// Where a layer's outputs go.
pub trait Outputs {
    /// Takes the first `count` rows of a block. To be `inline(always)`.
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>);

    /// All rows of the columns up to `column` were taken.
    #[inline(always)]
    fn end_at<S: Simd>(&mut self, _column: usize) {}
}

/// Outputs as they are.
pub struct Plain<'r> {
    pub to: &'r mut Rows,
}

impl Outputs for Plain<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        self.to.put::<S>(at, count, values);
    }

    #[inline(always)]
    fn end_at<S: Simd>(&mut self, column: usize) {
        self.to.end_at::<S>(column);
    }
}

/// Outputs through the activation function.
pub struct Gelu<'r> {
    pub to: &'r mut Rows,
}

impl Outputs for Gelu<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        self.to.put::<S>(at, count, Activated(values));
    }

    #[inline(always)]
    fn end_at<S: Simd>(&mut self, column: usize) {
        self.to.end_at::<S>(column);
    }
}

/// Values through the activation function.
pub struct Activated<V>(pub V);

impl<S: Simd, V: Values<S>> Values<S> for Activated<V> {
    #[inline(always)]
    fn row(&self, i: usize) -> Row<S> {
        let row = self.0.row(i);
        [math::gelu::<S>(row[0]), math::gelu::<S>(row[1])]
    }
}

/// Outputs are added to what is there, (rows, width).
pub struct Add<'x> {
    pub to: &'x mut [f32],
    pub width: usize,
}

impl Outputs for Add<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        for (i, row) in self.to[at.row * self.width..].chunks_exact_mut(self.width).enumerate().take(count) {
            let to = row[at.column..].first_chunk_mut().expect("a block's columns are of the row");
            values::store::<S>(values::add::<S>(values::load::<S>(to), values.row(i)), to);
        }
    }
}
