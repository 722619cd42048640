//! What the network needs of a CPU: registers of sixteen numbers, and blocks of products.
//!
//! The layers are written once, against [`Simd`]. Everything between [`Simd::run`] and an
//! intrinsic is `inline(always)`, so that it becomes part of the one function that is
//! compiled for the instructions; a call that stayed would be compiled without them.

#![allow(unsafe_code, reason = "prefetching is an intrinsic without a safe form")]

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::attention::HEAD;
use super::buffer::Number;
use super::multiply::{Block, COLUMNS};
use super::outputs::{At, Outputs};

/// Numbers that are loaded, stored and computed at once.
pub const LANES: usize = 16;

/// Bytes of a line of the cache.
pub const LINE_BYTES: usize = 64;

/// Inputs of a column that lie side by side in a panel of int8.
pub const INT8_GROUP: usize = 4;

/// What int8 is rounded to, so that the instructions add its products without an error.
#[derive(Clone, Copy, Debug)]
pub struct Int8 {
    /// Largest input, a whole number of at most 255; the least is 0.
    pub input_max: f32,
    /// Inputs that share a scale, of a row and of a column's weights: a multiple of 64. Where products are added in
    /// 16 bits, the weights of a column's span add up to less than that holds.
    pub span: usize,
    /// Most that weights of one sign may add up to at [`LANE_INPUTS`] of eight, where their
    /// products are added in 16 bits.
    pub lane_max: Option<f32>,
}

/// Inputs whose products are added in 16 bits, in two groups side by side.
pub const LANE_INPUTS: [usize; 4] = [0, 1, INT8_GROUP, INT8_GROUP + 1];

/// What a byte of a span stands for: `(byte - zero) * step`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scale {
    pub step: f32,
    /// 0 to 255.
    pub zero: i32,
}

/// A few rows of bytes, each of one span or more.
#[derive(Clone, Copy)]
pub struct Bytes<'r> {
    /// From the first row's first byte on.
    pub values: &'r [u8],
    /// From one row to the next.
    pub stride: usize,
    pub count: usize,
    /// (rows, spans).
    pub scales: &'r [Scale],
    /// Of a row.
    pub spans: usize,
}

/// 32 columns of int8, of as many spans as the rows have.
#[derive(Clone, Copy)]
pub struct Panel<'p> {
    /// (inputs / INT8_GROUP, 32, INT8_GROUP).
    pub weights: &'p [i8],
    /// (spans, 32): what a weight of 1 stands for.
    pub scales: &'p [f32],
    /// (spans, 32): the sum of a column's weights, negative. An input's zero is taken out with it.
    pub sums: &'p [i32],
    /// Of each column.
    pub bias: &'p [f32; COLUMNS],
    /// To be asked for meanwhile.
    pub ahead: &'p [i8],
}

/// Of a block, where they are not kept in registers.
#[derive(Default)]
pub struct Sums {
    pub span: Block<i32>,
    pub total: Block<f32>,
}

/// Something to compute with whichever instructions there are.
pub trait Work {
    type Output;

    /// To be `inline(always)`.
    fn with<S: Simd>(self, simd: &S) -> Self::Output;
}

/// Instructions that one thread may use now. A value is the proof that the CPU has them.
///
/// Slices hold at least what is loaded from or stored to them: sixteen numbers where nothing
/// else is said. All else would panic.
pub trait Simd: Sized {
    /// Sixteen numbers of 32 bits.
    type Floats: Copy;
    /// An activation where a layer multiplies exactly: the bits of a bf16, or an fp32.
    type Exact: Number;

    /// Inputs of a column that lie side by side in a panel of exact weights.
    const EXACT_GROUP: usize;

    const INT8: Int8;

    /// Compiles `work` for these instructions, and does it.
    fn run<W: Work>(self, work: W) -> W::Output;

    /// Rows of a full block.
    fn rows(&self) -> usize;

    /// `sums = rows · panel` for the first `count` rows of `rows`, which are `stride` apart.
    /// `panel` is (inputs / EXACT_GROUP, 32, EXACT_GROUP) in bf16. `rows` go on to the next
    /// multiple of sixteen; what stands there is of no consequence. `ahead` is asked for meanwhile.
    fn multiply(
        &self,
        rows: &[Self::Exact],
        stride: usize,
        count: usize,
        panel: &[u16],
        ahead: &[u16],
        sums: &mut Block<f32>,
    );

    /// As [`Simd::multiply`], with a panel of activations.
    fn multiply_exact(
        &self,
        rows: &[Self::Exact],
        stride: usize,
        count: usize,
        panel: &[Self::Exact],
        sums: &mut Block<f32>,
    );

    /// Gives `rows · panel + bias` to `outputs`, both within [`Simd::INT8`]. The sum of a span is exact.
    fn multiply_int8(&self, rows: Bytes<'_>, panel: Panel<'_>, sums: &mut Sums, at: At, outputs: &mut impl Outputs);

    /// Transposes `length` keys of a head, `stride` apart, into panels of 32 of them. The last
    /// panel goes on with whatever follows the last key.
    fn pack_keys(from: &[Self::Exact], stride: usize, length: usize, panels: &mut [Self::Exact]);

    /// One panel of the values of `length` positions, `stride` apart; zeros follow the last
    /// one up to a multiple of 32.
    fn pack_values(from: &[Self::Exact], stride: usize, length: usize, panel: &mut [Self::Exact]);

    fn splat(value: f32) -> Self::Floats;
    fn load(from: &[f32]) -> Self::Floats;
    fn load_bf16(from: &[u16]) -> Self::Floats;
    fn load_i32(from: &[i32]) -> Self::Floats;
    fn store(value: Self::Floats, to: &mut [f32]);
    /// The nearest activations.
    fn store_exact(value: Self::Floats, to: &mut [Self::Exact]);
    /// 64 values to the nearest whole ones of 0 to 255; 0 for what is no number.
    fn store_bytes(values: [Self::Floats; 4], to: &mut [u8]);

    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `a * b - c`, rounded once.
    fn mul_sub(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `b` where one of both is no number.
    fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `b` where one of both is no number.
    fn min(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `value * 2^n` for whole `n` of -126 to 0; 0 for -127.
    fn scale(value: Self::Floats, n: Self::Floats) -> Self::Floats;
    /// The first `count` of `values`, and `other` for the rest.
    fn first(count: usize, values: Self::Floats, other: f32) -> Self::Floats;
    fn sum(values: Self::Floats) -> f32;
    fn least(values: Self::Floats) -> f32;
    fn most(values: Self::Floats) -> f32;
}

/// Asks for the line at `from`, into the cache of the second level.
#[inline(always)]
pub fn prefetch<T>(from: *const T) {
    // SAFETY: it is a hint, which no address makes invalid.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
}

/// As [`prefetch`], into that of the first level.
#[inline(always)]
pub fn prefetch_near<T>(from: *const T) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
}

/// Memory that is asked for in parts, a few lines at each step of a tile: many at once would hold the core up,
/// since it waits for no more than some dozens of lines at a time.
#[derive(Clone, Copy)]
pub struct Ahead {
    from: *const u8,
    /// Of one part.
    lines: usize,
}

impl Ahead {
    pub fn of<T>(memory: &[T], parts: usize) -> Self {
        Self { from: memory.as_ptr().cast(), lines: size_of_val(memory).div_ceil(parts * LINE_BYTES) }
    }

    /// The part, and the one after it from now on.
    pub fn next(&mut self) -> Self {
        let part = *self;
        self.from = self.from.wrapping_add(self.lines * LINE_BYTES);
        part
    }

    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Asks for a line of the part, or for one beyond it, which does no harm.
    #[inline(always)]
    pub fn ask(&self, line: usize) {
        prefetch(self.from.wrapping_add(line * LINE_BYTES));
    }

    /// Asks for the line of that number, where the part has so many.
    #[inline(always)]
    pub fn step(&self, line: usize) {
        if line < self.lines {
            self.ask(line);
        }
    }
}

/// [`Simd::pack_values`] where a panel has each position's values as they are.
#[inline(always)]
pub fn copy_values(from: &[f32], stride: usize, length: usize, panel: &mut [f32]) {
    for (to, values) in panel.chunks_exact_mut(HEAD).zip(from.chunks(stride)).take(length) {
        to.copy_from_slice(&values[..HEAD]);
    }
    panel[length * HEAD..length.next_multiple_of(COLUMNS) * HEAD].fill(0.0);
}
