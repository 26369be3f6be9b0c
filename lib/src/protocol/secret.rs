//! The secret of a lease, and the token that is made of it.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

/// Names one request for a lease, from its first try to the lease's end.
pub(crate) type Token = Arc<str>;

/// A map by the tokens of this client.
pub(crate) type ByToken<T> = HashMap<Token, T, BuildHasherDefault<TokenHasher>>;

/// Hashes a token. The digits are random, and no other client can choose them, so that no keyed hash is needed.
#[derive(Default)]
pub(crate) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write(&mut self, bytes: &[u8]) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(ODD);
        }
    }

    fn write_u8(&mut self, _end_of_text: u8) {}

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// Drawn once for each request. The server, and other clients, see only the [`Token`] that is computed from it, and
/// cannot compute it from that; a client that shows the secret may adopt the lease.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<str>);

/// As the script `adopt` makes it: so many of the hexadecimal digits of the secret's SHA-1.
const TOKEN_DIGITS: usize = 32;

impl Secret {
    pub(crate) fn new(drawn: uuid::Uuid) -> Self {
        Self(drawn.simple().to_string().into())
    }

    /// Reads a secret that a program has kept, in any notation.
    pub(crate) fn read(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self::new)
    }

    pub(crate) fn token(&self) -> Token {
        // The digest's own formatting costs more than the digest.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digest = sha1_smol::Sha1::from(self.0.as_bytes()).digest().bytes();
        let halves = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let mut token = String::with_capacity(TOKEN_DIGITS);
        token.extend(
            halves
                .take(TOKEN_DIGITS)
                .map(|half| char::from(DIGITS[usize::from(half)])),
        );
        token.into()
    }

    /// For the one who detaches, and for the script that checks it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_token_is_the_beginning_of_the_sha_1_of_its_secret() {
        let secret = Secret::read("00000000-0000-0000-0000-00000000000A").unwrap();
        assert_eq!(secret.reveal(), "0000000000000000000000000000000a");
        assert_eq!(&*secret.token(), SHA);
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(Secret::read("no secret"), None);
    }

    // printf 0000000000000000000000000000000a | sha1sum | cut -c 1-32
    const SHA: &str = "6fc6e02fa5b4880facefc163ee8857de";
}
