//! Memory that is given back: a diagnosis is over in a second, the agent stays for
//! months.

/// Has threads share what is free. By itself the C library keeps a store for each
/// thread, up to eight a processor, and a diagnosis has twelve threads.
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

/// Gives the system what is free.
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
