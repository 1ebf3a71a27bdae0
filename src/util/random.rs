//! Random bytes for secrets, from the operating system's generator.

use std::cell::RefCell;

use zeroize::{Zeroize as _, Zeroizing};

/// Bytes that a thread asks the operating system for at a time: a session needs about 150 in six
/// pieces, each of which would be a system call.
const BUFFER: usize = 512;

/// Random bytes of a thread that are not handed out yet.
struct Buffer {
    bytes: Zeroizing<[u8; BUFFER]>,
    used: usize,
}

thread_local! {
    static BUFFERED: RefCell<Buffer> = RefCell::new(Buffer::empty());
}

impl Buffer {
    fn empty() -> Self {
        Self { bytes: Zeroizing::new([0; BUFFER]), used: BUFFER }
    }

    /// Fills `target` with bytes that nobody has and that are erased here.
    fn take(&mut self, target: &mut [u8]) {
        if BUFFER - self.used < target.len() {
            fill_by_system(&mut *self.bytes);
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + target.len()];
        target.copy_from_slice(taken);
        taken.zeroize();
        self.used += target.len();
    }
}

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
    if bytes.len() > BUFFER / 2 {
        return fill_by_system(bytes);
    }
    // Without the thread's buffer, which is gone while the thread ends, the system is asked.
    let taken = BUFFERED
        .try_with(|buffer| buffer.try_borrow_mut().map(|mut buffer| buffer.take(bytes)).is_ok());
    if !taken.unwrap_or(false) {
        fill_by_system(bytes);
    }
}

fn fill_by_system(bytes: &mut [u8]) {
    #[allow(clippy::expect_used)]
    getrandom::fill(bytes).expect("the operating system provides randomness");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_byte_is_handed_out_twice() {
        let sizes = [1, 8, 16, 24, 32, BUFFER / 2, BUFFER / 2 + 1, 2 * BUFFER];
        let draw = move || {
            let mut drawn = Vec::new();
            for size in sizes.into_iter().cycle().take(2000) {
                let mut bytes = vec![0; size];
                fill_random(&mut bytes);
                drawn.extend(bytes.chunks_exact(8).map(<[u8]>::to_vec));
            }
            drawn
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let drawn: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let different: HashSet<_> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len());
    }

    #[test]
    fn what_is_handed_out_is_erased() {
        let mut buffer = Buffer::empty();
        let mut first = [0; 32];
        buffer.take(&mut first);
        assert_ne!(first, [0; 32]);
        assert_eq!(buffer.bytes[..32], [0; 32]);
        assert_ne!(buffer.bytes[32..64], [0; 32]);
    }
}
