//! Pairs a second on one core, beside the same network in the engines that a user would pick.
//! `make bench-pairs` runs it and writes its section of docs/BENCHMARKS.md.
//!
//! Contenders take turns, each in a process of its own. Ours goes from texts to verdicts; the
//! peers are given tokens. Rates are for a second of CPU time: one thread computes, and
//! whatever else the machine does then counts for nobody.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the child's answer, and progress")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use consumer::app::evaluate::dataset::{LabelledPair, read_pairs};
use models::encode::Encoder;
use models::{Artifact, Kernel, Scorer, ScorerOptions, TextPair};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tests::artifacts::without;
use tests::report::{cpu_has, cpu_s, machine, write_section};
use tests::worker::{artifact, repository};

const ROUNDS: usize = 3;
/// Pairs of each set, from the top of its file.
const PAIRS_OF_SET: usize = 250;
const SETS: [&str; 3] = ["abt-buy", "amazon-google", "walmart-amazon"];
/// engine, path; onnxruntime has no bf16 for this network, and openvino's int8 leaves some in it.
const PEERS: [(&str, &str); 7] = [
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("onnxruntime", "int8-7bit"),
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
    ("pytorch", "fp32"),
];
/// What the child has beside the whole network, which no peer has; and what rows say of it.
const STAGES: [(&str, &str); 3] =
    [("exits", ", with its early exits"), ("none", ", whole network"), ("all", ", behind its cascade, with its exits")];
/// Verdicts that may differ from those of PyTorch in fp32, as a share of the pairs.
const FLIPS_MAX: f64 = 0.005;

/// What one run of a contender answers.
#[derive(Deserialize, Serialize)]
struct Answer {
    cpu_seconds: f64,
    /// `[distinct, duplicate]` of peers.
    #[serde(default)]
    logits: Vec<[f64; 2]>,
    #[serde(default)]
    probabilities: Vec<f64>,
}

struct Contender {
    name: String,
    command: Box<dyn Fn() -> Command>,
    rates: Vec<f64>,
    is_duplicate: Vec<bool>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("give the folder of the sets"));
    let pairs = pairs(&folder);
    if let Some(numeric) = arguments.next() {
        return score(pairs, &numeric, &arguments.next().expect("the parent names the stages"));
    }
    let rows = tempfile::NamedTempFile::new().expect("a temporary file");
    let tokens = write_tokens(&pairs, rows.path());
    quantise(rows.path());
    let mut contenders = contenders(&folder, rows.path());
    for round in 0..ROUNDS {
        for contender in &mut contenders {
            let answer = answer(&mut (contender.command)());
            contender.rates.push(pairs.len() as f64 / answer.cpu_seconds);
            contender.is_duplicate = answer.verdicts();
            eprintln!("round {round}: {}: {:.0} pairs/s of CPU", contender.name, contender.rates[round]);
        }
    }
    write_section("pairs", &report(&contenders, pairs.len(), tokens));
}

fn contenders(folder: &Path, rows: &Path) -> Vec<Contender> {
    let contender = |name, command: Box<dyn Fn() -> Command>| Contender {
        name,
        command,
        rates: Vec::new(),
        is_duplicate: Vec::new(),
    };
    let mut all = Vec::new();
    // Emulated, bf16 is nobody's choice.
    let is_in_hardware = |path: &str| path != "bf16" || cpu_has("avx512_bf16");
    for numeric in ["int8", "bf16", "fp32"].into_iter().filter(|path| is_in_hardware(path)) {
        for (stages, named) in STAGES {
            let folder = folder.to_owned();
            let command = move || {
                let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
                command.arg(&folder).args([numeric, stages]);
                command
            };
            all.push(contender(format!("catalog-labels, {numeric}{named}"), Box::new(command)));
        }
    }
    for (engine, path) in PEERS.into_iter().filter(|(_, path)| is_in_hardware(path)) {
        for sorted in [false, true] {
            let rows = rows.to_owned();
            let command = move || {
                let mut command = peer(&rows);
                command.args(["--engine", engine, "--path", path]).args(sorted.then_some("--sorted"));
                command
            };
            let order = if sorted { "sorted" } else { "as they come" };
            all.push(contender(format!("{engine} {path}, {order}"), Box::new(command)));
        }
    }
    all
}

fn peer(rows: &Path) -> Command {
    let mut command = Command::new(repository().join(".venv-bench/bin/python"));
    let models = repository().join(".local/bench-models");
    command.args(["-W", "ignore"]).arg(repository().join("models/bench/peer_pairs.py"));
    command.arg("--models").arg(models).arg("--rows-file").arg(rows);
    command
}

/// OpenVINO's int8 network is calibrated on rows, unlike onnxruntime's.
fn quantise(rows: &Path) {
    let status = peer(rows).arg("--quantise").stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "OpenVINO's network is not quantised; run make bench-pairs");
}

fn answer(command: &mut Command) -> Answer {
    let output = command.env("OMP_NUM_THREADS", "1").stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}; run make bench-pairs"));
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("a contender answers in JSON")
}

impl Answer {
    /// Which pairs are duplicates by the artifact's threshold.
    fn verdicts(&self) -> Vec<bool> {
        let manifest = Artifact::open(&artifact()).expect("the shipped artifact is good").manifest;
        let (temperature, threshold) = (f64::from(manifest.temperature), f64::from(manifest.thresholds.duplicate));
        let calibrated = |[distinct, duplicate]: &[f64; 2]| 1.0 / (1.0 + ((distinct - duplicate) / temperature).exp());
        let of_logits = self.logits.iter().map(calibrated);
        of_logits.chain(self.probabilities.iter().copied()).map(|probability| probability >= threshold).collect()
    }
}

/// Pairs of the validation files, in the order of each.
fn pairs(folder: &Path) -> Vec<TextPair> {
    let of_set = |set: &&str| {
        let file = |name: &str| folder.join(set).join(name);
        let pairs = read_pairs(&file("tableA.csv"), &file("tableB.csv"), &file("valid.csv"));
        pairs.unwrap_or_else(|error| panic!("{set}: {error}")).into_iter().take(PAIRS_OF_SET)
    };
    SETS.iter().flat_map(of_set).map(texts).collect()
}

fn texts(pair: LabelledPair) -> TextPair {
    TextPair { left: pair.left.text.into(), right: pair.right.text.into() }
}

/// Writes `[ids, types]` a line, and answers how many ids there are.
fn write_tokens(pairs: &[TextPair], file: &Path) -> usize {
    let opened = Artifact::open(&artifact()).expect("the shipped artifact is good");
    let (pair_max, query_max) = (opened.manifest.pair_tokens_max, opened.manifest.query_tokens_max);
    let encoder = Encoder::new(&opened.tokenizer, pair_max, query_max).expect("the tokenizer is good");
    let rows = encoder.pairs(pairs).expect("texts have tokens");
    let lines: Vec<String> = rows.iter().map(|row| json!([row.ids, row.types]).to_string()).collect();
    std::fs::write(file, lines.join("\n")).expect("the file is writable");
    rows.iter().map(|row| row.ids.len()).sum()
}

/// The child: scores every pair in one call, as `backfill` does, and prints an [`Answer`].
fn score(pairs: Vec<TextPair>, numeric: &str, stages: &str) {
    let options =
        ScorerOptions { replicas: 1, numeric: numeric.parse().expect("a numeric path"), kernel: Kernel::Auto };
    let without_forest = without(&["cascade"]);
    let folder = if stages == "exits" { without_forest.path() } else { &artifact() };
    // As the peers do: a second reading would cost each of them as much.
    let scorer = Scorer::start(folder, options).expect("the scorer starts").reading_once();
    let scorer = if stages == "none" { scorer.without_cascade() } else { scorer };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let warm_up = pairs.iter().take(96).cloned().collect();
    runtime.block_on(scorer.score_pairs(warm_up)).expect("the pairs are scored");
    let started = cpu_s();
    let scores = runtime.block_on(scorer.score_pairs(pairs)).expect("the pairs are scored");
    let cpu_seconds = cpu_s() - started;
    let probabilities = scores.iter().map(|score| f64::from(score.probability)).collect();
    println!("{}", json!(Answer { cpu_seconds, logits: Vec::new(), probabilities }));
}

fn report(contenders: &[Contender], pairs: usize, tokens: usize) -> String {
    let reference = contenders.iter().find(|c| c.name.starts_with("pytorch")).expect("PyTorch is a contender");
    let ours = median(&contenders[0].rates);
    let mut text = format!(
        "## Pairs on one core, beside other engines\n\n{}. `make bench-pairs PAIRS=FOLDER`: the first {PAIRS_OF_SET} \
         validation pairs of {} in file order, {pairs} pairs of {:.1} tokens on the mean; the same weights, one thread, \
         {ROUNDS} rounds in turn, medians with the lowest and the highest. A rate is for a second of *CPU time*, since other \
         work may share the machine. catalog-labels is given texts (marking and tokenising count), and scores each pair by the network but in the rows with its cascade; with its early exits a pair that is surely distinct leaves after four of the six layers; all read each pair in one order; the peers are given \
         tokens, in batches of 32 padded to the longest row; onnxruntime's int8 is its dynamic quantisation per channel, 7bit with `reduce_range`, \
         OpenVINO's is NNCF's of weights and activations, calibrated on these very rows. *Flips* are verdicts other than PyTorch's in fp32; over \
         {:.1}% a row is not of equal quality.\n\n| engine | pairs/s of CPU | spread | ours is | flips |\n|---|---:|---|---:|---:|\n",
        machine(),
        SETS.join(", "),
        tokens as f64 / pairs as f64,
        FLIPS_MAX * 100.0,
    );
    for Contender { name, rates, is_duplicate, .. } in contenders {
        let rate = median(rates);
        let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rates.iter().copied().fold(0.0, f64::max);
        let flips = is_duplicate.iter().zip(&reference.is_duplicate).filter(|(one, other)| one != other).count();
        let share = flips as f64 / pairs as f64;
        let unequal = if share > FLIPS_MAX { ", not equal" } else { "" };
        let _ = writeln!(
            text,
            "| {name} | {rate:.0} | {low:.0} to {high:.0} | {:.2} x | {:.2}%{unequal} |",
            ours / rate,
            share * 100.0
        );
    }
    text
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
