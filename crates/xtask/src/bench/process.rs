//! What a process and all that it started cost: CPU time and memory, as Linux counts them.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// CPU time is counted in hundredths of a second, whatever the machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// The part of `/proc/PID/stat` that is used.
struct Stat {
    parent: u32,
    /// Ticks in user and kernel mode, of the process and of its children that have ended.
    ticks: u64,
}

/// CPU seconds that the processes `roots` and all below them have used so far.
pub fn cpu_seconds(roots: &[u32]) -> f64 {
    let all = stats();
    let ticks: u64 = tree(&all, roots).iter().filter_map(|pid| all.get(pid)).map(|s| s.ticks).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Proportional set size in MiB of the processes `roots` and all below them.
pub fn memory_mib(roots: &[u32]) -> f64 {
    let all = stats();
    let kib: u64 =
        tree(&all, roots).iter().filter_map(|pid| kib_of(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum();
    kib as f64 / 1024.0
}

/// The most memory in MiB that the processes `roots` and all below them have had resident, each at its own worst time.
pub fn peak_mib(roots: &[u32]) -> f64 {
    let all = stats();
    let kib: u64 = tree(&all, roots).iter().filter_map(|pid| kib_of(&format!("/proc/{pid}/status"), "VmHWM:")).sum();
    kib as f64 / 1024.0
}

/// Lets [`peak_mib`] begin anew with what is resident now.
pub fn forget_peak(roots: &[u32]) {
    for pid in tree(&stats(), roots) {
        // Written to this file, 5 resets the peak (proc_pid_clear_refs(5)). Where that is not granted, peaks only grow.
        if std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_err() {
            println!("bench: the peak of process {pid} cannot be reset");
        }
    }
}

/// A clock of CPU time that is exact enough for a single request: the kernel counts each thread's time in nanoseconds,
/// but gives it only for threads that live. It knows the processes that were there when it began.
#[derive(Debug)]
pub struct Watch {
    pids: Vec<u32>,
    /// By the path of a thread's figures, what they said last.
    threads: BTreeMap<PathBuf, u64>,
}

impl Watch {
    /// A clock for the processes `roots` and all below them, that begins now.
    pub fn new(roots: &[u32]) -> Self {
        let mut watch = Self { pids: tree(&stats(), roots), threads: BTreeMap::new() };
        watch.lap();
        watch
    }

    /// CPU seconds since the last lap. What a thread does before it ends is lost from its last lap on.
    pub fn lap(&mut self) -> f64 {
        let tasks = self.pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok());
        let paths = tasks.flatten().filter_map(|entry| Some(entry.ok()?.path().join("schedstat")));
        let now: BTreeMap<PathBuf, u64> = paths
            .filter_map(|path| {
                let text = std::fs::read_to_string(&path).ok()?;
                Some((path, text.split_whitespace().next()?.parse().ok()?))
            })
            .collect();
        let new = |(path, at): (&PathBuf, &u64)| at.saturating_sub(self.threads.get(path).copied().unwrap_or(0));
        let nanoseconds: u64 = now.iter().map(new).sum();
        self.threads = now;
        nanoseconds as f64 / 1e9
    }
}

fn stats() -> BTreeMap<u32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse(&text)?))
    })
    .collect()
}

/// Reads a line of `stat`: the name in parentheses may hold anything, so that fields count from its end.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

/// The processes `roots` and all below them.
fn tree(all: &BTreeMap<u32, Stat>, roots: &[u32]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        let children: Vec<u32> = all.iter().filter(|(_, s)| s.parent == parent).map(|(pid, _)| *pid).collect();
        found.extend(children);
        at += 1;
    }
    found
}

/// A figure of a file below `/proc`, by the name that its line begins with.
fn kib_of(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read() {
        let line = "17 (a (b) c) S 4 17 17 0 -1 4194304 126 0 1 0 10 20 3 4 20 0 1 0 247565";
        let stat = parse(line).expect("a line");
        assert_eq!((stat.parent, stat.ticks), (4, 37));
    }

    #[test]
    fn a_watch_sees_what_this_process_does() {
        let mut watch = Watch::new(&[std::process::id()]);
        let count = (0..3_000_000_u64).fold(0, |sum: u64, n| sum.wrapping_mul(31).wrapping_add(n));
        let lap = watch.lap();
        assert!(std::hint::black_box(count) > 0 && lap > 0.0, "{lap}");
    }

    #[test]
    fn trees_hold_grandchildren() {
        let process = |parent| Stat { parent, ticks: 1 };
        let all = BTreeMap::from([(1, process(0)), (2, process(1)), (3, process(2)), (4, process(1)), (5, process(0))]);
        let mut found = tree(&all, &[2, 4]);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }
}
