//! Element-wise functions on registers of sixteen.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};
use std::f32::consts::LN_2;

use super::rows::Rows;
use super::simd::{LANES, load, store};

/// Of BERT's layer norms (Devlin et al. 2019, published code).
const NORM_EPSILON: f32 = 1e-12;

/// `c[0] + x (c[1] + x (c[2] + ...))`.
#[inline]
#[target_feature(enable = "avx512f")]
fn polynomial<const N: usize>(x: __m512, c: [f32; N]) -> __m512 {
    let (mut value, mut i) = (_mm512_set1_ps(c[N - 1]), N - 1);
    while i > 0 {
        i -= 1;
        value = _mm512_fmadd_ps(value, x, _mm512_set1_ps(c[i]));
    }
    value
}

/// 2^x for x of at most 0, to 4 parts in a million: 2^n times the series on half an octave.
/// Below -127 it is 2^-127; a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp2(x: __m512) -> __m512 {
    // Adding 1.5 * 2^23 rounds to an integer.
    const ROUNDER: f32 = 12_582_912.0;
    // ln(2)^k / k!
    const SERIES: [f32; 6] = [1.0, LN_2, 0.240_226_5, 0.055_504_11, 0.009_618_129, 0.001_333_356];
    let x = _mm512_max_ps(_mm512_set1_ps(-127.0), x);
    let n = _mm512_sub_ps(_mm512_add_ps(x, _mm512_set1_ps(ROUNDER)), _mm512_set1_ps(ROUNDER));
    _mm512_scalef_ps(polynomial(_mm512_sub_ps(x, n), SERIES), n)
}

/// x · Φ(x) (Hendrycks and Gimpel 2016), to 5e-5: Φ - 1/2 is an odd polynomial on [-4.5, 4.5],
/// fitted so that this function's largest error is least, and exact at both ends.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn gelu(x: __m512) -> __m512 {
    const END: f32 = 4.5;
    const FIT: [f32; 9] = [
        0.398_708_55,
        -0.065_977_246,
        0.009_580_641,
        -0.001_036_25,
        8.120_923e-5,
        -4.431_644e-6,
        1.580_237_1e-7,
        -3.283_859e-9,
        2.999_948_6e-11,
    ];
    let inside = _mm512_max_ps(_mm512_set1_ps(-END), _mm512_min_ps(_mm512_set1_ps(END), x));
    let odd = polynomial(_mm512_mul_ps(inside, inside), FIT);
    _mm512_mul_ps(x, _mm512_fmadd_ps(inside, odd, _mm512_set1_ps(0.5)))
}

/// Layer norm of each row of `x`, (n, width), in place and into `rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn norm(x: &mut [f32], weight: &[f32], bias: &[f32], rows: &mut Rows) {
    let width = weight.len();
    for (i, row) in x.chunks_exact_mut(width).enumerate() {
        let mean = _mm512_set1_ps(total(row, |value| value) / width as f32);
        let squares = total(row, |value| {
            let away = _mm512_sub_ps(value, mean);
            _mm512_mul_ps(away, away)
        });
        let scale = _mm512_set1_ps(1.0 / (squares / width as f32 + NORM_EPSILON).sqrt());
        let parameters = weight.chunks_exact(LANES).zip(bias.chunks_exact(LANES));
        for (column, (values, (weight, bias))) in row.chunks_exact_mut(LANES).zip(parameters).enumerate() {
            let away = _mm512_mul_ps(_mm512_sub_ps(load(values), mean), scale);
            let value = _mm512_fmadd_ps(away, load(weight), load(bias));
            store(value, values);
            rows.put(i, column * LANES, value);
        }
    }
    rows.end();
}

/// The sum of `of` each value; four sums at a time, since each waits for the one before.
#[inline]
#[target_feature(enable = "avx512f")]
fn total(row: &[f32], of: impl Fn(__m512) -> __m512) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    for (i, values) in row.chunks_exact(LANES).enumerate() {
        sums[i % 4] = _mm512_add_ps(sums[i % 4], of(load(values)));
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[cfg(test)]
#[expect(unsafe_code, reason = "instructions that were detected")]
mod tests {
    use super::*;
    use crate::native::avx512::Avx512;
    use proptest::prelude::*;

    fn first(of: unsafe fn(__m512) -> __m512, x: f32) -> Option<f32> {
        Avx512::detect()?;
        let mut values = [0.0; LANES];
        // SAFETY: the instructions were detected.
        unsafe { store(of(_mm512_set1_ps(x)), &mut values) };
        Some(values[0])
    }

    #[test]
    fn gelu_is_known_at_some_points() {
        // x Φ(x), from a table of the normal distribution.
        for (x, value) in [
            (0.0, 0.0),
            (0.5, 0.345_731),
            (1.0, 0.841_345),
            (-1.0, -0.158_655),
            (2.0, 1.954_5),
            (-2.0, -0.045_5),
            (-3.0, -0.004_05),
            (3.0, 2.995_95),
            (-9.0, 0.0),
            (9.0, 9.0),
        ] {
            let Some(found) = first(gelu, x) else { return };
            assert!((found - value).abs() < 6e-5, "{x}: {found}");
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        for of in [gelu, exp2] as [unsafe fn(__m512) -> __m512; 2] {
            let Some(found) = first(of, f32::NAN) else { return };
            assert!(found.is_nan());
        }
        assert_eq!(first(exp2, f32::NEG_INFINITY).unwrap_or(0.0), first(exp2, -127.0).unwrap_or(0.0));
    }

    proptest! {
        #[test]
        fn exp2_is_the_power_of_two(x in -126.0f32..=0.0) {
            let exact = f64::from(x).exp2();
            if let Some(found) = first(exp2, x) {
                prop_assert!((f64::from(found) - exact).abs() <= 4e-6 * exact, "{x}: {found}");
            }
        }
    }
}
