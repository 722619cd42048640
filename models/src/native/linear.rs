//! A linear layer whose weights are packed once.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mul_ps, _mm512_set1_ps,
};

use super::buffer::Buffer;
use super::multiply::{Block, COLUMNS, Multiplier};
use super::rows::{Precision, Rows};
use super::simd::{LANES, LINE_BYTES, load, load_i32, prefetch};

/// Panels of 32 columns; in each, for every two inputs (bf16) or four (int8), the weights of
/// each column side by side. Inputs go on with zeros to a multiple of 64 bytes.
enum Packed {
    Bf16(Buffer<u16>),
    Int8 {
        panels: Buffer<i8>,
        /// Of each column.
        scales: Vec<f32>,
        /// Sum of each column's weights, which an input's zero point is taken out with.
        sums: Vec<f32>,
    },
}

/// `y = x · Wᵀ + b`.
pub struct Linear {
    packed: Packed,
    bias: Vec<f32>,
    /// As they are packed.
    inputs: usize,
}

impl Linear {
    /// `weight` is (outputs, inputs), as PyTorch has it; both are multiples of 32.
    pub fn pack(weight: &[f32], bias: &[f32], precision: Precision) -> Self {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        assert!(outputs.is_multiple_of(COLUMNS) && inputs.is_multiple_of(COLUMNS), "the shape was checked");
        match precision {
            Precision::Bf16 => {
                let values = in_panels::<2>(inputs, outputs).map(|(o, i)| to_bf16(weight[o * inputs + i]));
                Self { packed: Packed::Bf16(Buffer::new(inputs * outputs, values)), bias: bias.to_vec(), inputs }
            }
            Precision::Int8 => {
                let rows = || weight.chunks_exact(inputs);
                let largest = |row: &[f32]| row.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
                let scales: Vec<f32> = rows().map(|row| largest(row) / 127.0).collect();
                // Within -127 to 127, since the scale maps the largest weight there.
                let byte = |o: usize, i: usize| (weight[o * inputs + i] / scales[o]).round() as i8;
                let padded = inputs.next_multiple_of(2 * COLUMNS);
                let values = in_panels::<4>(padded, outputs).map(|(o, i)| if i < inputs { byte(o, i) } else { 0 });
                let panels = Buffer::new(padded * outputs, values);
                let sums = (0..outputs).map(|o| (0..inputs).map(|i| f32::from(byte(o, i))).sum()).collect();
                Self { packed: Packed::Int8 { panels, scales, sums }, bias: bias.to_vec(), inputs: padded }
            }
        }
    }

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Gives `put` the row and the first column of each sixteen outputs, and the outputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn apply(&self, multiplier: &Multiplier, rows: &Rows, put: impl FnMut(usize, usize, __m512)) {
        match &self.packed {
            Packed::Bf16(panels) => self.apply_bf16(panels, multiplier, rows, put),
            Packed::Int8 { panels, scales, sums } => self.apply_int8(panels, scales, sums, multiplier, rows, put),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn apply_bf16(
        &self,
        panels: &[u16],
        multiplier: &Multiplier,
        rows: &Rows,
        mut put: impl FnMut(usize, usize, __m512),
    ) {
        let (stride, mut block) = (rows.stride(), Block::default());
        for (panel, weights) in panels.chunks_exact(COLUMNS * self.inputs).enumerate() {
            for first in (0..rows.count()).step_by(multiplier.rows()) {
                let count = multiplier.rows().min(rows.count() - first);
                prefetch_share(panels, panel + 1, self.inputs, first, rows.count(), count);
                multiplier.bf16(&rows.bf16[first * stride..], stride, count, weights, &mut block);
                for half in [0, LANES] {
                    let column = panel * COLUMNS + half;
                    let bias = load(&self.bias[column..]);
                    for (i, sums) in block.0.iter().enumerate().take(count) {
                        put(first + i, column, _mm512_add_ps(load(&sums[half..]), bias));
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    fn apply_int8(
        &self,
        panels: &[i8],
        scales: &[f32],
        weight_sums: &[f32],
        multiplier: &Multiplier,
        rows: &Rows,
        mut put: impl FnMut(usize, usize, __m512),
    ) {
        let (stride, mut block) = (rows.stride(), Block::default());
        for (panel, weights) in panels.chunks_exact(COLUMNS * self.inputs).enumerate() {
            for first in (0..rows.count()).step_by(multiplier.rows()) {
                let count = multiplier.rows().min(rows.count() - first);
                prefetch_share(panels, panel + 1, self.inputs, first, rows.count(), count);
                multiplier.int8(&rows.bytes[first * stride..], stride, count, weights, &mut block);
                for half in [0, LANES] {
                    let column = panel * COLUMNS + half;
                    let of_column = |values: &[f32]| load(&values[column..]);
                    let (scale, weight_sum, bias) = (of_column(scales), of_column(weight_sums), of_column(&self.bias));
                    for (i, sums) in block.0.iter().enumerate().take(count) {
                        let (row_scale, zero) = (rows.scales[first + i], rows.zeros[first + i]);
                        let sums = _mm512_cvtepi32_ps(load_i32(&sums[half..]));
                        let centred = _mm512_fnmadd_ps(_mm512_set1_ps(zero), weight_sum, sums);
                        let scale = _mm512_mul_ps(_mm512_set1_ps(row_scale), scale);
                        put(first + i, column, _mm512_fmadd_ps(centred, scale, bias));
                    }
                }
            }
        }
    }
}

/// Asks for the part of a panel that is due while `count` of `rows` rows are multiplied with
/// the one before it: all weights together are larger than what stays near a core.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_share<T>(panels: &[T], panel: usize, inputs: usize, first: usize, rows: usize, count: usize) {
    let cells = COLUMNS * inputs;
    let Some(next) = panels.get(panel * cells..(panel + 1) * cells) else { return };
    let share = &next[cells * first / rows..cells * (first + count) / rows];
    share.chunks(LINE_BYTES / size_of::<T>()).for_each(prefetch);
}

/// (output, input) of each packed weight, `GROUP` inputs of a column side by side.
fn in_panels<const GROUP: usize>(inputs: usize, outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    let panel = move |first| {
        let group =
            move |input| (first..first + COLUMNS).flat_map(move |o| (input..input + GROUP).map(move |i| (o, i)));
        (0..inputs).step_by(GROUP).flat_map(group)
    };
    (0..outputs).step_by(COLUMNS).flat_map(panel)
}

/// The nearest bf16, ties to even, as its 16 bits.
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // A NaN keeps a set bit: the carry below could make it infinite.
    let quiet = u32::from(value.is_nan()) << 22;
    ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) | quiet) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_bf16(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
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
        fn bf16_is_within_half_a_step(x in -1e30f32..1e30) {
            prop_assert!((from_bf16(to_bf16(x)) - x).abs() <= x.abs() / 256.0);
        }
    }
}
