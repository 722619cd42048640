//! Blocks of a matrix product in registers: twelve rows by two registers of sixteen columns
//! keep 24 sums in flight, which hides the latency of the multiplication, and each load of
//! weights serves twelve rows.

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::multiply::{Block, COLUMNS};
use super::simd::LANES;

/// Proof that this CPU has every instruction that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bf16")
            && std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Rows of a full tile.
const TILE_ROWS: usize = 12;
/// Rows of a full block: two tiles.
pub const ROWS: usize = 2 * TILE_ROWS;

/// Runs `$tile` for each tile of `$count` rows; the last one has 1 to 11.
macro_rules! for_each_tile {
    ($count:expr, $tile:ident, $($argument:expr),*) => {
        let mut row = 0;
        while row < $count {
            let rows = ($count - row).min(TILE_ROWS);
            match rows {
                1 => $tile::<1>(row, $($argument),*),
                2 => $tile::<2>(row, $($argument),*),
                3 => $tile::<3>(row, $($argument),*),
                4 => $tile::<4>(row, $($argument),*),
                5 => $tile::<5>(row, $($argument),*),
                6 => $tile::<6>(row, $($argument),*),
                7 => $tile::<7>(row, $($argument),*),
                8 => $tile::<8>(row, $($argument),*),
                9 => $tile::<9>(row, $($argument),*),
                10 => $tile::<10>(row, $($argument),*),
                11 => $tile::<11>(row, $($argument),*),
                _ => $tile::<12>(row, $($argument),*),
            }
            row += rows;
        }
    };
}

/// Products of `count` rows, `stride` apart, with a panel of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn block_bf16(rows: &[u16], stride: usize, count: usize, panel: &[u16], sums: &mut Block<f32>) {
    for_each_tile!(count, tile_bf16, rows, stride, panel, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn tile_bf16<const ROWS: usize>(row: usize, rows: &[u16], stride: usize, panel: &[u16], sums: &mut Block<f32>) {
    let inputs = panel.len() / COLUMNS;
    assert!(inputs.is_multiple_of(2) && rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..inputs / 2 {
        // SAFETY: a panel holds 64 weights for each pair of inputs; two registers are 64.
        let [left, right]: [__m512bh; 2] = unsafe {
            let at = panel.as_ptr().add(pair * 2 * COLUMNS);
            [
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.add(COLUMNS).cast())),
            ]
        };
        for (i, sum) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values, of which this pair is two; the
            // types are both 64 bytes without invalid patterns.
            let values: __m512bh = unsafe {
                let at = rows.as_ptr().add(i * stride + 2 * pair).cast::<i32>();
                std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(at.read_unaligned()))
            };
            sum[0] = _mm512_dpbf16_ps(sum[0], values, left);
            sum[1] = _mm512_dpbf16_ps(sum[1], values, right);
        }
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        // SAFETY: a row of a block is two registers.
        unsafe {
            _mm512_storeu_ps(to.as_mut_ptr(), tile[0]);
            _mm512_storeu_ps(to.as_mut_ptr().add(LANES), tile[1]);
        }
    }
}

/// Products of `count` rows of unsigned bytes, `stride` apart, with a panel of int8.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn block_int8(rows: &[u8], stride: usize, count: usize, panel: &[i8], sums: &mut Block<i32>) {
    for_each_tile!(count, tile_int8, rows, stride, panel, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn tile_int8<const ROWS: usize>(row: usize, rows: &[u8], stride: usize, panel: &[i8], sums: &mut Block<i32>) {
    let inputs = panel.len() / COLUMNS;
    assert!(inputs.is_multiple_of(4) && rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm512_setzero_si512(); 2]; ROWS];
    for four in 0..inputs / 4 {
        // SAFETY: a panel holds 128 weights for every four inputs; two registers are 128.
        let [left, right] = unsafe {
            let at = panel.as_ptr().add(four * 4 * COLUMNS);
            [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(2 * COLUMNS).cast())]
        };
        for (i, sum) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` bytes, of which these are four.
            let values =
                unsafe { _mm512_set1_epi32(rows.as_ptr().add(i * stride + 4 * four).cast::<i32>().read_unaligned()) };
            sum[0] = _mm512_dpbusd_epi32(sum[0], values, left);
            sum[1] = _mm512_dpbusd_epi32(sum[1], values, right);
        }
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        // SAFETY: a row of a block is two registers.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), tile[0]);
            _mm512_storeu_si512(to.as_mut_ptr().add(LANES).cast(), tile[1]);
        }
    }
}
