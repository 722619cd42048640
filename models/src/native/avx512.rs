//! Blocks of a matrix product in registers: twelve rows by two registers of sixteen columns
//! keep 24 sums in flight, which hides the latency of the multiplication, and each load of
//! weights serves twelve rows.

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __cpuid, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::buffer::Number;
use super::multiply::{Block, COLUMNS};
use super::simd::{Ahead, INT8_GROUP, Int8, LANES, LINE_BYTES, prefetch_near};

/// Proof that this CPU has every instruction that the kernels for fp32 and int8 are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Proof that it has those for bf16 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    pub fn detect() -> Option<Self> {
        Avx512::detect()?;
        std::arch::is_x86_feature_detected!("avx512bf16").then_some(Self(()))
    }

    /// Whether that multiplies more numbers than fp32 does. On AMD's cores it does; Intel's take a product of
    /// two bf16 as long as four of fp32 and leave it to AMX (`make bench-score`, `peak`: 40 and 83 billion a second).
    pub fn is_faster_than_fp32(self) -> bool {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    }
}

/// How far before its use a weight of a byte is asked for, which the cache of the second level holds: four groups.
const NEAR_BYTES: usize = 512;

/// Rows of a full tile.
const TILE_ROWS: usize = 12;
/// Rows of a full block: two tiles.
pub const ROWS: usize = 2 * TILE_ROWS;

/// Runs `$tile` for each tile of `$count` rows; the last one has 1 to 11. Each asks for its part of `$ahead`.
macro_rules! for_each_tile {
    ($count:expr, $ahead:expr, $tile:ident, $($argument:expr),*) => {
        let mut ahead = Ahead::of($ahead, $count.div_ceil(TILE_ROWS));
        let mut row = 0;
        while row < $count {
            let rows = ($count - row).min(TILE_ROWS);
            let part = ahead.next();
            match rows {
                1 => $tile::<1>(row, part, $($argument),*),
                2 => $tile::<2>(row, part, $($argument),*),
                3 => $tile::<3>(row, part, $($argument),*),
                4 => $tile::<4>(row, part, $($argument),*),
                5 => $tile::<5>(row, part, $($argument),*),
                6 => $tile::<6>(row, part, $($argument),*),
                7 => $tile::<7>(row, part, $($argument),*),
                8 => $tile::<8>(row, part, $($argument),*),
                9 => $tile::<9>(row, part, $($argument),*),
                10 => $tile::<10>(row, part, $($argument),*),
                11 => $tile::<11>(row, part, $($argument),*),
                _ => $tile::<12>(row, part, $($argument),*),
            }
            row += rows;
        }
    };
}

/// Products of `count` rows, `stride` apart, with a panel of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn block_bf16(rows: &[u16], stride: usize, count: usize, panel: &[u16], ahead: &[u16], sums: &mut Block<f32>) {
    for_each_tile!(count, ahead, tile_bf16, rows, stride, panel, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn tile_bf16<const ROWS: usize>(
    row: usize,
    ahead: Ahead,
    rows: &[u16],
    stride: usize,
    panel: &[u16],
    sums: &mut Block<f32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(inputs.is_multiple_of(2) && rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..inputs / 2 {
        // As many as the tile reads of its own panel.
        ahead.step(2 * pair);
        ahead.step(2 * pair + 1);
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

/// What panels hold, as fp32.
pub trait Weight: Number {
    /// # Safety
    /// Sixteen numbers are readable, and the CPU has AVX-512.
    unsafe fn load(from: *const Self) -> __m512;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_loadu_ps(from) }
    }
}

/// The bits of a bf16, which are the upper half of an fp32.
impl Weight for u16 {
    #[inline(always)]
    unsafe fn load(from: *const u16) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}

/// Products of `count` rows of fp32, `stride` apart, with a panel of (inputs, 32).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
fn tile_fp32<const ROWS: usize>(
    row: usize,
    ahead: Ahead,
    rows: &[f32],
    stride: usize,
    panel: &[impl Weight],
    sums: &mut Block<f32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let rows = &rows[row * stride..];
    let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
    for input in 0..inputs {
        ahead.step(input);
        // SAFETY: a panel holds 32 weights for each input; two registers are 32.
        let [left, right] = unsafe {
            let at = panel.as_ptr().add(input * COLUMNS);
            [Weight::load(at), Weight::load(at.add(LANES))]
        };
        for (i, sum) in tile.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values.
            let value = _mm512_set1_ps(unsafe { *rows.as_ptr().add(i * stride + input) });
            sum[0] = _mm512_fmadd_ps(value, left, sum[0]);
            sum[1] = _mm512_fmadd_ps(value, right, sum[1]);
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

/// Products of bytes are added in 32 bits, and what a span adds up to is scaled in fp32. Shorter spans round more
/// finely and cost more: with 128 inputs, a tenth of all time.
pub const INT8: Int8 = Int8 { input_max: 255.0, span: 384, lane_max: None };

/// Products of `count` rows of bytes, `stride` apart, with a panel of one span.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
pub fn block_int8(rows: &[u8], stride: usize, count: usize, panel: &[i8], ahead: &[i8], sums: &mut Block<i32>) {
    for_each_tile!(count, ahead, tile_int8, rows, stride, panel, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
fn tile_int8<const ROWS: usize>(
    row: usize,
    ahead: Ahead,
    rows: &[u8],
    stride: usize,
    panel: &[i8],
    sums: &mut Block<i32>,
) {
    let inputs = panel.len() / COLUMNS;
    assert!(inputs.is_multiple_of(INT8_GROUP), "groups are whole");
    assert!(rows.len() >= (row + ROWS - 1) * stride + inputs, "rows are whole");
    let first = rows[row * stride..].as_ptr();
    // One for each three rows: from a single one, LLVM adds up the addresses row by row, each waiting for the one
    // before it, and the additions take turns from products. Those beyond the last row are never followed.
    let mut values: [*const u8; TILE_ROWS / 3] = std::array::from_fn(|i| first.wrapping_add(3 * i * stride));
    let mut weights = panel.as_ptr();
    let mut tile = [[_mm512_setzero_si512(); 2]; ROWS];
    // In two loops, so that the question is not asked where there is nothing more to ask for.
    let groups = inputs / INT8_GROUP;
    let asked = groups.min(ahead.lines().div_ceil(2));
    for group in 0..asked {
        ahead.ask(2 * group);
        ahead.ask(2 * group + 1);
        // SAFETY: as below.
        unsafe { add_group(&mut tile, &mut values, stride, &mut weights) };
    }
    for _ in asked..groups {
        prefetch_near(weights.wrapping_add(NEAR_BYTES));
        prefetch_near(weights.wrapping_add(NEAR_BYTES + LINE_BYTES));
        // SAFETY: row i of ROWS has `inputs` bytes, and a panel 128 weights for each four of them.
        unsafe { add_group(&mut tile, &mut values, stride, &mut weights) };
    }
    for (tile, to) in tile.iter().zip(&mut sums.0[row..row + ROWS]) {
        // SAFETY: a row of a block is two registers.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), tile[0]);
            _mm512_storeu_si512(to.as_mut_ptr().add(LANES).cast(), tile[1]);
        }
    }
}

/// Adds the products of the next group of four inputs, where `values` and `weights` are, and goes on to the one after.
///
/// # Safety
/// The rows, three from each of `values` on and `stride` bytes apart, have that group, and so has the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn add_group<const ROWS: usize>(
    tile: &mut [[__m512i; 2]; ROWS],
    values: &mut [*const u8; TILE_ROWS / 3],
    stride: usize,
    weights: &mut *const i8,
) {
    // SAFETY: two registers are 128 weights.
    let [left, right] = unsafe { two_registers(*weights) };
    for (i, sum) in tile.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let values = _mm512_set1_epi32(unsafe { values[i / 3].add(i % 3 * stride).cast::<i32>().read_unaligned() });
        sum[0] = _mm512_dpbusd_epi32(sum[0], values, left);
        sum[1] = _mm512_dpbusd_epi32(sum[1], values, right);
    }
    *values = values.map(|at| at.wrapping_add(INT8_GROUP));
    *weights = weights.wrapping_add(INT8_GROUP * COLUMNS);
}

/// # Safety
/// 128 weights are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two_registers(from: *const i8) -> [__m512i; 2] {
    // SAFETY: as the caller promises.
    unsafe { [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(LINE_BYTES).cast())] }
}
