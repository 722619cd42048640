//! Activations are fp32 between layers.

#![allow(unsafe_code, reason = "intrinsics of instructions that a value of the type proves")]

use std::arch::x86_64::{__m512, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512};

use super::{Activation, Multiplier, Zmm, transpose};
use crate::native::attention::HEAD;
use crate::native::avx512::{self, Avx512};
use crate::native::multiply::{Block, COLUMNS};
use crate::native::simd::{Int8, LANES, Work, copy_values};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
fn compiled<W: Work>(simd: &Zmm<Avx512>, work: W) -> W::Output {
    work.with(simd)
}

// SAFETY of all blocks below: the proof has every instruction that is used; slices are checked to
// hold what is read or written.
impl Multiplier for Avx512 {
    type Exact = f32;
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
    fn multiply(&self, rows: &[f32], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
        unsafe { avx512::block_fp32(rows, stride, count, panel, ahead, sums) }
    }

    #[inline(always)]
    fn multiply_exact(&self, rows: &[f32], stride: usize, count: usize, panel: &[f32], sums: &mut Block<f32>) {
        unsafe { avx512::block_fp32(rows, stride, count, panel, &[], sums) }
    }

    #[inline(always)]
    fn block_int8(&self, rows: &[u8], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>) {
        unsafe { avx512::block_int8(rows, stride, count, panel, ahead, sums) }
    }
}

impl Activation for f32 {
    const GROUP: usize = 1;

    #[inline(always)]
    fn store(value: __m512, to: &mut [f32]) {
        let to = &mut to[..LANES];
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn pack_keys(from: &[f32], stride: usize, length: usize, panels: &mut [f32]) {
        unsafe { pack_keys(from, stride, length, panels) }
    }

    #[inline(always)]
    fn pack_values(from: &[f32], stride: usize, length: usize, panel: &mut [f32]) {
        copy_values(from, stride, length, panel);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
fn pack_keys(from: &[f32], stride: usize, length: usize, panels: &mut [f32]) {
    for first in (0..length).step_by(LANES) {
        let panel = &mut panels[first / COLUMNS * COLUMNS * HEAD..][..COLUMNS * HEAD];
        for column in (0..HEAD).step_by(LANES) {
            let mut lines = [_mm512_setzero_si512(); LANES];
            for (i, line) in lines.iter_mut().enumerate() {
                let from = &from[(first + i) * stride + column..][..LANES];
                // SAFETY: those are 64 readable bytes.
                *line = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
            }
            for (i, line) in transpose(lines).into_iter().enumerate() {
                let to = &mut panel[(column + i) * COLUMNS + first % COLUMNS..][..LANES];
                // SAFETY: those are 64 writable bytes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), line) };
            }
        }
    }
}
