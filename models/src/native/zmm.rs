//! Registers of 512 bits: activations are bf16 between layers.

#![allow(unsafe_code, reason = "intrinsics of instructions that a value of the type proves")]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512i, _mm_storeu_si128, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_cvtps_epi32, _mm512_fmadd_ps,
    _mm512_fmsub_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_permutex2var_epi16, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps,
    _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::amx::{self, Amx, Tiles};
use super::attention::HEAD;
use super::avx512::{self, Avx512};
use super::multiply::{Block, COLUMNS};
use super::simd::{Bytes, Int8, LANES, Panel, Scale, Simd, Sums, Work, prefetch_all};

/// AVX-512 computes; it or AMX multiplies.
pub enum Zmm {
    Avx512,
    Amx(Tiles),
}

impl Zmm {
    pub fn avx512(_detected: Avx512) -> Self {
        Self::Avx512
    }

    /// Tiles of this thread are usable until the answer drops.
    pub fn amx(detected: Amx) -> Self {
        Self::Amx(detected.configure())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn compiled<W: Work>(simd: &Zmm, work: W) -> W::Output {
    work.with(simd)
}

// SAFETY of all blocks below: a value of the type exists only where `Avx512` was detected,
// which has every instruction that is used; slices are checked to hold what is read or written.
impl Simd for Zmm {
    type Floats = __m512;
    type Exact = u16;
    const EXACT_GROUP: usize = 2;
    /// Products of bytes are added in 32 bits.
    const INT8: Int8 = Int8 { input_max: 255.0, span: usize::MAX, lane_max: None };

    #[inline]
    fn run<W: Work>(self, work: W) -> W::Output {
        unsafe { compiled(&self, work) }
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        match self {
            Self::Avx512 => avx512::ROWS,
            Self::Amx(_) => amx::ROWS,
        }
    }

    #[inline(always)]
    fn multiply(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
        prefetch_all(ahead);
        match self {
            Self::Avx512 => unsafe { avx512::block_bf16(rows, stride, count, panel, sums) },
            Self::Amx(tiles) => tiles.block_bf16(rows, stride, count, panel, sums),
        }
    }

    #[inline(always)]
    fn multiply_exact(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], sums: &mut Block<f32>) {
        self.multiply(rows, stride, count, panel, &[], sums);
    }

    #[inline(always)]
    fn add_int8(&self, rows: Bytes<'_>, panel: Panel<'_>, sums: &mut Sums) {
        let Bytes { values, stride, count, scales, spans } = rows;
        prefetch_all(panel.ahead);
        match self {
            Self::Avx512 => unsafe { avx512::block_int8(values, stride, count, panel.weights, &mut sums.span) },
            Self::Amx(tiles) => tiles.block_int8(values, stride, count, panel.weights, &mut sums.span),
        }
        for half in [0, LANES] {
            let (scale, weights) = (Self::load(&panel.scales[half..]), Self::load_i32(&panel.sums[half..]));
            for i in 0..count {
                let Scale { step, zero } = scales[i * spans];
                let total = &mut sums.total.0[i][half..];
                let centred = Self::mul_add(Self::splat(zero as f32), weights, Self::load_i32(&sums.span.0[i][half..]));
                Self::store(Self::mul_add(centred, Self::mul(Self::splat(step), scale), Self::load(total)), total);
            }
        }
    }

    #[inline(always)]
    fn pack_keys(from: &[u16], stride: usize, length: usize, panels: &mut [u16]) {
        unsafe { pack_keys(from, stride, length, panels) }
    }

    #[inline(always)]
    fn pack_values(from: &[u16], stride: usize, length: usize, panel: &mut [u16]) {
        unsafe { pack_values(from, stride, length, panel) }
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
    fn store_exact(value: __m512, to: &mut [u16]) {
        let to: &mut [u16; LANES] = (&mut to[..LANES]).try_into().expect("the slice has that length");
        *to = unsafe { std::mem::transmute::<__m256bh, [u16; LANES]>(_mm512_cvtneps_pbh(value)) };
    }

    #[inline(always)]
    fn store_bytes(value: __m512, to: &mut [u8]) {
        let to = &mut to[..LANES];
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value))) }
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
        unsafe { _mm512_scalef_ps(value, n) }
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

/// The first 64 bytes of `from`, as 32 numbers of two bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(from: &[u16]) -> __m512i {
    let from: &[u16; 32] = from[..32].try_into().expect("the slice has that length");
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Into the first 64 bytes of `to`.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_line(value: __m512i, to: &mut [u16]) {
    let to: &mut [u16; 32] = (&mut to[..32]).try_into().expect("the slice has that length");
    // SAFETY: the array is 64 writable bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn pack_keys(from: &[u16], stride: usize, length: usize, panels: &mut [u16]) {
    for first in (0..length).step_by(LANES) {
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = load_line(&from[(first + i) * stride..]);
        }
        // Two keys of bf16 are one number of 32 bits.
        let start = first / COLUMNS * COLUMNS * HEAD + first % COLUMNS * 2;
        for (pair, line) in transpose(lines).into_iter().enumerate() {
            store_line(line, &mut panels[start + pair * 2 * COLUMNS..]);
        }
    }
}

/// Interleaves the values of positions 2i and 2i + 1.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn pack_values(from: &[u16], stride: usize, length: usize, panel: &mut [u16]) {
    let interleave = |first: u16| {
        let index: [u16; 32] = std::array::from_fn(|i| first + i as u16 / 2 + i as u16 % 2 * 32);
        load_line(&index)
    };
    let (left, right) = (interleave(0), interleave(16));
    let value = |position: usize| match position < length {
        true => load_line(&from[position * stride..]),
        false => _mm512_setzero_si512(),
    };
    for (pair, to) in panel.chunks_exact_mut(2 * HEAD).enumerate().take(length.next_multiple_of(COLUMNS) / 2) {
        let (even, odd) = (value(2 * pair), value(2 * pair + 1));
        store_line(_mm512_permutex2var_epi16(even, left, odd), to);
        store_line(_mm512_permutex2var_epi16(even, right, odd), &mut to[HEAD..]);
    }
}

/// Of sixteen times sixteen numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
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
