//! How much of the specification is served: each route of `endpoints.tsv` as done, partly or not
//! yet, the observable behaviours without a test of their name, and the rows of `security.tsv` that no test names.
//!
//! `routes.toml` says what is done, and with which tests. It is believed only as far as the tree
//! bears it out: a route without a test is not done, and a test that does not exist is an error.

mod behaviours;
mod routes;
mod security;
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
    /// Fail also when a behaviour, or a row about security, has no test.
    #[arg(long)]
    pub strict: bool,
}

/// Prints the coverage of routes, behaviours and security.
///
/// # Errors
/// `routes.toml` claims what the tree does not bear out, a test names an unknown row, or, when strict, a behaviour or a row
/// lacks its test.
pub fn spec(root: &Path, options: &Options) -> Result<(), Error> {
    let folder = root.join("crates/xtask");
    let endpoints = routes::endpoints(&read(&folder.join("endpoints.tsv"))?);
    let path = folder.join("routes.toml");
    let claims = routes::claims(&read(&path)?).map_err(|message| Error::Content { path, message })?;
    let tree = Tree::read(root)?;
    let tests = tests_found::tests(&tree);
    let mut wrong = routes::check(&endpoints, &claims, &tests);
    print_routes(&endpoints, &claims, options.short);
    let missing = behaviours::without_test(&tests, &claims.without_test);
    print_behaviours(&missing, &claims.without_test);
    if options.strict {
        wrong.extend(missing.iter().map(|id| format!("behaviour {id} has no test of its name")));
    }
    let rows = read(&folder.join("security.tsv"))?;
    wrong.extend(secure(&tree, &security::ids(&rows), options));
    for line in &wrong {
        println!("wrong: {line}");
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Checks(format!("spec: {} errors", wrong.len()))) }
}

/// Prints the rows about security with their tests; what is wrong with them.
fn secure(tree: &Tree, rows: &[&str], options: &Options) -> Vec<String> {
    let (tests, mut wrong) = security::named(tree);
    wrong.extend(security::unknown(rows, &tests));
    let missing = security::without_test(rows, &tests);
    println!("security: {} rows, with a test that names them: {}", rows.len(), rows.len() - missing.len());
    for row in rows.iter().filter(|_| !options.short) {
        println!("  {row:<28} {}", tests.get(*row).map(|tests| tests.join(" ")).unwrap_or_default());
    }
    if !missing.is_empty() {
        println!("  no test: {}", missing.join(" "));
    }
    if options.strict {
        wrong.extend(missing.iter().map(|id| format!("no test names {id}")));
    }
    wrong
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
