//! What the network needs of a CPU: registers of sixteen numbers, and blocks of products.
//!
//! The layers are written once, against [`Simd`]. Everything between [`Simd::run`] and an
//! intrinsic is `inline(always)`, so that it becomes part of the one function that is
//! compiled for the instructions; a call that stayed would be compiled without them.

#![allow(unsafe_code, reason = "prefetching is an intrinsic without a safe form")]

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::buffer::Number;
use super::multiply::Block;

/// Numbers that are loaded, stored and computed at once.
pub const LANES: usize = 16;

/// Bytes of a line of the cache.
pub const LINE_BYTES: usize = 64;

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
    /// An activation where a layer multiplies in int8: a value of 0 to [`Simd::BYTE_MAX`].
    type Byte: Number;

    /// The largest `Byte`, a whole number: 255 where bytes are multiplied.
    const BYTE_MAX: f32;

    /// Inputs of a column that lie side by side in a panel of exact weights.
    const EXACT_GROUP: usize;
    /// The same of int8.
    const INT8_GROUP: usize;

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

    /// As [`Simd::multiply`], for bytes and a panel of (inputs / INT8_GROUP, 32, INT8_GROUP)
    /// in int8. The sums are exact.
    fn multiply_int8(
        &self,
        rows: &[Self::Byte],
        stride: usize,
        count: usize,
        panel: &[i8],
        ahead: &[i8],
        sums: &mut Block<i32>,
    );

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
    /// Values that are whole, of 0 to [`Simd::BYTE_MAX`].
    fn store_bytes(value: Self::Floats, to: &mut [Self::Byte]);

    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `a * b - c`, rounded once.
    fn mul_sub(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c - a * b`, rounded once.
    fn neg_mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `b` where one of both is no number.
    fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `b` where one of both is no number.
    fn min(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `value * 2^n` for whole `n` of -127 to 0.
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

/// Asks for all of `from`.
#[inline(always)]
pub fn prefetch_all<T>(from: &[T]) {
    from.chunks(LINE_BYTES / size_of::<T>()).for_each(|line| prefetch(line.as_ptr()));
}
