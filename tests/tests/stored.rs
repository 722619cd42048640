//! `evaluate stored` as people run it: tables filled by `backfill`, judged by what they say.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::worker::{artifact, binary};

/// Runs the binary on the tables in `folder`, and gives what it prints.
fn run(folder: &Path, words: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(words).arg("--local").arg(folder.join("tables")).arg("--artifact").arg(artifact());
    let output = command.args(["--replicas", "1"]).env("OMP_NUM_THREADS", "1").output().expect("the binary starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_stored_is_judged_and_each_loss_is_placed() {
    let folder = TempDir::new().expect("a folder");
    let set = folder.path().join("shop");
    std::fs::create_dir(&set).expect("a new folder");
    let write = |name: &str, text: &str| std::fs::write(set.join(name), text).expect("written");
    write(
        "tableA.csv",
        "id,title,category\n1,Soundmark Aria 300 wireless over-ear headphones black SM-A300,Audio\n\
         2,Brewline QX17 electric kettle 1.7 litre stainless steel,Kitchen\n3,Oak bookshelf,\n",
    );
    write("tableB.csv", "id,title,category\n1,\"Soundmark SM-A300 Aria 300 over ear headphones, wireless, black\",\n");
    let backfill = |side: &str| {
        let (table, prefix) = (set.join(format!("table{}.csv", side.to_uppercase())), format!("shop-{side}-"));
        run(folder.path(), &["backfill", table.to_str().expect("UTF-8"), "--id-prefix", &prefix]);
    };
    backfill("a");
    backfill("b");
    // Two more products that the tables have never heard of, and a match that nothing hints at.
    write("tableB.csv", "id,title,category\n1,Soundmark,\n2,Brewline kettle QX17,\n3,Another bookshelf,Furniture\n");
    write("valid.csv", "ltable_id,rtable_id,label\n1,1,1\n2,1,1\n2,2,1\n3,1,0\n3,3,1\n");

    let set = set.to_str().expect("UTF-8");
    let report: Value = serde_json::from_str(&run(folder.path(), &["evaluate", "stored", "--set", set, "--json"]))
        .expect("the report is JSON");
    let shop = &report["sets"][0];
    assert_eq!((&shop["set"], &shop["pairs"], &shop["matches"]), (&json!("shop"), &json!(5), &json!(4)), "{report}");
    assert_eq!(shop["lost"], json!({"blocking": 1, "unlabelled": 2}), "{report}");
    assert_eq!((&shop["recall"], &shop["precision"]), (&json!(0.25), &json!(1.0)), "{report}");
    assert_eq!(shop["by_category"]["audio"]["recall"], json!(1.0), "{report}");
    assert_eq!(shop["by_category"]["kitchen"]["lost"], json!({"blocking": 1, "unlabelled": 1}), "{report}");
    let text = run(folder.path(), &["evaluate", "stored", "--set", set]);
    assert!(text.contains("lost: blocking") && text.contains("furniture"), "{text}");
}
