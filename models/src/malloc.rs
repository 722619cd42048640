//! The C allocator, which libtorch takes its activations from.
#![allow(unsafe_code, reason = "mallopt has no safe wrapper; it takes two integers")]

/// Keeps freed blocks in the process for the next batch. By default glibc returns large
/// ones to the kernel at once and pages them in anew, zeroed, for each activation.
/// Call it after the weights are loaded, whose passing copies should be returned.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_blocks() {
    /// The largest value that glibc takes: half of a thread's 64 MiB heap.
    const MMAP_THRESHOLD_BYTES: libc::c_int = 32 << 20;
    const TRIM_THRESHOLD_BYTES: libc::c_int = 1 << 30;
    const TOP_PAD_BYTES: libc::c_int = 16 << 20;
    let settings = [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (libc::M_TOP_PAD, TOP_PAD_BYTES),
    ];
    for (parameter, value) in settings {
        // SAFETY: mallopt locks its own state and reads no memory of ours.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::warn!(parameter, value, "malloc refused a setting; batches will be slower");
        }
    }
}

/// Other allocators keep freed blocks by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_blocks() {}
