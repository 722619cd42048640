//! Element-wise functions, written as plain loops over sixteen lanes that the compiler turns
//! into one instruction each.

use super::kernel;

/// Of BERT's layer norms (Devlin et al. 2019, published code).
const NORM_EPSILON: f32 = 1e-12;
/// Lanes of one register.
pub const LANES: usize = 16;

/// e^x for x of at most 88, to about two units in the last place: 2^n times a polynomial on
/// half an octave (Cephes' coefficients).
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let value = p.mul_add(r * r, r + 1.0);
    f32::from_bits(value.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// erf, to about one part in 10^7: a rational function on [-4, 4] (as in Eigen's).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142_3e-10_f32;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = p.mul_add(s, c);
    }
    let mut q = -1.456_607_2e-5_f32;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = q.mul_add(s, c);
    }
    x * p / q
}

/// x · Φ(x), in place (Hendrycks and Gimpel 2016, exact form).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn gelu(values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    debug_assert!(rest.is_empty(), "widths are multiples of a register");
    for chunk in chunks {
        for x in chunk {
            *x *= 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// Softmax of the first `real` values, in place; the others become zero.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn softmax(values: &mut [f32], real: usize) {
    values[real..].fill(f32::NEG_INFINITY);
    let largest = kernel::largest(values);
    let (chunks, _) = values.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks.iter_mut() {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - largest);
            sums[lane] += chunk[lane];
        }
    }
    values[real..].fill(0.0);
    // What stood beyond `real` was e^-87 each, which no sum of terms with a 1 among them shows.
    let scale = 1.0 / sums.iter().sum::<f32>();
    for value in values {
        *value *= scale;
    }
}

/// `x = norm(x + added)` for each row, in place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn add_and_norm(x: &mut [f32], added: &[f32], weight: &[f32], bias: &[f32]) {
    let width = weight.len();
    for (row, added) in x.chunks_exact_mut(width).zip(added.chunks_exact(width)) {
        for (value, added) in row.iter_mut().zip(added) {
            *value += added;
        }
        norm(row, weight, bias);
    }
}

/// Layer norm of one row, in place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
pub fn norm(row: &mut [f32], weight: &[f32], bias: &[f32]) {
    let width = row.len() as f32;
    let (chunks, _) = row.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    let mean = sums.iter().sum::<f32>() / width;
    let mut squares = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let away = chunk[lane] - mean;
            squares[lane] = away.mul_add(away, squares[lane]);
        }
    }
    let scale = 1.0 / (squares.iter().sum::<f32>() / width + NORM_EPSILON).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *value = ((*value - mean) * scale).mul_add(*weight, *bias);
    }
}

/// The nearest bf16, ties to even, as its 16 bits.
#[inline(always)]
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // A NaN keeps a set bit: the carry below could make it infinite.
    let quiet = u32::from(value.is_nan()) << 22;
    ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) | quiet) >> 16) as u16
}

#[inline(always)]
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn erf_is_the_error_function() {
        // From a table with more digits than an f32 has.
        for (x, value) in [
            (0.0, 0.0),
            (0.1, 0.112_462_92),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (3.0, 0.999_977_9),
            (6.0, 1.0),
        ] {
            assert!((erf(x) - value).abs() < 1e-6, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn bf16_rounds_to_the_nearest() {
        for (value, expected) in [(1.0, 1.0), (1.003_906_3, 1.0), (1.011_718_8, 1.015_625), (-3.3, -3.296_875)] {
            assert_eq!(from_bf16(to_bf16(value)), expected);
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
        assert_eq!(from_bf16(to_bf16(f32::INFINITY)), f32::INFINITY);
    }

    proptest! {
        #[test]
        fn exp_is_the_exponential(x in -86.0f32..80.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "{x}: {}", exp(x));
        }

        #[test]
        fn bf16_is_within_half_a_step(x in -1e30f32..1e30) {
            prop_assert!((from_bf16(to_bf16(x)) - x).abs() <= x.abs() / 256.0);
        }
    }
}
