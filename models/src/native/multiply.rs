//! What multiplies: blocks of at most 32 rows and 32 columns, by whichever instructions the
//! CPU has. What becomes of the sums is the same for all.

use std::fmt;

use super::amx::Amx;
use super::avx2::Avx2;
use super::avx512::Avx512;
use super::rows::Precision;
use super::simd::{Simd, Work};
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
    Avx512(Avx512),
    Avx2(Avx2),
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amx(_) => "amx",
            Self::Avx512(_) => "avx512",
            Self::Avx2(_) => "avx2",
        })
    }
}

impl Instructions {
    /// All that this CPU has, the fastest first.
    pub fn detect() -> impl Iterator<Item = Self> {
        let amx = Amx::detect().map(Self::Amx);
        amx.into_iter().chain(Avx512::detect().map(Self::Avx512)).chain(Avx2::detect().map(Self::Avx2))
    }

    /// Whether exact products are of bf16; they are of fp32 otherwise.
    pub fn multiplies_bf16(self) -> bool {
        !matches!(self, Self::Avx2(_))
    }

    /// [`Simd::BYTE_MAX`].
    pub fn byte_max(self) -> f32 {
        match self {
            Self::Amx(_) | Self::Avx512(_) => Zmm::BYTE_MAX,
            Self::Avx2(_) => Ymm::BYTE_MAX,
        }
    }

    /// Most inputs of an int8 layer: the sum of more products of bytes could exceed an int32.
    pub fn int8_inputs_max(self) -> usize {
        i32::MAX as usize / (i8::MAX as usize * self.byte_max() as usize)
    }

    /// Tokens that go through the layers together: the more of them, the more often each load of weights
    /// serves; the fewer, the closer their activations stay to the core. Cores with AVX2 alone have
    /// caches of 256 KiB to 1 MiB, where int8 is a tenth faster with 192 than with 512 (Zen 3).
    pub fn tokens_at_once(self) -> usize {
        match self {
            Self::Amx(_) | Self::Avx512(_) => 512,
            Self::Avx2(_) => 192,
        }
    }

    /// Inputs of a column that lie side by side in a panel of weights.
    pub fn group(self, precision: Precision) -> usize {
        fn of<S: Simd>(precision: Precision) -> usize {
            match precision {
                Precision::Exact => S::EXACT_GROUP,
                Precision::Int8 => S::INT8_GROUP,
            }
        }
        match self {
            Self::Amx(_) | Self::Avx512(_) => of::<Zmm>(precision),
            Self::Avx2(_) => of::<Ymm>(precision),
        }
    }

    /// Does `work` in this thread.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Amx(amx) => Zmm::amx(amx).run(work),
            Self::Avx512(avx512) => Zmm::avx512(avx512).run(work),
            Self::Avx2(avx2) => Ymm::new(avx2).run(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::buffer::{Buffer, Number};
    use crate::native::linear::to_bf16;
    use crate::native::simd::LANES;

    const INPUTS: usize = 192;
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
    fn products<T: Copy + std::iter::Sum>(value: impl Fn(usize, usize) -> T) -> Vec<[T; COLUMNS]> {
        let sum = |row: usize, column: usize| {
            (0..INPUTS).map(|input| value(row * STRIDE + input, input * COLUMNS + column)).sum()
        };
        (0..ROWS_MAX).map(|row| std::array::from_fn(|column| sum(row, column))).collect()
    }

    struct Bytes;

    impl Work for Bytes {
        type Output = ();

        #[inline(always)]
        fn with<S: Simd>(self, simd: &S) {
            let (values, weights) =
                (random(ROWS_MAX * STRIDE, |rng| rng.u16(..)), random(INPUTS * COLUMNS, |rng| rng.i8(..)));
            let weights = weights.numbers::<i8>();
            let values: Vec<u16> =
                values.numbers().iter().map(|value: &u16| value % (S::BYTE_MAX as u16 + 1)).collect();
            let mut rows = Buffer::default();
            rows.grow::<S::Byte>(values.len());
            for (to, from) in rows.numbers_mut::<S::Byte>().chunks_exact_mut(LANES).zip(values.chunks_exact(LANES)) {
                let from: [f32; LANES] = std::array::from_fn(|i| f32::from(from[i]));
                S::store_bytes(S::load(&from), to);
            }
            let mut panel = Buffer::default();
            panel.grow::<i8>(weights.len());
            for (input, column) in (0..INPUTS).flat_map(|input| (0..COLUMNS).map(move |column| (input, column))) {
                panel.numbers_mut::<i8>()[place(input, column, S::INT8_GROUP)] = weights[input * COLUMNS + column];
            }
            let expected = products(|value, weight| i32::from(values[value]) * i32::from(weights[weight]));
            for count in 1..=simd.rows() {
                let mut sums = Block::default();
                simd.multiply_int8(rows.numbers(), STRIDE, count, panel.numbers(), panel.numbers(), &mut sums);
                assert_eq!(sums.0[..count], expected[..count], "{count} rows");
            }
        }
    }

    #[test]
    fn products_of_bytes_are_exact_by_any_instructions() {
        Instructions::detect().for_each(|instructions| instructions.run(Bytes));
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
            let expected = products(|value, weight| values[value] * weights[weight]);
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
