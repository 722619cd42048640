//! A linear layer whose weights are packed once.

use super::buffer::Buffer;
use super::multiply::{Block, COLUMNS, Instructions};
use super::rows::{Precision, Rows};
use super::simd::{LANES, Simd};

/// Panels of 32 columns; in each, for every group of inputs, the weights of each column side
/// by side. Inputs of int8 go on with zeros to a multiple of 64 bytes.
enum Packed {
    /// As bits of bf16.
    Exact(Buffer),
    Int8 {
        panels: Buffer,
        /// Of each column.
        scales: Vec<f32>,
        /// Sum of each column's weights, which an input's zero point is taken out with.
        sums: Vec<f32>,
    },
}

/// Where a layer's outputs go. No closure: one is compiled apart from the instructions, unless
/// it happens to be inlined.
pub trait Outputs {
    /// Takes sixteen outputs of `row` from `column` on. To be `inline(always)`.
    fn put<S: Simd>(&mut self, row: usize, column: usize, values: S::Floats);
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
    pub fn pack(weight: &[f32], bias: &[f32], precision: Precision, instructions: Instructions) -> Self {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        assert!(outputs.is_multiple_of(COLUMNS) && inputs.is_multiple_of(COLUMNS), "the shape was checked");
        let group = instructions.group(precision);
        match precision {
            Precision::Exact => {
                let values = in_panels(group, inputs, outputs).map(|(o, i)| to_bf16(weight[o * inputs + i]));
                Self { packed: Packed::Exact(Buffer::new(inputs * outputs, values)), bias: bias.to_vec(), inputs }
            }
            Precision::Int8 => {
                let rows = || weight.chunks_exact(inputs);
                let largest = |row: &[f32]| row.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
                let scales: Vec<f32> = rows().map(|row| largest(row) / 127.0).collect();
                // Within -127 to 127, since the scale maps the largest weight there.
                let byte = |o: usize, i: usize| (weight[o * inputs + i] / scales[o]).round() as i8;
                let padded = inputs.next_multiple_of(2 * COLUMNS);
                let values = in_panels(group, padded, outputs).map(|(o, i)| if i < inputs { byte(o, i) } else { 0 });
                let panels = Buffer::new(padded * outputs, values);
                let sums = (0..outputs).map(|o| (0..inputs).map(|i| f32::from(byte(o, i))).sum()).collect();
                Self { packed: Packed::Int8 { panels, scales, sums }, bias: bias.to_vec(), inputs: padded }
            }
        }
    }

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    #[inline(always)]
    pub fn apply<S: Simd>(&self, simd: &S, rows: &Rows, outputs: impl Outputs) {
        match &self.packed {
            Packed::Exact(panels) => self.apply_exact(panels.numbers(), simd, rows, outputs),
            Packed::Int8 { panels, scales, sums } => {
                self.apply_int8(panels.numbers(), scales, sums, simd, rows, outputs);
            }
        }
    }

    #[inline(always)]
    fn apply_exact<S: Simd>(&self, panels: &[u16], simd: &S, rows: &Rows, mut outputs: impl Outputs) {
        let (stride, mut block) = (rows.stride(), Block::default());
        for (panel, weights) in panels.chunks_exact(COLUMNS * self.inputs).enumerate() {
            for first in (0..rows.count()).step_by(simd.rows()) {
                let count = simd.rows().min(rows.count() - first);
                let ahead = share(panels, panel + 1, self.inputs, first, rows.count(), count);
                simd.multiply(&rows.exact::<S>()[first * stride..], stride, count, weights, ahead, &mut block);
                for half in [0, LANES] {
                    let column = panel * COLUMNS + half;
                    let bias = S::load(&self.bias[column..]);
                    for (i, sums) in block.0.iter().enumerate().take(count) {
                        outputs.put::<S>(first + i, column, S::add(S::load(&sums[half..]), bias));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn apply_int8<S: Simd>(
        &self,
        panels: &[i8],
        scales: &[f32],
        weight_sums: &[f32],
        simd: &S,
        rows: &Rows,
        mut outputs: impl Outputs,
    ) {
        let (stride, mut block) = (rows.stride(), Block::default());
        for (panel, weights) in panels.chunks_exact(COLUMNS * self.inputs).enumerate() {
            for first in (0..rows.count()).step_by(simd.rows()) {
                let count = simd.rows().min(rows.count() - first);
                let ahead = share(panels, panel + 1, self.inputs, first, rows.count(), count);
                simd.multiply_int8(&rows.bytes::<S>()[first * stride..], stride, count, weights, ahead, &mut block);
                for half in [0, LANES] {
                    let column = panel * COLUMNS + half;
                    let (scale, weight_sum) = (S::load(&scales[column..]), S::load(&weight_sums[column..]));
                    let bias = S::load(&self.bias[column..]);
                    for (i, sums) in block.0.iter().enumerate().take(count) {
                        let (row_scale, zero) = (S::splat(rows.scales[first + i]), S::splat(rows.zeros[first + i]));
                        let centred = S::neg_mul_add(zero, weight_sum, S::load_i32(&sums[half..]));
                        outputs.put::<S>(first + i, column, S::mul_add(centred, S::mul(row_scale, scale), bias));
                    }
                }
            }
        }
    }
}

/// The part of a panel to be asked for while `count` of `rows` rows are multiplied with the one
/// before it: all weights together are larger than what stays near a core.
#[inline(always)]
fn share<T>(panels: &[T], panel: usize, inputs: usize, first: usize, rows: usize, count: usize) -> &[T] {
    let cells = COLUMNS * inputs;
    let Some(next) = panels.get(panel * cells..(panel + 1) * cells) else { return &[] };
    &next[cells * first / rows..cells * (first + count) / rows]
}

/// (output, input) of each packed weight, `group` inputs of a column side by side.
fn in_panels(group: usize, inputs: usize, outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    let panel = move |first| {
        let of_group =
            move |input| (first..first + COLUMNS).flat_map(move |o| (input..input + group).map(move |i| (o, i)));
        (0..inputs).step_by(group).flat_map(of_group)
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
