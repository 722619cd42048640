//! What multiplies: blocks of at most 32 rows and 32 columns, by whichever instructions the
//! CPU has. What becomes of the sums is the same for all.

use std::fmt;

use super::amx::{Amx, Tiles};
use super::avx2::Avx2;
use super::avx512::{Avx512, Avx512Bf16};
use super::simd::{Int8, Simd, Work};
use super::ymm::Ymm;
use super::zmm::Zmm;

/// Columns of a block, and of a panel of packed weights.
pub const COLUMNS: usize = 32;
/// Most rows of a block.
pub const ROWS_MAX: usize = 32;

/// Sums of a block, row by row, at the start of a cache line.
#[repr(C, align(64))]
pub struct Block<T>(pub [[T; COLUMNS]; ROWS_MAX]);

impl<T: Copy + Default> Default for Block<T> {
    fn default() -> Self {
        Self([[T::default(); COLUMNS]; ROWS_MAX])
    }
}

/// Proof of the instructions that multiply. Where it is AMX, those of AVX-512 do the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    Amx(Amx),
    Avx512Bf16(Avx512Bf16),
    /// Exact products are of fp32.
    Avx512(Avx512),
    Avx2(Avx2),
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amx(_) => "amx",
            Self::Avx512Bf16(_) => "avx512 with bf16",
            Self::Avx512(_) => "avx512",
            Self::Avx2(_) => "avx2",
        })
    }
}

impl Instructions {
    /// All that this CPU has, the fastest first.
    pub fn detect() -> impl Iterator<Item = Self> {
        let bf16 = Avx512Bf16::detect();
        let mut avx512 = [bf16.map(Self::Avx512Bf16), Avx512::detect().map(Self::Avx512)];
        if !bf16.is_some_and(Avx512Bf16::is_faster_than_fp32) {
            avx512.reverse();
        }
        let [first, second] = avx512;
        [Amx::detect().map(Self::Amx), first, second, Avx2::detect().map(Self::Avx2)].into_iter().flatten()
    }

    /// Whether exact products are of bf16; they are of fp32 otherwise.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Self::Amx(_) | Self::Avx512Bf16(_))
    }

    /// [`Simd::INT8`].
    pub fn int8(self) -> Int8 {
        match self {
            Self::Amx(_) => Zmm::<Tiles>::INT8,
            Self::Avx512Bf16(_) => Zmm::<Avx512Bf16>::INT8,
            Self::Avx512(_) => Zmm::<Avx512>::INT8,
            Self::Avx2(_) => Ymm::INT8,
        }
    }

    /// Tokens that go through the layers together: the more of them, the more often each load of weights
    /// serves; the fewer, the closer their activations stay to the core. Cores with AVX2 alone have
    /// caches of 256 KiB to 1 MiB, where int8 is a tenth faster with 192 than with 512 (Zen 3). With 2 MiB it
    /// was an eighth faster with 256 than with 512 by AVX-512, and fp32 is the same (Xeon of 2023); by AMX 192 to 512 are.
    pub fn tokens_at_once(self) -> usize {
        match self {
            Self::Amx(_) => 512,
            Self::Avx512Bf16(_) | Self::Avx512(_) => 256,
            Self::Avx2(_) => 192,
        }
    }

    /// [`Simd::EXACT_GROUP`].
    pub fn exact_group(self) -> usize {
        match self {
            Self::Amx(_) => Zmm::<Tiles>::EXACT_GROUP,
            Self::Avx512Bf16(_) => Zmm::<Avx512Bf16>::EXACT_GROUP,
            Self::Avx512(_) => Zmm::<Avx512>::EXACT_GROUP,
            Self::Avx2(_) => Ymm::EXACT_GROUP,
        }
    }

    /// Does `work` in this thread.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Amx(amx) => Zmm::new(amx.configure()).run(work),
            Self::Avx512Bf16(avx512) => Zmm::new(avx512).run(work),
            Self::Avx512(avx512) => Zmm::new(avx512).run(work),
            Self::Avx2(avx2) => Ymm::new(avx2).run(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::buffer::{Buffer, Number};
    use crate::native::linear::to_bf16;
    use crate::native::outputs::{At, Outputs};
    use crate::native::simd::{Bytes, INT8_GROUP, LANE_INPUTS, LANES, Panel, Scale, Sums};
    use crate::native::values::{self, Values};

    /// A span of AVX-512, and a part of one.
    const INPUTS: usize = 448;
    const STRIDE: usize = INPUTS + 64;

    fn random<T: Number>(count: usize, draw: fn(&mut fastrand::Rng) -> T) -> Buffer {
        let mut rng = fastrand::Rng::with_seed(count as u64);
        Buffer::new(count, std::iter::repeat_with(move || draw(&mut rng)))
    }

    /// The weight of an input in a column of a panel whose inputs lie in groups.
    fn place(input: usize, column: usize, group: usize) -> usize {
        (input / group * COLUMNS + column) * group + input % group
    }

    /// `rows` times `panel` in plain loops, for each row of a full block.
    fn products(product: impl Fn(usize, usize, usize) -> f32) -> Vec<[f32; COLUMNS]> {
        let sum = |row, column| (0..INPUTS).map(|input| product(row, input, column)).sum();
        (0..ROWS_MAX).map(|row| std::array::from_fn(|column| sum(row, column))).collect()
    }

    struct Found<'f>(&'f mut [[f32; COLUMNS]]);

    impl Outputs for Found<'_> {
        #[inline(always)]
        fn take<S: Simd>(&mut self, _at: At, count: usize, values: impl Values<S>) {
            self.0[..count].iter_mut().enumerate().for_each(|(i, to)| values::store::<S>(values.row(i), to));
        }
    }

    struct OfBytes;

    impl Work for OfBytes {
        type Output = ();

        #[inline(always)]
        fn with<S: Simd>(self, simd: &S) {
            // As large as four weights of a lane may be together, and now and then that large.
            let most = S::INT8.lane_max.map_or(127, |lane_max| (lane_max / LANE_INPUTS.len() as f32) as i8);
            let draw = |rng: &mut fastrand::Rng| [rng.i8(-127..=127), i8::MIN, i8::MAX][rng.usize(..3)];
            let drawn = random(INPUTS * COLUMNS, draw);
            let mut weights: Vec<i8> =
                drawn.numbers().iter().map(|weight: &i8| *weight.min(&most).max(&-most)).collect();
            weights.iter_mut().step_by(COLUMNS).for_each(|weight| *weight = most);
            let drawn = random(ROWS_MAX * STRIDE, |rng| rng.u8(..));
            let mut values: Vec<u8> =
                drawn.numbers().iter().map(|value: &u8| (*value).min(S::INT8.input_max as u8)).collect();
            values[..STRIDE].fill(S::INT8.input_max as u8);
            let mut rows = Buffer::default();
            rows.grow::<u8>(values.len());
            const LINE: usize = 4 * LANES;
            for (to, from) in rows.numbers_mut::<u8>().chunks_exact_mut(LINE).zip(values.chunks_exact(LINE)) {
                let from: [f32; LINE] = std::array::from_fn(|i| f32::from(from[i]));
                S::store_bytes(std::array::from_fn(|i| S::load(&from[i * LANES..])), to);
            }
            let mut panel = Buffer::default();
            panel.grow::<i8>(weights.len());
            for (input, column) in (0..INPUTS).flat_map(|input| (0..COLUMNS).map(move |column| (input, column))) {
                panel.numbers_mut::<i8>()[place(input, column, INT8_GROUP)] = weights[input * COLUMNS + column];
            }
            // Sums of multiples of 8 below 2^27 are exact in fp32.
            let zero = |row: usize| (row * 5) as i32;
            let spans = INPUTS.div_ceil(S::INT8.span);
            let scale = |row: usize| Scale { step: 2.0, zero: zero(row) };
            let scales: Vec<Scale> = (0..ROWS_MAX).flat_map(|row| std::iter::repeat_n(scale(row), spans)).collect();
            let expected = products(|row, input, column| {
                let value = i32::from(values[row * STRIDE + input]) - zero(row);
                (8 * value * i32::from(weights[input * COLUMNS + column])) as f32
            });
            let bias: [f32; COLUMNS] = std::array::from_fn(|column| 8.0 * column as f32);
            let expected: Vec<[f32; COLUMNS]> =
                expected.iter().map(|sums| std::array::from_fn(|column| sums[column] + bias[column])).collect();
            let span = S::INT8.span.min(INPUTS);
            let of_column =
                |at: usize| weights[at / COLUMNS * span * COLUMNS + at % COLUMNS..].iter().step_by(COLUMNS).take(span);
            let sum = |at| of_column(at).map(|weight| -i32::from(*weight)).sum();
            let column_sums: Vec<i32> = (0..spans * COLUMNS).map(sum).collect();
            let panel = Panel {
                weights: panel.numbers(),
                scales: &vec![4.0; spans * COLUMNS],
                sums: &column_sums,
                bias: &bias,
                ahead: &[],
            };
            for count in 1..=simd.rows() {
                let (mut sums, mut found, values) = (Sums::default(), vec![[0.0; COLUMNS]; count], rows.numbers());
                let rows = Bytes { values, stride: STRIDE, count, scales: &scales, spans };
                let mut outputs = Found(&mut found);
                simd.multiply_int8(rows, panel, &mut sums, At { row: 0, column: 0 }, &mut outputs);
                assert_eq!(found, expected[..count], "{count} rows");
            }
        }
    }

    #[test]
    fn products_of_bytes_are_exact_by_any_instructions() {
        Instructions::detect().for_each(|instructions| instructions.run(OfBytes));
    }

    struct Bounded;

    impl Work for Bounded {
        type Output = ();

        #[inline(always)]
        fn with<S: Simd>(self, _simd: &S) {
            let mut values: [f32; 4 * LANES] = std::array::from_fn(|i| i as f32 + 0.25);
            values[..6].copy_from_slice(&[-3.0, -1e9, 254.6, 300.0, 1e9, f32::NAN]);
            let mut bytes = [7; 4 * LANES];
            S::store_bytes(std::array::from_fn(|i| S::load(&values[i * LANES..])), &mut bytes);
            assert_eq!(bytes[..6], [0, 0, 255, 255, 255, 0]);
            assert!((6..).zip(&bytes[6..]).all(|(i, byte)| i == *byte), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_are_the_nearest_that_there_are() {
        Instructions::detect().for_each(|instructions| instructions.run(Bounded));
    }

    struct Exact;

    impl Work for Exact {
        type Output = ();

        #[inline(always)]
        fn with<S: Simd>(self, simd: &S) {
            // Small integers and their sums are exact in bf16 and fp32.
            let draw = |rng: &mut fastrand::Rng| f32::from(rng.i8(-8..=8));
            let (values, weights) = (random(ROWS_MAX * STRIDE, draw), random(INPUTS * COLUMNS, draw));
            let (values, weights) = (values.numbers::<f32>(), weights.numbers::<f32>());
            let exact = |values: &[f32]| {
                let mut buffer = Buffer::default();
                buffer.grow::<S::Exact>(values.len());
                let to = buffer.numbers_mut::<S::Exact>().chunks_exact_mut(LANES);
                to.zip(values.chunks_exact(LANES)).for_each(|(to, from)| S::store_exact(S::load(from), to));
                buffer
            };
            let rows = exact(values);
            let mut packed = vec![0.0; weights.len()];
            for (input, column) in (0..INPUTS).flat_map(|input| (0..COLUMNS).map(move |column| (input, column))) {
                packed[place(input, column, S::EXACT_GROUP)] = weights[input * COLUMNS + column];
            }
            let (panel, of_activations) = (packed.iter().map(|w| to_bf16(*w)).collect::<Vec<_>>(), exact(&packed));
            let expected =
                products(|row, input, column| values[row * STRIDE + input] * weights[input * COLUMNS + column]);
            for count in 1..=simd.rows() {
                let mut sums = Block::default();
                simd.multiply(rows.numbers(), STRIDE, count, &panel, &panel, &mut sums);
                assert_eq!(sums.0[..count], expected[..count], "{count} rows");
                let mut sums = Block::default();
                simd.multiply_exact(rows.numbers(), STRIDE, count, of_activations.numbers(), &mut sums);
                assert_eq!(sums.0[..count], expected[..count], "{count} rows with activations");
            }
        }
    }

    #[test]
    fn exact_products_are_those_of_the_numbers() {
        Instructions::detect().for_each(|instructions| instructions.run(Exact));
    }

    struct Rows;

    impl Work for Rows {
        type Output = usize;

        #[inline(always)]
        fn with<S: Simd>(self, simd: &S) -> usize {
            simd.rows()
        }
    }

    #[test]
    fn threads_that_come_later_may_multiply_too() {
        for instructions in Instructions::detect() {
            let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || instructions.run(Rows))).collect();
            for thread in threads {
                assert_eq!(thread.join().expect("the thread ends well"), instructions.run(Rows));
            }
        }
    }
}
