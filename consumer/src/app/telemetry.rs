//! Logs and metrics of a process: JSON logs on stderr unless that is a terminal, and the
//! metrics of [`metric::ALL`] for Prometheus.

use std::io::{self, IsTerminal};

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing_subscriber::EnvFilter;

use crate::metric::{self, Kind};

/// Read by [`init_logs`], in tracing-subscriber's syntax, such as `info,consumer::source=debug`.
pub const FILTER_VARIABLE: &str = "CATALOG_LABELS_LOG";
/// The SDK tells of each retry at its own levels; what matters of it comes back as errors.
const DEFAULT_FILTER: &str = "info,aws_config=warn,aws_smithy_runtime=warn,aws_runtime=warn,hyper_util=warn";

/// Upper bounds of histograms of seconds: from a query in a millisecond to a bulk
/// event after a day.
const SECONDS_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0,
    14_400.0, 86_400.0,
];
/// Upper bounds of histograms of counts, such as rows in a batch.
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{FILTER_VARIABLE}={given:?} is not a log filter; write for example info,consumer=debug")]
    Filter { given: String, source: tracing_subscriber::filter::ParseError },
    #[error("logs are set up already in this process")]
    LogsTwice(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("histogram {metric} has no valid buckets")]
    Buckets { metric: &'static str, source: BuildError },
    #[error("metrics are set up already in this process")]
    MetricsTwice,
}

/// Sends logs to stderr: readable on a terminal, JSON otherwise. To be called once.
pub fn init_logs() -> Result<(), TelemetryError> {
    let given = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let filter = filter(given.as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    };
    installed.map_err(TelemetryError::LogsTwice)
}

fn filter(given: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let directives = given.unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(directives).map_err(|source| TelemetryError::Filter { given: directives.to_owned(), source })
}

/// Records metrics for the whole process from here on, so call it before anything that
/// keeps a counter is built. The handle renders them for Prometheus.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_second| TelemetryError::MetricsTwice)?;
    describe_all();
    Ok(handle)
}

fn recorder() -> Result<PrometheusRecorder, TelemetryError> {
    let mut builder = PrometheusBuilder::new();
    for metric in metric::ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let buckets = if metric.unit == Unit::Seconds { SECONDS_BUCKETS } else { COUNT_BUCKETS };
        builder = builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
            .map_err(|source| TelemetryError::Buckets { metric: metric.name, source })?;
    }
    Ok(builder.build_recorder())
}

fn describe_all() {
    for metric in metric::ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.description),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.description),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.description),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_name_type_help_and_labels() {
        let recorder = recorder().expect("the buckets are valid");
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_all();
            metric::MESSAGES_RECEIVED.counter(&[("queue", "catalog")]).increment(3);
            metric::EVENT_FRESHNESS.histogram(&[("lane", "bulk")]).record(0.3);
        });
        let text = handle.render();
        let description = metric::MESSAGES_RECEIVED.description;
        for line in [
            "# TYPE queue_messages_received_total counter",
            &format!("# HELP queue_messages_received_total {description}"),
            "queue_messages_received_total{queue=\"catalog\"} 3",
            "# TYPE event_freshness_seconds histogram",
            "event_freshness_seconds_bucket{lane=\"bulk\",le=\"0.25\"} 0",
            "event_freshness_seconds_bucket{lane=\"bulk\",le=\"0.5\"} 1",
        ] {
            assert!(text.lines().any(|rendered| rendered == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_bad_filter_is_refused_by_name() {
        assert!(filter(None).is_ok());
        let error = filter(Some("consumer=loud")).expect_err("loud is no level").to_string();
        assert!(error.contains(FILTER_VARIABLE) && error.contains("consumer=loud"), "{error}");
    }
}
