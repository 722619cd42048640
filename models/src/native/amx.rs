//! Blocks of a matrix product in AMX's tiles: two by two of 16 rows and 16 columns are summed
//! at a time, so that each tile that is loaded is multiplied twice. Rust has no stable
//! intrinsics for them; this is the only file with assembly.

#![allow(unsafe_code, reason = "instructions that the compiler does not know")]

use std::arch::asm;
use std::marker::PhantomData;

use super::avx512::Avx512Bf16;
use super::multiply::{Block, COLUMNS};
use super::simd::LINE_BYTES;

/// Rows of a tile, and columns of 32 bits.
pub const TILE: usize = 16;
/// Rows of a full block: two tiles.
pub const ROWS: usize = 2 * TILE;
/// Bytes of a tile's row, and so what one multiplication takes of each row.
const STEP_BYTES: usize = 64;
/// Lines that a step asks for, as many as it reads of its own panel.
const LINES: usize = 32;

/// Proof that this CPU has AMX for bf16 and int8, beside all of [`Avx512Bf16`], and that the kernel
/// lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// Asks the kernel as well, for this process and all threads that it has later: it keeps
    /// room for the tiles only of those who asked.
    pub fn detect() -> Option<Self> {
        Avx512Bf16::detect()?;
        (is_in_cpu() && is_granted()).then_some(Self(()))
    }

    /// Makes tiles of this thread usable until the answer drops.
    pub fn configure(self) -> Tiles {
        // Palette 1; eight tiles of 16 rows of 64 bytes.
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = STEP_BYTES as u8;
            config.0[48 + tile] = TILE as u8;
        }
        // SAFETY: `Amx` exists only where the CPU and the kernel have it; the configuration is
        // the 64 bytes that the instruction reads.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Tiles { of_this_thread: PhantomData }
    }
}

/// By CPUID, leaf 7: AMX-BF16, AMX-TILE and AMX-INT8.
fn is_in_cpu() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let (most, _) = std::arch::x86_64::__get_cpuid_max(0);
    most >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & BITS == BITS
}

#[cfg(target_os = "linux")]
fn is_granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_granted() -> bool {
    false
}

#[repr(C, align(64))]
struct Config([u8; 64]);

/// Configured tiles of one thread. While they are, the kernel saves 8 KiB more whenever the
/// thread gives way.
pub struct Tiles {
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles were configured, and nobody reads them any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Asks for eight lines from `ahead + $line` on, into the cache of the second level.
macro_rules! eight_lines {
    ($line:literal) => {
        concat!(
            eight_lines!($line, 0),
            eight_lines!($line, 64),
            eight_lines!($line, 128),
            eight_lines!($line, 192),
            eight_lines!($line, 256),
            eight_lines!($line, 320),
            eight_lines!($line, 384),
            eight_lines!($line, 448)
        )
    };
    ($line:literal, $more:literal) => {
        concat!("prefetcht1 [{ahead} + ", $line, " + ", $more, "]\n")
    };
}

/// Functions that sum products of rows, `stride` bytes apart, and of a panel into tiles, and store them in a
/// block; one for two tiles of rows, and one for a single tile. They take `asked + rest` steps, and in each of the
/// first `asked` ones ask for [`LINES`] lines from `ahead` on: between the tiles, since many at once would hold the
/// core up.
///
/// # Safety
/// Tiles are configured; rows and panel are 64 and 2,048 bytes a step; the block holds the rows.
macro_rules! multiply_by {
    ($product:literal, $two:ident, $one:ident) => {
        unsafe fn $two(rows: *const u8, stride: usize, panel: *const u8, steps: Steps, sums: *mut u8) {
            // SAFETY: as the caller promises; asking for a line is a hint, which no address makes invalid.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "test {asked}, {asked}",
                    "jz 3f",
                    "2:",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    eight_lines!(0),
                    "tileloadd tmm4, [{upper} + {stride}*1]",
                    "tileloadd tmm7, [{panel} + {line}*1 + 64]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    eight_lines!(512),
                    "tileloadd tmm5, [{lower} + {stride}*1]",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    eight_lines!(1024),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    eight_lines!(1536),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "add {panel}, 2048",
                    "add {ahead}, 2048",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "dec {asked}",
                    "jnz 2b",
                    "3:",
                    "test {rest}, {rest}",
                    "jz 5f",
                    "4:",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    "tileloadd tmm4, [{upper} + {stride}*1]",
                    "tileloadd tmm7, [{panel} + {line}*1 + 64]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{lower} + {stride}*1]",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "add {panel}, 2048",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "dec {rest}",
                    "jnz 4b",
                    "5:",
                    "tilestored [{sums} + {line}*1], tmm0",
                    "tilestored [{sums} + {line}*1 + 64], tmm1",
                    "tilestored [{sums} + {line}*1 + 2048], tmm2",
                    "tilestored [{sums} + {line}*1 + 2112], tmm3",
                    panel = inout(reg) panel => _,
                    upper = inout(reg) rows => _,
                    lower = inout(reg) rows.add(TILE * stride) => _,
                    ahead = inout(reg) steps.ahead => _,
                    asked = inout(reg) steps.asked => _,
                    rest = inout(reg) steps.rest => _,
                    sums = in(reg) sums,
                    stride = in(reg) stride,
                    line = in(reg) 2 * STEP_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        unsafe fn $one(rows: *const u8, stride: usize, panel: *const u8, steps: Steps, sums: *mut u8) {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "test {asked}, {asked}",
                    "jz 3f",
                    "2:",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    eight_lines!(0),
                    "tileloadd tmm4, [{rows} + {stride}*1]",
                    eight_lines!(512),
                    "tileloadd tmm7, [{panel} + {line}*1 + 64]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    eight_lines!(1024),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    eight_lines!(1536),
                    "add {panel}, 2048",
                    "add {ahead}, 2048",
                    "add {rows}, 64",
                    "dec {asked}",
                    "jnz 2b",
                    "3:",
                    "test {rest}, {rest}",
                    "jz 5f",
                    "4:",
                    "tileloadd tmm6, [{panel} + {line}*1]",
                    "tileloadd tmm4, [{rows} + {stride}*1]",
                    "tileloadd tmm7, [{panel} + {line}*1 + 64]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    "add {panel}, 2048",
                    "add {rows}, 64",
                    "dec {rest}",
                    "jnz 4b",
                    "5:",
                    "tilestored [{sums} + {line}*1], tmm0",
                    "tilestored [{sums} + {line}*1 + 64], tmm1",
                    panel = inout(reg) panel => _,
                    rows = inout(reg) rows => _,
                    ahead = inout(reg) steps.ahead => _,
                    asked = inout(reg) steps.asked => _,
                    rest = inout(reg) steps.rest => _,
                    sums = in(reg) sums,
                    stride = in(reg) stride,
                    line = in(reg) 2 * STEP_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

multiply_by!("tdpbf16ps", two_tiles_bf16, one_tile_bf16);
multiply_by!("tdpbusd", two_tiles_int8, one_tile_int8);

impl Tiles {
    /// Products of `count` rows, `stride` apart, with a panel of bf16. Rows up to the next
    /// multiple of sixteen are read, and written to the block, as well. `ahead` is asked for meanwhile.
    pub fn block_bf16(
        &self,
        rows: &[u16],
        stride: usize,
        count: usize,
        panel: &[u16],
        ahead: &[u16],
        sums: &mut Block<f32>,
    ) {
        let steps = Steps::of(rows, stride, count, panel, ahead);
        let (rows, panel, sums) = (rows.as_ptr().cast(), panel.as_ptr().cast(), sums.0.as_mut_ptr().cast());
        // SAFETY: tiles are configured, since this is one's proof; the sizes were checked.
        unsafe {
            match count <= TILE {
                true => one_tile_bf16(rows, 2 * stride, panel, steps, sums),
                false => two_tiles_bf16(rows, 2 * stride, panel, steps, sums),
            }
        }
    }

    /// As [`Tiles::block_bf16`], for rows of unsigned bytes and a panel of int8.
    pub fn block_int8(
        &self,
        rows: &[u8],
        stride: usize,
        count: usize,
        panel: &[i8],
        ahead: &[i8],
        sums: &mut Block<i32>,
    ) {
        let steps = Steps::of(rows, stride, count, panel, ahead);
        let (rows, panel, sums) = (rows.as_ptr(), panel.as_ptr().cast(), sums.0.as_mut_ptr().cast());
        // SAFETY: as above.
        unsafe {
            match count <= TILE {
                true => one_tile_int8(rows, stride, panel, steps, sums),
                false => two_tiles_int8(rows, stride, panel, steps, sums),
            }
        }
    }
}

/// Steps of a panel.
#[derive(Clone, Copy)]
struct Steps {
    /// Those that ask for lines.
    asked: usize,
    rest: usize,
    /// The first of the lines.
    ahead: *const u8,
}

impl Steps {
    /// Those of a panel, where rows and panel are as long as tiles read.
    fn of<R, P>(rows: &[R], stride: usize, count: usize, panel: &[P], ahead: &[P]) -> Self {
        let (inputs, step) = (panel.len() / COLUMNS, STEP_BYTES / size_of::<R>());
        assert!(count > 0 && count <= ROWS && inputs >= step && inputs.is_multiple_of(step), "tiles are whole");
        assert_eq!(size_of::<R>(), size_of::<P>(), "both sides have one size");
        assert!(rows.len() >= (count.next_multiple_of(TILE) - 1) * stride + inputs, "rows are whole");
        let steps = inputs / step;
        let asked = size_of_val(ahead).div_ceil(LINES * LINE_BYTES).min(steps);
        Self { asked, rest: steps - asked, ahead: ahead.as_ptr().cast() }
    }
}
