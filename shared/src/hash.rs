//! Content hashes: equal hash means equal text under one text version.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// First 16 bytes of SHA-256 over the text version and the text. At 10^9 products the
/// chance of any collision is below 10^-20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TextHash(pub [u8; 16]);

impl TextHash {
    pub fn of(text_version: u32, text: &str) -> Self {
        let digest = Sha256::new().chain_update(text_version.to_be_bytes()).chain_update(text).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }

    /// Lower-case hexadecimal, 32 characters.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for TextHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for TextHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<TextHash> for String {
    fn from(hash: TextHash) -> Self {
        hash.to_hex()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a text hash is 32 hexadecimal characters, not {given:?}")]
pub struct BadTextHash {
    given: String,
}

impl TryFrom<String> for TextHash {
    type Error = BadTextHash;

    fn try_from(given: String) -> Result<Self, BadTextHash> {
        let mut bytes = [0; 16];
        let pairs = given.as_bytes().chunks_exact(2);
        let valid = given.len() == 32 && given.bytes().all(|b| b.is_ascii_hexdigit());
        if !valid {
            return Err(BadTextHash { given });
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |c: u8| (c as char).to_digit(16).unwrap_or_default() as u8;
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Ok(Self(bytes))
    }
}
