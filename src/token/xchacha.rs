//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): authenticated encryption whose nonces are long
//! enough to be drawn at random.
//!
//! Used by [`crate::token::sealing`]. HChaCha20 makes a key for each nonce, and ring encrypts with it by
//! ChaCha20-Poly1305 (RFC 8439), two to five times as fast as the construction in one crate, whose
//! vector instructions the compiler leaves as calls.

use chacha20::{R20, hchacha};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey},
    error::Unspecified,
};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY: usize = 32;

/// Bytes of a nonce.
pub const NONCE: usize = 24;

/// Bytes by which a ciphertext is longer than its plaintext.
pub const TAG: usize = 16;

/// A key.
pub struct Cipher(Zeroizing<[u8; KEY]>);

impl Cipher {
    /// A cipher with a random key.
    pub fn new(key: Zeroizing<[u8; KEY]>) -> Self {
        Self(key)
    }

    /// The key for the nonce's first 16 bytes, and what is left of it, after four zero bytes.
    fn derive(&self, nonce: &[u8; NONCE]) -> Result<(LessSafeKey, Nonce), Unspecified> {
        let (first, rest) = nonce.split_first_chunk::<16>().ok_or(Unspecified)?;
        let key =
            Zeroizing::new(<[u8; KEY]>::from(hchacha::<R20>((&*self.0).into(), first.into())));
        let mut short = [0; 12];
        short[4..].copy_from_slice(rest);
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key)?);
        Ok((key, Nonce::assume_unique_for_key(short)))
    }

    /// Encrypts in place; gives what must be kept behind it.
    ///
    /// # Errors
    /// Beyond 256 GiB.
    pub fn seal(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        let (key, nonce) = self.derive(nonce)?;
        key.seal_in_place_separate_tag(nonce, Aad::from(associated), text)
    }

    /// Decrypts a ciphertext with its tag in place; the plaintext is what comes before the tag.
    ///
    /// # Errors
    /// When anything of it is not as it was sealed; `text` is of no use then.
    pub fn open<'a>(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        text: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unspecified> {
        let (key, nonce) = self.derive(nonce)?;
        key.open_in_place(nonce, Aad::from(associated), text)
    }
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::{
        KeyInit as _, XChaCha20Poly1305,
        aead::{Aead as _, Payload},
    };
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against another implementation, both ways.
        #[test]
        fn it_is_the_cipher_of_the_draft(
            key: [u8; KEY],
            nonce: [u8; NONCE],
            associated in proptest::collection::vec(any::<u8>(), 0..80),
            plaintext in proptest::collection::vec(any::<u8>(), 0..1200),
            flip in any::<prop::sample::Index>(),
        ) {
            let other = XChaCha20Poly1305::new((&key).into());
            let expected = other
                .encrypt((&nonce).into(), Payload { msg: &plaintext, aad: &associated })
                .unwrap();
            let cipher = Cipher::new(Zeroizing::new(key));

            let mut sealed = plaintext.clone();
            let tag = cipher.seal(&nonce, &associated, &mut sealed).unwrap();
            sealed.extend_from_slice(tag.as_ref());
            prop_assert_eq!(&sealed, &expected);
            prop_assert_eq!(sealed.len(), plaintext.len() + TAG);

            let mut opened = expected.clone();
            prop_assert_eq!(cipher.open(&nonce, &associated, &mut opened).unwrap(), &plaintext[..]);

            let mut altered = expected;
            let place = flip.index(altered.len());
            altered[place] ^= 1;
            prop_assert_eq!(cipher.open(&nonce, &associated, &mut altered), Err(Unspecified));
        }
    }
}
