//! Numbers that start at a cache line: a register or a tile's row that crosses one costs two
//! loads.

#![allow(unsafe_code, reason = "lines of bytes are read as numbers")]

const LINE_BYTES: usize = 64;

/// Numbers for which any bytes are a value.
///
/// # Safety
/// Every pattern of bits is a value, without padding, and the type is aligned to at most a line.
pub unsafe trait Number: Copy + 'static {}

// SAFETY: integers and floats take any bits.
unsafe impl Number for f32 {}
// SAFETY: as above.
unsafe impl Number for u16 {}
// SAFETY: as above.
unsafe impl Number for i16 {}
// SAFETY: as above.
unsafe impl Number for u8 {}
// SAFETY: as above.
unsafe impl Number for i8 {}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// Memory that is read as numbers of whichever type the kernel takes; aligned, and never
/// shorter than it once was.
#[derive(Default)]
pub struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// The numbers of `values`, and zeros up to the end of the last line.
    pub fn new<T: Number>(count: usize, values: impl Iterator<Item = T>) -> Self {
        let mut buffer = Self::default();
        buffer.grow::<T>(count);
        buffer.numbers_mut().iter_mut().zip(values).for_each(|(to, from)| *to = from);
        buffer
    }

    /// Holds at least `count` numbers from now on; new ones are zero.
    pub fn grow<T: Number>(&mut self, count: usize) {
        let lines = (count * size_of::<T>()).div_ceil(LINE_BYTES);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; LINE_BYTES]));
        }
    }

    #[inline]
    pub fn numbers<T: Number>(&self) -> &[T] {
        let count = self.lines.len() * LINE_BYTES / size_of::<T>();
        // SAFETY: the lines are that many initialised numbers, of which any bits are one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), count) }
    }

    #[inline]
    pub fn numbers_mut<T: Number>(&mut self) -> &mut [T] {
        let count = self.lines.len() * LINE_BYTES / size_of::<T>();
        // SAFETY: as above, and the borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), count) }
    }
}
