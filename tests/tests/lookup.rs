//! `lookup` as people and scripts run it: a table, JSON, and an exit status.

use std::path::Path;
use std::process::Command;

use consumer::store::Embedded;
use serde_json::{Value, json};
use shared::Verdict;
use shared::table::PREFIX_DEFAULT;
use tempfile::TempDir;
use tests::events::{query, upsert};
use tests::fleet::{TextModel, pipeline};
use tests::worker::binary;

const TITLES: [(&str, &str); 3] = [("A", "kettle qx4471z"), ("B", "steel kettle qx4471z"), ("L", "large lamp tb2296w")];

/// A model to which the two kettles are one product.
fn model() -> TextModel {
    let says_duplicate = |model: &TextModel| model.score(TITLES[0].1, TITLES[1].1).1 == Verdict::Duplicate;
    (0..).map(|n| TextModel::new(&format!("m{n}"))).find(says_duplicate).expect("one in three does")
}

/// Tables that the real pipeline has labelled.
async fn fill(folder: &Path, model: &TextModel) {
    let engine = Embedded::open(folder).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    store.create_tables().await.expect("creates");
    store.set_active_model(&model.id, None).await.expect("activates");
    let events = TITLES.iter().map(|(name, title)| upsert(name, 4, title)).chain([query("Red kettle", 2)]);
    for event in events {
        pipeline(store.clone(), model).process(&event.to_string(), 1).await.expect("labelled");
    }
    engine.stop().await.expect("stops");
}

/// Whether it found something, what it prints, and what it complains of.
fn look_up(folder: &Path, words: &[&str]) -> (bool, String, String) {
    let output = Command::new(binary()).arg("lookup").args(words).arg("--local").arg(folder).output();
    let output = output.expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn json_of(folder: &Path, words: &[&str]) -> (bool, Value) {
    let (is_found, printed, complaints) = look_up(folder, &[words, &["--json"]].concat());
    (is_found, serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}{complaints}")))
}

#[tokio::test]
async fn a_product_is_shown_as_a_table_or_as_json() {
    let folder = TempDir::new().expect("a folder");
    let model = model();
    fill(folder.path(), &model).await;
    let (score, _) = model.score(TITLES[0].1, TITLES[1].1);

    let (is_found, found) = json_of(folder.path(), &["product", "A"]);
    assert!(is_found);
    let pair = &found["pairs"][0];
    assert_eq!((&found["product"], &found["title"], &found["version"]), (&json!("A"), &json!(TITLES[0].1), &json!(4)));
    assert_eq!(
        (&found["model"], &found["current"], &found["overflow"]),
        (&json!(model.id), &json!(true), &json!(false))
    );
    assert_eq!(found["pairs"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!((&pair["other"], &pair["title"], &pair["other_version"]), (&json!("B"), &json!(TITLES[1].1), &json!(4)));
    assert_eq!((&pair["verdict"], &pair["stage"]), (&json!("duplicate"), &json!("cross_encoder")));
    assert_eq!(pair["score"].as_f64().map(|score| score as f32), Some(score), "{found}");

    let (is_found, table, _) = look_up(folder.path(), &["product", "A"]);
    assert!(is_found);
    for part in [TITLES[0].1, TITLES[1].1, "duplicate", "cross_encoder", &format!("{score:.3}"), "version 4"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    let (is_found, alone, _) = look_up(folder.path(), &["product", "L"]);
    assert!(is_found && alone.contains("no duplicates"), "{alone}");
}

#[tokio::test]
async fn a_query_is_shown_as_a_table_or_as_json_and_what_is_missing_is_a_failure() {
    let folder = TempDir::new().expect("a folder");
    let model = model();
    fill(folder.path(), &model).await;

    let (is_found, found) = json_of(folder.path(), &["query", "  RED kettle"]);
    assert!(is_found);
    assert_eq!(
        (&found["query"], &found["intent"], &found["version"]),
        (&json!("red kettle"), &json!("product"), &json!(2))
    );
    assert_eq!(found["scores"]["product"], json!(1.0), "{found}");
    let (is_found, table, _) = look_up(folder.path(), &["query", "red kettle"]);
    assert!(is_found && table.contains("\"red kettle\" is product") && table.contains("1.000"), "{table}");

    for words in [["product", "nowhere"], ["query", "blue kettle"]] {
        let (is_found, found) = json_of(folder.path(), &words);
        assert!(!is_found && found["error"].is_string(), "{words:?}: {found}");
        let (is_found, printed, complaint) = look_up(folder.path(), &words);
        assert!(!is_found && printed.is_empty() && complaint.contains(words[1]), "{words:?}: {printed}{complaint}");
    }
}
