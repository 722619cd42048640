//! Every metric in one typed list: `app::telemetry` registers it, and nothing else names
//! a metric. Names are Prometheus's: unit and `_total` are part of the name.

use metrics::{Counter, Gauge, Histogram, Label, SharedString, Unit};

/// One metric. Labels are named in its description.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub stability: Stability,
    pub description: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What a dashboard may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Name, unit, labels and meaning change only with a major version.
    Stable,
    /// May change with any version.
    Experimental,
}

macro_rules! metrics_list {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, $stability:ident, $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                stability: Stability::$stability,
                description: $description,
            };
        )*

        /// The whole list.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics_list! {
    MESSAGES_RECEIVED = "queue_messages_received_total", Counter, Count, Stable,
        "Messages received, by queue; redeliveries count again.";
    RECEIVES = "queue_receives_total", Counter, Count, Stable,
        "Receive requests that were answered, by queue and result (full, some, empty, error).";
    RECEIVE_ERRORS = "queue_receive_errors_total", Counter, Count, Stable,
        "Receive requests that failed, by queue and fault (retry, fatal).";
    REQUESTS = "queue_requests_total", Counter, Count, Experimental,
        "Requests to a queue, by queue and operation; what SQS bills for.";
    PERMITS_TAKEN = "queue_permits_taken", Gauge, Count, Stable,
        "Permits out, by queue: messages in the process, and room held by running receives.";
    LEASES_HELD = "queue_leases_held", Gauge, Count, Stable,
        "Messages whose visibility the heartbeat extends, by queue.";
    LEASES_EXTENDED = "queue_leases_extended_total", Counter, Count, Stable,
        "Extensions of a message's visibility, by queue.";
    LEASES_LOST = "queue_leases_lost_total", Counter, Count, Stable,
        "Messages that became visible to others while in the process, by queue.";
    LEASE_ERRORS = "queue_lease_errors_total", Counter, Count, Stable,
        "Extensions that failed and are tried again, by queue.";
    SETTLED = "queue_messages_settled_total", Counter, Count, Stable,
        "Messages settled, by queue and settlement (deleted, delayed, released, parked, expired, unsettled).";
    EVENTS_PARKED = "queue_events_parked_total", Counter, Count, Stable,
        "Events parked out of messages that hold several, by queue and stage; whole messages count as settled (parked).";
    SETTLE_RETRIES = "queue_settle_retries_total", Counter, Count, Stable,
        "Entries of deletes, delays and parkings that failed and were tried again, by queue and operation.";
    DROPPED = "queue_deliveries_dropped_total", Counter, Count, Stable,
        "Deliveries dropped without a disposition, as by a panic, by queue; they are retried.";
    EVENTS = "events_total", Counter, Count, Stable,
        "Events processed, by lane (catalog, queries, bulk) and outcome (written, unchanged, stale).";
    EVENTS_IN_WORK = "events_in_work", Gauge, Count, Stable,
        "Events between their turn and their disposition, by lane of their queue.";
    EVENT_FAILURES = "event_failures_total", Counter, Count, Stable,
        "Events that failed, by stage (envelope, object, parse, plan, score, store, park) and fault (retry, poison, fatal); retries count again.";
    PAIRS_SCORED = "pairs_scored_total", Counter, Count, Stable,
        "Pairs that the model scored.";
    PAIRS_SETTLED = "pairs_settled_total", Counter, Count, Stable,
        "Pairs that the model's cascade settled, at no cost of inference; `pairs_scored_total` counts them too.";
    QUERIES_SETTLED = "queries_settled_total", Counter, Count, Stable,
        "Queries that the model's first stage settled, at no cost of inference; `queries_scored_total` counts them too.";
    PAIRS_LEFT_EARLY = "pairs_left_early_total", Counter, Count, Stable,
        "Pairs that the network found distinct after its early layers, at a part of the cost; `pairs_scored_total` counts them too.";
    PAIRS_READ_TWICE = "pairs_read_twice_total", Counter, Count, Stable,
        "Pairs that one reading left in doubt, so that the network read their texts in the other order as well; `pairs_scored_total` counts them once.";
    QUERIES_LEFT_EARLY = "queries_left_early_total", Counter, Count, Stable,
        "Queries that the network answered after its early layers, at a part of the cost; `queries_scored_total` counts them too.";
    PAIRS_SKIPPED = "pairs_skipped_total", Counter, Count, Stable,
        "Pairs proposed again that were labelled already for both texts, and so cost no inference.";
    QUERIES_SCORED = "queries_scored_total", Counter, Count, Stable,
        "Queries that the model scored.";
    LABEL_ITEMS_WRITTEN = "label_items_written_total", Counter, Count, Stable,
        "Label and intent items written.";
    TABLE_THROTTLES = "table_throttles_total", Counter, Count, Stable,
        "Attempts that DynamoDB throttled, batches left unprocessed in part included; intake pauses after each.";
    EVENTS_SUPERSEDED = "events_superseded_total", Counter, Count, Stable,
        "Upserts and deletes that waited in the process behind a newer version of their product, and so cost one read; stale in `events_total`.";
    TABLE_REQUESTS = "table_requests_total", Counter, Count, Stable,
        "Requests to DynamoDB, by table and kind (read, write); the SDK's retries of a request count once.";
    TABLE_ITEMS_READ = "table_items_read_total", Counter, Count, Stable,
        "Items that DynamoDB returned, by table.";
    TABLE_READ_HALF_UNITS = "table_read_half_units_total", Counter, Count, Stable,
        "Read capacity consumed as DynamoDB reports it, by table, in halves of a unit.";
    TABLE_WRITE_HALF_UNITS = "table_write_half_units_total", Counter, Count, Stable,
        "Write capacity consumed as DynamoDB reports it, by table, in halves of a unit; failed conditions are not reported.";
    EVENT_FRESHNESS = "event_freshness_seconds", Histogram, Seconds, Stable,
        "From an event's occurrence to its labels being written, by lane: what the fleet scales on and is paged for.";
    HTTP_REQUESTS = "http_requests_total", Counter, Count, Stable,
        "Requests that `serve` answered, by route (intent, duplicates) and status.";
    HTTP_IN_WORK = "http_requests_in_work", Gauge, Count, Stable,
        "Requests that wait for their answer, by route.";
    HTTP_TIME = "http_request_seconds", Histogram, Seconds, Stable,
        "From a request's headers to its answer, by route.";
    INTENT_LOOKUPS = "intent_lookups_total", Counter, Count, Stable,
        "Requests whose queries were looked up in the label table, by result (answered, failed, late).";
    INTENTS_KNOWN = "intents_known_total", Counter, Count, Stable,
        "Queries that the label table had a live label of, and that so cost no inference.";
    EVENTS_BY_AGE = "events_by_age_total", Counter, Count, Stable,
        "Events labelled, by lane and age since they occurred (to_1m, to_5m, to_15m, to_1h, to_1d, over_1d); for readers without histograms.";
}

/// Label names and values of one series.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

#[expect(clippy::disallowed_macros, reason = "here they get their names")]
impl Metric {
    /// The counter of one series; keep it where it is used often.
    pub fn counter(&self, labels: Labels) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        metrics::counter!(self.name, to_labels(labels))
    }

    /// The gauge of one series; keep it where it is used often.
    pub fn gauge(&self, labels: Labels) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        metrics::gauge!(self.name, to_labels(labels))
    }

    /// The histogram of one series; keep it where it is used often.
    pub fn histogram(&self, labels: Labels) -> Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        metrics::histogram!(self.name, to_labels(labels))
    }
}

fn to_labels(labels: Labels) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, SharedString::from((*value).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// `UPDATE_METRICS=1 cargo test --release --workspace --lib metric` writes it anew.
    #[test]
    fn the_page_of_all_metrics_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
        let mut page = String::from(
            "# Metrics\n\nServed as Prometheus text at `/metrics`. Written from `consumer/src/metric.rs` by a test.\n\n\
             | metric | kind | unit | stability | what |\n|---|---|---|---|---|\n",
        );
        for Metric { name, kind, unit, stability, description } in ALL {
            let unit = unit.as_str();
            page += &format!("| `{name}` | {kind:?} | {unit} | {stability:?} | {description} |\n");
        }
        if std::env::var_os("UPDATE_METRICS").is_some() {
            std::fs::write(&path, &page).expect("docs is writable");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == page, "docs/METRICS.md is not the list in metric.rs; write it anew with UPDATE_METRICS=1");
    }

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let mut names = HashSet::new();
        for metric in ALL {
            assert!(names.insert(metric.name), "{} is listed twice", metric.name);
            assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(metric.unit == Unit::Seconds, metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(metric.description.ends_with('.'), "{}", metric.name);
        }
    }
}
