//! The position of a connection: `s<position>_<epoch>_<number>_c<generation>`.
//!
//! Where a token of `/sync` is taken as a place in the stream, this one is too (behaviour CB13): its beginning is the
//! same. The generation names what the connection had been sent (see [`crate::sliding::connection`]).

use store::StreamPosition;

use crate::{Error, Token};

/// A position that a client hands back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pos {
    /// How far the client has come.
    pub token: Token,
    /// What it had been sent.
    pub generation: i64,
}

impl Pos {
    /// Reads a position. Whatever else it is, the client has to start anew.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (token, generation) = text.rsplit_once("_c").ok_or(Error::UnknownPos)?;
        let token = Token::parse(token).map_err(|_| Error::UnknownPos)?;
        let generation = generation.parse().ok().filter(|generation| *generation >= 0);
        Ok(Self { token, generation: generation.ok_or(Error::UnknownPos)? })
    }

    /// How far the client has come.
    pub fn pos(&self) -> StreamPosition {
        self.token.pos
    }
}

impl std::fmt::Display for Pos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_c{}", self.token, self.generation)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn cz1_positions_come_back_and_other_texts_are_unknown() {
        for text in ["s0_abc_0_c1", "s17_x_4_c900"] {
            assert_eq!(Pos::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "s1_a_0", "c1", "_c1", "s1_a_0_c", "s1_a_0_c-1", "s1_a_0_cx", "t0_1_c1", "5"] {
            assert!(matches!(Pos::parse(text), Err(Error::UnknownPos)), "{text}");
        }
        let places = rooms::timeline::Token::parse("s17_x_4_c900").unwrap();
        assert_eq!(places, rooms::timeline::Token::Position(StreamPosition(17)));
        assert!(Token::parse("s17_x_4_c900").is_err(), "not where it would hide what was not sent");
    }
}
