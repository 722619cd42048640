//! Registers of 256 bits, two at a time: activations are fp32 between layers.

#![allow(unsafe_code, reason = "intrinsics of instructions that a value of the type proves")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_add_ps, _mm_cvtss_f32, _mm_max_ps, _mm_min_ps, _mm_movehl_ps, _mm_shuffle_ps,
    _mm256_add_epi32, _mm256_add_ps, _mm256_blendv_ps, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cmpgt_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_fmsub_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_packs_epi32, _mm256_packus_epi16,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_sub_ps,
};

use super::attention::HEAD;
use super::avx2::{self, Avx2, Weight};
use super::multiply::{Block, COLUMNS};
use super::outputs::{At, Outputs};
use super::simd::{Bytes, Int8, LANES, Panel, Simd, Sums, Work, copy_values};

/// Numbers of one register.
const WIDTH: usize = LANES / 2;

pub struct Ymm(());

impl Ymm {
    pub fn new(_detected: Avx2) -> Self {
        Self(())
    }
}

#[target_feature(enable = "avx2,fma")]
fn compiled<W: Work>(simd: &Ymm, work: W) -> W::Output {
    work.with(simd)
}

/// `of` both registers.
macro_rules! both {
    ($of:ident($($value:ident),*)) => {
        // SAFETY: a value of `Ymm` exists only where `Avx2` was detected.
        unsafe { [$of($($value[0]),*), $of($($value[1]),*)] }
    };
}

/// Sixteen numbers become one, by halves.
macro_rules! reduce {
    ($values:expr, $of_eight:ident, $of_four:ident) => {
        // SAFETY: as above.
        unsafe {
            let eight = $of_eight($values[0], $values[1]);
            let four = $of_four(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = $of_four(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32($of_four(two, _mm_shuffle_ps::<0b01>(two, two)))
        }
    };
}

// SAFETY of all blocks below: as in `both`; slices are checked to hold what is read or written.
impl Simd for Ymm {
    type Floats = [__m256; 2];
    type Exact = f32;

    const EXACT_GROUP: usize = 1;
    const INT8: Int8 = avx2::INT8;

    #[inline]
    fn run<W: Work>(self, work: W) -> W::Output {
        unsafe { compiled(&self, work) }
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        avx2::ROWS
    }

    #[inline(always)]
    fn multiply(&self, rows: &[f32], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
        unsafe { avx2::block_fp32(rows, stride, count, panel, ahead, sums) }
    }

    #[inline(always)]
    fn multiply_exact(&self, rows: &[f32], stride: usize, count: usize, panel: &[f32], sums: &mut Block<f32>) {
        unsafe { avx2::block_fp32(rows, stride, count, panel, &[], sums) }
    }

    #[inline(always)]
    fn multiply_int8(&self, rows: Bytes<'_>, panel: Panel<'_>, sums: &mut Sums, at: At, outputs: &mut impl Outputs) {
        unsafe { avx2::block_int8(rows, panel, &mut sums.total) };
        outputs.take::<Self>(at, rows.count, &sums.total);
    }

    #[inline(always)]
    fn pack_keys(from: &[f32], stride: usize, length: usize, panels: &mut [f32]) {
        for (key, values) in from.chunks(stride).enumerate().take(length) {
            let panel = &mut panels[key / COLUMNS * COLUMNS * HEAD..][..COLUMNS * HEAD];
            for (to, value) in panel[key % COLUMNS..].iter_mut().step_by(COLUMNS).zip(&values[..HEAD]) {
                *to = *value;
            }
        }
    }

    #[inline(always)]
    fn pack_values(from: &[f32], stride: usize, length: usize, panel: &mut [f32]) {
        copy_values(from, stride, length, panel);
    }

    #[inline(always)]
    fn splat(value: f32) -> [__m256; 2] {
        [unsafe { _mm256_set1_ps(value) }; 2]
    }

    #[inline(always)]
    fn load(from: &[f32]) -> [__m256; 2] {
        let from = from[..LANES].as_ptr();
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(WIDTH))] }
    }

    #[inline(always)]
    fn load_bf16(from: &[u16]) -> [__m256; 2] {
        let from = from[..LANES].as_ptr();
        unsafe { [Weight::load(from), Weight::load(from.add(WIDTH))] }
    }

    #[inline(always)]
    fn load_i32(from: &[i32]) -> [__m256; 2] {
        let from = from[..LANES].as_ptr();
        let halves = unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(WIDTH).cast())] };
        both!(_mm256_cvtepi32_ps(halves))
    }

    #[inline(always)]
    fn store(value: [__m256; 2], to: &mut [f32]) {
        let to = to[..LANES].as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(WIDTH), value[1]);
        }
    }

    #[inline(always)]
    fn store_exact(value: [__m256; 2], to: &mut [f32]) {
        Self::store(value, to);
    }

    #[inline(always)]
    fn store_bytes(values: [[__m256; 2]; 4], to: &mut [u8]) {
        let to = to[..4 * LANES].as_mut_ptr();
        let [a, b, c, d] = values;
        unsafe {
            _mm256_storeu_si256(to.cast(), bytes(a, b));
            _mm256_storeu_si256(to.add(2 * LANES).cast(), bytes(c, d));
        }
    }

    #[inline(always)]
    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn mul_sub(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn scale(value: [__m256; 2], n: [__m256; 2]) -> [__m256; 2] {
        let power = both!(power(n));
        both!(_mm256_mul_ps(value, power))
    }

    #[inline(always)]
    fn first(count: usize, values: [__m256; 2], other: f32) -> [__m256; 2] {
        let keep = unsafe {
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let (count, width) = (_mm256_set1_epi32(count as i32), _mm256_set1_epi32(WIDTH as i32));
            [_mm256_cmpgt_epi32(count, index), _mm256_cmpgt_epi32(_mm256_sub_epi32(count, width), index)]
        };
        let (keep, other) = (both!(_mm256_castsi256_ps(keep)), Self::splat(other));
        both!(_mm256_blendv_ps(other, values, keep))
    }

    #[inline(always)]
    fn sum(values: [__m256; 2]) -> f32 {
        reduce!(values, _mm256_add_ps, _mm_add_ps)
    }

    #[inline(always)]
    fn least(values: [__m256; 2]) -> f32 {
        reduce!(values, _mm256_min_ps, _mm_min_ps)
    }

    #[inline(always)]
    fn most(values: [__m256; 2]) -> f32 {
        reduce!(values, _mm256_max_ps, _mm_max_ps)
    }
}

/// 32 numbers, to the nearest whole ones of 0 to 255.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(a: [__m256; 2], b: [__m256; 2]) -> __m256i {
    let a = _mm256_packs_epi32(_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1]));
    let b = _mm256_packs_epi32(_mm256_cvtps_epi32(b[0]), _mm256_cvtps_epi32(b[1]));
    // Packing takes halves of all four in turn, which go to where they belong.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order)
}

/// 2^n by the bits of its exponent; 0 for -127.
#[inline]
#[target_feature(enable = "avx2")]
fn power(n: __m256) -> __m256 {
    const BIAS: i32 = 127;
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(BIAS))))
}
