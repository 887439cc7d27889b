//! How a text becomes terms, the same for messages and for what is searched: width, case and accents make no difference;
//! words are those of Unicode (UAX 29), and scripts that write without spaces are taken by pairs of characters.
//!
//! A run of such characters (Chinese, Japanese, Korean, Thai …) has a term for each character with the one after it, and
//! one for its last character alone. So a single character is a range of terms, and a longer run is the pairs in it, which
//! the text is then looked through for. Korean has spaces, but adds particles to its words.

use std::collections::{BTreeMap, BTreeSet};

use caseless::Caseless as _;
use unicode_normalization::UnicodeNormalization as _;
use unicode_script::{Script, UnicodeScript as _};
use unicode_segmentation::UnicodeSegmentation as _;

/// What the index knows a word or a pair of characters by.
pub(crate) type Term = u64;

/// Terms of pairs have this bit; words are hashes below it. Different words with one hash do no harm: what the index finds
/// is compared with the text.
const PAIR: Term = 1 << 42;
/// Bits of a character in a pair.
const CHARACTER_BITS: u32 = 21;
/// Bits of a word's hash.
const WORD_BITS: u32 = 40;

/// Most terms by which the index is asked; what has more is looked for by the longest of its words, and compared whole.
const TERMS_MAX: usize = 16;
/// Most runs of a search, each of which every text is looked through for: of more, the longest.
const RUNS_MAX: usize = 64;
/// Characters of a text among which words to mark are looked for.
const MARKED: usize = 8 << 10;
/// Most bytes of what is searched.
pub const SEARCH_TERM_BYTES_MAX: usize = 4_096;

/// A part of a folded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'a> {
    Word(&'a str),
    /// Characters that are taken by pairs.
    Run(&'a str),
}

/// The text without what makes no difference.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let plain = text.nfkd().filter(|c| !is_accent(*c)).default_case_fold();
    plain.nfkc().collect()
}

/// Marks that people leave out when they type: accents of Latin, Greek and Cyrillic, vowel signs of Hebrew and Arabic. Those
/// of other scripts make another letter (Japanese, Devanagari).
fn is_accent(c: char) -> bool {
    matches!(
        c,
        '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{640}'
    )
}

/// Whether a character is of a script that has no spaces between words, or is taken by pairs as if it had none.
fn is_paired(c: char) -> bool {
    use Script::*;
    if c < '\u{e00}' {
        return false;
    }
    // The mark of long vowels is of two scripts.
    c == 'ー'
        || matches!(
            c.script(),
            Han | Hiragana | Katakana | Hangul | Bopomofo | Yi | Thai | Lao | Khmer | Myanmar | Tibetan
        )
}

/// Pictures can be searched for, too; what colors and joins them is left out.
fn is_picture(c: char) -> bool {
    matches!(c, '\u{2600}'..='\u{27bf}' | '\u{1f300}'..='\u{1f3fa}' | '\u{1f400}'..='\u{1faff}')
}

/// How a character is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Paired,
    Picture,
    Other,
}

impl Class {
    fn of(c: char) -> Self {
        if is_paired(c) {
            Self::Paired
        } else if is_picture(c) {
            Self::Picture
        } else {
            Self::Other
        }
    }
}

fn pieces(folded: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = folded;
    while let Some(first) = rest.chars().next() {
        let class = Class::of(first);
        let end = match class {
            Class::Picture => first.len_utf8(),
            _ => rest.find(|c| Class::of(c) != class).unwrap_or(rest.len()),
        };
        let (span, after) = rest.split_at(end);
        match class {
            Class::Paired => pieces.push(Piece::Run(span)),
            Class::Picture => pieces.push(Piece::Word(span)),
            Class::Other => pieces.extend(words_of(span).map(Piece::Word)),
        }
        rest = after;
    }
    pieces
}

/// The words of a text. What stands between dots, underlines and the like counts by itself, so that parts of addresses and
/// names are found.
fn words_of(span: &str) -> impl Iterator<Item = &str> {
    span.split_word_bounds().flat_map(|part| {
        let parts = part.split(|c: char| c.is_ascii_punctuation() || c == '’');
        parts.filter(|word| word.chars().any(char::is_alphanumeric))
    })
}

/// The hash of a word (FNV-1a, folded). Stored: never changed without a new index.
fn word_term(word: &str) -> Term {
    let hash = word
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> WORD_BITS)) & ((1 << WORD_BITS) - 1)
}

fn pair_term(first: char, second: Option<char>) -> Term {
    PAIR | (u64::from(u32::from(first)) << CHARACTER_BITS) | second.map_or(0, |second| u64::from(u32::from(second)))
}

/// The terms of a text.
pub(crate) fn terms(text: &str) -> BTreeSet<Term> {
    let folded = fold(text);
    let mut terms = BTreeSet::new();
    for piece in pieces(&folded) {
        match piece {
            Piece::Word(word) => drop(terms.insert(word_term(word))),
            Piece::Run(run) => {
                let after = run.chars().skip(1).map(Some).chain([None]);
                terms.extend(run.chars().zip(after).map(|(first, second)| pair_term(first, second)));
            }
        }
    }
    terms
}

/// What is searched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    words: BTreeSet<String>,
    runs: BTreeSet<String>,
}

impl Wanted {
    /// Reads what a user typed: all of it must occur.
    pub fn new(search_term: &str) -> Self {
        let folded = fold(search_term);
        let mut wanted = Self::default();
        for piece in pieces(&folded) {
            match piece {
                Piece::Word(word) => wanted.words.insert(word.to_owned()),
                Piece::Run(run) => wanted.runs.insert(run.to_owned()),
            };
        }
        if wanted.runs.len() > RUNS_MAX {
            let mut runs: Vec<String> = std::mem::take(&mut wanted.runs).into_iter().collect();
            runs.sort_by_key(|run| std::cmp::Reverse(run.len()));
            wanted.runs = runs.into_iter().take(RUNS_MAX).collect();
        }
        wanted
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.runs.is_empty()
    }

    /// The ranges of terms, from first to last, each of which a text must have one of; rare ones first, as far as their
    /// lengths tell.
    pub fn ranges(&self) -> Vec<(Term, Term)> {
        let mut ranges = BTreeMap::new();
        for run in &self.runs {
            let characters: Vec<char> = run.chars().collect();
            match characters.as_slice() {
                [one] => drop(ranges.insert((2, pair_term(*one, None)), pair_term(*one, Some(char::MAX)))),
                longer => {
                    for pair in longer.windows(2) {
                        let term = pair_term(pair[0], pair.get(1).copied());
                        ranges.insert((1, term), term);
                    }
                }
            }
        }
        let mut words: Vec<&String> = self.words.iter().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let words = words.into_iter().map(|word| word_term(word)).map(|term| (term, term));
        let runs = ranges.into_iter().map(|((_, first), last)| (first, last));
        let (runs, words): (Vec<_>, Vec<_>) = (runs.collect(), words.collect());
        runs.into_iter().chain(words).take(TERMS_MAX).collect()
    }

    /// How well a text matches, from 0 to 1: the more of it is what was searched, the better. `None` if anything of that
    /// does not occur.
    pub fn rank(&self, text: &str) -> Option<f64> {
        let folded = fold(text);
        let mut met: BTreeSet<&str> = BTreeSet::new();
        let (mut matching, mut all) = (0_usize, 0_usize);
        for piece in pieces(&folded) {
            match piece {
                Piece::Word(word) => {
                    all += 1;
                    if let Some(known) = self.words.get(word) {
                        matching += 1;
                        met.insert(known);
                    }
                }
                Piece::Run(run) => {
                    all += run.chars().count();
                    for wanted in &self.runs {
                        let times = run.matches(wanted.as_str()).count();
                        if times > 0 {
                            matching += times * wanted.chars().count();
                            met.insert(wanted);
                        }
                    }
                }
            }
        }
        // Every word counted is one of the text's, so the quotient is at most 1 where runs do not overlap.
        (met.len() == self.words.len() + self.runs.len()).then(|| (matching as f64 / all.max(1) as f64).min(1.0))
    }

    /// Adds the words by which clients mark what was found: those of the text as they stand there.
    pub fn highlights(&self, text: &str, highlights: &mut BTreeSet<String>, most: usize) {
        let text = match text.char_indices().nth(MARKED) {
            Some((end, _)) => text.split_at(end).0,
            None => text,
        };
        for word in text.split_word_bounds() {
            if highlights.len() >= most {
                return;
            }
            if word.is_ascii() && !word.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
                continue;
            }
            let folded = fold(word);
            let known = |piece: Piece<'_>| matches!(piece, Piece::Word(word) if self.words.contains(word));
            if pieces(&folded).into_iter().any(known) {
                highlights.insert(word.to_lowercase());
            }
        }
    }

    /// What comparing a text costs, in bytes that are looked at.
    pub fn cost(&self, text: &str) -> usize {
        text.len().saturating_mul(1 + self.runs.len() / 8)
    }

    /// The words and runs themselves.
    pub fn texts(&self) -> impl Iterator<Item = &String> {
        self.words.iter().chain(&self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, search_term: &str) -> bool {
        let wanted = Wanted::new(search_term);
        let terms = terms(text);
        let by_index = !wanted.is_empty()
            && wanted.ranges().iter().all(|(first, last)| terms.range(first..=last).next().is_some());
        let by_text = wanted.rank(text).is_some() && !wanted.is_empty();
        assert!(by_index || !by_text, "the index misses {search_term:?} in {text:?}");
        by_text
    }

    #[test]
    fn words_are_found_in_six_languages_and_more() {
        let table = [
            ("The Quick brown fox", "quick FOX", true),
            ("The Quick brown fox", "quic", false),
            ("Ein Straßenfest in MÜNCHEN", "munchen strassenfest", true),
            ("le café d’Émile", "CAFE emile", true),
            ("Ёлка и ещё", "елка", true),
            ("שָׁלוֹם עולם", "שלום", true),
            ("السَّلَامُ عليكم", "السلام", true),
            ("ＦＵＬＬ　ｗｉｄｔｈ", "full width", true),
            ("今日は東京都で会議があります", "東京都", true),
            ("今日は東京都で会議があります", "京都", true),
            ("今日は東京都で会議があります", "会", true),
            ("今日は東京都で会議があります", "東会", false),
            ("東京と京都", "東京都", false),
            ("ｶﾀｶﾅを読む", "カタカナ", true),
            ("ガス", "カス", false),
            ("サーバー", "サーバー", true),
            ("我们明天去北京开会", "北京", true),
            ("我们明天去北京开会", "京", true),
            ("我们明天去北京开会", "会", true),
            ("서버가 느려요", "서버", true),
            ("สวัสดีชาวโลก", "ชาวโลก", true),
            ("हिन्दी में लिखा", "हिन्दी", true),
            ("see https://example.com/some_path?x=1", "example", true),
            ("see https://example.com/some_path?x=1", "path", true),
            ("party 🎉👍🏽 time", "🎉", true),
            ("party 🎉👍🏽 time", "👍", true),
            ("a", "A", true),
            ("don't", "don't", true),
            ("...", "...", false),
            ("", "", false),
            ("x \u{200f}\u{202e}abc", "abc", true),
            ("Z\u{351}a\u{30a}\u{30b}lgo", "zalgo", true),
        ];
        for (text, search_term, expected) in table {
            assert_eq!(found(text, search_term), expected, "{search_term:?} in {text:?}");
        }
    }

    #[test]
    fn a_question_is_bounded() {
        let many: Vec<String> = (0..1_000).map(|n| format!("word{n}")).collect();
        let text = many.join(" ");
        assert!(Wanted::new(&text).ranges().len() <= TERMS_MAX);
        assert!(found(&text, &text));
        assert!(!found(&text, &format!("{text} other")));
        let runs: String = (0..1_000_u32).filter_map(|n| char::from_u32(0x4e00 + n)).flat_map(|c| [c, ' ']).collect();
        assert_eq!(Wanted::new(&runs).texts().count(), RUNS_MAX);
        assert!(found(&runs, &runs));
    }

    #[test]
    fn what_is_searched_more_of_ranks_higher() {
        let wanted = Wanted::new("tea");
        assert!(wanted.rank("tea").unwrap_or_default() > wanted.rank("tea with milk").unwrap_or_default());
        let mut highlights = BTreeSet::new();
        Wanted::new("cafe").highlights("Das Café, CAFE", &mut highlights, 10);
        assert_eq!(highlights.into_iter().collect::<Vec<_>>(), ["cafe", "café"]);
    }
}
