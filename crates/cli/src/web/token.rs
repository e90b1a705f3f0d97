//! The word that allows changes.

use std::fs::File;
use std::io::Read;

/// 128 bits, in hexadecimal.
#[derive(Clone, Debug)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes as long for any word of this length, so that it cannot be guessed letter by letter.
    pub(super) fn is(&self, word: &str) -> bool {
        let pairs = self.0.bytes().zip(word.bytes());
        word.len() == self.0.len() && pairs.fold(0, |bits, (own, other)| bits | (own ^ other)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_opens() {
        let token = Token::random().unwrap();
        assert!(token.is(&token.0.clone()));
        assert!(!token.is("") && !token.is(&token.0[1..]));
        assert!(!token.is(&format!("{}0", token.0)));
        assert!(!token.is(&"0".repeat(32)));
    }
}
