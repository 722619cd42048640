//! A linear layer whose weights are packed once, and whose inputs are converted as they come.

use super::kernel::{self, PANEL, PackedBf16, PackedInt8, RowsInt8};
use super::math::{LANES, to_bf16};

/// In which type a layer multiplies; it adds in fp32, or in int32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Bf16,
    /// Weights in int8 with a scale for each output, inputs with a scale and a zero point
    /// for each row: what else is in the batch makes no difference.
    Int8,
}

enum Packed {
    Bf16(Vec<u16>),
    Int8 { panels: Vec<i8>, scales: Vec<f32>, sums: Vec<f32> },
}

/// `y = x · Wᵀ + b`.
pub struct Linear {
    packed: Packed,
    bias: Vec<f32>,
    inputs: usize,
}

/// Converted inputs; kept, so that no call allocates.
#[derive(Default)]
pub struct Converted {
    bf16: Vec<u16>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Linear {
    /// `weight` is (outputs, inputs), as PyTorch has it; outputs are a multiple of 32 and
    /// inputs of 16.
    pub fn pack(weight: &[f32], bias: &[f32], precision: Precision) -> Self {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        assert!(outputs.is_multiple_of(PANEL) && inputs.is_multiple_of(LANES), "the shape was checked");
        let packed = match precision {
            Precision::Bf16 => {
                Packed::Bf16(in_panels::<2>(inputs, outputs).map(|(o, i)| to_bf16(weight[o * inputs + i])).collect())
            }
            Precision::Int8 => {
                let rows = || weight.chunks_exact(inputs);
                let largest = |row: &[f32]| row.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
                let scales: Vec<f32> = rows().map(|row| largest(row) / 127.0).collect();
                // Within -127 to 127, since the scale maps the largest weight there.
                let byte = |o: usize, i: usize| (weight[o * inputs + i] / scales[o]).round() as i8;
                let panels = in_panels::<4>(inputs, outputs).map(|(o, i)| byte(o, i)).collect();
                let sums = (0..outputs).map(|o| (0..inputs).map(|i| f32::from(byte(o, i))).sum()).collect();
                Packed::Int8 { panels, scales, sums }
            }
        };
        Self { packed, bias: bias.to_vec(), inputs }
    }

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `rows` is (n, inputs); `out` becomes (n, outputs).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn apply(&self, rows: &[f32], converted: &mut Converted, out: &mut Vec<f32>) {
        let (inputs, bias) = (self.inputs, &self.bias[..]);
        out.resize(rows.len() / inputs * bias.len(), 0.0);
        match &self.packed {
            Packed::Bf16(panels) => {
                converted.bf16.resize(rows.len(), 0);
                kernel::to_bf16(rows, &mut converted.bf16);
                kernel::multiply_bf16(&converted.bf16, &PackedBf16 { panels, bias, inputs }, out);
            }
            Packed::Int8 { panels, scales, sums } => {
                quantise(rows, inputs, converted);
                let Converted { bytes, scales: row_scales, zeros, .. } = converted;
                let rows = RowsInt8 { bytes, scales: row_scales, zeros };
                kernel::multiply_int8(&rows, &PackedInt8 { panels, bias, scales, sums, inputs }, out);
            }
        }
    }
}

/// (output, input) of each packed weight, `GROUP` inputs of a column side by side.
fn in_panels<const GROUP: usize>(inputs: usize, outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    let panel = move |first| {
        let group = move |input| (first..first + PANEL).flat_map(move |o| (input..input + GROUP).map(move |i| (o, i)));
        (0..inputs).step_by(GROUP).flat_map(group)
    };
    (0..outputs).step_by(PANEL).flat_map(panel)
}

/// Each row to 0..=255 between its least and its largest value, zero always among them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
fn quantise(rows: &[f32], inputs: usize, converted: &mut Converted) {
    let Converted { bytes, scales, zeros, .. } = converted;
    bytes.resize(rows.len(), 0);
    scales.clear();
    zeros.clear();
    for (row, bytes) in rows.chunks_exact(inputs).zip(bytes.chunks_exact_mut(inputs)) {
        let (least, most) = kernel::range(row);
        let scale = ((most - least) / 255.0).max(f32::MIN_POSITIVE);
        let zero = (-least / scale).round();
        let inverse = 1.0 / scale;
        for (byte, value) in bytes.iter_mut().zip(row) {
            // Adding 2^23 rounds, and leaves the integer in the low byte.
            let shifted = value.mul_add(inverse, zero).clamp(0.0, 255.0) + 8_388_608.0;
            *byte = shifted.to_bits() as u8;
        }
        scales.push(scale);
        zeros.push(zero);
    }
}
