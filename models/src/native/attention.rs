//! Attention within one row, in fp32: a fortieth of the arithmetic at the length of a pair.

use super::math::{self, LANES};

/// Width of a head; that of MiniLM-L6.
pub const HEAD: usize = 32;
/// Queries that share each load of a key.
const QUERIES: usize = 4;

/// Kept between calls.
#[derive(Default)]
pub struct Scratch {
    /// Keys of one head, transposed: (HEAD, length rounded up to a register).
    keys: Vec<f32>,
    /// Weights of [`QUERIES`] queries.
    weights: Vec<f32>,
}

/// `qkv` is (length, 3, heads, HEAD) of one row; `context` becomes (length, heads, HEAD).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn attend(qkv: &[f32], heads: usize, context: &mut [f32], scratch: &mut Scratch) {
    let hidden = heads * HEAD;
    let length = context.len() / hidden;
    let padded = length.next_multiple_of(LANES);
    scratch.keys.resize(HEAD * padded, 0.0);
    scratch.weights.resize(QUERIES * padded, 0.0);
    for head in 0..heads {
        for (position, token) in qkv.chunks_exact(3 * hidden).enumerate() {
            for (d, key) in token[hidden + head * HEAD..][..HEAD].iter().enumerate() {
                scratch.keys[d * padded + position] = *key;
            }
        }
        let mut first = 0;
        while first < length {
            // The last block looks back rather than over the end; doing a query twice is harmless.
            let start = first.min(length.saturating_sub(QUERIES));
            let queries = QUERIES.min(length - start);
            weigh(&qkv[start * 3 * hidden + head * HEAD..], 3 * hidden, queries, scratch, padded);
            for weights in scratch.weights.chunks_exact_mut(padded).take(queries) {
                math::softmax(weights, length);
            }
            let values = &qkv[2 * hidden + head * HEAD..];
            let out = &mut context[start * hidden + head * HEAD..];
            mix(values, 3 * hidden, length, &scratch.weights, padded, queries, out, hidden);
            first += QUERIES;
        }
    }
}

/// Scaled products of `queries` queries with every key.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn weigh(from: &[f32], stride: usize, queries: usize, scratch: &mut Scratch, padded: usize) {
    let scale = (HEAD as f32).sqrt().recip();
    let mut query = [[0.0f32; HEAD]; QUERIES];
    for (i, query) in query.iter_mut().enumerate().take(queries) {
        for (to, from) in query.iter_mut().zip(&from[i * stride..][..HEAD]) {
            *to = from * scale;
        }
    }
    for block in (0..padded).step_by(LANES) {
        let mut sums = [[0.0f32; LANES]; QUERIES];
        for (d, keys) in scratch.keys.chunks_exact(padded).enumerate() {
            let keys: &[f32; LANES] = keys[block..][..LANES].try_into().expect("a block is one register long");
            for i in 0..QUERIES {
                for lane in 0..LANES {
                    sums[i][lane] = query[i][d].mul_add(keys[lane], sums[i][lane]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            scratch.weights[i * padded + block..][..LANES].copy_from_slice(sums);
        }
    }
}

/// Values of every position, weighted, for `queries` queries.
#[expect(clippy::too_many_arguments, reason = "matrices as slices with their strides")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn mix(
    values: &[f32],
    value_stride: usize,
    length: usize,
    weights: &[f32],
    weight_stride: usize,
    queries: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let mut sums = [[0.0f32; HEAD]; QUERIES];
    for position in 0..length {
        let value: &[f32; HEAD] = values[position * value_stride..][..HEAD].try_into().expect("a head is that long");
        for i in 0..QUERIES {
            let weight = weights[i * weight_stride + position];
            for d in 0..HEAD {
                sums[i][d] = weight.mul_add(value[d], sums[i][d]);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate().take(queries) {
        out[i * out_stride..][..HEAD].copy_from_slice(sums);
    }
}
