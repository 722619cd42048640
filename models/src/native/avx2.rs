//! Blocks of a matrix product in registers of 256 bits: six rows by two registers of eight
//! columns are twelve sums in flight, which hides the latency of the multiplication, and
//! leaves four of the sixteen registers for weights and inputs.
//!
//! AVX2 adds products of bytes in 16 bits, where they could overflow: inputs and weights of int8 are
//! rounded so that they cannot ([`INT8`]).

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cvtepi32_ps,
    _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::buffer::Number;
use super::multiply::{Block, COLUMNS};
use super::simd::{Ahead, Bytes, INT8_GROUP, Int8, Panel};

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
/// Of a tile of bytes, whose weights are four registers: with more rows they would be loaded anew for each.
const INT8_TILE_ROWS: usize = 4;
/// Rows of a full block: four tiles, or six of bytes.
pub const ROWS: usize = 4 * TILE_ROWS;

/// AVX2 multiplies bytes into sums of 16 bits. With inputs of at most 181 and weights of a lane that add up to
/// 181 at most, none exceeds 181 * 181 = 32,761. What is rounded more coarsely so, a scale for every 64 inputs wins back.
pub const INT8: Int8 = Int8 { input_max: 181.0, span: 64, lane_max: Some(181.0) };

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

/// Runs `$tile` for each tile of `$count` rows and 32 columns; the last rows are fewer than `$full`, which is at
/// most 6. Each asks for its part of `$ahead`. In brackets stand the parameters of a tile after its rows.
macro_rules! for_each_tile {
    ($count:expr, $full:ident, $ahead:ident, $tile:ident [$($parameter:literal)?], $($argument:expr),*) => {
        let mut ahead = Ahead::of($ahead, 2 * $count.div_ceil($full));
        for column in [0, TILE_COLUMNS] {
            let mut row = 0;
            while row < $count {
                let rows = ($count - row).min($full);
                let part = ahead.next();
                match rows {
                    1 => $tile::<1 $(, $parameter)?>(row, column, part, $($argument),*),
                    2 => $tile::<2 $(, $parameter)?>(row, column, part, $($argument),*),
                    3 => $tile::<3 $(, $parameter)?>(row, column, part, $($argument),*),
                    4 => $tile::<4 $(, $parameter)?>(row, column, part, $($argument),*),
                    5 => $tile::<5 $(, $parameter)?>(row, column, part, $($argument),*),
                    _ => $tile::<$full $(, $parameter)?>(row, column, part, $($argument),*),
                }
                row += rows;
            }
        }
    };
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
    // Sums of few rows wait for each other's latency: all columns at once have twice as many in flight.
    match count {
        1 => tile_fp32::<1, 4>(0, 0, Ahead::of(ahead, 1), rows, stride, panel, sums),
        2 => tile_fp32::<2, 4>(0, 0, Ahead::of(ahead, 1), rows, stride, panel, sums),
        3 => tile_fp32::<3, 4>(0, 0, Ahead::of(ahead, 1), rows, stride, panel, sums),
        _ => {
            for_each_tile!(count, TILE_ROWS, ahead, tile_fp32[2], rows, stride, panel, sums);
        }
    }
}

/// Of `ROWS` rows and `REGISTERS` registers of columns.
#[target_feature(enable = "avx2,fma")]
fn tile_fp32<const ROWS: usize, const REGISTERS: usize>(
    row: usize,
    column: usize,
    ahead: Ahead,
    rows: &[f32],
    stride: usize,
    panel: &[impl Weight],
    sums: &mut Block<f32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(
        rows.len() >= (row + ROWS - 1) * stride + inputs && column + REGISTERS * WIDTH <= COLUMNS,
        "rows are whole"
    );
    let rows = &rows[row * stride..];
    let mut tile = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
    for input in 0..inputs {
        ahead.step(input);
        let mut weights = [_mm256_setzero_ps(); REGISTERS];
        for (register, weights) in weights.iter_mut().enumerate() {
            // SAFETY: a panel holds 32 weights for each input, of which these are eight.
            *weights = unsafe { Weight::load(panel.as_ptr().add(input * COLUMNS + column + register * WIDTH)) };
        }
        for (i, sums) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values.
            let value = _mm256_set1_ps(unsafe { *rows.as_ptr().add(i * stride + input) });
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_fmadd_ps(value, weights, *sum);
            }
        }
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        for (register, sum) in tile.iter().enumerate() {
            // SAFETY: a row of a block is four registers.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(column + register * WIDTH), *sum) };
        }
    }
}

/// `totals = rows · panel + bias`, both within [`INT8`].
#[target_feature(enable = "avx2,fma")]
pub fn block_int8(rows: Bytes<'_>, panel: Panel<'_>, totals: &mut Block<f32>) {
    let (count, ahead) = (rows.count, panel.ahead);
    for_each_tile!(count, INT8_TILE_ROWS, ahead, tile_int8[], &rows, &panel, totals);
}

/// Two products fit into 16 bits, and so do four, as weights and inputs are bounded: two groups of four inputs
/// are added there, before the sum goes on in 32 bits. What a span adds up to is scaled and added to the totals,
/// which begin with the bias.
#[target_feature(enable = "avx2,fma")]
fn tile_int8<const ROWS: usize>(
    row: usize,
    column: usize,
    ahead: Ahead,
    rows: &Bytes<'_>,
    panel: &Panel<'_>,
    totals: &mut Block<f32>,
) {
    /// Two groups.
    const STEP_INPUTS: usize = 2 * INT8_GROUP;
    let (inputs, spans, stride) = (panel.weights.len() / COLUMNS, rows.spans, rows.stride);
    assert_eq!(spans, inputs.div_ceil(INT8.span), "each input is of a span");
    assert!(inputs.is_multiple_of(STEP_INPUTS) && column + TILE_COLUMNS <= COLUMNS, "steps are whole");
    assert!(rows.values.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    assert!(rows.scales.len() >= (row + ROWS) * spans, "each span of a row has a scale");
    assert!(panel.scales.len().min(panel.sums.len()) >= spans * COLUMNS, "and of a panel");
    let (values, of_rows) = (&rows.values[row * stride..], &rows.scales[row * spans..]);
    let totals = &mut totals.0[row..row + ROWS];
    // SAFETY: the bias is four registers, of which these are two.
    let bias = unsafe {
        let at = panel.bias.as_ptr().add(column);
        [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(WIDTH))]
    };
    let ones = _mm256_set1_epi16(1);
    let (mut step, steps) = (0, inputs / STEP_INPUTS);
    for span in 0..spans {
        let end = steps.min(step + INT8.span / STEP_INPUTS);
        // SAFETY: a span has 32 sums and as many scales, of which these are two registers each.
        let (sums, scales) = unsafe {
            let at = span * COLUMNS + column;
            let (sums, scales) = (panel.sums.as_ptr().add(at), panel.scales.as_ptr().add(at));
            (
                [_mm256_loadu_si256(sums.cast()), _mm256_loadu_si256(sums.add(WIDTH).cast())],
                [_mm256_loadu_ps(scales), _mm256_loadu_ps(scales.add(WIDTH))],
            )
        };
        // SAFETY: each row has a scale for each span.
        let scale_of = |i: usize| unsafe { *of_rows.as_ptr().add(i * spans + span) };
        let mut tile = [[_mm256_setzero_si256(); 2]; ROWS];
        for (i, tile) in tile.iter_mut().enumerate() {
            // Both fit into the lower 16 bits, and the upper ones of `zero` are 0.
            let zero = _mm256_set1_epi32(scale_of(i).zero);
            *tile = [_mm256_madd_epi16(zero, sums[0]), _mm256_madd_epi16(zero, sums[1])];
        }
        while step < end {
            ahead.step(step);
            // SAFETY: a panel holds 128 weights for each group of inputs, of which these are 64 of each of two.
            let (first, second) = unsafe {
                let at = panel.weights.as_ptr().add(INT8_GROUP * (2 * step * COLUMNS + column));
                (two_registers(at), two_registers(at.add(INT8_GROUP * COLUMNS)))
            };
            for (i, sum) in tile.iter_mut().enumerate() {
                // SAFETY: row i of ROWS has `inputs` values, of which this step is eight.
                let (left, right) = unsafe {
                    let at = values.as_ptr().add(i * stride + STEP_INPUTS * step);
                    (group(at), group(at.add(INT8_GROUP)))
                };
                for half in 0..2 {
                    let products = _mm256_add_epi16(
                        _mm256_maddubs_epi16(left, first[half]),
                        _mm256_maddubs_epi16(right, second[half]),
                    );
                    sum[half] = _mm256_add_epi32(sum[half], _mm256_madd_epi16(products, ones));
                }
            }
            step += 1;
        }
        for (i, (tile, to)) in tile.iter().zip(totals.iter_mut()).enumerate() {
            let step = _mm256_set1_ps(scale_of(i).step);
            for half in 0..2 {
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(tile[half]), scales[half]);
                // SAFETY: a row of a block is four registers.
                unsafe {
                    let to = to.as_mut_ptr().add(column + half * WIDTH);
                    let base = if span == 0 { bias[half] } else { _mm256_loadu_ps(to) };
                    _mm256_storeu_ps(to, _mm256_fmadd_ps(scaled, step, base));
                }
            }
        }
    }
}

/// # Safety
/// 64 weights are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn two_registers(from: *const i8) -> [__m256i; 2] {
    // SAFETY: as the caller promises.
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(INT8_GROUP * WIDTH).cast())] }
}

/// Four inputs, for each column.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group(from: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
}
