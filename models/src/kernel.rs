//! Which instructions multiply, as a person chooses them.

use std::fmt;
use std::str::FromStr;

/// What computes the network on this CPU. Every kernel is held to the same goldens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// The fastest that this CPU has for the numeric path.
    #[default]
    Auto,
    /// Packed weights and the tiles of AMX.
    Amx,
    /// Packed weights and AVX-512.
    Avx512,
    /// Packed weights and AVX2, which has no bf16.
    Avx2,
    /// Any CPU and any module.
    Libtorch,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a kernel; use auto, amx, avx512, avx2 or libtorch")]
pub struct UnknownKernel {
    given: String,
}

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(given: &str) -> Result<Self, UnknownKernel> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.name() == given)
            .ok_or_else(|| UnknownKernel { given: given.to_owned() })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Kernel {
    const ALL: [Self; 5] = [Self::Auto, Self::Amx, Self::Avx512, Self::Avx2, Self::Libtorch];

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Amx => "amx",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Libtorch => "libtorch",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_names() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!("neon".parse::<Kernel>().is_err());
    }
}
