//! The room list of matrix-rust-sdk, on which clients such as Element X are built, with a hearth: whether what the
//! deployed dialect of simplified sliding sync gives is what that client can use.
//!
//! It is a workspace of its own, since the SDK is large: `cargo xtask nightly --only rust-sdk` builds and runs it.

// The futures of the SDK are nested deeply.
#![recursion_limit = "256"]

mod checks;
mod front;
mod hearth;
mod person;
mod phone;
mod stories;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::checks::{Checks, Fallible};
use crate::stories::{encryption, invites, list, ranges, recovery, subscriptions, unread};
use crate::world::World;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The stories, in their order.
const STORIES: [&str; 7] = ["list", "ranges", "subscriptions", "invites", "unread", "recovery", "encryption"];

/// Plays the stories, each on a server of its own.
async fn run() -> Fallible<bool> {
    let (program, only) = arguments()?;
    let mut checks = Checks::begin();
    for name in STORIES.into_iter().filter(|name| only.as_ref().is_none_or(|only| only == name)) {
        println!("story: {name}");
        let outcome = play(name, &program, &mut checks).await;
        checks.story(name, outcome);
    }
    Ok(checks.close())
}

async fn play(name: &str, program: &Path, checks: &mut Checks) -> Fallible {
    let world = World::create(program).await?;
    match name {
        "list" => list::story(world, checks).await,
        "ranges" => ranges::story(world, checks).await,
        "subscriptions" => subscriptions::story(world, checks).await,
        "invites" => invites::story(world, checks).await,
        "unread" => unread::story(world, checks).await,
        "recovery" => recovery::story(world, checks).await,
        "encryption" => encryption::story(world, checks).await,
        _ => Err("there is no such story".into()),
    }
}

/// `--hearth PROGRAM`, and `--only STORY`.
fn arguments() -> Fallible<(PathBuf, Option<String>)> {
    let (mut program, mut only) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--hearth" => program = Some(std::path::absolute(value)?),
            "--only" => only = Some(value),
            _ => return Err(format!("unknown argument {name}; known: --hearth PROGRAM --only STORY").into()),
        }
    }
    Ok((program.ok_or("--hearth names the server's program")?, only))
}
