//! Attention within one row of the batch. Products are exact ones, whatever the layers
//! multiply in; softmax is in fp32.

use super::buffer::Buffer;
use super::math::exp2;
use super::multiply::{Block, COLUMNS, ROWS_MAX};
use super::outputs::At;
use super::rows::Rows;
use super::simd::{LANES, Simd};
use super::values::{self, Row, Values};

/// Width of a head; that of MiniLM-L6. A register of bf16, and a row of a tile.
pub const HEAD: usize = 32;

/// Kept between calls.
#[derive(Default)]
pub struct Scratch {
    /// Panels of 32 keys of one head: (keys / 32, HEAD / GROUP, 32, GROUP).
    keys: Buffer,
    /// One panel of the values: (positions / GROUP, HEAD, GROUP).
    values: Buffer,
    /// Products of a block of queries with each panel of keys.
    products: Vec<Block<f32>>,
    /// Their softmax, before it is divided by its sum: (queries, positions).
    weights: Buffer,
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
#[inline(always)]
pub fn attend<S: Simd>(qkv: &Rows, span: Span, heads: usize, simd: &S, context: &mut Rows, scratch: &mut Scratch) {
    let (stride, hidden) = (qkv.stride(), heads * HEAD);
    let tokens = &qkv.exact::<S>()[span.start * stride..];
    let padded = span.length.next_multiple_of(COLUMNS);
    scratch.keys.grow::<S::Exact>(padded * HEAD);
    scratch.values.grow::<S::Exact>(padded * HEAD);
    scratch.weights.grow::<S::Exact>(ROWS_MAX * padded);
    scratch.products.resize_with(scratch.products.len().max(padded / COLUMNS), Block::default);
    for head in 0..heads {
        let column = head * HEAD;
        S::pack_keys(&tokens[hidden + column..], stride, span.length, scratch.keys.numbers_mut());
        S::pack_values(&tokens[2 * hidden + column..], stride, span.length, scratch.values.numbers_mut());
        for first in (0..span.length).step_by(simd.rows()) {
            let count = simd.rows().min(span.length - first);
            let queries = &tokens[first * stride + column..];
            let Scratch { keys, values, products, weights, mixed } = &mut *scratch;
            let panels = keys.numbers()[..padded * HEAD].chunks_exact(COLUMNS * HEAD);
            for (panel, products) in panels.zip(products.iter_mut()) {
                simd.multiply_exact(queries, stride, count, panel, products);
            }
            let weights = weights.numbers_mut::<S::Exact>();
            let mut scales = [0.0; ROWS_MAX];
            for (i, scale) in scales.iter_mut().enumerate().take(count) {
                *scale = weigh::<S>(products, i, span.length, &mut weights[i * padded..][..padded]);
            }
            simd.multiply_exact(weights, padded, count, &values.numbers()[..padded * HEAD], mixed);
            context.put::<S>(At { row: span.start + first, column }, count, Divided { mixed, scales: &scales });
        }
        context.end::<S>(span.start..span.start + span.length, column + HEAD);
    }
}

/// Mixed values, and for each row one over the sum of its weights.
struct Divided<'b> {
    mixed: &'b Block<f32>,
    scales: &'b [f32; ROWS_MAX],
}

impl<S: Simd> Values<S> for Divided<'_> {
    #[inline(always)]
    fn row(&self, i: usize) -> Row<S> {
        let (row, scale) = (values::load::<S>(&self.mixed.0[i]), S::splat(self.scales[i]));
        [S::mul(row[0], scale), S::mul(row[1], scale)]
    }
}

/// The exponentials of query `i`'s scaled products with `length` keys, less the largest, and
/// zeros for the other positions; answers one over their sum.
#[inline(always)]
fn weigh<S: Simd>(products: &[Block<f32>], i: usize, length: usize, weights: &mut [S::Exact]) -> f32 {
    // Powers of two instead of e: the scale takes the difference.
    let scale = S::splat(std::f32::consts::LOG2_E / (HEAD as f32).sqrt());
    let registers = length.div_ceil(LANES);
    let mut largest = register::<S>(products, i, length, 0);
    for r in 1..registers {
        largest = S::max(register::<S>(products, i, length, r), largest);
    }
    let largest = S::mul(S::splat(S::most(largest)), scale);
    let mut sum = S::splat(0.0);
    for r in 0..registers {
        let power = exp2::<S>(S::mul_sub(register::<S>(products, i, length, r), scale, largest));
        // What stands for no key is at most 2^-127, which no sum with a 1 in it shows.
        sum = S::add(sum, power);
        S::store_exact(power, &mut weights[r * LANES..]);
    }
    for rest in weights[registers * LANES..].chunks_exact_mut(LANES) {
        S::store_exact(S::splat(0.0), rest);
    }
    1.0 / S::sum(sum)
}

/// The `r`th sixteen of query `i`'s products; those of no key are less than any.
#[inline(always)]
fn register<S: Simd>(products: &[Block<f32>], i: usize, length: usize, r: usize) -> S::Floats {
    let values = S::load(&products[r / 2].0[i][r % 2 * LANES..]);
    S::first(length - r * LANES, values, f32::NEG_INFINITY)
}
