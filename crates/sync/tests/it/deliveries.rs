//! How many messages are delivered to waiting syncs in a run.

/// Deliveries in CI.
const IN_CI: usize = 50_000;
/// Deliveries when `HEARTH_NIGHTLY` is set.
const NIGHTLY: usize = 1_000_000;

/// Deliveries (of one message to one user) of a run: `HEARTH_DELIVERIES`, if that is set.
pub fn deliveries() -> usize {
    let usual = if std::env::var_os("HEARTH_NIGHTLY").is_some() { NIGHTLY } else { IN_CI };
    std::env::var("HEARTH_DELIVERIES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
