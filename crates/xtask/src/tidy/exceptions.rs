//! The places that may break a law, each with the reason why it must.

use super::Violation;

/// One file that may break one law.
#[derive(Debug)]
pub struct Exception {
    /// The law's short name, as violations give it.
    pub law: &'static str,
    /// Path of the file below the repository's root.
    pub path: &'static str,
    /// Why it must.
    pub reason: &'static str,
}

/// The list. A line that covers nothing any more is itself a violation.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        law: "spawn",
        path: "crates/store/src/conformance/concurrent.rs",
        reason: "the conformance suite is test code that the engines run: writers at once are its subject",
    },
    Exception {
        law: "numbers",
        path: "crates/server/src/neighbors.rs",
        reason: "the nodes of one database tell each other of typing, which is counted by the numbers that they share",
    },
    Exception {
        law: "clock",
        path: "crates/sync/src/v3.rs",
        reason: "a waiting sync ends by the runtime's timer, which tests pause and move",
    },
    Exception {
        law: "clock",
        path: "crates/client-api/src/account/remote_keys.rs",
        reason: "other servers are waited for by the runtime's timer, which tests pause and move",
    },
    Exception {
        law: "clock",
        path: "crates/federation/src/handshakes/join.rs",
        reason: "it measures how long a join took, for the log alone",
    },
    Exception {
        law: "spawn",
        path: "crates/federation/src/outbound.rs",
        reason: "each destination has a task of its own, from the first thing queued for it until its queue is empty",
    },
    Exception {
        law: "law-3",
        path: "crates/sync/src/wake.rs",
        reason: "it says how far waiting syncs of this process have been told; where each reader is stands in its token",
    },
];

/// Leaves out what the exceptions cover, and adds the exceptions that cover nothing.
pub fn apply(found: Vec<Violation>, exceptions: &[Exception]) -> Vec<Violation> {
    let covers = |e: &Exception, v: &Violation| e.law == v.law && e.path == v.path;
    let idle = exceptions.iter().filter(|e| !found.iter().any(|v| covers(e, v))).map(|e| Violation {
        path: e.path.to_owned(),
        line: 0,
        law: "exception",
        message: format!("the exception from `{}` covers nothing any more: take it out", e.law),
    });
    let idle: Vec<Violation> = idle.collect();
    let mut left: Vec<Violation> = found.into_iter().filter(|v| !exceptions.iter().any(|e| covers(e, v))).collect();
    left.extend(idle);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_cover_one_law_in_one_file_and_do_not_outlive_it() {
        let violation = |law| Violation { path: "a.rs".to_owned(), line: 3, law, message: String::new() };
        let exceptions = [Exception { law: "clock", path: "a.rs", reason: "it measures" }];
        assert_eq!(apply(vec![violation("clock"), violation("spawn")], &exceptions), [violation("spawn")]);
        let laws: Vec<_> = apply(vec![violation("spawn")], &exceptions).into_iter().map(|v| v.law).collect();
        assert_eq!(laws, ["spawn", "exception"]);
    }

    #[test]
    fn each_exception_has_a_reason() {
        assert!(EXCEPTIONS.iter().all(|e| e.reason.len() > 20));
    }
}
