//! Element-wise functions on registers.

use std::f32::consts::LN_2;
use std::ops::Range;

use super::rows::Rows;
use super::simd::{LANES, Simd};

/// Of BERT's layer norms (Devlin et al. 2019, published code).
const NORM_EPSILON: f32 = 1e-12;

/// `c[0] + x (c[1] + x (c[2] + ...))`.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(x: S::Floats, c: [f32; N]) -> S::Floats {
    let (mut value, mut i) = (S::splat(c[N - 1]), N - 1);
    while i > 0 {
        i -= 1;
        value = S::mul_add(value, x, S::splat(c[i]));
    }
    value
}

/// 2^x for x of at most 0, to 4 parts in a million: 2^n times the series on half an octave.
/// From -127 down it is next to nothing; a NaN stays one.
#[inline(always)]
pub fn exp2<S: Simd>(x: S::Floats) -> S::Floats {
    // Adding 1.5 * 2^23 rounds to an integer.
    const ROUNDER: f32 = 12_582_912.0;
    // ln(2)^k / k!
    const SERIES: [f32; 6] = [1.0, LN_2, 0.240_226_5, 0.055_504_11, 0.009_618_129, 0.001_333_356];
    let x = S::max(S::splat(-127.0), x);
    let n = S::sub(S::add(x, S::splat(ROUNDER)), S::splat(ROUNDER));
    S::scale(polynomial::<S, _>(S::sub(x, n), SERIES), n)
}

/// x · Φ(x) (Hendrycks and Gimpel 2016), to 5e-5: Φ - 1/2 is an odd polynomial on [-4.5, 4.5],
/// fitted so that this function's largest error is least, and exact at both ends.
#[inline(always)]
pub fn gelu<S: Simd>(x: S::Floats) -> S::Floats {
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
    let inside = S::max(S::splat(-END), S::min(S::splat(END), x));
    let odd = polynomial::<S, _>(S::mul(inside, inside), FIT);
    S::mul(x, S::mul_add(inside, odd, S::splat(0.5)))
}

/// A layer norm.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Norm {
    pub fn width(&self) -> usize {
        self.weight.len()
    }

    /// Of some rows of `x`, (n, width), in place and into `to`.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, x: &mut [f32], rows: Range<usize>, to: &mut Rows) {
        let width = self.width();
        for (i, row) in rows.clone().zip(x[rows.start * width..].chunks_exact_mut(width)) {
            let mean = S::splat(total::<S>(row) / width as f32);
            let squares = squares::<S>(row, mean);
            let scale = S::splat(1.0 / (squares / width as f32 + NORM_EPSILON).sqrt());
            let parameters = self.weight.chunks_exact(LANES).zip(self.bias.chunks_exact(LANES));
            for (values, (weight, bias)) in row.chunks_exact_mut(LANES).zip(parameters) {
                let away = S::mul(S::sub(S::load(values), mean), scale);
                S::store(S::mul_add(away, S::load(weight), S::load(bias)), values);
            }
            to.put_row::<S>(i, row);
        }
    }
}

/// The sum of all values; four sums at a time, since each waits for the one before.
#[inline(always)]
fn total<S: Simd>(row: &[f32]) -> f32 {
    let mut sums = [S::splat(0.0); 4];
    let (lines, rest) = row.as_chunks::<{ 4 * LANES }>();
    for line in lines {
        for i in 0..4 {
            sums[i] = S::add(sums[i], S::load(&line[i * LANES..]));
        }
    }
    for values in rest.as_chunks::<LANES>().0 {
        sums[0] = S::add(sums[0], S::load(values));
    }
    of_four::<S>(sums)
}

/// The sum of the squares of what is between each value and the mean.
#[inline(always)]
fn squares<S: Simd>(row: &[f32], mean: S::Floats) -> f32 {
    let mut sums = [S::splat(0.0); 4];
    let (lines, rest) = row.as_chunks::<{ 4 * LANES }>();
    for line in lines {
        for i in 0..4 {
            let away = S::sub(S::load(&line[i * LANES..]), mean);
            sums[i] = S::mul_add(away, away, sums[i]);
        }
    }
    for values in rest.as_chunks::<LANES>().0 {
        let away = S::sub(S::load(values), mean);
        sums[0] = S::mul_add(away, away, sums[0]);
    }
    of_four::<S>(sums)
}

#[inline(always)]
fn of_four<S: Simd>(sums: [S::Floats; 4]) -> f32 {
    S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::multiply::Instructions;
    use crate::native::simd::Work;
    use proptest::prelude::*;

    #[derive(Clone, Copy)]
    enum Function {
        Gelu,
        Exp2,
    }

    struct First(Function, f32);

    impl Work for First {
        type Output = f32;

        #[inline(always)]
        fn with<S: Simd>(self, _simd: &S) -> f32 {
            let x = S::splat(self.1);
            let value = match self.0 {
                Function::Gelu => gelu::<S>(x),
                Function::Exp2 => exp2::<S>(x),
            };
            let mut values = [0.0; LANES];
            S::store(value, &mut values);
            assert!(values.iter().all(|v| v.to_bits() == values[0].to_bits()), "all lanes compute the same");
            values[0]
        }
    }

    /// By all instructions that this CPU has.
    fn of(function: Function, x: f32) -> impl Iterator<Item = f32> {
        Instructions::detect().map(move |instructions| instructions.run(First(function, x)))
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
            for found in of(Function::Gelu, x) {
                assert!((found - value).abs() < 6e-5, "{x}: {found}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        for function in [Function::Gelu, Function::Exp2] {
            assert!(of(function, f32::NAN).all(f32::is_nan));
        }
        assert!(of(Function::Exp2, f32::NEG_INFINITY).all(|power| (0.0..=f32::MIN_POSITIVE).contains(&power)));
    }

    proptest! {
        #[test]
        fn exp2_is_the_power_of_two(x in -126.0f32..=0.0) {
            let exact = f64::from(x).exp2();
            for found in of(Function::Exp2, x) {
                prop_assert!((f64::from(found) - exact).abs() <= 4e-6 * exact, "{x}: {found}");
            }
        }
    }
}
