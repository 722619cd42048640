//! What the counters and logs hear of an event.

use jiff::Timestamp;

use super::message::Job;
use super::{FlowError, Processed};
use crate::fault::Fault;
use crate::lane::Lane;
use crate::metric;
use crate::source::{Part, with_causes};

/// Ages at which events are counted, in seconds; alarms name their goal among them.
const AGE_BOUNDS_S: [(f64, &str); 5] =
    [(60.0, "to_1m"), (300.0, "to_5m"), (900.0, "to_15m"), (3_600.0, "to_1h"), (86_400.0, "to_1d")];

/// An event of the bulk queue counts to bulk, whatever it is: its age pages nobody.
pub(super) fn count(processed: &Processed, lane: Lane, now: Timestamp) {
    let Processed { outcome, occurred_at, tally, .. } = *processed;
    let lane = if lane == Lane::Bulk { lane } else { processed.lane }.as_str();
    metric::EVENTS.counter(&[("lane", lane), ("outcome", outcome.as_str())]).increment(1);
    metric::EVENTS_SUPERSEDED.counter(&[]).increment(tally.superseded);
    metric::PAIRS_SCORED.counter(&[]).increment(tally.pairs_scored);
    metric::PAIRS_SETTLED.counter(&[]).increment(tally.pairs_settled);
    metric::PAIRS_LEFT_EARLY.counter(&[]).increment(tally.pairs_left_early);
    metric::PAIRS_READ_TWICE.counter(&[]).increment(tally.pairs_read_twice);
    metric::QUERIES_SETTLED.counter(&[]).increment(tally.queries_settled);
    metric::QUERIES_LEFT_EARLY.counter(&[]).increment(tally.queries_left_early);
    metric::PAIRS_SKIPPED.counter(&[]).increment(tally.pairs_skipped);
    metric::QUERIES_SCORED.counter(&[]).increment(tally.queries_scored);
    metric::LABEL_ITEMS_WRITTEN.counter(&[]).increment(tally.items_written);
    let age = now.duration_since(occurred_at).as_secs_f64().max(0.0);
    metric::EVENT_FRESHNESS.histogram(&[("lane", lane)]).record(age);
    metric::EVENTS_BY_AGE.counter(&[("lane", lane), ("age", age_label(age))]).increment(1);
}

/// The label of an age in seconds: the least bound that holds it.
fn age_label(age_s: f64) -> &'static str {
    AGE_BOUNDS_S.into_iter().find(|(bound_s, _)| age_s <= *bound_s).map_or("over_1d", |(_, label)| label)
}

/// Logs say what failed and why, never what a product or query says. `part` is the event
/// of several that failed; none where the message did.
pub(super) fn note(error: &FlowError, fault: &Fault, job: &Job, part: Option<&Part>) {
    let kind = match fault {
        Fault::Retry { .. } => "retry",
        Fault::Poison { .. } => "poison",
        Fault::Fatal { .. } => "fatal",
    };
    metric::EVENT_FAILURES.counter(&[("stage", error.stage()), ("fault", kind)]).increment(1);
    let cause = with_causes(error);
    let poison = matches!(fault, Fault::Poison { .. });
    if poison {
        // A refusal may quote the event; the parked message has it too.
        tracing::debug!(message_id = job.message.id, error = cause, "why the event is parked");
    }
    tracing::warn!(
        queue = job.queue,
        message_id = job.message.id,
        receive_count = job.receive_count,
        stage = error.stage(),
        fault = kind,
        of = part.map(|part| part.of.as_str()),
        index = part.map(|part| part.index),
        error = (!poison).then_some(cause.as_str()),
        "an event failed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_counts_to_the_least_bound_that_holds_it() {
        for (age_s, label) in [(0.0, "to_1m"), (60.0, "to_1m"), (60.1, "to_5m"), (86_400.0, "to_1d"), (1e9, "over_1d")]
        {
            assert_eq!(age_label(age_s), label, "{age_s}");
        }
        let described = metric::EVENTS_BY_AGE.description;
        assert!(AGE_BOUNDS_S.iter().all(|(_, label)| described.contains(label)), "{described}");
    }
}
