//! The token of sync: `s<position>_<epoch>_<number>[_<to-device position>]`.
//!
//! The position covers everything durable. Epoch and number place the volatile changes (typing, presence) of one process
//! life; another epoch means that the current ones are sent again. A `t` behind the number says that the client may believe
//! that somebody types: in another life nobody knows any more in which rooms. The last part is there only while more to-device
//! messages wait than fit one answer: they are behind the rest.

use store::StreamPosition;

use crate::Error;

/// A sync token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Everything durable up to here has been seen.
    pub pos: StreamPosition,
    /// Process life of `number`.
    pub epoch: String,
    /// Volatile changes up to here have been seen.
    pub number: i64,
    /// The client was told of somebody who types, and not that it is over.
    pub typing: bool,
    /// To-device messages up to here have been seen.
    pub to_device: StreamPosition,
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Error::BadToken`] if it has another form.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadToken(text.to_owned());
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        let mut parts = text.strip_prefix('s').ok_or_else(bad)?.split('_');
        let pos = StreamPosition(parts.next().and_then(number).ok_or_else(bad)?);
        let epoch = parts.next().unwrap_or_default().to_owned();
        let (volatile, typing) = match parts.next() {
            Some(text) => {
                let digits = text.strip_suffix('t');
                (number(digits.unwrap_or(text)).ok_or_else(bad)?, digits.is_some())
            }
            None => (0, false),
        };
        let to_device = match parts.next() {
            Some(text) => StreamPosition(number(text).ok_or_else(bad)?),
            None => pos,
        };
        // Nobody was ever sent messages from after the answer's own position.
        if parts.next().is_some() || to_device > pos {
            return Err(bad());
        }
        Ok(Self { pos, epoch, number: volatile, typing, to_device })
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}_{}_{}{}", self.pos, self.epoch, self.number, if self.typing { "t" } else { "" })?;
        if self.to_device != self.pos {
            write!(f, "_{}", self.to_device)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tokens_come_back() {
        for text in ["s0_abc_0", "s17_x_4", "s17_x_4t", "s17_x_4_12", "s17_x_4t_12"] {
            assert_eq!(Token::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Token::parse("s5").unwrap().pos, StreamPosition(5));
    }

    #[test]
    fn cy11_other_texts_are_refused() {
        for text in [
            "",
            "s",
            "t0_1",
            "s-1_a_0",
            "sx",
            "s1_a_b",
            "s1_a_t",
            "s1_a_2tt",
            "s1_a_2_3_4",
            "s1_a_2_2",
            "s99999999999999999999",
        ] {
            assert!(matches!(Token::parse(text), Err(Error::BadToken(_))), "{text}");
        }
    }
}
