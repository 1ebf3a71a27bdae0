//! Random bytes for secrets, from the operating system's generator.

/// A new array of random bytes.
///
/// # Panics
/// When the operating system provides no randomness: no secret can be made then.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `bytes` with random bytes.
///
/// # Panics
/// As [`random_bytes`].
pub(crate) fn fill_random(bytes: &mut [u8]) {
    #[allow(clippy::expect_used)]
    getrandom::fill(bytes).expect("the operating system provides randomness");
}
