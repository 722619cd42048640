//! The real worker binary, a real SQS- and DynamoDB-compatible engine, the real model,
//! and labels read back through the crate that search uses.

use std::time::Duration;

use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::metric::EVENT_FRESHNESS;
use consumer::source::{Outgoing, Queue};
use shared::{Intent, ProductId, Verdict};
use tests::events::{delete, query, score_pairs, upsert};
use tests::ministack::Ministack;
use tests::page;
use tests::stage::{Stage, counts};

fn ids(names: &[&str]) -> Vec<ProductId> {
    names.iter().map(|name| ProductId::new(*name).expect("a valid id")).collect()
}

/// Longer than any test takes.
const LEASE: Duration = Duration::from_secs(60);

const HEADPHONES: &str = "Soundmark Aria 300 wireless over-ear headphones black SM-A300";
const HEADPHONES_AGAIN: &str = "Soundmark SM-A300 Aria 300 over ear headphones, wireless, black";
const KETTLE: &str = "Brewline QX17 electric kettle 1.7 litre stainless steel";
const DRILL: &str = "Torqmaster TD-18 cordless hammer drill 18 volt with two batteries";

#[tokio::test(flavor = "multi_thread")]
async fn events_become_labels_that_search_reads() {
    let stage = Stage::start(&[]).await;
    stage
        .send_events([
            upsert("H1", 1, HEADPHONES),
            upsert("K1", 1, KETTLE),
            upsert("H2", 1, HEADPHONES_AGAIN),
            upsert("D1", 1, DRILL),
            query("Wireless  Headphones", 1),
            query("where is my order", 1),
        ])
        .await;
    stage.drained().await;

    let page = stage.reader.labels_for_page(&ids(&["H1", "K1", "H2", "D1"])).await.expect("the page is answered");
    assert_eq!(page.missing, []);
    let found: Vec<_> = page.pairs.iter().map(|p| (p.first.as_str(), p.second.as_str(), p.verdict)).collect();
    assert_eq!(found, [("H1", "H2", Verdict::Duplicate)]);
    let shopping = stage.reader.intent_for("wireless headphones").await.expect("answered").expect("labelled");
    let service = stage.reader.intent_for("Where is my order").await.expect("answered").expect("labelled");
    assert_eq!((shopping.intent, service.intent), (Intent::Product, Intent::Help));
    assert!(stage.stop().await.success(), "SIGTERM ends in exit code 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_takes_the_labels_with_it() {
    let stage = Stage::start(&[]).await;
    stage.send_events([upsert("H1", 1, HEADPHONES), upsert("H2", 1, HEADPHONES_AGAIN)]).await;
    stage.drained().await;
    stage.send_events([delete("H1", 2)]).await;
    stage.drained().await;
    stage.send_events([upsert("H1", 1, HEADPHONES)]).await;
    stage.drained().await;

    let page = stage.reader.labels_for_page(&ids(&["H1", "H2"])).await.expect("the page is answered");
    assert!(page.pairs.is_empty(), "{:?}", page.pairs);
    let deleted = stage.reader.duplicates_of(&ids(&["H1"])[0]).await.expect("answered");
    assert_eq!(deleted, None, "a late upsert of an older version brings nothing back");
    assert!(stage.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn named_pairs_are_labelled_on_request() {
    let stage = Stage::start(&[]).await;
    stage.send_events([upsert("H1", 1, HEADPHONES), upsert("H2", 1, HEADPHONES_AGAIN)]).await;
    stage.send_events([score_pairs(1, &[("H1", "H2")])]).await;
    stage.drained().await;

    let page = stage.reader.labels_for_page(&ids(&["H1", "H2"])).await.expect("the page is answered");
    assert_eq!(page.pairs.len(), 1);
    assert!(stage.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_loses_nothing() {
    let mut stage = Stage::start(&["--lease", "5s"]).await;
    let titles: Vec<String> = (0..40).map(|i| format!("{KETTLE} edition {i}")).collect();
    stage.send_events(titles.iter().enumerate().map(|(i, title)| upsert(&format!("K{i}"), 1, title))).await;
    stage.kill_and_restart(&["--lease", "5s"]).await;
    stage.drained().await;

    let names: Vec<String> = (0..40).map(|i| format!("K{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let page = stage.reader.labels_for_page(&ids(&names)).await.expect("the page is answered");
    assert_eq!(page.missing, []);
    assert!(stage.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_serves_three_queues_and_each_lane_tells_how_fresh_its_labels_are() {
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let sqs = sqs_client(&sdk_config(&options).await);
    let create = async |name| create_queue_with_dead_letter(&sqs, name, LEASE, 5).await.expect("the engine is fresh");
    let (queries, bulk) = (create("queries").await.queue, create("bulk").await.queue);
    let stage = Stage::on(engine, &["--query-queue-url", queries.url(), "--bulk-queue-url", bulk.url()]).await;
    let hour_old = |mut event: serde_json::Value| {
        event["occurred_at"] = serde_json::json!(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
        Outgoing::new(event.to_string())
    };
    for (queue, event) in [(&queries, query("kettle", 1)), (&bulk, upsert("B1", 1, KETTLE))] {
        assert!(queue.send(&[hour_old(event)]).await.expect("it answers").iter().all(Result::is_ok));
    }
    stage.send([hour_old(upsert("C1", 1, DRILL)).body]).await;
    stage.drained().await;
    for queue in [&queries, &bulk] {
        while counts(&sqs, queue.url()).await != (0, 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let page = stage.worker().metrics().await;
    for lane in ["catalog", "queries", "bulk"] {
        let of = |part: &str| page::sum_where(&page, &format!("{}_{part}", EVENT_FRESHNESS.name), lane);
        assert_eq!(of("count"), 1.0, "{lane}");
        assert!((3_600.0..7_200.0).contains(&of("sum")), "{lane}: {} s since the event", of("sum"));
        // A histogram: nothing below an hour, everything below infinity.
        let bucket = |bound: &str| {
            let buckets = page::series(&page, &format!("{}_bucket", EVENT_FRESHNESS.name));
            let labels = [format!("\"{lane}\""), format!("le=\"{bound}\"")];
            let found = buckets.into_iter().find(|(name, _)| labels.iter().all(|label| name.contains(label)));
            found.unwrap_or_else(|| panic!("no bucket {bound} of {lane} in\n{page}")).1
        };
        assert_eq!((bucket("60"), bucket("+Inf")), (0.0, 1.0), "{lane}");
    }
    assert!(stage.stop().await.success());
}
