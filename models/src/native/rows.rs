//! Activations as the next layer multiplies them.

use std::ops::Range;

use super::buffer::Buffer;
use super::multiply::ROWS_MAX;
use super::outputs::At;
use super::simd::{Bytes, LANES, Scale, Simd};
use super::values::{self, Values};

/// In which type a layer multiplies; it adds in fp32, or in int32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As exactly as the instructions have it: inputs in bf16 where they multiply that, else
    /// in fp32. Weights are bf16 in both.
    #[default]
    Exact,
    /// In bytes: weights with a scale for each output, inputs with a scale and a zero point for each row, and for
    /// each span of inputs ([`Simd::INT8`]): what else is in the batch makes no difference.
    Int8,
}

/// Values of a row that a multiplication takes whole: a tile's row of int8.
pub const STEP: usize = 64;

/// Rows of one width in [`Simd::Exact`], or in bytes: `value = (byte - zero) * scale`.
/// Kept, so that no call allocates.
#[derive(Default)]
pub struct Rows {
    exact: Buffer,
    bytes: Buffer,
    /// Of each span of each row of bytes.
    scales: Vec<Scale>,
    /// Spans of a row.
    spans: usize,
    /// What is put and becomes bytes later.
    values: Buffer,
    precision: Precision,
    count: usize,
    width: usize,
}

impl Rows {
    /// From now on holds `count` rows of `width`, a multiple of 32, which are yet to be put.
    pub fn begin<S: Simd>(&mut self, count: usize, width: usize, precision: Precision) {
        (self.count, self.width, self.precision) = (count, width, precision);
        self.spans = width.div_ceil(self.span::<S>());
        // A block reads on to its last row.
        let cells = (count + ROWS_MAX) * self.stride();
        match precision {
            Precision::Exact => self.exact.grow::<S::Exact>(cells),
            Precision::Int8 => {
                self.bytes.grow::<u8>(cells);
                self.values.grow::<f32>(cells);
                self.scales.resize(count * self.spans, Scale::default());
            }
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn exact<S: Simd>(&self) -> &[S::Exact] {
        self.exact.numbers()
    }

    /// Bytes of `count` rows from `first` on.
    #[inline(always)]
    pub fn bytes(&self, first: usize, count: usize) -> Bytes<'_> {
        let (stride, spans) = (self.stride(), self.spans);
        let values = &self.bytes.numbers()[first * stride..];
        Bytes { values, stride, count, scales: &self.scales[first * spans..], spans }
    }

    /// From one row to the next.
    pub fn stride(&self) -> usize {
        match self.precision {
            Precision::Exact => self.width,
            Precision::Int8 => self.width.next_multiple_of(STEP),
        }
    }

    /// The first `count` rows of a block.
    #[inline(always)]
    pub fn put<S: Simd>(&mut self, at: At, count: usize, values: impl Values<S>) {
        let (stride, start) = (self.stride(), at.row * self.stride() + at.column);
        match self.precision {
            Precision::Exact => {
                for (i, to) in self.exact.numbers_mut()[start..].chunks_mut(stride).enumerate().take(count) {
                    let row = values.row(i);
                    S::store_exact(row[0], to);
                    S::store_exact(row[1], &mut to[LANES..]);
                }
            }
            Precision::Int8 => {
                for (i, to) in self.values.numbers_mut()[start..].chunks_mut(stride).enumerate().take(count) {
                    values::store::<S>(values.row(i), to.first_chunk_mut().expect("a block's columns are of the row"));
                }
            }
        }
    }

    /// A whole row.
    #[inline(always)]
    pub fn put_row<S: Simd>(&mut self, row: usize, values: &[f32]) {
        let start = row * self.stride();
        match self.precision {
            Precision::Exact => {
                let to = &mut self.exact.numbers_mut::<S::Exact>()[start..][..values.len()];
                for (to, values) in to.chunks_exact_mut(LANES).zip(values.chunks_exact(LANES)) {
                    S::store_exact(S::load(values), to);
                }
            }
            Precision::Int8 => {
                let (stride, span) = (self.stride(), self.span::<S>());
                let bytes = &mut self.bytes.numbers_mut()[start..][..stride];
                let scales = &mut self.scales[row * self.spans..];
                for (i, (values, scale)) in values.chunks(span).zip(scales).enumerate() {
                    *scale = quantise::<S>(values, &mut bytes[i * span..]);
                }
            }
        }
    }

    /// Holds the rows of `x`, (n, width), from now on.
    #[inline(always)]
    pub fn fill<S: Simd>(&mut self, x: &[f32], width: usize, precision: Precision) {
        self.begin::<S>(x.len() / width, width, precision);
        for (row, values) in x.chunks_exact(width).enumerate() {
            self.put_row::<S>(row, values);
        }
    }

    /// All rows of the columns up to `column` were put: those of a span become bytes while they are near.
    #[inline(always)]
    pub fn end_at<S: Simd>(&mut self, column: usize) {
        let span = self.span::<S>();
        if self.precision == Precision::Int8 && (column.is_multiple_of(span) || column == self.width) {
            let first = (column - 1) / span * span;
            self.quantise_put::<S>(0..self.count, first..column);
        }
    }

    /// All columns of some rows were put.
    #[inline(always)]
    pub fn end_rows<S: Simd>(&mut self, rows: Range<usize>) {
        if self.precision == Precision::Int8 {
            let span = self.span::<S>();
            for first in (0..self.width).step_by(span) {
                self.quantise_put::<S>(rows.clone(), first..self.width.min(first + span));
            }
        }
    }

    /// What was put in the columns of a span becomes bytes.
    #[inline(always)]
    fn quantise_put<S: Simd>(&mut self, rows: Range<usize>, columns: Range<usize>) {
        let (stride, span) = (self.stride(), columns.start / self.span::<S>());
        for row in rows {
            let values = &self.values.numbers()[row * stride..][columns.clone()];
            // Bytes go on to a multiple of 64, and so may be written there.
            let bytes = &mut self.bytes.numbers_mut()[row * stride..][columns.start..stride];
            self.scales[row * self.spans + span] = quantise::<S>(values, bytes);
        }
    }

    /// Inputs of a span.
    #[inline(always)]
    fn span<S: Simd>(&self) -> usize {
        S::INT8.span.min(self.width)
    }
}

/// Values of a line of bytes.
const LINE: usize = 4 * LANES;

/// Maps values to 0..=`input_max` of [`Simd::INT8`], between the least and the largest of them, zero always among them.
/// `bytes` are as many, or go on to the next multiple of 64 and are overwritten there.
#[inline(always)]
fn quantise<S: Simd>(values: &[f32], bytes: &mut [u8]) -> Scale {
    let (least, most) = range::<S>(values);
    let input_max = S::INT8.input_max;
    let step = ((most - least) / input_max).max(f32::MIN_POSITIVE);
    let zero = (-least / step).round_ties_even();
    let (inverse, shift) = (S::splat(1.0 / step), S::splat(zero));
    let (lines, rest) = values.as_chunks::<LINE>();
    for (bytes, values) in bytes.chunks_mut(LINE).zip(lines) {
        store_line::<S>(values, inverse, shift, bytes);
    }
    if !rest.is_empty() {
        let mut line = [0.0; LINE];
        line[..rest.len()].copy_from_slice(rest);
        store_line::<S>(&line, inverse, shift, &mut bytes[LINE * lines.len()..]);
    }
    Scale { step, zero: zero as i32 }
}

#[inline(always)]
fn store_line<S: Simd>(values: &[f32; LINE], inverse: S::Floats, shift: S::Floats, bytes: &mut [u8]) {
    let mut shifted = [shift; 4];
    for (i, to) in shifted.iter_mut().enumerate() {
        *to = S::mul_add(S::load(&values[i * LANES..]), inverse, shift);
        // Rounding may go one step beyond the most, which bytes do not have.
        if S::INT8.input_max < f32::from(u8::MAX) {
            *to = S::min(S::splat(S::INT8.input_max), *to);
        }
    }
    S::store_bytes(shifted, bytes);
}

/// The least and the largest of `values` and 0.
#[inline(always)]
fn range<S: Simd>(values: &[f32]) -> (f32, f32) {
    // Each waits for the one before, so that a long span takes four at a time; a short one has others beside it.
    let side_by_side = if S::INT8.span > 4 * LANES { 4 } else { 1 };
    let (mut least, mut most) = ([S::splat(0.0); 4], [S::splat(0.0); 4]);
    for (i, values) in values.as_chunks::<LANES>().0.iter().enumerate() {
        let values = S::load(values);
        least[i % side_by_side] = S::min(values, least[i % side_by_side]);
        most[i % side_by_side] = S::max(values, most[i % side_by_side]);
    }
    for other in 1..side_by_side {
        least[0] = S::min(least[other], least[0]);
        most[0] = S::max(most[other], most[0]);
    }
    (S::least(least[0]), S::most(most[0]))
}
