//! The network on CPUs with AVX-512 for bf16 and int8: packed weights, no padding, and one
//! pass over each activation.
//!
//! libtorch spends most of a pair's time beside the multiplications: it packs the weights
//! anew at each call, casts each activation twice and pads every row to the longest. This is
//! the same network on the same weights, read from the same TorchScript module, and held to
//! the same goldens; where the CPU lacks the instructions, libtorch computes it.

mod attention;
mod kernel;
mod linear;
mod math;
mod network;

pub use linear::Precision;
pub use network::{Network, Parameter, Parameters};

/// Proof that this CPU has every instruction that the kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bf16")
            && std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}
