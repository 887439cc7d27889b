//! kill -9 of a process that writes: what it said is committed is there, and the database opens at once.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use store::Engine;

use crate::support::{numbered, numbers, open};

/// Tells the process started by the test which database to write to.
const DATABASE: &str = "HEARTH_TEST_KILL_DATABASE";
/// Kills in a row on one database.
const ROUNDS: usize = 6;

/// Not a test by itself: the process that is killed.
#[tokio::test]
async fn write_until_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let engine = open(Path::new(&path));
    let mut number = numbers(&engine).await;
    let mut waiting = std::collections::VecDeque::new();
    loop {
        number += 1;
        waiting.push_back((number, engine.submit(numbered(number, 700))));
        if waiting.len() > 8
            && let Some((number, ticket)) = waiting.pop_front()
        {
            ticket.await.unwrap();
            println!("\ncommitted {number}");
        }
    }
}

/// Starts a writer on the database and kills it after it has told of `count` commits; returns the last one told.
fn kill_after(path: &Path, count: usize) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::write_until_killed", "--nocapture"])
        .env(DATABASE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = |line: &str| line.strip_prefix("committed ").and_then(|number| number.parse::<i64>().ok());
    let mut last = 0;
    let mut commits = 0;
    while commits < count {
        let line = lines.next().expect("the writer ended by itself").unwrap();
        if let Some(number) = told(&line) {
            (last, commits) = (number, commits + 1);
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said between the last line read and its death.
    lines.map_while(Result::ok).filter_map(|line| told(&line)).last().unwrap_or(last)
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_has_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    for round in 0..ROUNDS {
        let told = kill_after(&path, 1 + round * 37);
        let engine = open(&path);
        let there = numbers(&engine).await;
        assert!(there >= told, "round {round}: {told} was told, {there} are there");
        engine.check().unwrap();
        engine.close().await;
    }
}
