//! Transparent huge pages, which Linux gives to large areas of memory: 2 MiB at a time, of which a service
//! with many small allocations leaves much unused.

/// Asks the kernel for pages of the usual size only, in this process and those that it starts.
pub(crate) fn decline() {
    set_declined(true);
}

/// Takes that back, for this process and the programs that it starts from now on.
pub(crate) fn accept() {
    set_declined(false);
}

#[cfg(target_os = "linux")]
fn set_declined(declined: bool) {
    // Where it is refused, by a filter of system calls, the process takes more memory. The log has not
    // begun yet.
    let _ = rustix::thread::disable_transparent_huge_pages(declined);
}

/// Other systems do not give them unasked.
#[cfg(not(target_os = "linux"))]
fn set_declined(_: bool) {}
