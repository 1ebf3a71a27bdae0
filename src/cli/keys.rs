//! `token-relay keys`: generates the keys that a deployment needs.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use zeroize::Zeroizing;

use crate::util::{private_file, random::random_bytes};

/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// Why no keys were generated.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key exists already; none was written.
    #[error("{0} exists; no key was written")]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The generator failed.
    #[error("the signing key cannot be generated")]
    Generate,
}

/// Writes `cookie_keys` and `sealing_keys` (32 random bytes each, in base64) and `signing_key` (P-256,
/// PKCS#8 in PEM) into `folder`, for their owner only. Gives the environment variables that name the
/// files, one a line.
///
/// # Errors
/// When one of them exists or cannot be written.
pub fn make(folder: &Path) -> Result<String, KeysError> {
    let signing_key =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| KeysError::Generate)?;
    let files = [
        ("cookie_keys", random_key()),
        ("sealing_keys", random_key()),
        ("signing_key", pem(signing_key.as_ref())),
    ];
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KeysError::Write { path, source }
    };
    private_file::create_folder(folder).map_err(failed(folder))?;
    for path in files.iter().map(|(name, _)| folder.join(name)) {
        if path.symlink_metadata().is_ok() {
            return Err(KeysError::Exists(path));
        }
    }
    for (name, text) in &files {
        let path = folder.join(name);
        private_file::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed(&path))?;
    }
    let variable = |name: &str| {
        let path = folder.join(name);
        format!("TOKEN_RELAY_{}_FILE={}\n", name.to_ascii_uppercase(), path.display())
    };
    Ok(files.iter().map(|(name, _)| variable(name)).collect())
}

fn random_key() -> Zeroizing<String> {
    let bytes = Zeroizing::new(random_bytes::<32>());
    Zeroizing::new(format!("{}\n", STANDARD.encode(*bytes)))
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}
