//! Password: the password of a Redis user, which no log shows.

use std::fmt::{self, Write as _};

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};

/// A password.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The operating system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers for a password")]
pub(crate) struct NoRandomness;

impl Password {
    /// Makes a password of 256 random bits.
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(hex(&bytes)))
    }

    /// Reads one that stands in a URL and in a file of one line.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let is_usable = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(bytes).ok()?;
        is_usable.then(|| Self(text.to_owned()))
    }

    /// Its SHA-256 in hexadecimal digits, the form in which Redis keeps it.
    pub(crate) fn hash(&self) -> String {
        hex(digest(&SHA256, self.0.as_bytes()).as_ref())
    }
}

/// Returns whether a text is the SHA-256 of a password.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A text takes any text.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_redis_makes() {
        let hash = Password("secret".to_owned()).hash();
        assert_eq!(
            hash,
            "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
        );
        assert!(is_hash(&hash) && !is_hash(&hash[1..]) && !is_hash(&hash.to_uppercase()));
    }

    #[test]
    fn each_password_is_another_one_and_none_is_shown() {
        let (one, two) = (Password::random().unwrap(), Password::random().unwrap());
        assert!(one != two && one.0.len() == 64, "{} {}", one.0, two.0);
        assert_eq!(format!("{one:?}"), "Password");
    }

    #[test]
    fn a_password_that_no_file_or_url_could_have_is_none() {
        for bad in [&b""[..], b"two words", b"line\n", "é".as_bytes(), b"\xff"] {
            assert_eq!(Password::read(bad), None);
        }
    }
}
