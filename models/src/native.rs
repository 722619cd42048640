//! The network on CPUs with AVX2, AVX-512 and VNNI, or AMX: packed weights, no
//! padding, and one pass over each activation.
//!
//! libtorch spends most of a pair's time beside the multiplications: it packs the weights
//! anew at each call, casts each activation twice and pads every row to the longest. This is
//! the same network on the same weights, read from the same TorchScript module, and held to
//! the same goldens; where the CPU lacks the instructions, libtorch computes it.

mod amx;
mod attention;
mod avx2;
mod avx512;
mod buffer;
mod head;
mod linear;
mod math;
mod multiply;
mod network;
mod outputs;
mod rows;
mod simd;
mod values;
mod ymm;
mod zmm;

pub use multiply::Instructions;
pub use network::{Network, Parameter, Parameters};
pub use rows::Precision;
