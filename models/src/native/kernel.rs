//! Tiles of a matrix product in registers: twelve rows by two registers of sixteen columns
//! keep 24 sums in flight, which hides the latency of the multiplication, and each load of
//! weights serves twelve rows.

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __m256bh, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_cvtneps_pbh, _mm512_dpbf16_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

/// Columns of a panel of packed weights.
pub const PANEL: usize = 32;
/// Columns of one register.
const LANES: usize = 16;
/// Rows of a full tile.
const TILE_ROWS: usize = 12;

/// A matrix in bf16, as it is multiplied: panels of 32 columns, in each for every pair of
/// inputs the two weights of each column side by side.
pub struct PackedBf16<'w> {
    pub panels: &'w [u16],
    pub bias: &'w [f32],
    pub inputs: usize,
}

/// A matrix in int8 with a scale for each column: panels of 32 columns, in each for every
/// four inputs the four weights of each column side by side.
pub struct PackedInt8<'w> {
    pub panels: &'w [i8],
    pub bias: &'w [f32],
    pub scales: &'w [f32],
    /// Sum of each column's weights, which an input's zero point is taken out with.
    pub sums: &'w [f32],
    pub inputs: usize,
}

/// Activations in unsigned int8: `value = (byte - zero) * scale`, for each row.
pub struct RowsInt8<'a> {
    pub bytes: &'a [u8],
    pub scales: &'a [f32],
    pub zeros: &'a [f32],
}

/// Runs `$tile` for each panel and each tile of rows; the last tile has 1 to 11 rows.
macro_rules! for_each_tile {
    ($rows:expr, $panels:expr, $tile:ident, $($argument:expr),*) => {
        for panel in 0..$panels {
            let mut row = 0;
            while row < $rows {
                let count = ($rows - row).min(TILE_ROWS);
                match count {
                    1 => $tile::<1>(panel, row, $($argument),*),
                    2 => $tile::<2>(panel, row, $($argument),*),
                    3 => $tile::<3>(panel, row, $($argument),*),
                    4 => $tile::<4>(panel, row, $($argument),*),
                    5 => $tile::<5>(panel, row, $($argument),*),
                    6 => $tile::<6>(panel, row, $($argument),*),
                    7 => $tile::<7>(panel, row, $($argument),*),
                    8 => $tile::<8>(panel, row, $($argument),*),
                    9 => $tile::<9>(panel, row, $($argument),*),
                    10 => $tile::<10>(panel, row, $($argument),*),
                    11 => $tile::<11>(panel, row, $($argument),*),
                    _ => $tile::<12>(panel, row, $($argument),*),
                }
                row += count;
            }
        }
    };
}

/// `out = rows · weights + bias`; `rows` is (n, inputs) in bf16, `out` (n, outputs).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn multiply_bf16(rows: &[u16], weights: &PackedBf16, out: &mut [f32]) {
    let (count, outputs) = (rows.len() / weights.inputs, weights.bias.len());
    assert_eq!(weights.panels.len(), weights.inputs * outputs, "every weight is packed");
    assert!(weights.inputs.is_multiple_of(2) && outputs.is_multiple_of(PANEL), "panels are whole");
    assert_eq!((rows.len(), out.len()), (count * weights.inputs, count * outputs), "matrices are whole");
    for_each_tile!(count, outputs / PANEL, tile_bf16, rows, weights, out);
}

/// The tile at `panel` and `row`, of `ROWS` rows. The caller has checked that all matrices
/// are whole and hold it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn tile_bf16<const ROWS: usize>(panel: usize, row: usize, rows: &[u16], weights: &PackedBf16, out: &mut [f32]) {
    let (inputs, outputs) = (weights.inputs, weights.bias.len());
    let rows = &rows[row * inputs..(row + ROWS) * inputs];
    let panel_weights = &weights.panels[panel * PANEL * inputs..(panel + 1) * PANEL * inputs];
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..inputs / 2 {
        // SAFETY: a panel holds 64 weights for each pair of inputs; two registers are 64.
        let [left, right]: [__m512bh; 2] = unsafe {
            let at = panel_weights.as_ptr().add(pair * 2 * PANEL);
            [
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.add(PANEL).cast())),
            ]
        };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` values, of which this pair is two; the
            // types are both 64 bytes without invalid patterns.
            let values: __m512bh = unsafe {
                let at = rows.as_ptr().add(i * inputs + 2 * pair).cast::<i32>();
                std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(at.read_unaligned()))
            };
            sum[0] = _mm512_dpbf16_ps(sum[0], values, left);
            sum[1] = _mm512_dpbf16_ps(sum[1], values, right);
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        for (half, sum) in sum.into_iter().enumerate() {
            let column = panel * PANEL + half * LANES;
            let sum = _mm512_add_ps(sum, load(&weights.bias[column..]));
            store(sum, &mut out[(row + i) * outputs + column..]);
        }
    }
}

/// `out = rows · weights + bias`; `rows` is (n, inputs) in int8, `out` (n, outputs).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn multiply_int8(rows: &RowsInt8, weights: &PackedInt8, out: &mut [f32]) {
    let (count, outputs) = (rows.bytes.len() / weights.inputs, weights.bias.len());
    assert_eq!(weights.panels.len(), weights.inputs * outputs, "every weight is packed");
    assert!(weights.inputs.is_multiple_of(4) && outputs.is_multiple_of(PANEL), "panels are whole");
    assert_eq!((rows.bytes.len(), out.len()), (count * weights.inputs, count * outputs), "matrices are whole");
    for_each_tile!(count, outputs / PANEL, tile_int8, rows, weights, out);
}

/// As [`tile_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn tile_int8<const ROWS: usize>(panel: usize, row: usize, rows: &RowsInt8, weights: &PackedInt8, out: &mut [f32]) {
    let (inputs, outputs) = (weights.inputs, weights.bias.len());
    let bytes = &rows.bytes[row * inputs..(row + ROWS) * inputs];
    let panel_weights = &weights.panels[panel * PANEL * inputs..(panel + 1) * PANEL * inputs];
    let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
    for four in 0..inputs / 4 {
        // SAFETY: a panel holds 128 weights for every four inputs; two registers are 128.
        let [left, right] = unsafe {
            let at = panel_weights.as_ptr().add(four * 4 * PANEL);
            [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(2 * PANEL).cast())]
        };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row i of ROWS has `inputs` bytes, of which these are four.
            let values =
                unsafe { _mm512_set1_epi32(bytes.as_ptr().add(i * inputs + 4 * four).cast::<i32>().read_unaligned()) };
            sum[0] = _mm512_dpbusd_epi32(sum[0], values, left);
            sum[1] = _mm512_dpbusd_epi32(sum[1], values, right);
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        let (scale, zero) = (_mm512_set1_ps(rows.scales[row + i]), _mm512_set1_ps(rows.zeros[row + i]));
        for (half, sum) in sum.into_iter().enumerate() {
            let column = panel * PANEL + half * LANES;
            let centred = _mm512_fnmadd_ps(zero, load(&weights.sums[column..]), _mm512_cvtepi32_ps(sum));
            let scale = _mm512_mul_ps(scale, load(&weights.scales[column..]));
            let value = _mm512_fmadd_ps(centred, scale, load(&weights.bias[column..]));
            store(value, &mut out[(row + i) * outputs + column..]);
        }
    }
}

/// The least and the largest of `values` and 0. Written with intrinsics, since the compiler
/// takes `f32::min` apart into sixteen comparisons.
#[target_feature(enable = "avx512f")]
pub fn range(values: &[f32]) -> (f32, f32) {
    let (mut least, mut most) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for chunk in values.chunks_exact(LANES) {
        let values = load(chunk);
        least = _mm512_min_ps(values, least);
        most = _mm512_max_ps(values, most);
    }
    (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most))
}

/// The largest of `values`, of which there is a multiple of sixteen.
#[target_feature(enable = "avx512f")]
pub fn largest(values: &[f32]) -> f32 {
    let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
    for chunk in values.chunks_exact(LANES) {
        most = _mm512_max_ps(load(chunk), most);
    }
    _mm512_reduce_max_ps(most)
}

/// The nearest bf16 of each value, as its bits.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn to_bf16(values: &[f32], bits: &mut [u16]) {
    assert!(values.len() == bits.len() && values.len().is_multiple_of(LANES), "registers are whole");
    for (values, bits) in values.chunks_exact(LANES).zip(bits.as_chunks_mut::<LANES>().0) {
        // SAFETY: both are sixteen numbers of two bytes without invalid patterns.
        *bits = unsafe { std::mem::transmute::<__m256bh, [u16; LANES]>(_mm512_cvtneps_pbh(load(values))) };
    }
}

#[target_feature(enable = "avx512f")]
fn load(from: &[f32]) -> __m512 {
    let from: &[f32; LANES] = from[..LANES].try_into().expect("the slice has that length");
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(value: __m512, to: &mut [f32]) {
    let to: &mut [f32; LANES] = (&mut to[..LANES]).try_into().expect("the slice has that length");
    // SAFETY: the array is 64 writable bytes.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
}
