//! The table that a run of the benchmarks ends with.

use std::fmt::Write as _;

use super::Column;
use super::operations::Sample;

/// Memory goals in MiB: after the start, and after the whole run.
const MEMORY_GOALS_MIB: [f64; 2] = [30.0, 120.0];

/// Goal for a start on an existing database in milliseconds.
const RESTART_GOAL_MS: f64 = 200.0;

/// The columns as a Markdown table: cost per operation, its goal, and how many times more the last
/// column's server needs than the first's.
pub fn markdown(columns: &[Column], rounds: usize) -> String {
    let mut text = format!(
        "CPU time per operation of all processes of the server: the median of {rounds} rounds, their least and most \
         in brackets; operations per second, and the middle of their wall times, in parentheses.\n\n| operation |"
    );
    for column in columns {
        // Writing into a string cannot fail.
        let _ = write!(text, " {} |", column.name);
    }
    let ratio_of = match columns {
        [first, .., last] => format!("{} / {}", last.name, first.name),
        _ => "ratio".to_owned(),
    };
    let _ = write!(text, " goal | {ratio_of} |\n|---|");
    text += &"---|".repeat(columns.len() + 2);
    text.push('\n');
    let rows = columns.first().map_or(0, |column| column.rows.len());
    for n in 0..rows {
        line(&mut text, columns, n);
    }
    for (n, when) in ["start", "the whole run"].iter().enumerate() {
        let cells = columns.iter().map(|column| format!("{:.0} MiB", column.memory_mib[n]));
        let goal = format!("≤ {:.0} MiB", MEMORY_GOALS_MIB[n]);
        let ratio = ratio(columns.iter().map(|c| Some(c.memory_mib[n])));
        cells_line(&mut text, &format!("memory (PSS) after {when}"), cells, &goal, &ratio);
    }
    let cells = columns.iter().map(|c| c.restart_ms.map_or("failed".to_owned(), |ms| format!("{ms:.0} ms")));
    let ratio = ratio(columns.iter().map(|column| column.restart_ms));
    cells_line(&mut text, "start on that database, wall", cells, &format!("≤ {RESTART_GOAL_MS:.0} ms"), &ratio);
    text
}

fn line(text: &mut String, columns: &[Column], n: usize) {
    let operation = columns[0].rows[n].0;
    let cells = columns.iter().map(|column| cell(&column.rows[n].1));
    let goal = operation.goal_ms.map_or(String::new(), |goal| format!("≤ {goal} ms"));
    let ratio = ratio(columns.iter().map(|column| column.rows[n].1.as_ref().ok().map(|s| s.cpu_ms)));
    cells_line(text, operation.name, cells, &goal, &ratio);
}

fn cells_line(text: &mut String, name: &str, cells: impl Iterator<Item = String>, goal: &str, ratio: &str) {
    let cells: Vec<String> = cells.collect();
    let _ = writeln!(text, "| {name} | {} | {goal} | {ratio} |", cells.join(" | "));
}

/// CPU time first; then what a person notices.
pub fn cell(sample: &Result<Sample, String>) -> String {
    let sample = match sample {
        Ok(sample) => sample,
        Err(error) => return format!("failed: {}", error.replace('|', "/").chars().take(60).collect::<String>()),
    };
    let wall = sample.wall_p50_ms.map_or(String::new(), |wall| format!(", p50 {wall:.2} ms"));
    let [least, most] = sample.cpu_ms_range;
    format!("{:.3} ms [{least:.3} – {most:.3}] ({:.1}/s{wall})", sample.cpu_ms, sample.per_second)
}

/// How many times more the last needs than the first, where there are two and both are known.
fn ratio(values: impl Iterator<Item = Option<f64>>) -> String {
    let values: Vec<Option<f64>> = values.collect();
    match values.as_slice() {
        [Some(first), .., Some(last)] if *first > 0.0 => format!("{:.1}", last / first),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_need_two_values() {
        assert_eq!(ratio([Some(2.0), None, Some(9.0)].into_iter()), "4.5");
        assert_eq!(ratio([Some(2.0), None].into_iter()), "");
        assert_eq!(ratio([Some(0.0), Some(9.0)].into_iter()), "");
    }

    #[test]
    fn the_table_holds_every_server() {
        let column = |name: &str| Column {
            name: name.to_owned(),
            rows: vec![(&super::super::operations::OPERATIONS[0], Err("404: | not served".to_owned()))],
            memory_mib: [10.0, 20.0],
            restart_ms: Some(50.0),
        };
        let text = markdown(&[column("a"), column("b")], 3);
        assert!(text.lines().skip(2).all(|line| line.matches('|').count() == 6), "{text}");
        assert!(text.contains("| b / a |"), "{text}");
        assert!(text.contains("failed: 404: / not served"), "{text}");
    }
}
