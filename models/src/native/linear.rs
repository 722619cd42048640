//! A linear layer whose weights are packed once.

use super::buffer::Buffer;
use super::multiply::{Block, COLUMNS, Instructions};
use super::outputs::{At, Outputs};
use super::rows::{GROUP, Precision, Rows, STEP};
use super::simd::{INT8_GROUP, Int8, LANE_INPUTS, Panel, Simd, Sums};
use super::values::{self, Biased};

/// Panels of 32 columns; in each, for every group of inputs, the weights of each column side
/// by side. Inputs of int8 go on with zeros to a multiple of 64 bytes.
enum Packed {
    /// As bits of bf16.
    Exact(Buffer),
    Int8(Spans),
}

/// Weights of int8, whose scales serve a span of inputs each.
struct Spans {
    panels: Buffer,
    /// Of one span.
    inputs: usize,
    /// (panels, spans, 32): of each column.
    scales: Vec<f32>,
    /// As `scales`: the sum of a column's weights, negative.
    sums: Vec<i32>,
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
        let bias = bias.to_vec();
        match precision {
            Precision::Exact => {
                let cells = in_panels(instructions.exact_group(), inputs, outputs);
                let values = cells.map(|(o, i)| to_bf16(weight[o * inputs + i]));
                Self { packed: Packed::Exact(Buffer::new(inputs * outputs, values)), bias, inputs }
            }
            Precision::Int8 => {
                let packed = Packed::Int8(Spans::pack(weight, inputs, outputs, instructions.int8()));
                Self { packed, bias, inputs: inputs.next_multiple_of(STEP) }
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
            Packed::Int8(spans) => self.apply_int8(spans, simd, rows, outputs),
        }
    }

    /// Each panel with all rows: it is twice as long as one of bytes, and loading it anew for each block of rows costs more
    /// than outputs that are not near.
    #[inline(always)]
    fn apply_exact<S: Simd>(&self, panels: &[u16], simd: &S, rows: &Rows, mut outputs: impl Outputs) {
        let (stride, count, cells, mut sums) = (rows.stride(), rows.count(), COLUMNS * self.inputs, Block::default());
        for column in (0..self.outputs()).step_by(COLUMNS) {
            let (weights, next) = with_next(panels, column / COLUMNS * cells, cells);
            let bias = values::load::<S>(self.bias_of(column));
            for row in (0..count).step_by(simd.rows()) {
                let rows_now = simd.rows().min(count - row);
                let ahead = &next[next.len() * row / count..next.len() * (row + rows_now) / count];
                simd.multiply(&rows.exact::<S>()[row * stride..], stride, rows_now, weights, ahead, &mut sums);
                outputs.take::<S>(At { row, column }, rows_now, Biased { sums: &sums, bias });
            }
            outputs.end::<S>(0..count, column + COLUMNS);
        }
    }

    /// Each block of rows with a group of panels, which stay near for the next block as the outputs do until they are bytes.
    #[inline(always)]
    fn apply_int8<S: Simd>(&self, spans: &Spans, simd: &S, rows: &Rows, mut outputs: impl Outputs) {
        let (panels, cells, mut sums) = (spans.panels.numbers::<i8>(), COLUMNS * self.inputs, Sums::default());
        for first in (0..self.outputs()).step_by(GROUP) {
            let end = self.outputs().min(first + GROUP);
            for row in (0..rows.count()).step_by(simd.rows()) {
                let count = simd.rows().min(rows.count() - row);
                for column in (first..end).step_by(COLUMNS) {
                    let (weights, next) = with_next(panels, column / COLUMNS * cells, cells);
                    // For other rows than the first ones it is there by then.
                    let ahead = if row == 0 { next } else { &[] };
                    let panel = spans.panel(column / COLUMNS, weights, self.bias_of(column), ahead);
                    simd.multiply_int8(rows.bytes(row, count), panel, &mut sums, At { row, column }, &mut outputs);
                }
                outputs.end::<S>(row..row + count, end);
            }
        }
    }

    /// Of a panel's columns.
    #[inline(always)]
    fn bias_of(&self, column: usize) -> &[f32; COLUMNS] {
        self.bias[column..].first_chunk().expect("outputs are whole panels")
    }
}

impl Spans {
    /// `weight` is (outputs, inputs).
    fn pack(weight: &[f32], inputs: usize, outputs: usize, int8: Int8) -> Self {
        let padded = inputs.next_multiple_of(STEP);
        let span = int8.span.min(padded);
        let spans = inputs.div_ceil(span);
        let of_column = |o: usize, s: usize| &weight[o * inputs..][..inputs][s * span..inputs.min((s + 1) * span)];
        let columns = || {
            let of_panel = move |first| (0..spans).flat_map(move |s| (first..first + COLUMNS).map(move |o| (o, s)));
            (0..outputs).step_by(COLUMNS).flat_map(of_panel)
        };
        let scales: Vec<f32> = columns().map(|(o, s)| scale(of_column(o, s), int8.lane_max)).collect();
        // Within -127 to 127, since the scale maps the largest weight there or nearer to 0.
        let byte = |o: usize, i: usize| {
            let scale = scales[(o / COLUMNS * spans + i / span) * COLUMNS + o % COLUMNS];
            (weight[o * inputs + i] / scale).round() as i8
        };
        let cells = in_panels(INT8_GROUP, padded, outputs);
        let panels = Buffer::new(padded * outputs, cells.map(|(o, i)| if i < inputs { byte(o, i) } else { 0 }));
        let sum = |(o, s)| (s * span..inputs.min((s + 1) * span)).map(|i| -i32::from(byte(o, i))).sum();
        Self { panels, inputs: span, sums: columns().map(sum).collect(), scales }
    }

    /// Number `panel` of all, whose weights these are.
    #[inline(always)]
    fn panel<'p>(&'p self, panel: usize, weights: &'p [i8], bias: &'p [f32; COLUMNS], ahead: &'p [i8]) -> Panel<'p> {
        let cells = COLUMNS * (weights.len() / COLUMNS).div_ceil(self.inputs);
        let (scales, sums) = (&self.scales[panel * cells..], &self.sums[panel * cells..]);
        Panel { weights, scales: &scales[..cells], sums: &sums[..cells], bias, ahead }
    }
}

/// What a weight of 1 in int8 stands for: the largest becomes 127, or less where the weights of a
/// lane would exceed `lane_max`.
fn scale(weights: &[f32], lane_max: Option<f32>) -> f32 {
    let largest = weights.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
    let Some(lane_max) = lane_max else { return largest / 127.0 };
    // Each weight may be rounded up by a half.
    let room = lane_max - LANE_INPUTS.len() as f32 / 2.0;
    let lanes = weights.chunks(2 * INT8_GROUP).flat_map(|group| {
        [0, 2].into_iter().flat_map(move |lane| {
            let of_lane = LANE_INPUTS.map(|i| group.get(lane + i).copied().unwrap_or_default());
            let total = |sign: f32| of_lane.iter().map(|w| (sign * w).max(0.0)).sum::<f32>();
            [total(1.0), total(-1.0)]
        })
    });
    lanes.fold(largest / 127.0, |most, lane| most.max(lane / room))
}

/// The panel at `cell`, and the next one, which is to be asked for meanwhile: all weights together are larger than what stays
/// near a core.
#[inline(always)]
fn with_next<T>(panels: &[T], cell: usize, cells: usize) -> (&[T], &[T]) {
    let (panel, rest) = panels[cell..].split_at(cells);
    (panel, &rest[..rest.len().min(cells)])
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

    #[test]
    fn the_largest_weight_is_127_where_nothing_else_bounds_it() {
        assert_eq!(scale(&[0.5, -2.54, 0.0, 1.0], None), 2.54 / 127.0);
        assert_eq!(scale(&[0.0; 8], None), f32::MIN_POSITIVE / 127.0);
    }

    proptest! {
        #[test]
        fn weights_of_a_lane_add_up_to_its_bound_at_most(
            weights in proptest::collection::vec(prop_oneof![-1f32..1.0, Just(1.0), Just(-1.0)], 1..40),
        ) {
            let step = scale(&weights, Some(181.0));
            let bytes: Vec<f32> = weights.iter().map(|w| (w / step).round()).collect();
            prop_assert!(bytes.iter().all(|byte| byte.abs() <= 127.0));
            for (at, lane) in (0..bytes.len()).step_by(8).flat_map(|at| [(at, 0), (at, 2)]) {
                let of_lane = || LANE_INPUTS.iter().filter_map(|i| bytes.get(at + lane + i).filter(|_| lane + i < 8));
                prop_assert!(of_lane().map(|byte| byte.max(0.0)).sum::<f32>() <= 181.0);
                prop_assert!(of_lane().map(|byte| (-byte).max(0.0)).sum::<f32>() <= 181.0);
            }
        }

        #[test]
        fn bf16_is_within_half_a_step(x in -1e30f32..1e30) {
            prop_assert!((from_bf16(to_bf16(x)) - x).abs() <= x.abs() / 256.0);
        }
    }
}
