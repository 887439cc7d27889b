//! Counting what held, and waiting with a deadline for what has to come.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long a thing may take before a check gives up. No check is about speed: this only ends what would never end, on
/// the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// What may fail, with words for people.
pub type Fallible<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Counts checks, and prints each as it ends.
#[derive(Debug)]
pub struct Checks {
    passed: usize,
    failed: usize,
    began: Instant,
}

impl Checks {
    /// Nothing is counted yet.
    pub fn begin() -> Self {
        Self { passed: 0, failed: 0, began: Instant::now() }
    }

    /// Counts a check that held. One that did not ends its story, which is counted as one failure by [`Self::story`].
    pub fn held<T>(&mut self, name: &str, outcome: Fallible<T>) -> Fallible<T> {
        let took = self.began.elapsed().as_millis();
        self.began = Instant::now();
        match outcome {
            Ok(value) => {
                self.passed += 1;
                println!("ok      {name} ({took} ms)");
                Ok(value)
            }
            Err(error) => Err(format!("{name}: {error}").into()),
        }
    }

    /// Counts the end of a story.
    pub fn story(&mut self, name: &str, outcome: Fallible) {
        if let Err(error) = outcome {
            self.failed += 1;
            println!("FAILED  {name}: {error}");
        }
        self.began = Instant::now();
    }

    /// Prints the closing line, and answers whether all held. A run without a check has failed.
    pub fn close(&self) -> bool {
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}

/// Fails unless `holds`, with what `message` says.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> Fallible {
    if holds { Ok(()) } else { Err(message().into()) }
}

/// Fails unless both are the same.
pub fn same<T: PartialEq + Debug>(seen: T, expected: T) -> Fallible {
    ensure(seen == expected, || format!("{seen:?} instead of {expected:?}"))
}

/// Waits for `future`, at most for as long as the patience lasts.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Fallible<T> {
    let late = |_| format!("not within {} s: {what}", PATIENCE.as_secs());
    Ok(tokio::time::timeout(PATIENCE, future).await.map_err(late)?)
}
