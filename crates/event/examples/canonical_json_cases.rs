//! Prints random JSON texts with our canonical form and signature of them, one
//! case per line, for `tests/differential_canonical_json.py`.

use std::io::{self, Write};

use event::{Json, Object, SigningKey};

/// Cases without an argument.
const DEFAULT_CASES: u64 = 5000;
/// Deepest nesting of a case.
const MAX_NESTING: u32 = 4;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn random_string(rng: &mut Rng) -> String {
    let len = rng.below(8);
    (0..len)
        .map(|_| {
            let limit = [0x20, 0x80, 0x800, 0x1_0000, 0x11_0000][usize::try_from(rng.below(5)).unwrap_or(0)];
            // Surrogates are no characters.
            u32::try_from(rng.below(limit)).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
        })
        .collect()
}

fn random_value(rng: &mut Rng, nesting: u32) -> Json {
    match rng.below(if nesting == 0 { 5 } else { 7 }) {
        0 => Json::Null,
        1 => Json::Bool(rng.below(2) == 0),
        2 => Json::Int(i64::from_ne_bytes(rng.next().to_ne_bytes()) >> rng.below(64)),
        3 => Json::Number((u128::from(rng.next()) << 32).to_string().into()),
        4 => Json::String(random_string(rng)),
        5 => Json::Array((0..rng.below(5)).map(|_| random_value(rng, nesting - 1)).collect()),
        _ => Json::Object(random_object(rng, nesting - 1)),
    }
}

fn random_object(rng: &mut Rng, nesting: u32) -> Object {
    (0..rng.below(6)).map(|_| (random_string(rng), random_value(rng, nesting))).collect()
}

/// JSON of the object with everything outside ASCII escaped and members in
/// descending order, so that canonicalizing has something to do.
fn loose_text(value: &Json) -> String {
    match value {
        Json::String(text) => loose_string(text),
        Json::Array(array) => {
            format!("[ {} ]", array.iter().map(loose_text).collect::<Vec<_>>().join(" ,\n"))
        }
        Json::Object(object) => {
            let member = |(key, value): (&String, &Json)| format!("{}:\t{}", loose_string(key), loose_text(value));
            format!("{{ {} }}", object.iter().rev().map(member).collect::<Vec<_>>().join(" , "))
        }
        other => other.to_canonical_string(),
    }
}

fn loose_string(text: &str) -> String {
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{escaped}\"")
}

fn main() -> io::Result<()> {
    let n_cases = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_CASES);
    let mut out = io::stdout().lock();
    for seed in 0..n_cases {
        let mut rng = Rng(seed);
        let object = random_object(&mut rng, MAX_NESTING);
        let text = loose_text(&Json::Object(object));
        let Ok(read) = Json::object_from_slice(text.as_bytes()) else {
            return Err(io::Error::other(format!("case {seed} is not read: {text}")));
        };
        let key = SigningKey::generate(&[u8::try_from(seed % 251).unwrap_or(0); 32]);
        let mut signed = read.clone();
        key.sign_json(&mut signed, "domain");
        let case = Object::from([
            ("text".to_owned(), Json::String(text)),
            ("canonical".to_owned(), Json::String(event::canonical_json::to_string(&read))),
            ("signed".to_owned(), Json::String(event::canonical_json::to_string(&signed))),
            ("key_id".to_owned(), Json::from(key.key_id())),
            ("seed".to_owned(), Json::String(key.seed_b64())),
        ]);
        writeln!(out, "{}", event::canonical_json::to_string(&case))?;
    }
    Ok(())
}
