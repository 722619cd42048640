//! Blocks of a matrix product in registers of 256 bits: six rows by two registers of eight
//! columns are twelve sums in flight, which hides the latency of the multiplication, and
//! leaves four of the sixteen registers for weights and inputs.
//!
//! There is no product of bytes that cannot overflow in AVX2, so that of 16-bit numbers
//! multiplies int8: it is exact, and twice as fast as fp32.

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cvtepi8_epi16, _mm256_cvtepu16_epi32,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
};

use super::buffer::Number;
use super::multiply::{Block, COLUMNS};
use super::simd::{LINE_BYTES, prefetch};

/// Proof that this CPU has every instruction that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Numbers of a register.
const WIDTH: usize = 8;
/// Columns of a tile.
const TILE_COLUMNS: usize = 2 * WIDTH;
const TILE_ROWS: usize = 6;
/// Rows of a full block: four tiles.
pub const ROWS: usize = 4 * TILE_ROWS;

/// Largest input that int8 is multiplied by. The product is of 16 bits anyway, so inputs are rounded
/// sixteen times finer than bytes are, and cost the same.
pub const VALUE_MAX: f32 = 4_095.0;

/// What panels hold, as fp32.
pub trait Weight: Number {
    /// # Safety
    /// Eight numbers are readable, and the CPU has AVX2.
    unsafe fn load(from: *const Self) -> __m256;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_loadu_ps(from) }
    }
}

/// The bits of a bf16, which are the upper half of an fp32.
impl Weight for u16 {
    #[inline(always)]
    unsafe fn load(from: *const u16) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
}

/// Runs `$tile` for each tile of `$count` rows and 32 columns; the last rows are 1 to 5. Each asks for
/// its part of `$ahead`.
macro_rules! for_each_tile {
    ($count:expr, $ahead:ident, $tile:ident, $($argument:expr),*) => {
        let mut ahead = Ahead::of($ahead, 2 * $count.div_ceil(TILE_ROWS));
        for column in [0, TILE_COLUMNS] {
            let mut row = 0;
            while row < $count {
                let rows = ($count - row).min(TILE_ROWS);
                let part = ahead.next();
                match rows {
                    1 => $tile::<1>(row, column, part, $($argument),*),
                    2 => $tile::<2>(row, column, part, $($argument),*),
                    3 => $tile::<3>(row, column, part, $($argument),*),
                    4 => $tile::<4>(row, column, part, $($argument),*),
                    5 => $tile::<5>(row, column, part, $($argument),*),
                    _ => $tile::<6>(row, column, part, $($argument),*),
                }
                row += rows;
            }
        }
    };
}

/// Memory that is asked for in parts, a line a step of a tile: many at once would hold the core up.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const u8,
    /// Of one part.
    lines: usize,
}

impl Ahead {
    fn of<T>(memory: &[T], parts: usize) -> Self {
        Self { from: memory.as_ptr().cast(), lines: size_of_val(memory).div_ceil(parts * LINE_BYTES) }
    }

    fn next(&mut self) -> Self {
        let part = *self;
        self.from = self.from.wrapping_add(self.lines * LINE_BYTES);
        part
    }

    #[inline(always)]
    fn step(&self, step: usize) {
        if step < self.lines {
            prefetch(self.from.wrapping_add(step * LINE_BYTES));
        }
    }
}

/// Products of `count` rows, `stride` apart, with a panel of (inputs, 32).
#[target_feature(enable = "avx2,fma")]
pub fn block_fp32(
    rows: &[f32],
    stride: usize,
    count: usize,
    panel: &[impl Weight],
    ahead: &[u16],
    sums: &mut Block<f32>,
) {
    for_each_tile!(count, ahead, tile_fp32, rows, stride, panel, sums);
}

#[target_feature(enable = "avx2,fma")]
fn tile_fp32<const ROWS: usize>(
    row: usize,
    column: usize,
    ahead: Ahead,
    rows: &[f32],
    stride: usize,
    panel: &[impl Weight],
    sums: &mut Block<f32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(rows.len() >= (row + ROWS - 1) * stride + inputs && column + TILE_COLUMNS <= COLUMNS, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
    for input in 0..inputs {
        ahead.step(input);
        // SAFETY: a panel holds 32 weights for each input, of which these are sixteen.
        let [left, right] = unsafe {
            let at = panel.as_ptr().add(input * COLUMNS + column);
            [Weight::load(at), Weight::load(at.add(WIDTH))]
        };
        for (i, sum) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values.
            let value = _mm256_set1_ps(unsafe { *rows.as_ptr().add(i * stride + input) });
            sum[0] = _mm256_fmadd_ps(value, left, sum[0]);
            sum[1] = _mm256_fmadd_ps(value, right, sum[1]);
        }
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        let to = &mut to[column..column + TILE_COLUMNS];
        // SAFETY: the slice is two registers.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), tile[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(WIDTH), tile[1]);
        }
    }
}

/// Products of `count` rows of 0 to [`VALUE_MAX`], `stride` apart, with a panel of (inputs / 2, 32, 2).
#[target_feature(enable = "avx2,fma")]
pub fn block_int8(rows: &[i16], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>) {
    for_each_tile!(count, ahead, tile_int8, rows, stride, panel, sums);
}

#[target_feature(enable = "avx2,fma")]
fn tile_int8<const ROWS: usize>(
    row: usize,
    column: usize,
    ahead: Ahead,
    rows: &[i16],
    stride: usize,
    panel: &[i8],
    sums: &mut Block<i32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(inputs.is_multiple_of(2) && column + TILE_COLUMNS <= COLUMNS, "pairs are whole");
    assert!(rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm256_setzero_si256(); 2]; ROWS];
    for pair in 0..inputs / 2 {
        ahead.step(pair);
        // SAFETY: a panel holds 64 weights for each pair of inputs, of which these are 32.
        let [left, right] = unsafe {
            let at = panel.as_ptr().add(2 * (pair * COLUMNS + column));
            [at, at.add(2 * WIDTH)].map(|at| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast())))
        };
        for (i, sum) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values, of which this pair is two.
            let values =
                unsafe { _mm256_set1_epi32(rows.as_ptr().add(i * stride + 2 * pair).cast::<i32>().read_unaligned()) };
            sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(values, left));
            sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(values, right));
        }
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        let to = &mut to[column..column + TILE_COLUMNS];
        // SAFETY: the slice is two registers.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), tile[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(WIDTH).cast(), tile[1]);
        }
    }
}
