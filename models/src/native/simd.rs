//! Registers of sixteen numbers, loaded from and stored to slices.

#![allow(unsafe_code, reason = "intrinsics that load and store take pointers")]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtneps_pbh, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};

/// Numbers of one register.
pub const LANES: usize = 16;

/// Bytes of a register, and of a line of the cache.
pub const LINE_BYTES: usize = 64;

/// Asks for the line of the first of `from`, into the cache of the second level.
#[inline]
pub fn prefetch<T>(from: &[T]) {
    // SAFETY: it is a hint, which no address makes invalid.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(from.as_ptr().cast()) };
}

/// The first sixteen of `from`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(from: &[f32]) -> __m512 {
    let from: &[f32; LANES] = from[..LANES].try_into().expect("the slice has that length");
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

/// The first sixteen of `from`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_i32(from: &[i32]) -> __m512i {
    let from: &[i32; LANES] = from[..LANES].try_into().expect("the slice has that length");
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Into the first sixteen of `to`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(value: __m512, to: &mut [f32]) {
    let to: &mut [f32; LANES] = (&mut to[..LANES]).try_into().expect("the slice has that length");
    // SAFETY: the array is 64 writable bytes.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
}

/// The first sixteen of `bits`, which are bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn load_bf16(bits: &[u16]) -> __m512 {
    let bits: [u16; LANES] = bits[..LANES].try_into().expect("the slice has that length");
    // SAFETY: both are 32 bytes without invalid patterns.
    let bits = unsafe { std::mem::transmute::<[u16; LANES], __m256i>(bits) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// The nearest bf16 of each value into the first sixteen of `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn store_bf16(value: __m512, to: &mut [u16]) {
    let to: &mut [u16; LANES] = (&mut to[..LANES]).try_into().expect("the slice has that length");
    // SAFETY: both are sixteen numbers of two bytes without invalid patterns.
    *to = unsafe { std::mem::transmute::<__m256bh, [u16; LANES]>(_mm512_cvtneps_pbh(value)) };
}

/// The first 64 bytes of `from`, as 32 numbers of two bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_line(from: &[u16]) -> __m512i {
    let from: &[u16; 32] = from[..32].try_into().expect("the slice has that length");
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Into the first 64 bytes of `to`.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store_line(value: __m512i, to: &mut [u16]) {
    let to: &mut [u16; 32] = (&mut to[..32]).try_into().expect("the slice has that length");
    // SAFETY: the array is 64 writable bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
}
