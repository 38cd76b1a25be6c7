//! Settings that keep the agent's memory small: it runs for months, and a diagnosis ends after a
//! second.

/// Makes all threads share one arena. By default glibc uses up to eight per processor, and a
/// diagnosis has twelve threads.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "a setting of the C library's allocator, which has no other way to it")
)]
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number, before there is any other thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns free memory to the system.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "a call of the C library's allocator, which has no other way to it")
)]
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes nothing away that is in use, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
