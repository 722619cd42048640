//! Whether the host keeps sixteen NeuronCores busy: pairs a second with one replica and with
//! sixteen, over a stand-in whose every batch takes 5 ms, and what the host spends on a pair.
//! `make bench-inf1` runs it; each run is a process of its own, since it has a device of its own.

#![expect(clippy::print_stdout, reason = "the child's answer, and the result")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use models::shape::Shape;
use models::{Artifact, Scorer, ScorerOptions, TextPair};
use tempfile::TempDir;
use tests::report::cpu_s;
use tikv_jemallocator::Jemalloc;

#[path = "../../models/tests/stand_in/mod.rs"]
mod stand_in;

/// As in the worker.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const REPLICAS: &str = "NEURON_BENCH_REPLICAS";
const ARTIFACT: &str = "NEURON_BENCH_ARTIFACT";
const ROUNDS: usize = 3;
const MANY: usize = 16;
/// Rows and tokens of each: at most what BERT-base takes 15 ms for, so that the host is asked for
/// several times the pairs of the public figures.
const SHAPES: [(usize, usize); 6] = [(1, 16), (1, 32), (16, 16), (8, 32), (6, 64), (4, 128)];
/// For each replica and run.
const PAIRS: usize = 3_000;
/// Of an event; those of Abt-Buy have 8 with it in one catalog (docs/BENCHMARKS.md).
const CANDIDATES: usize = 8;

fn main() {
    if let Ok(replicas) = std::env::var(REPLICAS) {
        return child(replicas.parse().expect("the parent sets a number"));
    }
    let artifact = stand_in::artifact(&SHAPES.map(|(rows, length)| Shape { rows, length }));
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let [one, many] = [1, MANY].map(|replicas| run(&artifact, replicas));
        let ratio = many[0] / (MANY as f64 * one[0]);
        println!(
            "round {round}: 1 replica {:.0} pairs/s, {MANY} replicas {:.0} pairs/s: {:.1}% of {MANY} times one; {:.0} us of CPU a pair",
            one[0],
            many[0],
            100.0 * ratio,
            many[1]
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median: {:.1}% of {MANY} times one replica; the goal is 95%", 100.0 * ratios[ROUNDS / 2]);
}

/// Pairs a second, and microseconds of CPU that the process spent on each.
fn run(artifact: &TempDir, replicas: usize) -> [f64; 2] {
    let device = TempDir::new().expect("a temporary folder");
    std::fs::write(device.path().join("behaviour"), "device_us=5000").expect("writable");
    let inherited = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let output = Command::new(std::env::current_exe().expect("a bench has a path"))
        .env(REPLICAS, replicas.to_string())
        .env(ARTIFACT, artifact.path())
        .env("STAND_IN", device.path())
        .env("NEURON_RT_NUM_CORES", replicas.to_string())
        .env("LD_LIBRARY_PATH", format!("{}:{inherited}", stand_in::library().display()))
        .output()
        .expect("the child starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("the child answers in text");
    let mut numbers = said.split_whitespace().map(|word| word.parse().expect("the child answers numbers"));
    [0, 1].map(|_| numbers.next().expect("the child answers two numbers"))
}

fn child(replicas: usize) {
    let folder = std::env::var(ARTIFACT).expect("the parent sets it");
    let options = ScorerOptions { replicas, ..ScorerOptions::default() };
    let scorer = Scorer::start(Path::new(&folder), options).expect("the stand-in is good");
    let pairs = pairs(replicas * PAIRS);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let (began, cpu) = (Instant::now(), cpu_s());
    let count = pairs.len() as f64;
    runtime.block_on(scorer.score_pairs(pairs)).expect("the pairs are scored");
    println!("{} {}", count / began.elapsed().as_secs_f64(), 1e6 * (cpu_s() - cpu) / count);
}

/// Golden pairs, as events bring them: one text beside each of its candidates. Numbers keep the
/// texts of different events apart, since a text that comes again in a call is not tokenised again.
fn pairs(count: usize) -> Vec<TextPair> {
    let goldens = Artifact::open(&stand_in::shipped()).expect("the shipped artifact is good").goldens;
    let case = goldens.cases.into_iter().find(|case| case.name == "pairs: mixed lengths").expect("it is there");
    let texts = &case.texts;
    let pair = |i: usize| TextPair {
        left: format!("{} {}", texts[i / CANDIDATES % texts.len()][0], i / CANDIDATES).into(),
        right: format!("{} {i}", texts[i % texts.len()][1]).into(),
    };
    (0..count).map(pair).collect()
}
