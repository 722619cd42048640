//! Activations as the next layer multiplies them.

use std::arch::x86_64::{
    __m512, _mm512_max_ps, _mm512_min_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps, _mm512_setzero_ps,
};

use super::buffer::Buffer;
use super::multiply::ROWS_MAX;
use super::simd::{LANES, load, store, store_bf16};

/// In which type a layer multiplies; it adds in fp32, or in int32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    Bf16,
    /// Weights in int8 with a scale for each output, inputs with a scale and a zero point
    /// for each row: what else is in the batch makes no difference.
    Int8,
}

/// Values of a row that a multiplication takes whole: a tile's row of int8.
const STEP: usize = 64;

/// Rows of one width in bf16, or in unsigned int8: `value = (byte - zero) * scale`. Kept, so
/// that no call allocates.
#[derive(Default)]
pub struct Rows {
    pub bf16: Buffer<u16>,
    pub bytes: Buffer<u8>,
    /// Of each row of bytes.
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
    /// What becomes of bytes once a row is whole.
    exact: Buffer<f32>,
    precision: Precision,
    count: usize,
    width: usize,
}

impl Rows {
    /// From now on holds `count` rows of `width`, a multiple of 32, which are yet to be put.
    pub fn begin(&mut self, count: usize, width: usize, precision: Precision) {
        (self.count, self.width, self.precision) = (count, width, precision);
        // A block reads on to its last row.
        let cells = (count + ROWS_MAX) * self.stride();
        match precision {
            Precision::Bf16 => self.bf16.grow(cells),
            Precision::Int8 => {
                self.bytes.grow(cells);
                self.exact.grow(cells);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// From one row to the next.
    pub fn stride(&self) -> usize {
        match self.precision {
            Precision::Bf16 => self.width,
            Precision::Int8 => self.width.next_multiple_of(STEP),
        }
    }

    /// Sixteen values from `column` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn put(&mut self, row: usize, column: usize, values: __m512) {
        let at = row * self.stride() + column;
        match self.precision {
            Precision::Bf16 => store_bf16(values, &mut self.bf16[at..]),
            Precision::Int8 => store(values, &mut self.exact[at..]),
        }
    }

    /// Every value has been put.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn end(&mut self) {
        if self.precision == Precision::Bf16 {
            return;
        }
        let (stride, width) = (self.stride(), self.width);
        self.scales.clear();
        self.zeros.clear();
        for row in 0..self.count {
            let values = &self.exact[row * stride..][..width];
            let (scale, zero) = quantise(values, &mut self.bytes[row * stride..][..width]);
            self.scales.push(scale);
            self.zeros.push(zero);
        }
    }
}

/// Maps a row to 0..=255 between its least and its largest value, zero always among them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn quantise(values: &[f32], bytes: &mut [u8]) -> (f32, f32) {
    let (least, most) = range(values);
    let scale = ((most - least) / 255.0).max(f32::MIN_POSITIVE);
    let zero = (-least / scale).round();
    let inverse = 1.0 / scale;
    for (byte, value) in bytes.iter_mut().zip(values) {
        // Adding 2^23 rounds, and leaves the integer in the low byte.
        let shifted = value.mul_add(inverse, zero).clamp(0.0, 255.0) + 8_388_608.0;
        *byte = shifted.to_bits() as u8;
    }
    (scale, zero)
}

/// The least and the largest of `values` and 0.
#[target_feature(enable = "avx512f")]
fn range(values: &[f32]) -> (f32, f32) {
    let (mut least, mut most) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for chunk in values.chunks_exact(LANES) {
        let values = load(chunk);
        least = _mm512_min_ps(values, least);
        most = _mm512_max_ps(values, most);
    }
    (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most))
}
