//! Registers of 512 bits, whatever multiplies.

#![allow(unsafe_code, reason = "intrinsics of instructions that a value of the type proves")]

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _CMP_NLE_UQ, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtps_epi32, _mm512_fmadd_ps, _mm512_fmsub_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_mov_ps, _mm512_maskz_scalef_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_packs_epi32,
    _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps,
    _mm512_set1_ps, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

mod bf16;
mod fp32;

use super::buffer::Number;
use super::multiply::{Block, COLUMNS};
use super::outputs::{At, Outputs};
use super::simd::{Bytes, Int8, LANES, LINE_BYTES, Panel, Simd, Sums, Work};
use super::values::{self, Scaled, Whole};

/// AVX-512 computes; `M` multiplies.
pub struct Zmm<M>(M);

/// What multiplies beside AVX-512's registers. A value is the proof that the CPU has the instructions.
pub trait Multiplier: Sized {
    type Exact: Activation;
    const INT8: Int8;

    /// Compiles `work` for AVX-512 and the own instructions.
    fn run<W: Work>(simd: Zmm<Self>, work: W) -> W::Output;

    fn rows(&self) -> usize;
    fn multiply(
        &self,
        rows: &[Self::Exact],
        stride: usize,
        count: usize,
        panel: &[u16],
        ahead: &[u16],
        sums: &mut Block<f32>,
    );
    fn multiply_exact(
        &self,
        rows: &[Self::Exact],
        stride: usize,
        count: usize,
        panel: &[Self::Exact],
        sums: &mut Block<f32>,
    );
    /// `sums = rows · panel` of one span, as [`Multiplier::multiply`].
    fn block_int8(&self, rows: &[u8], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>);
}

/// How a type of [`Simd::Exact`] is stored and packed. To be called only where a [`Multiplier`] of it is.
pub trait Activation: Number {
    /// [`Simd::EXACT_GROUP`].
    const GROUP: usize;

    fn store(value: __m512, to: &mut [Self]);
    fn pack_keys(from: &[Self], stride: usize, length: usize, panels: &mut [Self]);
    fn pack_values(from: &[Self], stride: usize, length: usize, panel: &mut [Self]);
}

impl<M> Zmm<M> {
    pub fn new(multiplier: M) -> Self {
        Self(multiplier)
    }
}

// SAFETY of all blocks below: a multiplier exists only where `Avx512` was detected, which has
// every instruction that is used; slices are checked to hold what is read or written.
impl<M: Multiplier> Simd for Zmm<M> {
    type Floats = __m512;
    type Exact = M::Exact;
    const EXACT_GROUP: usize = M::Exact::GROUP;
    const INT8: Int8 = M::INT8;

    #[inline]
    fn run<W: Work>(self, work: W) -> W::Output {
        M::run(self, work)
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        self.0.rows()
    }

    #[inline(always)]
    fn multiply(
        &self,
        rows: &[M::Exact],
        stride: usize,
        count: usize,
        panel: &[u16],
        ahead: &[u16],
        sums: &mut Block<f32>,
    ) {
        self.0.multiply(rows, stride, count, panel, ahead, sums);
    }

    #[inline(always)]
    fn multiply_exact(
        &self,
        rows: &[M::Exact],
        stride: usize,
        count: usize,
        panel: &[M::Exact],
        sums: &mut Block<f32>,
    ) {
        self.0.multiply_exact(rows, stride, count, panel, sums);
    }

    #[inline(always)]
    fn multiply_int8(&self, rows: Bytes<'_>, panel: Panel<'_>, sums: &mut Sums, at: At, outputs: &mut impl Outputs) {
        let Bytes { values, stride, count, spans, .. } = rows;
        let inputs = panel.weights.len() / COLUMNS;
        let (span_inputs, ahead_each) = (M::INT8.span.min(inputs), panel.ahead.len().div_ceil(spans).max(1));
        let bias = values::load::<Self>(panel.bias);
        for (span, weights) in panel.weights.chunks(span_inputs * COLUMNS).enumerate() {
            let ahead = panel.ahead.chunks(ahead_each).nth(span).unwrap_or_default();
            self.0.block_int8(&values[span * span_inputs..], stride, count, weights, ahead, &mut sums.span);
            let scaled = Scaled::<Self>::new(&sums.span, rows, &panel, span);
            if spans == 1 {
                return outputs.take(at, count, Whole { scaled, bias });
            }
            for (i, total) in sums.total.0.iter_mut().enumerate().take(count) {
                let base = if span == 0 { bias } else { values::load::<Self>(total) };
                values::store::<Self>(scaled.on(i, base), total);
            }
        }
        outputs.take::<Self>(at, count, &sums.total);
    }

    #[inline(always)]
    fn pack_keys(from: &[M::Exact], stride: usize, length: usize, panels: &mut [M::Exact]) {
        M::Exact::pack_keys(from, stride, length, panels);
    }

    #[inline(always)]
    fn pack_values(from: &[M::Exact], stride: usize, length: usize, panel: &mut [M::Exact]) {
        M::Exact::pack_values(from, stride, length, panel);
    }

    #[inline(always)]
    fn store_exact(value: __m512, to: &mut [M::Exact]) {
        M::Exact::store(value, to);
    }

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(from: &[f32]) -> __m512 {
        let from = &from[..LANES];
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(from: &[u16]) -> __m512 {
        let bits: [u16; LANES] = from[..LANES].try_into().expect("the slice has that length");
        unsafe {
            let bits = std::mem::transmute::<[u16; LANES], __m256i>(bits);
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
    }

    #[inline(always)]
    fn load_i32(from: &[i32]) -> __m512 {
        let from = &from[..LANES];
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(value: __m512, to: &mut [f32]) {
        let to = &mut to[..LANES];
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_bytes(values: [__m512; 4], to: &mut [u8]) {
        // Packing takes quarters of all four in turn, which go to where they belong.
        const ORDER: [i32; LANES] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
        let to = &mut to[..LINE_BYTES];
        let [a, b, c, d] = values;
        unsafe {
            let left = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let right = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
            let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
            let bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(left, right));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmsub_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn scale(value: __m512, n: __m512) -> __m512 {
        // Numbers below the normal ones would cost Intel's cores a hundred cycles each. A NaN stays one.
        unsafe { _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(n, _mm512_set1_ps(-127.0)), value, n) }
    }

    #[inline(always)]
    fn first(count: usize, values: __m512, other: f32) -> __m512 {
        let mask = ((1u32 << count.min(LANES)) - 1) as u16;
        unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(other), mask, values) }
    }

    #[inline(always)]
    fn sum(values: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(values) }
    }

    #[inline(always)]
    fn least(values: __m512) -> f32 {
        unsafe { _mm512_reduce_min_ps(values) }
    }

    #[inline(always)]
    fn most(values: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(values) }
    }
}

/// Of sixteen times sixteen numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Column j of rows i to i + 3, in each quarter of a register the columns j + 4 apart.
    let mut fours = pairs;
    for i in (0..LANES).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[j + 4], fours[j + 8], fours[j + 12]];
        // Quarters 0 and 2, and 1 and 3, of two registers.
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_low, odd_low) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even, even_low);
        columns[j + 8] = _mm512_shuffle_i32x4::<0xdd>(even, even_low);
        columns[j + 4] = _mm512_shuffle_i32x4::<0x88>(odd, odd_low);
        columns[j + 12] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_low);
    }
    columns
}
