//! Access tokens: forging, keys, verification, revocation, sealing.
