//! What becomes of a linear layer's outputs.

use std::ops::Range;

use super::math::{self, Norm};
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

    /// All columns of these rows up to `column` were taken. To be `inline(always)`.
    #[inline(always)]
    fn end<S: Simd>(&mut self, _rows: Range<usize>, _column: usize) {}
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
    fn end<S: Simd>(&mut self, rows: Range<usize>, column: usize) {
        self.to.end::<S>(rows, column);
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
    fn end<S: Simd>(&mut self, rows: Range<usize>, column: usize) {
        self.to.end::<S>(rows, column);
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

/// Outputs are added to what is there, (rows, width); the layer norm of a row that is whole takes its place.
pub struct Residual<'x> {
    pub x: &'x mut [f32],
    pub norm: &'x Norm,
    /// The rows as the next layer takes them.
    pub normed: &'x mut Rows,
}

impl Outputs for Residual<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        let width = self.norm.width();
        for (i, row) in self.x[at.row * width..].chunks_exact_mut(width).enumerate().take(count) {
            let to = row[at.column..].first_chunk_mut().expect("a block's columns are of the row");
            values::store::<S>(values::add::<S>(values::load::<S>(to), values.row(i)), to);
        }
    }

    #[inline(always)]
    fn end<S: Simd>(&mut self, rows: Range<usize>, column: usize) {
        if column == self.norm.width() {
            self.norm.apply::<S>(self.x, rows, self.normed);
        }
    }
}
