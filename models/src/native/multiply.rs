//! What multiplies: blocks of at most 32 rows and 32 columns, by whichever instructions the
//! CPU has. What becomes of the sums is the same for all.

use std::fmt;

use super::amx::{self, Amx, Tiles};
use super::avx512::{self, Avx512};

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

/// Proof of the instructions that multiply; those of AVX-512 do the rest in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    Avx512(Avx512),
    Amx(Amx),
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512(_) => "avx512",
            Self::Amx(_) => "amx",
        })
    }
}

impl Instructions {
    /// All that this CPU has, the fastest first.
    pub fn detect() -> impl Iterator<Item = Self> {
        let amx = Amx::detect().map(Self::Amx);
        amx.into_iter().chain(Avx512::detect().map(Self::Avx512))
    }

    pub fn avx512(self) -> Avx512 {
        match self {
            Self::Avx512(avx512) => avx512,
            Self::Amx(amx) => amx.avx512(),
        }
    }

    /// Makes them usable in this thread, until the answer drops.
    pub fn begin(self) -> Multiplier {
        match self {
            Self::Avx512(_) => Multiplier::Avx512,
            Self::Amx(amx) => Multiplier::Amx(amx.configure()),
        }
    }
}

/// [`Instructions`] that one thread may use now.
pub enum Multiplier {
    Avx512,
    Amx(Tiles),
}

impl Multiplier {
    /// Rows of a full block.
    pub fn rows(&self) -> usize {
        match self {
            Self::Avx512 => avx512::ROWS,
            Self::Amx(_) => amx::ROWS,
        }
    }

    /// `sums = rows · panel` for the first `count` rows of `rows`, which are `stride` apart;
    /// `panel` is (inputs / 2, 32, 2) in bf16. `rows` go on to the next multiple of sixteen;
    /// what stands there is of no consequence.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn bf16(&self, rows: &[u16], stride: usize, count: usize, panel: &[u16], sums: &mut Block<f32>) {
        match self {
            Self::Avx512 => avx512::block_bf16(rows, stride, count, panel, sums),
            Self::Amx(tiles) => tiles.block_bf16(rows, stride, count, panel, sums),
        }
    }

    /// As [`Multiplier::bf16`], for unsigned bytes and a panel of (inputs / 4, 32, 4) in int8.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")]
    pub fn int8(&self, rows: &[u8], stride: usize, count: usize, panel: &[i8], sums: &mut Block<i32>) {
        match self {
            Self::Avx512 => avx512::block_int8(rows, stride, count, panel, sums),
            Self::Amx(tiles) => tiles.block_int8(rows, stride, count, panel, sums),
        }
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "instructions that were detected")]
mod tests {
    use super::*;
    use crate::native::buffer::Buffer;

    const INPUTS: usize = 192;
    const STRIDE: usize = INPUTS + 64;

    fn random<T: crate::native::buffer::Number>(count: usize, draw: fn(&mut fastrand::Rng) -> T) -> Buffer<T> {
        let mut rng = fastrand::Rng::with_seed(count as u64);
        Buffer::new(count, std::iter::repeat_with(move || draw(&mut rng)))
    }

    #[test]
    fn products_of_bytes_are_exact_by_any_instructions() {
        let (rows, panel) = (random(ROWS_MAX * STRIDE, |rng| rng.u8(..)), random(INPUTS * COLUMNS, |rng| rng.i8(..)));
        let product = |row: usize, column: usize| -> i32 {
            let weight = |input: usize| panel[(input / 4 * COLUMNS + column) * 4 + input % 4];
            (0..INPUTS).map(|input| i32::from(rows[row * STRIDE + input]) * i32::from(weight(input))).sum()
        };
        for instructions in Instructions::detect() {
            let multiplier = instructions.begin();
            for count in 1..=multiplier.rows() {
                let mut sums = Block::default();
                // SAFETY: the instructions were detected.
                unsafe { multiplier.int8(&rows, STRIDE, count, &panel, &mut sums) };
                for row in 0..count {
                    let expected: [i32; COLUMNS] = std::array::from_fn(|column| product(row, column));
                    assert_eq!(sums.0[row], expected, "{instructions}: row {row} of {count}");
                }
            }
        }
    }

    #[test]
    fn products_of_bf16_are_those_of_the_rounded_numbers() {
        // Small integers and their sums are exact in bf16 and fp32.
        let draw = |rng: &mut fastrand::Rng| ((rng.i8(-8..=8) as f32).to_bits() >> 16) as u16;
        let (rows, panel) = (random(ROWS_MAX * STRIDE, draw), random(INPUTS * COLUMNS, draw));
        let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        let product = |row: usize, column: usize| -> f32 {
            let weight = |input: usize| panel[(input / 2 * COLUMNS + column) * 2 + input % 2];
            (0..INPUTS).map(|input| value(rows[row * STRIDE + input]) * value(weight(input))).sum()
        };
        for instructions in Instructions::detect() {
            let multiplier = instructions.begin();
            for count in 1..=multiplier.rows() {
                let mut sums = Block::default();
                // SAFETY: the instructions were detected.
                unsafe { multiplier.bf16(&rows, STRIDE, count, &panel, &mut sums) };
                for row in 0..count {
                    let expected: [f32; COLUMNS] = std::array::from_fn(|column| product(row, column));
                    assert_eq!(sums.0[row], expected, "{instructions}: row {row} of {count}");
                }
            }
        }
    }

    #[test]
    fn threads_that_come_later_may_use_tiles_too() {
        let Some(instructions) = Instructions::detect().next() else { return };
        let begin = move || instructions.begin().rows();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(begin)).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("the thread ends well"), begin());
        }
    }
}
