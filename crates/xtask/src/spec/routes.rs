//! The specification's routes, and what `routes.toml` claims of them.

use std::collections::{BTreeMap, BTreeSet};

/// One line of `endpoints.tsv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The API: `client-server`, `server-server`, …
    pub api: String,
    /// The HTTP method.
    pub method: String,
    /// The path, with `{parameters}`.
    pub path: String,
}

impl Endpoint {
    /// How `routes.toml` names it.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is claimed of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// All that the specification says of it.
    Done {
        /// The tests that show it.
        tests: Vec<String>,
    },
    /// Served, with something left out.
    Partly {
        /// What is left out.
        missing: String,
        /// The tests that show the rest.
        tests: Vec<String>,
    },
}

/// The contents of `routes.toml`.
#[derive(Debug, Default)]
pub struct Claims {
    routes: BTreeMap<String, Claim>,
    /// Behaviours that have no test yet, each with the reason.
    pub without_test: BTreeMap<String, String>,
}

impl Claims {
    /// What is claimed of this endpoint.
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Claim> {
        self.routes.get(&endpoint.name())
    }
}

/// Reads the table of endpoints; its first line names the columns.
pub fn endpoints(tsv: &str) -> Vec<Endpoint> {
    let cells = tsv.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    cells
        .filter_map(|cells| match cells.as_slice() {
            [api, method, path, ..] => {
                Some(Endpoint { api: (*api).to_owned(), method: (*method).to_owned(), path: (*path).to_owned() })
            }
            _ => None,
        })
        .collect()
}

/// Reads `routes.toml`.
pub fn claims(text: &str) -> Result<Claims, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut claims = Claims::default();
    for (section, entries) in &table {
        let entries = entries.as_table().ok_or_else(|| format!("`{section}` is no table"))?;
        for (name, value) in entries {
            let claim = match section.as_str() {
                "done" => Claim::Done { tests: strings(value)? },
                "partly" => partly(name, value)?,
                "without-test" => {
                    let reason = value.as_str().ok_or_else(|| format!("`{name}` needs a reason"))?;
                    claims.without_test.insert(name.clone(), reason.to_owned());
                    continue;
                }
                _ => return Err(format!("`{section}` is none of done, partly, without-test")),
            };
            if claims.routes.insert(name.clone(), claim).is_some() {
                return Err(format!("`{name}` is both done and partly done"));
            }
        }
    }
    Ok(claims)
}

fn partly(name: &str, value: &toml::Value) -> Result<Claim, String> {
    let missing = value.get("missing").and_then(toml::Value::as_str);
    let missing = missing.filter(|m| !m.is_empty()).ok_or_else(|| format!("`{name}`: what is missing?"))?;
    let tests = value.get("tests").map_or_else(|| Ok(Vec::new()), strings)?;
    Ok(Claim::Partly { missing: missing.to_owned(), tests })
}

fn strings(value: &toml::Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("{value} is no list of tests"))?;
    list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(|| format!("{v} is no name of a test"))).collect()
}

/// What the claims say that is not so.
pub fn check(endpoints: &[Endpoint], claims: &Claims, tests: &BTreeSet<String>) -> Vec<String> {
    let known: BTreeSet<String> = endpoints.iter().map(Endpoint::name).collect();
    let mut wrong = Vec::new();
    for (name, claim) in &claims.routes {
        if !known.contains(name) {
            wrong.push(format!("`{name}` is no route of the specification"));
        }
        let named = match claim {
            Claim::Done { tests } if tests.is_empty() => {
                wrong.push(format!("`{name}` is called done without a test"));
                continue;
            }
            Claim::Done { tests } | Claim::Partly { tests, .. } => tests,
        };
        let absent = named.iter().filter(|test| !tests.contains(*test));
        wrong.extend(absent.map(|test| format!("`{name}` names the test `{test}`, which does not exist")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with these claims about two routes, where one test exists.
    fn wrong(text: &str) -> Vec<String> {
        let endpoints = endpoints("api\tmethod\tpath\nclient-server\tGET\t/a\nclient-server\tPUT\t/a/{b}\n");
        assert_eq!(endpoints.len(), 2);
        let tests = BTreeSet::from(["cb1_unknown_paths".to_owned()]);
        match claims(text) {
            Ok(claims) => check(&endpoints, &claims, &tests),
            Err(message) => vec![message],
        }
    }

    #[test]
    fn claims_that_hold() {
        assert_eq!(wrong("[done]\n\"GET /a\" = [\"cb1_unknown_paths\"]\n"), [""; 0]);
        assert_eq!(wrong("[partly]\n\"PUT /a/{b}\" = { missing = \"paging\" }\n"), [""; 0]);
    }

    #[test]
    fn claims_that_do_not_hold() {
        for text in [
            "[done]\n\"GET /a\" = []\n",
            "[done]\n\"GET /a\" = [\"no_such_test\"]\n",
            "[done]\n\"GET /b\" = [\"cb1_unknown_paths\"]\n",
            "[partly]\n\"GET /a\" = { missing = \"\" }\n",
            "[partly]\n\"GET /a\" = { missing = \"x\", tests = [\"no_such_test\"] }\n",
            "[nearly]\n\"GET /a\" = []\n",
            "[done]\n\"GET /a\" = [\"cb1_unknown_paths\"]\n[partly]\n\"GET /a\" = { missing = \"x\" }\n",
        ] {
            assert_eq!(wrong(text).len(), 1, "{text}");
        }
    }
}
