//! Secrets whose memory is wiped on drop by one `memset`; `Zeroizing` wipes a vector byte by byte.

use std::{fmt, mem, ops::Deref};

use zeroize::Zeroize as _;

fn wipe(mut bytes: Vec<u8>) {
    bytes.as_mut_slice().zeroize();
    bytes.spare_capacity_mut().zeroize();
}

/// Bytes that are wiped on drop.
#[cfg_attr(test, derive(PartialEq))]
pub struct WipedBytes(Vec<u8>);

impl From<Vec<u8>> for WipedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for WipedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WipedBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WipedBytes(redacted)")
    }
}

impl Drop for WipedBytes {
    fn drop(&mut self) {
        wipe(mem::take(&mut self.0));
    }
}

/// A text that is wiped on drop.
#[derive(Clone)]
pub struct WipedText(String);

impl From<String> for WipedText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Deref for WipedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for WipedText {
    fn drop(&mut self) {
        wipe(mem::take(&mut self.0).into_bytes());
    }
}
