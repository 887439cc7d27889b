//! Time and randomness, passed in so that tests and simulations decide both.

/// A source of wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump back.
    fn now_ms(&self) -> i64;
}

/// A source of random bytes fit for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// `length` random characters of `A–Z a–z 0–9`, each with 62 equally likely values.
pub fn random_text(entropy: &dyn Entropy, length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    let mut bytes = [0_u8; 32];
    while text.len() < length {
        entropy.fill(&mut bytes);
        // Values from 248 on would make the first characters likelier than the rest.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        text.extend(
            fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)))
                .map(|byte| char::from(*byte))
                .take(length - text.len()),
        );
    }
    text
}
