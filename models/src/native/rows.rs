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

/// Columns whose outputs become bytes together: a whole number of spans, or less than one. Those of a block of 24 rows are
/// 36 KiB, and their weights for 384 inputs 144 KiB, which stay in the caches of the first and the second level.
pub const GROUP: usize = 384;

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
    /// What was put of a group of columns, and is yet to become bytes.
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
                self.values.grow::<f32>(count * self.near());
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
                let near = self.near();
                let start = at.row * near + at.column % GROUP;
                for (i, to) in self.values.numbers_mut()[start..].chunks_mut(near).enumerate().take(count) {
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
                quantise_spans::<S>(values, span, bytes, &mut self.scales[row * self.spans..]);
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

    /// All columns of some rows up to `column` were put: what is not yet bytes becomes bytes where a group of columns is whole.
    #[inline(always)]
    pub fn end<S: Simd>(&mut self, rows: Range<usize>, column: usize) {
        if self.precision == Precision::Exact || !(column.is_multiple_of(GROUP) || column == self.width) {
            return;
        }
        let (stride, near, span) = (self.stride(), self.near(), self.span::<S>());
        let first = (column - 1) / GROUP * GROUP;
        for row in rows {
            let values = &self.values.numbers()[row * near..][..column - first];
            // Bytes go on to a multiple of 64, and so may be written there.
            let bytes = &mut self.bytes.numbers_mut()[row * stride + first..(row + 1) * stride];
            let scales = &mut self.scales[row * self.spans + first / span..];
            quantise_spans::<S>(values, span, bytes, scales);
        }
    }

    /// From one row to the next of what is not yet bytes. A line more than its columns, since otherwise rows would lie
    /// in a few sets of the cache.
    fn near(&self) -> usize {
        self.width.min(GROUP) + LANES
    }

    /// Inputs of a span.
    #[inline(always)]
    fn span<S: Simd>(&self) -> usize {
        S::INT8.span.min(self.width)
    }
}

/// Each span of a row. By hand: `zip` counts chunks first, by a call and a division for each row, which was 4 to 7% of all
/// time by AVX-512 and AMX (ADR 16).
#[inline(always)]
fn quantise_spans<S: Simd>(values: &[f32], span: usize, bytes: &mut [u8], scales: &mut [Scale]) {
    let (mut start, mut i) = (0, 0);
    while start < values.len() {
        let end = values.len().min(start + span);
        scales[i] = quantise::<S>(&values[start..end], &mut bytes[start..]);
        (start, i) = (end, i + 1);
    }
}

/// Values of four registers, and so of a line of bytes.
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
    for (i, values) in lines.iter().enumerate() {
        store_line::<S>(values, inverse, shift, &mut bytes[i * LINE..]);
    }
    if !rest.is_empty() {
        let mut line = [0.0; LINE];
        line[..rest.len()].copy_from_slice(rest);
        store_line::<S>(&line, inverse, shift, &mut bytes[lines.len() * LINE..]);
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
    // Four registers each, since one would wait for the one before it.
    let (mut least, mut most) = ([S::splat(0.0); 4], [S::splat(0.0); 4]);
    let (lines, rest) = values.as_chunks::<LINE>();
    for line in lines {
        for i in 0..4 {
            let values = S::load(&line[i * LANES..]);
            (least[i], most[i]) = (S::min(values, least[i]), S::max(values, most[i]));
        }
    }
    for values in rest.as_chunks::<LANES>().0 {
        let values = S::load(values);
        (least[0], most[0]) = (S::min(values, least[0]), S::max(values, most[0]));
    }
    let (a, b) = (S::min(least[0], least[1]), S::min(least[2], least[3]));
    let (c, d) = (S::max(most[0], most[1]), S::max(most[2], most[3]));
    (S::least(S::min(a, b)), S::most(S::max(c, d)))
}
