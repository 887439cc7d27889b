//! `hearth reports …`: what users reported. All of it was written by others, so nothing is shown that could move the
//! terminal's cursor or begin a line of its own.

use store::tables::users::ReportRow;

use super::{PAGE, Say, tell};
use crate::boot::Running;

/// Characters of a reason that the list shows.
const REASON_CHARS_SHOWN: usize = 80;
/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// Lists the reports, newest first: the open ones, or all.
pub async fn list(running: &Running, all: bool, say: &Say) -> Result<(), users::Error> {
    let now_ms = running.clock.now_ms();
    let mut before = None;
    loop {
        let page = running.users.reports(before, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.number);
        for report in page.iter().filter(|report| all || report.closed_ms.is_none()) {
            tell(say, line(report, now_ms)).await;
        }
    }
}

/// Shows all of a report.
pub async fn show(running: &Running, number: i64, say: &Say) -> Result<(), String> {
    let report = running.users.kept_report(number).await.map_err(|error| error.to_string())?;
    let now_ms = running.clock.now_ms();
    let fields = [
        ("report", Some(report.number.to_string())),
        ("about", Some(report.about.clone())),
        ("reporter", Some(report.reporter.to_string())),
        ("reported", Some(ago(report.at_ms, now_ms))),
        ("room", report.room_id.clone()),
        ("event", report.event_id.clone()),
        (if report.about == "event" { "sender" } else { "user" }, report.user_id.as_ref().map(ToString::to_string)),
        ("reason", Some(report.reason.clone())),
        ("closed", report.closed_ms.map(|closed_ms| ago(closed_ms, now_ms))),
        ("content", report.event.clone()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            tell(say, format!("{name:<9}{}", shown(&value))).await;
        }
    }
    Ok(())
}

/// Notes that a report is done.
pub async fn close(running: &Running, number: i64, say: &Say) -> Result<(), String> {
    running.users.close_report(number).await.map_err(|error| error.to_string())?;
    tell(say, format!("Report {number} is closed.")).await;
    Ok(())
}

fn line(report: &ReportRow, now_ms: i64) -> String {
    let user = report.user_id.as_ref().map(ToString::to_string);
    let of_event = report.event_id.as_ref().map(|event| format!("{event} of {}", user.as_deref().unwrap_or_default()));
    let what = [of_event.or(user), report.room_id.as_ref().map(|room| format!("in {room}"))];
    let what: Vec<String> = what.into_iter().flatten().collect();
    let reason: String = report.reason.chars().take(REASON_CHARS_SHOWN).collect();
    let closed = if report.closed_ms.is_some() { ", closed" } else { "" };
    let what = shown(&format!("{} {}", report.about, what.join(" ")));
    let reporter = shown(report.reporter.as_str());
    format!("{} {what}, by {reporter} {}{closed}: {}", report.number, ago(report.at_ms, now_ms), shown(&reason))
}

fn ago(at_ms: i64, now_ms: i64) -> String {
    let minutes = now_ms.saturating_sub(at_ms).max(0) / MINUTE_MS;
    match minutes {
        0..60 => format!("{minutes} min ago"),
        60..2_880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1_440),
    }
}

/// A text of others with all that is not printed written as an escape.
fn shown(text: &str) -> String {
    let escaped = |c: char| -> String {
        match c {
            '"' | '\'' | '\\' => c.to_string(),
            c => c.escape_debug().to_string(),
        }
    };
    text.chars().map(escaped).collect()
}
