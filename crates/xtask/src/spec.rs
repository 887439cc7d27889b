//! How much of the specification is served: each route of `endpoints.tsv` as done, partly or not
//! yet, and the observable behaviours without a test of their name.
//!
//! `routes.toml` says what is done, and with which tests. It is believed only as far as the tree
//! bears it out: a route without a test is not done, and a test that does not exist is an error.

mod behaviours;
mod routes;
mod tests_found;

use std::collections::BTreeMap;
use std::path::Path;

use crate::tidy::Tree;
use crate::{Error, read};

/// What to print, and what to insist on.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Print only the sums of each API, and what is wrong.
    #[arg(long)]
    pub short: bool,
    /// Fail also when a behaviour has no test.
    #[arg(long)]
    pub strict: bool,
}

/// Prints the coverage of routes and behaviours.
///
/// # Errors
/// `routes.toml` claims what the tree does not bear out, or, when strict, a behaviour lacks its test.
pub fn spec(root: &Path, options: &Options) -> Result<(), Error> {
    let folder = root.join("crates/xtask");
    let endpoints = routes::endpoints(&read(&folder.join("endpoints.tsv"))?);
    let path = folder.join("routes.toml");
    let claims = routes::claims(&read(&path)?).map_err(|message| Error::Content { path, message })?;
    let tests = tests_found::tests(&Tree::read(root)?);
    let mut wrong = routes::check(&endpoints, &claims, &tests);
    print_routes(&endpoints, &claims, options.short);
    let missing = behaviours::without_test(&tests, &claims.without_test);
    print_behaviours(&missing, &claims.without_test);
    if options.strict {
        wrong.extend(missing.iter().map(|id| format!("behaviour {id} has no test of its name")));
    }
    for line in &wrong {
        println!("wrong: {line}");
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Checks(format!("spec: {} errors", wrong.len()))) }
}

fn print_routes(endpoints: &[routes::Endpoint], claims: &routes::Claims, short: bool) {
    let mut sums: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for endpoint in endpoints {
        let (column, line) = match claims.of(endpoint) {
            Some(routes::Claim::Done { tests }) => (0, format!("done     ({} tests)", tests.len())),
            Some(routes::Claim::Partly { missing, .. }) => (1, format!("partly   missing: {missing}")),
            None => (2, "not yet".to_owned()),
        };
        sums.entry(&endpoint.api).or_default()[column] += 1;
        if !short {
            println!("{:<14} {:<6} {:<90} {line}", endpoint.api, endpoint.method, endpoint.path);
        }
    }
    println!("{:<20} {:>6} {:>6} {:>8}", "routes", "done", "partly", "not yet");
    for (api, [done, partly, not_yet]) in &sums {
        println!("{api:<20} {done:>6} {partly:>6} {not_yet:>8}");
    }
}

fn print_behaviours(missing: &[String], reasons: &BTreeMap<String, String>) {
    let all = behaviours::IDS.len();
    println!("behaviours: {all}, with a test of their name: {}", all - missing.len() - reasons.len());
    for (id, reason) in reasons {
        println!("  {id}: no test yet: {reason}");
    }
    if !missing.is_empty() {
        println!("  no test: {}", missing.join(" "));
    }
}
