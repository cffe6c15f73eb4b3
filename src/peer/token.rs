//! Join tokens: what an operator copies from a member to a node that is to become one. Pure.
//!
//! A token names the cluster's authority by its fingerprint, so that the node knows whom it speaks to before it says anything, and
//! carries a proof that somebody with the cluster's join secret made it, so that the members know that the node was invited.
//! It ends at a time of its own, may be used by several nodes until then, and all tokens end when the join secret is changed.
//! A token is a secret: whoever has it can become a member. It is printed by whoever shows it to the operator, and nowhere else.
//!
//! Its layout is in `docs/formats/peer.md`. Nothing is kept of it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use thiserror::Error;

use crate::types::{ClusterId, Timestamp};

/// Length of a cluster's join secret; a shorter one signs nothing and verifies nothing.
pub const JOIN_SECRET_BYTES: usize = 32;
/// What every token begins with. Another layout gets another one.
const PREFIX: &str = "alv1.";
/// Keeps the proof of a token from being taken for something else that is signed by the same secret.
const PURPOSE: &[u8] = b"alluvium-join";
const FINGERPRINT_BYTES: usize = 32;
const EXPIRES_BYTES: usize = 8;
const MAC_BYTES: usize = 32;
const TOKEN_BYTES: usize = FINGERPRINT_BYTES + EXPIRES_BYTES + MAC_BYTES;
/// Three bytes are four characters, and no padding is left.
const TEXT_LENGTH: usize = PREFIX.len() + TOKEN_BYTES / 3 * 4;

const _: () = assert!(TOKEN_BYTES.is_multiple_of(3), "the text of a token has no spare bits");

/// Why a token is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is no token, or not all of it.
    #[error(
        "this is no join token: {reason}; copy it whole, it begins with `{}` and has {} characters",
        PREFIX,
        TEXT_LENGTH
    )]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// Its time is over.
    #[error("the join token ended {seconds} s ago: make a new one on a member of the cluster")]
    Expired {
        /// How long ago, by the clock of who looked.
        seconds: i64,
    },
    /// It was not made with this cluster's join secret.
    #[error(
        "the join token is of another cluster, or older than a change of the join secret: make a new one on a member of the cluster"
    )]
    Foreign,
}

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    authority: [u8; FINGERPRINT_BYTES],
    expires: Timestamp,
    mac: [u8; MAC_BYTES],
}

impl JoinToken {
    /// Makes a token for a cluster whose authority has this fingerprint.
    ///
    /// # Panics
    /// When the secret is shorter than [`JOIN_SECRET_BYTES`].
    pub fn new(secret: &[u8], cluster_id: ClusterId, authority: [u8; 32], expires: Timestamp) -> Self {
        assert!(secret.len() >= JOIN_SECRET_BYTES, "a cluster's join secret is not shorter than it is made");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &signed(cluster_id, expires));
        let mac = tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes");
        Self { authority, expires, mac }
    }

    /// The SHA-256 of the authority's certificate in DER, by which a node that joins recognizes the cluster.
    pub const fn authority(&self) -> [u8; 32] {
        self.authority
    }

    /// When its time is over.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether whoever shows it was invited to this cluster. Takes the same time whatever is wrong with the proof.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] and [`TokenError::Expired`].
    pub fn verify(&self, secret: &[u8], cluster_id: ClusterId, now: Timestamp) -> Result<(), TokenError> {
        if secret.len() < JOIN_SECRET_BYTES {
            return Err(TokenError::Foreign);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        // First, since without it what the token says of its time is nobody's word.
        hmac::verify(&key, &signed(cluster_id, self.expires), &self.mac).map_err(|_| TokenError::Foreign)?;
        if now >= self.expires {
            return Err(TokenError::Expired { seconds: now.get().saturating_sub(self.expires.get()) / 1000 });
        }
        Ok(())
    }
}

fn signed(cluster_id: ClusterId, expires: Timestamp) -> Vec<u8> {
    [PURPOSE, cluster_id.as_bytes(), &expires.get().to_be_bytes()].concat()
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let malformed = |reason: String| TokenError::Malformed { reason };
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(malformed("it begins with something else".to_owned()));
        };
        if text.len() != TEXT_LENGTH {
            return Err(malformed(format!("it has {} bytes", text.len())));
        }
        // The decoder's own words would show a part of the token.
        let bytes =
            URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed("it has characters that no token has".to_owned()))?;
        let bytes: [u8; TOKEN_BYTES] =
            bytes.try_into().map_err(|_| malformed("it does not decode to a token's length".to_owned()))?;
        let (authority, rest) = bytes.split_at(FINGERPRINT_BYTES);
        let (expires, mac) = rest.split_at(EXPIRES_BYTES);
        let expires = i64::from_be_bytes(expires.try_into().expect("split off as 8 bytes"));
        Ok(Self {
            authority: authority.try_into().expect("split off as 32 bytes"),
            expires: Timestamp(expires),
            mac: mac.try_into().expect("what is left are 32 bytes"),
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.authority.as_slice(), &self.expires.get().to_be_bytes(), &self.mac].concat();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(<redacted>, expires_ms={})", self.expires)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 32] = [9; 32];
    const AUTHORITY: [u8; 32] = [0xab; 32];
    const EXPIRES: Timestamp = Timestamp(1_800_000_000_000);

    fn cluster() -> ClusterId {
        ClusterId::from_entropy([7; 16])
    }

    fn token() -> JoinToken {
        JoinToken::new(&SECRET, cluster(), AUTHORITY, EXPIRES)
    }

    fn before() -> Timestamp {
        Timestamp(EXPIRES.get() - 1)
    }

    #[test]
    fn a_token_reads_back_from_its_text_and_is_good_until_its_time_is_over() {
        let text = token().to_string();
        assert_eq!(text.len(), TEXT_LENGTH);
        let read: JoinToken = format!(" {text}\n").parse().unwrap();
        assert_eq!(read, token());
        assert_eq!((read.authority(), read.expires()), (AUTHORITY, EXPIRES));
        assert_eq!(read.verify(&SECRET, cluster(), before()), Ok(()));
        assert_eq!(read.verify(&SECRET, cluster(), EXPIRES), Err(TokenError::Expired { seconds: 0 }));
        let later = Timestamp(EXPIRES.get() + 61_000);
        assert_eq!(read.verify(&SECRET, cluster(), later), Err(TokenError::Expired { seconds: 61 }));
    }

    #[test]
    fn the_text_of_a_token_is_the_one_that_the_format_says() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
        let mut signed = b"alluvium-join".to_vec();
        signed.extend(cluster().as_bytes());
        signed.extend(1_800_000_000_000_i64.to_be_bytes());
        let mut bytes = AUTHORITY.to_vec();
        bytes.extend(1_800_000_000_000_i64.to_be_bytes());
        bytes.extend(hmac::sign(&key, &signed).as_ref());
        assert_eq!(token().to_string(), format!("alv1.{}", URL_SAFE_NO_PAD.encode(bytes)));
    }

    #[test]
    fn a_token_of_another_cluster_or_secret_is_foreign_even_when_its_time_is_over() {
        let (token, later) = (token(), Timestamp(i64::MAX));
        assert_eq!(token.verify(&SECRET, ClusterId::from_entropy([8; 16]), before()), Err(TokenError::Foreign));
        assert_eq!(token.verify(&[8; 32], cluster(), before()), Err(TokenError::Foreign));
        assert_eq!(token.verify(&[8; 32], cluster(), later), Err(TokenError::Foreign));
        assert_eq!(token.verify(&[], cluster(), before()), Err(TokenError::Foreign));
    }

    #[test]
    fn a_token_is_not_printed_by_accident() {
        let (token, text) = (token(), token().to_string());
        assert_eq!(format!("{token:?}"), "JoinToken(<redacted>, expires_ms=1800000000000)");
        let refused = text[..text.len() - 1].parse::<JoinToken>().unwrap_err().to_string();
        assert!(!refused.contains(&text[5..20]) && refused.contains("101 characters"), "{refused}");
    }

    #[test]
    fn what_is_not_a_token_is_refused_with_a_reason() {
        for text in ["", "alv1.", "alv2.AAAA", &"a".repeat(10_000), &format!("alv1.{}", "é".repeat(48))] {
            assert!(matches!(text.parse::<JoinToken>(), Err(TokenError::Malformed { .. })), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_changed_token_is_refused_or_names_another_authority(at in 0..TEXT_LENGTH, byte in 0x20_u8..0x7f) {
            let mut text = token().to_string().into_bytes();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            let Ok(read) = String::from_utf8(text).unwrap().parse::<JoinToken>() else { return Ok(()) };
            let verdict = read.verify(&SECRET, cluster(), before());
            prop_assert!(verdict.is_err() || read.authority() != AUTHORITY);
        }

        #[test]
        fn no_text_is_so_strange_that_reading_it_panics(text in ".{0,200}") {
            if let Ok(read) = text.parse::<JoinToken>() {
                prop_assert_eq!(read.to_string(), text.trim());
            }
        }
    }
}
