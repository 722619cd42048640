//! Promises 1, 2b and 5 under kill -9: nothing lost, nothing stale, exactly the poison
//! parked. The short one is in every test run; `make soak` runs the long one.

use tests::soak::soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_through_workers_that_are_killed() {
    let report = soak(51, 1_000, 150).await;
    assert!(report.kills >= 5, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; `make soak` runs it"]
#[expect(clippy::print_stdout, reason = "the row for docs/BENCHMARKS.md")]
async fn twenty_thousand_events_through_workers_that_are_killed() {
    let report = soak(52, 20_000, 150).await;
    println!("{report}");
    assert!(report.kills >= 125, "{report}");
}
