//! Attention within one row of the batch. Products are in bf16, whatever the layers multiply
//! in; softmax is in fp32.

use std::arch::x86_64::{
    __m512i, _mm512_add_ps, _mm512_fmsub_ps, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_permutex2var_epi16, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::buffer::Buffer;
use super::math::exp2;
use super::multiply::{Block, COLUMNS, Multiplier, ROWS_MAX};
use super::rows::Rows;
use super::simd::{LANES, load, load_line, store_bf16, store_line};

/// Width of a head; that of MiniLM-L6. A register of bf16, and a row of a tile.
pub const HEAD: usize = 32;

/// Kept between calls.
#[derive(Default)]
pub struct Scratch {
    /// Panels of 32 keys of one head: (keys / 32, HEAD / 2, 32, 2).
    keys: Buffer<u16>,
    /// One panel of the values: (positions / 2, HEAD, 2).
    values: Buffer<u16>,
    /// Products of a block of queries with each panel of keys.
    products: Vec<Block<f32>>,
    /// Their softmax, before it is divided by its sum: (queries, positions).
    weights: Buffer<u16>,
    mixed: Block<f32>,
}

/// One row of the batch: its first token, and how many there are.
#[derive(Clone, Copy)]
pub struct Span {
    pub start: usize,
    pub length: usize,
}

/// `qkv` is (tokens, 3, heads, HEAD), of which `span` is one row; its tokens of `context`
/// become (length, heads, HEAD).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn attend(
    qkv: &Rows,
    span: Span,
    heads: usize,
    multiplier: &Multiplier,
    context: &mut Rows,
    scratch: &mut Scratch,
) {
    let (stride, hidden) = (qkv.stride(), heads * HEAD);
    let tokens = &qkv.bf16[span.start * stride..];
    let padded = span.length.next_multiple_of(COLUMNS);
    scratch.keys.grow(padded * HEAD);
    scratch.values.grow(padded * HEAD);
    scratch.weights.grow(ROWS_MAX * padded);
    scratch.products.resize_with(scratch.products.len().max(padded / COLUMNS), Block::default);
    for head in 0..heads {
        let column = head * HEAD;
        pack_keys(&tokens[hidden + column..], stride, span.length, &mut scratch.keys);
        pack_values(&tokens[2 * hidden + column..], stride, span.length, &mut scratch.values);
        for first in (0..span.length).step_by(multiplier.rows()) {
            let count = multiplier.rows().min(span.length - first);
            let queries = &tokens[first * stride + column..];
            let Scratch { keys, values, products, weights, mixed } = &mut *scratch;
            let panels = keys[..padded * HEAD].chunks_exact(COLUMNS * HEAD);
            for (panel, products) in panels.zip(products.iter_mut()) {
                multiplier.bf16(queries, stride, count, panel, products);
            }
            let mut scales = [0.0; ROWS_MAX];
            for (i, scale) in scales.iter_mut().enumerate().take(count) {
                *scale = weigh(products, i, span.length, &mut weights[i * padded..][..padded]);
            }
            multiplier.bf16(weights, padded, count, &values[..padded * HEAD], mixed);
            for (i, (mixed, scale)) in mixed.0.iter().zip(scales).enumerate().take(count) {
                for half in [0, LANES] {
                    let value = _mm512_mul_ps(load(&mixed[half..]), _mm512_set1_ps(scale));
                    context.put(span.start + first + i, column + half, value);
                }
            }
        }
    }
}

/// The exponentials of query `i`'s scaled products with `length` keys, less the largest, as
/// bf16, and zeros for the other positions; answers one over their sum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn weigh(products: &[Block<f32>], i: usize, length: usize, weights: &mut [u16]) -> f32 {
    // Powers of two instead of e: the scale takes the difference.
    let scale = _mm512_set1_ps(std::f32::consts::LOG2_E / (HEAD as f32).sqrt());
    let registers = length.div_ceil(LANES);
    let register = |r: usize| {
        let values = load(&products[r / 2].0[i][r % 2 * LANES..]);
        let real = (length - r * LANES).min(LANES);
        _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), (((1u32 << real) - 1) & 0xffff) as u16, values)
    };
    let mut largest = register(0);
    for r in 1..registers {
        largest = _mm512_max_ps(register(r), largest);
    }
    let largest = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(largest)), scale);
    let mut sum = _mm512_setzero_ps();
    for r in 0..registers {
        let power = exp2(_mm512_fmsub_ps(register(r), scale, largest));
        // What stands for no key is 2^-127, which no sum with a 1 in it shows.
        sum = _mm512_add_ps(sum, power);
        store_bf16(power, &mut weights[r * LANES..]);
    }
    weights[registers * LANES..].fill(0);
    1.0 / _mm512_reduce_add_ps(sum)
}

/// Transposes keys into panels. The last one goes on with whatever follows the last key.
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

/// Interleaves the values of positions 2i and 2i + 1; zeros follow the last one.
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
