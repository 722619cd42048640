//! Whether `backfill` keeps the scorer busy: the command's pairs a second, beside what the same
//! scorer makes of the same pairs when it has them all at once. `make bench-backfill` runs it on the
//! two tables of a set: the first is labelled beforehand, the second is measured.
//!
//! Labels go to the embedded tables in a file, which writes through to the disk request by request,
//! and to the same engine in the memory of another process, as tables elsewhere are.

#![expect(clippy::print_stdout, reason = "a report")]

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Parser;
use consumer::app::{Cli, Command as Of, backfill};
use consumer::flow::Score;
use consumer::store::Embedded;
use models::{IntentScore, PairScore, ScoreError, Scorer, TextPair};
use shared::ModelId;
use shared::table::PREFIX_DEFAULT;
use tests::report::{cpu_s, machine};
use tests::worker::{artifact, binary};
use tikv_jemallocator::Jemalloc;

/// As in the command that is measured (ADR 34).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const ROUNDS: usize = 3;
/// One core scores, and the others are left to the rest.
const REPLICAS: &str = "1";
/// Tells a process that it is one round: where its tables are.
const ROUND: &str = "BENCH_BACKFILL_ROUND";

fn main() -> ExitCode {
    let set = std::env::args().nth(1).expect("give the folder of a set: tableA.csv and tableB.csv");
    let set = Path::new(&set);
    if let Ok(tables) = std::env::var(ROUND) {
        return round(set, &tables);
    }
    println!("{}", machine());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for in_memory in [false, true] {
        let ratio = |number| runtime.block_on(ratio_of_round(set, in_memory, number));
        let mut ratios: Vec<f64> = (0..ROUNDS).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let place = place(in_memory);
        println!("{place}: backfill / alone, median of {ROUNDS}: {:.3}; the goal is 0.95", ratios[ROUNDS / 2]);
    }
    ExitCode::SUCCESS
}

fn place(in_memory: bool) -> &'static str {
    if in_memory { "tables in another process" } else { "tables in a file" }
}

/// One round in a process of its own, on tables of its own.
async fn ratio_of_round(set: &Path, in_memory: bool, number: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = if in_memory { Embedded::memory() } else { Embedded::open(folder.path()) };
    let engine = engine.expect("the engine starts");
    engine.store(PREFIX_DEFAULT).create_tables().await.expect("the tables are made");
    let tables = if in_memory { engine.endpoint_url().to_owned() } else { folder.path().display().to_string() };
    let engine = if in_memory { Some(engine) } else { engine.stop().await.map(|()| None).expect("it stops") };
    let mut first = Command::new(binary());
    let first = first.args(arguments(set, "A", &tables, folder.path())).stdout(Stdio::null()).status();
    assert!(first.expect("the command starts").success(), "the first table could not be labelled");
    let myself = std::env::current_exe().expect("a program has a path");
    let mut second = Command::new(myself);
    let output = second.arg(set).env(ROUND, &tables).stderr(Stdio::inherit()).output().expect("it starts");
    drop(engine);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let line = said.lines().next_back().unwrap_or_default();
    println!("{}, round {number}: {line}", place(in_memory));
    let ratio = line.rsplit(' ').next().and_then(|word| word.parse().ok());
    ratio.unwrap_or_else(|| panic!("the round said {said}"))
}

/// `tables` are a URL or a folder.
fn arguments(set: &Path, side: &str, tables: &str, folder: &Path) -> Vec<String> {
    let display = |path: &Path| path.display().to_string();
    let (input, checkpoint) = (set.join(format!("table{side}.csv")), folder.join(format!("{side}.json")));
    let place: &[&str] = if tables.starts_with("http") {
        &["--region", "us-east-1", "--endpoint-url", tables]
    } else {
        &["--local", tables]
    };
    let options = ["backfill", &display(&input), "--replicas", REPLICAS, "--id-prefix", side];
    let files = ["--artifact", &display(&artifact()), "--checkpoint", &display(&checkpoint)];
    options.iter().chain(place).chain(&files).map(|&argument| argument.to_owned()).collect()
}

/// Prints the two rates and their ratio.
fn round(set: &Path, tables: &str) -> ExitCode {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let asked = Arc::new(Mutex::new(Asked::default()));
    let (tap, scorer) = (Arc::clone(&asked), Arc::new(Mutex::new(None)));
    let kept = Arc::clone(&scorer);
    let start = move |model: &consumer::app::config::ModelArgs| {
        let scorer = model.start()?;
        *locked(&kept) = Some(scorer.clone());
        Ok(Box::new(Tap { scorer, asked: tap }) as Box<dyn Score>)
    };
    let cli =
        Cli::parse_from(["catalog-labels".to_owned()].into_iter().chain(arguments(set, "B", tables, folder.path())));
    let Of::Backfill(args) = cli.command else { panic!("another command was parsed") };
    backfill::run_with(args, Box::new(start)).expect("the second table is labelled");
    let Asked { pairs, first, last } = std::mem::take(&mut *locked(&asked));
    let ((first, cpu), last) = first.zip(last).expect("pairs were scored");
    let cpu = cpu_s() - cpu;
    let scorer: Scorer = locked(&scorer).take().expect("it was started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    let (count, began) = (pairs.len() as f64, Instant::now());
    runtime.block_on(scorer.score_pairs(pairs)).expect("the pairs are scored");
    let (took, alone) = (last.duration_since(first), count / began.elapsed().as_secs_f64());
    let within = count / took.as_secs_f64();
    println!(
        "{count} pairs, {within:.1} pairs/s in backfill ({:.2} cores busy), {alone:.1} pairs/s alone, ratio {:.3}",
        cpu / took.max(Duration::from_millis(1)).as_secs_f64(),
        within / alone
    );
    ExitCode::SUCCESS
}

/// What a scorer was asked, in order.
#[derive(Default)]
struct Asked {
    pairs: Vec<TextPair>,
    /// When the first question came, and the seconds of CPU that the process had used by then.
    first: Option<(Instant, f64)>,
    /// When the last answer went.
    last: Option<Instant>,
}

/// The scorer, overheard.
struct Tap {
    scorer: Scorer,
    asked: Arc<Mutex<Asked>>,
}

#[async_trait]
impl Score for Tap {
    fn model_id(&self) -> &ModelId {
        self.scorer.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        {
            let mut asked = locked(&self.asked);
            asked.pairs.extend(pairs.iter().cloned());
            asked.first.get_or_insert_with(|| (Instant::now(), cpu_s()));
        }
        let scores = self.scorer.score_pairs(pairs).await;
        locked(&self.asked).last = Some(Instant::now());
        scores
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.scorer.score_queries(queries).await
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        self.scorer.probe(None).await
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
