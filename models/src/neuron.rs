//! Opens the Neuron op library, and reads which cores are this process's; nothing else.
//!
//! A compiled module holds objects of a class (`torch.classes.neuron.Model`) and calls of
//! operators (`neuron::forward_v2_2`) that libtorch learns of when `libtorchneuron.so` comes
//! into the process. That must be before the first module loads. Linking it would not do: no
//! symbol of it is called, so a linker drops it.
#![allow(unsafe_code, reason = "dlopen and dlerror have no safe wrapper")]

use std::ffi::{CStr, c_char};

/// Found as any library is: by `LD_LIBRARY_PATH`, beside the libtorch that it was built for.
pub const OP_LIBRARY: &str = "libtorchneuron.so";
const OP_LIBRARY_C: &CStr = c"libtorchneuron.so";

/// Why compiled modules cannot be loaded by this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpLibraryError {
    #[error(
        "{OP_LIBRARY} is not there ({reason}); put the folder with it and its libnrt, of the torch-neuron 1.13.1 \
         wheel, on LD_LIBRARY_PATH"
    )]
    Missing { reason: String },
    #[error(
        "{OP_LIBRARY} was built for another libtorch or another C++ ABI than this program ({reason}); \
         `make inf1` builds the program for the one of the wheels"
    )]
    Abi { reason: String },
}

/// Opens the op library for the rest of the process; further calls do nothing.
pub fn open_op_library() -> Result<(), OpLibraryError> {
    // Now, so that a symbol that is missing is told of here; global, since libtorch looks
    // types of the library up from its own side.
    // SAFETY: the name ends with a NUL. The library's initialisers register classes and
    // operators with libtorch, which is what it is opened for.
    let handle = unsafe { libc::dlopen(OP_LIBRARY_C.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror gives a string of this thread's last failure, or null; it is copied
    // before anything else of this thread can fail.
    let reason = unsafe { text(libc::dlerror()) };
    Err(if reason.contains("undefined symbol") || reason.contains("version `") {
        OpLibraryError::Abi { reason }
    } else {
        OpLibraryError::Missing { reason }
    })
}

/// # Safety
/// `message` is null or a string that ends with a NUL.
unsafe fn text(message: *const c_char) -> String {
    if message.is_null() {
        return "the loader does not say why".to_owned();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

/// How many NeuronCores the environment gives to this process, as the Neuron runtime reads
/// it; none if it says nothing, or nothing that can be read: then all of the host are.
pub fn visible_cores() -> Option<usize> {
    let variable = |name| std::env::var(name).ok();
    let listed = variable("NEURON_RT_VISIBLE_CORES").and_then(|cores| cores_of(&cores)).map(|cores| cores.len());
    listed.or_else(|| variable("NEURON_RT_NUM_CORES")?.trim().parse().ok())
}

/// The cores of `0`, `0-3` or `0,4-7`; none if it is written otherwise.
pub fn cores_of(cores: &str) -> Option<Vec<usize>> {
    /// Far more than any host has.
    const CORES_MAX: usize = 1_024;
    let mut found = Vec::new();
    for part in cores.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CORES_MAX {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_the_runtime_writes_them() {
        assert_eq!(cores_of("0-3"), Some(vec![0, 1, 2, 3]));
        assert_eq!(cores_of("4,9-11"), Some(vec![4, 9, 10, 11]));
        for bad in ["", "x", "3-0", "1-", "0-999999999"] {
            assert_eq!(cores_of(bad), None, "{bad:?}");
        }
    }
}
