//! Activations as the next layer multiplies them.

use super::buffer::Buffer;
use super::multiply::ROWS_MAX;
use super::simd::{Bytes, LANES, Scale, Simd};

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
    /// What becomes of bytes once a row is whole.
    values: Buffer,
    precision: Precision,
    count: usize,
    width: usize,
}

impl Rows {
    /// From now on holds `count` rows of `width`, a multiple of 32, which are yet to be put.
    pub fn begin<S: Simd>(&mut self, count: usize, width: usize, precision: Precision) {
        (self.count, self.width, self.precision) = (count, width, precision);
        // A block reads on to its last row.
        let cells = (count + ROWS_MAX) * self.stride();
        match precision {
            Precision::Exact => self.exact.grow::<S::Exact>(cells),
            Precision::Int8 => {
                self.bytes.grow::<u8>(cells);
                self.values.grow::<f32>(cells);
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

    /// Sixteen values from `column` on.
    #[inline(always)]
    pub fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats) {
        let at = row * self.stride() + column;
        match self.precision {
            Precision::Exact => S::store_exact(values, &mut self.exact.numbers_mut()[at..]),
            Precision::Int8 => S::store(values, &mut self.values.numbers_mut()[at..]),
        }
    }

    /// Holds the rows of `x`, (n, width), from now on.
    #[inline(always)]
    pub fn fill<S: Simd>(&mut self, x: &[f32], width: usize, precision: Precision) {
        self.begin::<S>(x.len() / width, width, precision);
        for (row, values) in x.chunks_exact(width).enumerate() {
            for (column, values) in values.chunks_exact(LANES).enumerate() {
                self.put::<S>(row, column * LANES, S::load(values));
            }
        }
        self.end::<S>();
    }

    /// Every value has been put.
    #[inline(always)]
    pub fn end<S: Simd>(&mut self) {
        if self.precision == Precision::Exact {
            return;
        }
        let (stride, span) = (self.stride(), S::INT8.span.min(self.width));
        self.spans = self.width.div_ceil(span);
        self.scales.clear();
        for row in 0..self.count {
            let values = &self.values.numbers()[row * stride..][..self.width];
            let bytes = &mut self.bytes.numbers_mut()[row * stride..][..self.width];
            for first in (0..self.width).step_by(span) {
                let of_span = first..self.width.min(first + span);
                self.scales.push(quantise::<S>(&values[of_span.clone()], &mut bytes[of_span]));
            }
        }
    }
}

/// Maps values to 0..=`input_max` of [`Simd::INT8`], between the least and the largest of them, zero always among them.
#[inline(always)]
fn quantise<S: Simd>(values: &[f32], bytes: &mut [u8]) -> Scale {
    let (least, most) = range::<S>(values);
    let input_max = S::INT8.input_max;
    let step = ((most - least) / input_max).max(f32::MIN_POSITIVE);
    let zero = (-least / step).round_ties_even();
    let (inverse, shift) = (S::splat(1.0 / step), S::splat(zero));
    let (values, _) = values.as_chunks::<LANES>();
    let (bytes, _) = bytes.as_chunks_mut::<LANES>();
    for (bytes, values) in bytes.iter_mut().zip(values) {
        let shifted = S::mul_add(S::load(values), inverse, shift);
        S::store_bytes(S::min(S::splat(input_max), S::max(S::splat(0.0), shifted)), bytes);
    }
    Scale { step, zero: zero as i32 }
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
