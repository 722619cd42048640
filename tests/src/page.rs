//! Prometheus pages, as an operator reads them.

use consumer::metric::{EVENTS_IN_WORK, LEASES_HELD, PERMITS_TAKEN};

/// The series of a Prometheus page that begin with `name`, and their values.
pub fn series(page: &str, name: &str) -> Vec<(String, f64)> {
    let lines = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let parse = |value: &str| value.parse().expect("a Prometheus value is a number");
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), parse(value))).collect()
}

/// The sum of a metric's series.
pub fn sum(page: &str, name: &str) -> f64 {
    series(page, name).iter().map(|(_, value)| value).sum()
}

/// The sum of those of a metric's series that have the label value `value`.
pub fn sum_where(page: &str, name: &str, value: &str) -> f64 {
    let quoted = format!("\"{value}\"");
    series(page, name).iter().filter(|(name, _)| name.contains(&quoted)).map(|(_, value)| value).sum()
}

/// Every gauge of things in flight is there, and at zero.
///
/// # Panics
/// When one is not.
pub fn assert_at_zero(page: &str) {
    for gauge in [PERMITS_TAKEN, LEASES_HELD, EVENTS_IN_WORK] {
        let series = series(page, gauge.name);
        assert!(!series.is_empty(), "{} is missing in\n{page}", gauge.name);
        assert!(series.iter().all(|(_, value)| *value == 0.0), "{series:?}");
    }
}
