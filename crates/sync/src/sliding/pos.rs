//! The position of a connection: `s<position>_<epoch>_<number>_c<generation>[.<carried>]`.
//!
//! Where a token of `/sync` is taken as a place in the stream, this one is too (behaviour CB13): its beginning is the
//! same. The generation names what the connection had been sent, but for what the client carries itself (see
//! [`crate::sliding::connection`]).

use store::StreamPosition;

use crate::{Error, Token};

/// A position that a client hands back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pos {
    /// How far the client has come.
    pub token: Token,
    /// What it had been sent.
    pub generation: i64,
    /// What of that is otherwise than stored; empty if nothing.
    pub carried: String,
}

impl Pos {
    /// Reads a position. Whatever else it is, the client has to start anew.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (text, carried) = text.split_once('.').unwrap_or((text, ""));
        let (token, generation) = text.rsplit_once("_c").ok_or(Error::UnknownPos)?;
        let token = Token::parse(token).map_err(|_| Error::UnknownPos)?;
        let generation = generation.parse().ok().filter(|generation| *generation >= 0);
        let generation = generation.ok_or(Error::UnknownPos)?;
        Ok(Self { token, generation, carried: carried.to_owned() })
    }

    /// How far the client has come.
    pub fn pos(&self) -> StreamPosition {
        self.token.pos
    }
}

impl std::fmt::Display for Pos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_c{}", self.token, self.generation)?;
        if self.carried.is_empty() { Ok(()) } else { write!(f, ".{}", self.carried) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn cz1_positions_come_back_and_other_texts_are_unknown() {
        for text in ["s0_abc_0_c1", "s17_x_4_c900", "s17_x_4_c900.AQ_c1"] {
            assert_eq!(Pos::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "s1_a_0", "c1", "_c1", "s1_a_0_c", "s1_a_0_c-1", "s1_a_0_cx", "t0_1_c1", "5"] {
            assert!(matches!(Pos::parse(text), Err(Error::UnknownPos)), "{text}");
        }
        for text in ["s17_x_4_c900", "s17_x_4_c900.AQ_c1"] {
            let places = rooms::timeline::Token::parse(text).unwrap();
            assert_eq!(places, rooms::timeline::Token::Position(StreamPosition(17)));
            assert!(Token::parse(text).is_err(), "not where it would hide what was not sent");
        }
    }
}
