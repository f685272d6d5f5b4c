//! How the C library's heap, which librdkafka uses, treats the buffers of fetches.

/// Keeps freed memory for the next fetch, up to 128 MiB a heap.
///
/// By default glibc gives every buffer of a fetch back to the kernel and takes fresh pages for the next: a tenth of the CPU
/// time of a process that reads a topic went into that. For the whole process, whose other allocations are not glibc's.
pub(super) fn keep_fetch_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Half of a thread's heap, the most that glibc takes.
        const FROM_KERNEL_BYTES: libc::c_int = 32 << 20;
        const KEPT_BYTES: libc::c_int = 128 << 20;
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: mallopt only sets parameters, under glibc's own lock.
        ONCE.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_KERNEL_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        });
    }
}
