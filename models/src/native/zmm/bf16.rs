//! Activations are bf16 between layers: AVX-512 multiplies them, or AMX's tiles.

#![allow(unsafe_code, reason = "intrinsics of instructions that a value of the type proves")]

use std::arch::x86_64::{
    __m256bh, __m512, __m512i, _mm512_cvtneps_pbh, _mm512_loadu_si512, _mm512_permutex2var_epi16, _mm512_setzero_si512,
    _mm512_storeu_si512,
};

use super::{Activation, Multiplier, Zmm, transpose};
use crate::native::amx::{self, Tiles};
use crate::native::attention::HEAD;
use crate::native::avx512::{self, Avx512Bf16};
use crate::native::multiply::{Block, COLUMNS};
use crate::native::simd::{Int8, LANES, Work};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn compiled<M: Multiplier, W: Work>(simd: &Zmm<M>, work: W) -> W::Output {
    work.with(simd)
}

// SAFETY of all blocks below: the proof has every instruction that is used.
impl Multiplier for Avx512Bf16 {
    type Exact = u16;
    const INT8: Int8 = avx512::INT8;

    #[inline]
    fn run<W: Work>(simd: Zmm<Self>, work: W) -> W::Output {
        unsafe { compiled(&simd, work) }
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        avx512::ROWS
    }

    #[inline(always)]
    fn multiply(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
        unsafe { avx512::block_bf16(rows, stride, count, panel, ahead, sums) }
    }

    #[inline(always)]
    fn multiply_exact(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], sums: &mut Block<f32>) {
        self.multiply(rows, stride, count, panel, &[], sums);
    }

    #[inline(always)]
    fn block_int8(&self, rows: &[u8], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>) {
        unsafe { avx512::block_int8(rows, stride, count, panel, ahead, sums) }
    }
}

impl Multiplier for Tiles {
    type Exact = u16;
    const INT8: Int8 = avx512::INT8;

    #[inline]
    fn run<W: Work>(simd: Zmm<Self>, work: W) -> W::Output {
        unsafe { compiled(&simd, work) }
    }

    #[inline(always)]
    fn rows(&self) -> usize {
        amx::ROWS
    }

    #[inline(always)]
    fn multiply(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
        self.block_bf16(rows, stride, count, panel, ahead, sums);
    }

    #[inline(always)]
    fn multiply_exact(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], sums: &mut Block<f32>) {
        self.multiply(rows, stride, count, panel, &[], sums);
    }

    #[inline(always)]
    fn block_int8(&self, rows: &[u8], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>) {
        Tiles::block_int8(self, rows, stride, count, panel, ahead, sums);
    }
}

impl Activation for u16 {
    const GROUP: usize = 2;

    #[inline(always)]
    fn store(value: __m512, to: &mut [u16]) {
        let to: &mut [u16; LANES] = (&mut to[..LANES]).try_into().expect("the slice has that length");
        *to = unsafe { std::mem::transmute::<__m256bh, [u16; LANES]>(_mm512_cvtneps_pbh(value)) };
    }

    #[inline(always)]
    fn pack_keys(from: &[u16], stride: usize, length: usize, panels: &mut [u16]) {
        unsafe { pack_keys(from, stride, length, panels) }
    }

    #[inline(always)]
    fn pack_values(from: &[u16], stride: usize, length: usize, panel: &mut [u16]) {
        unsafe { pack_values(from, stride, length, panel) }
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
