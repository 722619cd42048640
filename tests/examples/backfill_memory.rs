//! What `backfill` holds in memory, by the number of rows: checked only, and sent to a bulk queue
//! that takes everything. `target/release/examples/backfill_memory [ROWS]` runs it.

#![expect(clippy::print_stdout, reason = "a report")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tests::http_server::{Reply, Response, Server};
use tests::report::machine;
use tests::worker::{binary, peak_memory_kib};

const ROWS: u64 = 5_000_000;
/// The small run that the large one is held against has a hundredth of the rows.
const PART: u64 = 100;

#[tokio::main]
async fn main() {
    let rows = std::env::args().nth(1).map_or(ROWS, |given| given.parse().expect("a number of rows"));
    println!("{}", machine());
    let taken = Arc::new(AtomicU64::new(0));
    let queue = queue(Arc::clone(&taken)).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("{}/000000000000/bulk", queue.url());
    let sent = ["--bulk-queue-url", &url, "--endpoint-url", queue.url(), "--region", "us-east-1"];
    for rows in [rows / PART, rows] {
        let file = folder.path().join(format!("{rows}.csv"));
        write_rows(&file, rows).expect("the temporary folder has room");
        for (what, arguments) in [("checked", &["--dry-run"][..]), ("sent", &sent[..])] {
            let began = Instant::now();
            let mut command = Command::new(binary());
            command.arg("backfill").arg(&file).arg("--restart").args(arguments).stdout(Stdio::null());
            let peak_kib = peak_memory_kib(command).await;
            let seconds = began.elapsed().as_secs_f64();
            println!("{rows} rows {what}: {:.1} MiB at most, {seconds:.1} s", peak_kib as f64 / 1024.0);
        }
        assert_eq!(taken.swap(0, Ordering::Relaxed), rows, "rows that came to the queue");
    }
}

/// A queue that takes every batch.
async fn queue(taken: Arc<AtomicU64>) -> Server {
    Server::start(move |request| {
        let body: Value = serde_json::from_slice(&request.body).expect("the SDK sends JSON");
        let entries = body["Entries"].as_array().expect("a batch has entries");
        taken.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let done = |entry: &Value| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": ""});
        let done: Vec<Value> = entries.iter().map(done).collect();
        let answer = Response::json(200, &json!({"Successful": done, "Failed": []}));
        async move { Reply::Answer(answer) }
    })
    .await
}

fn write_rows(path: &Path, rows: u64) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "id,title,brand,model_number,description")?;
    for row in 0..rows {
        let (litres, watts) = (row % 17, row % 23);
        writeln!(
            file,
            "P{row:08},Norvik kettle {litres}.5 l {watts}00 W number {row},Norvik,KT{row:07},\"Boils {litres} litres, and keeps them warm\""
        )?;
    }
    file.flush()
}
