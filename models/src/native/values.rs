//! A block of a layer's outputs, on its way from the sums to where it goes.

use super::multiply::{Block, COLUMNS};
use super::simd::{Bytes, LANES, Panel, Scale, Simd};

/// A row's values in a block.
pub type Row<S> = [<S as Simd>::Floats; 2];

/// Rows of 32 values. No closure: one is compiled apart from the instructions, unless it happens to be inlined.
pub trait Values<S: Simd> {
    /// Row `i` of the block. To be `inline(always)`.
    fn row(&self, i: usize) -> Row<S>;
}

#[inline(always)]
pub fn load<S: Simd>(from: &[f32; COLUMNS]) -> Row<S> {
    [S::load(&from[..LANES]), S::load(&from[LANES..])]
}

#[inline(always)]
pub fn store<S: Simd>(row: Row<S>, to: &mut [f32; COLUMNS]) {
    S::store(row[0], &mut to[..LANES]);
    S::store(row[1], &mut to[LANES..]);
}

#[inline(always)]
pub fn add<S: Simd>(a: Row<S>, b: Row<S>) -> Row<S> {
    [S::add(a[0], b[0]), S::add(a[1], b[1])]
}

/// A block as it is.
impl<S: Simd> Values<S> for &Block<f32> {
    #[inline(always)]
    fn row(&self, i: usize) -> Row<S> {
        load::<S>(&self.0[i])
    }
}

/// A block with the bias of its columns.
pub struct Biased<'b, S: Simd> {
    pub sums: &'b Block<f32>,
    pub bias: Row<S>,
}

impl<S: Simd> Values<S> for Biased<'_, S> {
    #[inline(always)]
    fn row(&self, i: usize) -> Row<S> {
        add::<S>(load::<S>(&self.sums.0[i]), self.bias)
    }
}

/// What the products of a span's bytes stand for.
pub struct Scaled<'b, S: Simd> {
    products: &'b Block<i32>,
    /// From the span on, that of each row after `spans`.
    of_rows: &'b [Scale],
    spans: usize,
    scales: Row<S>,
    /// Of the weights of each column, negative.
    sums: Row<S>,
}

impl<'b, S: Simd> Scaled<'b, S> {
    #[inline(always)]
    pub fn new(products: &'b Block<i32>, rows: Bytes<'b>, panel: &Panel<'b>, span: usize) -> Self {
        let (scales, sums) = (&panel.scales[span * COLUMNS..][..COLUMNS], &panel.sums[span * COLUMNS..][..COLUMNS]);
        Self {
            products,
            of_rows: &rows.scales[span..],
            spans: rows.spans,
            scales: [S::load(&scales[..LANES]), S::load(&scales[LANES..])],
            sums: [S::load_i32(&sums[..LANES]), S::load_i32(&sums[LANES..])],
        }
    }

    /// Row `i` on top of `base`.
    #[inline(always)]
    pub fn on(&self, i: usize, base: Row<S>) -> Row<S> {
        let Scale { step, zero } = self.of_rows[i * self.spans];
        let (step, zero, products) = (S::splat(step), S::splat(zero as f32), &self.products.0[i]);
        // Whole numbers, all exact in fp32 where a span is 384 long: none is above 384 * 255 * 127, less than 2^24.
        let centred = [
            S::mul_add(zero, self.sums[0], S::load_i32(&products[..LANES])),
            S::mul_add(zero, self.sums[1], S::load_i32(&products[LANES..])),
        ];
        [
            S::mul_add(S::mul(centred[0], self.scales[0]), step, base[0]),
            S::mul_add(S::mul(centred[1], self.scales[1]), step, base[1]),
        ]
    }
}

/// Those of the only span, with the bias of their columns.
pub struct Whole<'b, S: Simd> {
    pub scaled: Scaled<'b, S>,
    pub bias: Row<S>,
}

impl<S: Simd> Values<S> for Whole<'_, S> {
    #[inline(always)]
    fn row(&self, i: usize) -> Row<S> {
        self.scaled.on(i, self.bias)
    }
}
