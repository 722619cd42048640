//! `evaluate stored` and `evaluate pairs` as people run them: what labels say, judged by known pairs.

use std::path::Path;
use std::process::Command;

use consumer::decide::blocking::KeyEpoch;
use consumer::store::{Embedded, WriteOutcome};
use serde_json::{Value, json};
use shared::item::KeyEpochsItem;
use shared::table::PREFIX_DEFAULT;
use tempfile::TempDir;
use tests::worker::{artifact, binary};

/// Runs the binary on the tables in `folder`, and gives what it prints.
fn run(folder: &Path, words: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(words).arg("--local").arg(folder.join("tables"));
    let output = command.env("OMP_NUM_THREADS", "1").output().expect("the binary starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Look-ups go by another key epoch from now on, one to which "black" is rare.
async fn switch_key_epoch(folder: &Path) {
    let engine = Embedded::open(&folder.join("tables")).expect("opens");
    let store = engine.store(PREFIX_DEFAULT);
    let common = "Soundmark Aria 300 wireless over-ear headphones SM-A300";
    let texts: Vec<String> = (0..4_096).map(|n| format!("{common} item{n}")).collect();
    let file = KeyEpoch::build(7, &texts, 64).to_string();
    assert_eq!(store.put_key_epoch_file(7, &file).await.expect("writes"), WriteOutcome::Written);
    let item = KeyEpochsItem { active: 7, revision: 1, ..consumer::decide::rollout::shipped() };
    assert_eq!(store.put_key_epochs(&item).await.expect("writes"), WriteOutcome::Written);
    engine.stop().await.expect("stops");
}

#[tokio::test]
async fn what_is_stored_is_judged_and_each_loss_is_placed() {
    let folder = TempDir::new().expect("a folder");
    let set = folder.path().join("shop");
    std::fs::create_dir(&set).expect("a new folder");
    let write = |name: &str, text: &str| std::fs::write(set.join(name), text).expect("written");
    write(
        "tableA.csv",
        "id,title,category\n1,Soundmark Aria 300 wireless over-ear headphones black SM-A300,Audio\n\
         2,Brewline QX17 electric kettle 1.7 litre stainless steel,Kitchen\n3,Oak bookshelf,\n",
    );
    write(
        "tableB.csv",
        "id,title,category\n1,\"Soundmark SM-A300 Aria 300 over ear headphones, wireless, black\",\n\
         4,Enamel kettle,\n5,Black armchair,\n",
    );
    let artifact = artifact();
    let backfill = |side: &str| {
        let (table, prefix) = (set.join(format!("table{}.csv", side.to_uppercase())), format!("shop-{side}-"));
        let (table, artifact) = (table.to_str().expect("UTF-8"), artifact.to_str().expect("UTF-8"));
        let model = ["--artifact", artifact, "--replicas", "1"];
        run(folder.path(), &[&["backfill", table, "--id-prefix", &prefix], &model[..]].concat());
    };
    backfill("a");
    backfill("b");
    // Two more products that the tables have never heard of, a match that nothing hints at, one that
    // the model denies, and one by a word that is common to the shipped key epoch.
    write(
        "tableB.csv",
        "id,title,category\n1,Soundmark,\n2,Brewline kettle QX17,\n3,Another bookshelf,Furniture\n\
         4,Enamel kettle,\n5,Black armchair,\n",
    );
    write("valid.csv", "ltable_id,rtable_id,label\n1,1,1\n1,5,1\n2,1,1\n2,2,1\n2,4,1\n3,1,0\n3,3,1\n");

    let set = set.to_str().expect("UTF-8");
    let report: Value = serde_json::from_str(&run(folder.path(), &["evaluate", "stored", "--set", set, "--json"]))
        .expect("the report is JSON");
    let shop = &report["sets"][0];
    assert_eq!((&shop["set"], &shop["pairs"], &shop["matches"]), (&json!("shop"), &json!(7), &json!(6)), "{report}");
    assert_eq!(shop["lost"], json!({"blocking": 2, "model": 1, "unlabelled": 2}), "{report}");
    assert_eq!((&shop["recall"], &shop["precision"]), (&json!(1.0 / 6.0), &json!(1.0)), "{report}");
    assert_eq!(shop["by_category"]["audio"]["recall"], json!(0.5), "{report}");
    assert_eq!(shop["by_category"]["kitchen"]["lost"], json!({"blocking": 1, "model": 1, "unlabelled": 1}), "{report}");
    let text = run(folder.path(), &["evaluate", "stored", "--set", set]);
    assert!(text.contains("lost: blocking") && text.contains("furniture"), "{text}");

    switch_key_epoch(folder.path()).await;
    let report: Value = serde_json::from_str(&run(folder.path(), &["evaluate", "stored", "--set", set, "--json"]))
        .expect("the report is JSON");
    let expected = json!({"blocking": 1, "cap": 1, "model": 1, "unlabelled": 2});
    assert_eq!(report["sets"][0]["lost"], expected, "what is black shares a key now, and nobody scored it");
}

/// The hardcovers would be a duplicate of the right one, were the paperbacks not more surely the same.
#[test]
fn pairs_of_two_tables_are_judged_as_readers_take_them() {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
        folder.path().join(name)
    };
    let left = write(
        "a.csv",
        "id,title,brand\n1,\"The Saltmarsh Letters: The Complete Trilogy (3 book box set, hardcover) by Imogen Farrow\",Farrow\n\
         2,\"The Saltmarsh Letters: The Complete Trilogy (3 book box set, paperback) by Imogen Farrow\",Farrow\n",
    );
    let right = write("b.csv", "id,title\n1,Imogen Farrow - Saltmarsh Letters Trilogy Boxed Set - 3 Paperbacks\n");
    let pairs = write("pairs.csv", "ltable_id,rtable_id,label\n1,1,0\n2,1,1\n");
    let verdicts = folder.path().join("verdicts.csv");
    let judge = |options: &[&str]| -> (Value, Vec<String>) {
        let mut command = Command::new(binary());
        command.args(["evaluate", "pairs", "--json", "--numeric", "fp32", "--artifact"]).arg(artifact());
        command.arg("--left").arg(&left).arg("--right").arg(&right).arg("--pairs").arg(&pairs);
        let output = command.arg("--verdicts").arg(&verdicts).args(options).output().expect("the binary starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = std::fs::read_to_string(&verdicts).expect("written");
        (serde_json::from_slice(&output.stdout).expect("JSON"), rows.lines().map(str::to_owned).collect())
    };
    let (report, rows) = judge(&[]);
    assert_eq!((&report["precision"], &report["recall"], &report["contested"]), (&json!(1.0), &json!(1.0), &json!(1)));
    assert!(report["f1_alone"].as_f64().expect("a number") < 1.0, "{report}");
    assert_eq!(rows[0], "label,probability,verdict,stage,rival");
    assert!(rows[1].starts_with("0,") && rows[1].contains(",review,cross_encoder,0."), "{rows:?}");
    assert!(rows[2].starts_with("1,") && rows[2].ends_with(",duplicate,cross_encoder,"), "{rows:?}");

    let (alone, rows) = judge(&["--alone"]);
    assert_eq!((&alone["f1"], &alone["contested"]), (&report["f1_alone"], &Value::Null));
    assert!(rows[1].ends_with(",duplicate,cross_encoder,"), "{rows:?}");
}
