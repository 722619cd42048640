use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::{FlowError, Pipeline, Processed};
use crate::fault::{Fault, Faulty};
use crate::metric;
use crate::source::{Delivery, Disposition, Drained, Shutdown, Source, with_causes};

/// Processes deliveries until the shutdown begins, then drains. As many are in work at
/// once as the source has permits.
pub async fn run(pipeline: Arc<Pipeline>, mut source: Source, shutdown: Shutdown, drain: Duration) -> Drained {
    let mut in_work = JoinSet::new();
    while let Some(delivery) = source.next().await {
        in_work.spawn(deliver(pipeline.clone(), delivery, shutdown.clone()));
        while in_work.try_join_next().is_some() {}
    }
    let drained = source.drain(drain).await;
    in_work.shutdown().await;
    drained
}

async fn deliver(pipeline: Arc<Pipeline>, mut delivery: Delivery, shutdown: Shutdown) {
    let comes_next = tokio::select! {
        biased;
        () = shutdown.begun() => false,
        comes_next = delivery.comes_next() => comes_next,
    };
    if !comes_next || delivery.is_lost() || shutdown.has_begun() {
        drop(delivery.settle(Disposition::Release));
        return;
    }
    let receive_count = delivery.message.receive_count;
    let disposition = match pipeline.process(&delivery.message.body, receive_count).await {
        Ok(processed) => {
            count(&processed, (pipeline.clock)());
            Disposition::Delete
        }
        Err(error) => {
            let fault = error.fault();
            note(&error, &fault, &delivery);
            if let Fault::Fatal { reason } = &fault {
                shutdown.fatal(reason.clone());
            }
            Disposition::of(fault, error.stage(), receive_count, &mut fastrand::Rng::new())
        }
    };
    // Settlement is confirmed, retried and counted by the source; the permit waits for it.
    drop(delivery.settle(disposition));
}

fn count(processed: &Processed, now: Timestamp) {
    let Processed { outcome, lane, occurred_at, tally } = *processed;
    metric::EVENTS.counter(&[("lane", lane), ("outcome", outcome.as_str())]).increment(1);
    metric::PAIRS_SCORED.counter(&[]).increment(tally.pairs_scored);
    metric::PAIRS_SKIPPED.counter(&[]).increment(tally.pairs_skipped);
    metric::QUERIES_SCORED.counter(&[]).increment(tally.queries_scored);
    metric::LABEL_ITEMS_WRITTEN.counter(&[]).increment(tally.items_written);
    let age = now.duration_since(occurred_at).as_secs_f64().max(0.0);
    metric::EVENT_FRESHNESS.histogram(&[("lane", lane)]).record(age);
}

/// Logs say what failed and why, never what a product or query says.
fn note(error: &FlowError, fault: &Fault, delivery: &Delivery) {
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
        tracing::debug!(message_id = delivery.message.id, error = cause, "why the event is parked");
    }
    tracing::warn!(
        queue = &*delivery.queue,
        message_id = delivery.message.id,
        receive_count = delivery.message.receive_count,
        stage = error.stage(),
        fault = kind,
        error = (!poison).then_some(cause.as_str()),
        "an event failed"
    );
}
