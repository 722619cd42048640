//! The real worker binary, a real SQS- and DynamoDB-compatible engine, the real model,
//! and labels read back through the crate that search uses.

use shared::{Intent, ProductId, Verdict};
use tests::events::{delete, query, score_pairs, upsert};
use tests::stage::Stage;

fn ids(names: &[&str]) -> Vec<ProductId> {
    names.iter().map(|name| ProductId::new(*name).expect("a valid id")).collect()
}

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
