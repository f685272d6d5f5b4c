//! The allocator, and how long it keeps what was freed.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// mimalloc's own, which its bindings offer only together with a crate of type names.
    fn mi_option_set(option: c_int, value: c_long);
}

/// `mi_option_purge_delay`.
const PURGE_DELAY: c_int = 15;
/// Milliseconds until freed memory goes back to the kernel, a tenth of the arenas' delay; mimalloc's own is a second.
const KEPT_MS: c_long = 10_000;

/// Keeps freed memory long enough for the next batches: with mimalloc's own delay the sink mapped, and the kernel zeroed,
/// twice as many pages under load. `MIMALLOC_PURGE_DELAY` overrides it, as it overrides mimalloc's.
pub(crate) fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: the declaration is mimalloc.h's; the option is a number that mimalloc reads atomically.
        unsafe { mi_option_set(PURGE_DELAY, KEPT_MS) }
    }
}
