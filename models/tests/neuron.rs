//! NeuronCores, played by a stand-in for their op library (`stand_in/libtorchneuron.cpp`). A
//! library cannot be taken out of a process again, so each test loads it in a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use models::encode::{Encoded, Encoder};
use models::golden::Kind;
use models::shape::Shape;
use models::{Artifact, Kernel, Numeric, ScoreError, Scorer, ScorerOptions, TextPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

mod stand_in;

/// What a child does; its outcome is one line behind [`OUTCOME`].
const JOB: &str = "NEURON_TEST_JOB";
const ARTIFACT: &str = "NEURON_TEST_ARTIFACT";
const REPLICAS: &str = "NEURON_TEST_REPLICAS";
const OUTCOME: &str = "outcome: ";
/// Not in order, and with two shapes of one length.
const SHAPES: [(usize, usize); 4] = [(4, 128), (1, 16), (8, 48), (8, 16)];
const PAIRS: usize = 300;
const QUERIES: usize = 40;
/// Of the network of BERT-base's shape, which a CPU takes long for.
const BASE_SHAPES: [(usize, usize); 3] = [(2, 128), (1, 16), (4, 48)];
const BASE_PAIRS: usize = 24;
const BASE_QUERIES: usize = 6;
/// Of probabilities; two residues are further apart.
const TOLERANCE: f32 = 1e-4;
/// In the stand-in's folder: what is due, for the child to compare.
const DUE: &str = "due.json";

/// A host with Neuron devices of its own.
struct Host {
    /// Where the stand-in reads its behaviour and writes its log.
    folder: TempDir,
    artifact: TempDir,
    cores: usize,
    libraries: PathBuf,
}

impl Host {
    fn new(cores: usize) -> Self {
        Self::of(cores, stand_in::artifact(&SHAPES.map(|(rows, length)| Shape { rows, length })))
    }

    fn of(cores: usize, artifact: TempDir) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let host = Self { folder, artifact, cores, libraries: stand_in::library().to_owned() };
        host.behave("log=1");
        host
    }

    fn behave(&self, settings: &str) {
        behave(self.folder.path(), settings);
    }

    /// What a child process says that does `job` with `replicas`.
    fn outcome(&self, job: &str, replicas: usize) -> String {
        let myself = std::env::current_exe().expect("a test has a path");
        let inherited = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let output = Command::new(myself)
            .args(["--exact", "child", "--nocapture"])
            .env(JOB, job)
            .env(ARTIFACT, self.artifact.path())
            .env(REPLICAS, replicas.to_string())
            .env("STAND_IN", self.folder.path())
            .env("NEURON_RT_NUM_CORES", self.cores.to_string())
            .env("LD_LIBRARY_PATH", format!("{}:{inherited}", self.libraries.display()))
            .output()
            .expect("the child starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let outcome = said.lines().find_map(|line| line.split_once(OUTCOME).map(|(_, outcome)| outcome.to_owned()));
        outcome.unwrap_or_else(|| panic!("the child ended with {}: {said}", output.status))
    }

    /// The lines of one kind in the log, as the values of their fields.
    fn log(&self, kind: &str) -> Vec<BTreeMap<String, String>> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.strip_prefix(kind));
        let field = |field: &str| field.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        lines.map(|line| line.split_whitespace().filter_map(field).collect()).collect()
    }
}

fn behave(folder: &Path, settings: &str) {
    // In one step: a device may be reading it.
    let new = folder.join("behaviour.new");
    fs::write(&new, settings).expect("writable");
    fs::rename(new, folder.join("behaviour")).expect("writable");
}

#[test]
fn each_core_holds_every_module_and_belongs_to_one_thread() {
    let host = Host::new(4);
    assert_eq!(host.outcome("score", 4), "as expected");
    let loads: Vec<(String, String)> =
        host.log("load ").iter().map(|load| (load["core"].clone(), load["shape"].clone())).collect();
    let due =
        SHAPES.iter().flat_map(|(rows, length)| (0..4).map(move |core| (core.to_string(), format!("{rows}x{length}"))));
    assert_eq!(loads, due.collect::<Vec<_>>(), "a shape on all cores in order, then the next");
    let runs = host.log("run ");
    let mut threads: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in &runs {
        threads.entry(&run["core"]).or_default().insert(&run["thread"]);
    }
    assert_eq!(threads.len(), 4, "every core ran");
    assert!(threads.values().all(|of_core| of_core.len() == 1), "{threads:?}");
    assert_eq!(threads.values().flatten().collect::<BTreeSet<_>>().len(), 4, "no thread has two cores");
    for core in 0..4 {
        let golden: BTreeSet<&str> =
            runs.iter().filter(|run| run["core"] == core.to_string()).map(|run| run["shape"].as_str()).collect();
        assert_eq!(golden.len(), SHAPES.len(), "the goldens were checked at every shape of core {core}");
    }
}

#[test]
fn sixteen_cores_run_at_once() {
    // The host holds up no core while another runs: none of the runs ends before 16 have begun.
    let host = Host::new(16);
    assert_eq!(host.outcome("meet", 16), "as expected");
}

/// Files, memory and time as the network of the public figures has them: 110 million random
/// weights, whose logits a program of its own has vouched for, one row at a time. Each pair is
/// read in both orders.
#[test]
fn a_network_of_the_base_shape_passes_the_whole_path() {
    let folder = TempDir::new().expect("a temporary folder");
    let torchscript = folder.path().join("bert.ts");
    let mut goldens = stand_in::shipped_goldens();
    let cases = goldens["cases"].as_array_mut().expect("cases are a list");
    let kept = ["pairs: mixed lengths", "pairs: longer than the model reads", "queries: one query"];
    cases.retain(|case| kept.contains(&case["name"].as_str().expect("a case has a name")));
    let golden_rows: Vec<Encoded> = cases.iter().flat_map(rows_of).collect();
    let encoder = encoder(&stand_in::shipped());
    let pairs = pairs(BASE_PAIRS);
    let turned = pairs.iter().map(TextPair::in_order).map(|(first, second)| (second, first));
    let pair_rows = encoder.pairs(&pairs).expect("they are encoded");
    let turned_rows = encoder.ordered_pairs(turned).expect("they are encoded");
    let query_rows = encoder.queries(&queries(BASE_QUERIES)).expect("they are encoded");
    let rows = golden_rows.iter().chain(&pair_rows).chain(&turned_rows).chain(&query_rows);
    let mut logits = bert(&torchscript, rows).into_iter();
    for case in cases {
        let rows = case["texts"].as_array().map_or(0, Vec::len);
        let is_pairs = case["kind"] == "pairs";
        let of_case = logits.by_ref().take(rows);
        case["logits"] = of_case.map(|(pair, intent)| if is_pairs { json!(pair) } else { json!(intent) }).collect();
    }
    let [once, again] = [(); 2].map(|()| logits.by_ref().take(BASE_PAIRS).map(|(pair, _)| pair).collect::<Vec<_>>());
    let mean = |(one, other): (&[f32; 2], &[f32; 2])| [0, 1].map(|label| (one[label] + other[label]) / 2.0);
    let queries = logits.map(|(_, intent)| intent).collect();
    let due = Due { pairs: once.iter().zip(&again).map(mean).collect(), queries };
    let margin = |[distinct, duplicate]: &[f32; 2]| duplicate - distinct;
    let [least, most] =
        [f32::min, f32::max].map(|of| due.pairs.iter().map(margin).reduce(of).expect("there are pairs"));
    assert!(most - least > 0.5, "random weights tell rows apart: {:?}", due.pairs);
    let changes = once.iter().zip(&again).map(|(one, other)| (margin(one) - margin(other)).abs());
    assert!(changes.fold(0.0, f32::max) > 0.05, "and the orders of a pair: {once:?}, {again:?}");

    let shapes = BASE_SHAPES.map(|(rows, length)| Shape { rows, length });
    let host = Host::of(2, stand_in::artifact_of(&shapes, Some(&torchscript), &goldens));
    let parameters = fs::metadata(&torchscript).expect("it was written").len() / 2;
    assert!(parameters > 108_000_000, "{parameters} of two bytes each");
    stand_in::edit_manifest(host.artifact.path(), |manifest| {
        manifest["schema_version"] = json!(7);
        manifest["second_reading"] = json!({"above": 1e-6, "below": 0.999_999});
    });
    fs::write(host.folder.path().join(DUE), serde_json::to_string(&due).expect("JSON")).expect("writable");
    assert_eq!(host.outcome("due", 2), "as expected");
    let runs = host.log("run ");
    for core in ["0", "1"] {
        let of_core: BTreeSet<&str> =
            runs.iter().filter(|run| run["core"] == core).map(|run| run["shape"].as_str()).collect();
        assert_eq!(of_core.len(), BASE_SHAPES.len(), "core {core} ran every shape: {of_core:?}");
    }
}

/// A golden case's rows.
fn rows_of(case: &Value) -> Vec<Encoded> {
    let [ids, types] = ["input_ids", "token_types"]
        .map(|name| serde_json::from_value::<Vec<Vec<i64>>>(case[name].clone()).expect("lists of numbers"));
    ids.into_iter().zip(types).map(|(ids, types)| Encoded { ids, types, kind: Kind::Pairs, may_leave: false }).collect()
}

/// Has the network written to `torchscript`, and gives what it answers to each row alone: logits
/// of the pair head and of the intent head.
fn bert<'r>(torchscript: &Path, rows: impl Iterator<Item = &'r Encoded>) -> Vec<([f32; 2], [f32; 4])> {
    let mut asked = String::new();
    for row in rows {
        let numbers =
            [row.ids.len() as i64].into_iter().chain(row.ids.iter().copied()).chain(row.types.iter().copied());
        asked.extend(numbers.map(|number| format!("{number} ")));
        asked.push('\n');
    }
    let mut command = Command::new(stand_in::library().join("bert"));
    let mut child = command.arg(torchscript).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    // Of fewer bytes than a pipe holds, so that nobody waits for the other.
    assert!(asked.len() < 1 << 16, "{} bytes", asked.len());
    child.stdin.take().expect("it is piped").write_all(asked.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    let answers = String::from_utf8(output.stdout).expect("it answers in text");
    let answer = |line: &str| {
        let numbers: Vec<f32> = line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [distinct, duplicate, intents @ ..] = &numbers[..] else { panic!("{line} is no answer") };
        ([*distinct, *duplicate], intents.try_into().expect("four intents"))
    };
    answers.lines().map(answer).collect()
}

#[test]
fn a_slow_device_is_waited_for_and_answers_right() {
    let host = Host::new(2);
    host.behave("device_us=20000");
    assert_eq!(host.outcome("score", 2), "as expected");
}

#[test]
fn without_the_op_library_nothing_is_loaded() {
    let mut host = Host::new(4);
    host.libraries = "/nonexistent".into();
    let outcome = host.outcome("score", 4);
    assert!(outcome.starts_with("refused: libtorchneuron.so is not there"), "{outcome}");
    assert!(outcome.contains("LD_LIBRARY_PATH"), "it names the fix: {outcome}");
}

#[test]
fn an_op_library_of_the_other_abi_is_refused_by_name() {
    let mut host = Host::new(4);
    host.libraries = stand_in::library().join("wrong");
    let outcome = host.outcome("score", 4);
    assert!(outcome.starts_with("refused: libtorchneuron.so was built for another libtorch"), "{outcome}");
    assert!(outcome.contains("undefined symbol") && outcome.contains("make inf1"), "{outcome}");
}

#[test]
fn replicas_are_as_many_as_the_cores() {
    let outcome = Host::new(4).outcome("score", 3);
    assert!(outcome.starts_with("refused: 3 replicas on 4 visible NeuronCores"), "{outcome}");
}

#[test]
fn another_numeric_path_than_the_compiled_one_is_refused() {
    let outcome = Host::new(4).outcome("numeric", 4);
    assert_eq!(
        outcome,
        "refused: the modules are compiled for bf16, so --numeric fp32 cannot be had; use --numeric auto"
    );
}

#[test]
fn a_device_that_fails_at_load_refuses_the_artifact() {
    let host = Host::new(2);
    host.behave("fault=fail");
    let outcome = host.outcome("score", 2);
    assert!(outcome.contains("does not reproduce the golden outputs"), "{outcome}");
    assert!(outcome.contains("in a batch of 1x16") && outcome.contains("core 0 gave up"), "{outcome}");
}

#[test]
fn a_device_that_computes_something_else_is_refused() {
    let host = Host::new(2);
    host.behave("fault=nan");
    assert!(host.outcome("score", 2).contains("logits are [NaN, NaN] in a batch of"));
}

#[test]
fn a_device_that_fails_is_a_fatal_fault() {
    let outcome = Host::new(2).outcome("fail", 2);
    assert!(outcome.starts_with("fatal: the device failed: "), "{outcome}");
    assert!(outcome.contains("nrt_execute status=1204"), "the runtime's own words are told: {outcome}");
}

#[test]
fn a_score_that_is_not_finite_is_named_and_not_fatal() {
    assert_eq!(Host::new(2).outcome("nan", 2), "the scores of rows [0] are not finite");
}

#[test]
fn a_device_that_hangs_costs_its_batch_and_not_the_stop() {
    assert_eq!(Host::new(2).outcome("hang", 2), "late, then served by the other core, then stopped");
}

#[test]
fn a_grid_that_cannot_take_every_pair_is_refused_with_all_of_its_problems() {
    let host = Host::new(4);
    let bucket = |batch: usize, length: usize| json!({"batch": batch, "length": length, "file": "model.8x48.ts"});
    let buckets = json!([bucket(8, 48), bucket(8, 48), bucket(0, 48)]);
    stand_in::edit_manifest(host.artifact.path(), |manifest| manifest["static"]["buckets"] = buckets);
    let outcome = host.outcome("score", 4);
    for part in ["8x48 is there twice", "0x48 has no rows", "the longest is 48, and pairs have up to 128"] {
        assert!(outcome.contains(&format!("manifest.json: static.buckets: {part}")), "{part} is not in: {outcome}");
    }
}

/// The other side of [`Host::outcome`].
#[expect(clippy::print_stdout, reason = "what the parent reads")]
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let variable = |name| std::env::var(name).expect("the parent sets it");
    let (artifact, folder) = (PathBuf::from(variable(ARTIFACT)), PathBuf::from(variable("STAND_IN")));
    let numeric = if job == "numeric" { Numeric::Fp32 } else { Numeric::Auto };
    let options =
        ScorerOptions { replicas: variable(REPLICAS).parse().expect("a number"), numeric, kernel: Kernel::Auto };
    let outcome = match Scorer::start(&artifact, options) {
        Ok(scorer) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
            runtime.block_on(of_job(&job, scorer, &artifact, &folder))
        }
        Err(error) => format!("refused: {}", with_causes(&error)),
    };
    println!("{OUTCOME}{outcome}");
}

async fn of_job(job: &str, scorer: Scorer, artifact: &Path, folder: &Path) -> String {
    match job {
        "score" => as_expected(&scorer, Due::residues(artifact, PAIRS)).await,
        "meet" => {
            behave(folder, "meet=16");
            as_expected(&scorer, Due::residues(artifact, 16 * PAIRS)).await
        }
        "due" => {
            let due = fs::read(folder.join(DUE)).expect("the parent wrote it");
            as_expected(&scorer, serde_json::from_slice(&due).expect("JSON")).await
        }
        "fail" | "nan" => {
            behave(folder, &format!("fault={job}"));
            let error = scorer.score_pairs(pairs(1)).await.expect_err("the device is at fault");
            if error.is_fatal() { format!("fatal: {error}") } else { error.to_string() }
        }
        "hang" => hang(scorer, folder).await,
        job => panic!("{job} is no job"),
    }
}

/// One core hangs; the other one goes on, and so does the stop.
async fn hang(scorer: Scorer, folder: &Path) -> String {
    behave(folder, "fault=hang log=1");
    let soon = Instant::now() + Duration::from_millis(200);
    let error = scorer.score_pairs_by(pairs(1), soon).await.expect_err("no answer comes");
    assert!(matches!(error, ScoreError::Late), "{error}");
    behave(folder, "");
    // Too few for a full batch, which the core that hangs could have taken beforehand.
    scorer.score_pairs(pairs(1)).await.expect("the other core answers");
    drop(scorer);
    "late, then served by the other core, then stopped".to_owned()
}

/// Logits that the device owes to [`pairs`] and [`queries`], as many as there are.
#[derive(Serialize, Deserialize)]
struct Due {
    pairs: Vec<[f32; 2]>,
    queries: Vec<[f32; 4]>,
}

impl Due {
    /// What each row's own ids make.
    fn residues(artifact: &Path, pair_count: usize) -> Self {
        let encoder = encoder(artifact);
        let pair_rows = encoder.pairs(&pairs(pair_count)).expect("they are encoded");
        let query_rows = encoder.queries(&queries(QUERIES)).expect("they are encoded");
        Self {
            pairs: pair_rows.iter().map(|row| [0.0, stand_in::residue(&row.ids)]).collect(),
            queries: query_rows.iter().map(|row| [stand_in::residue(&row.ids), 0.5, 0.0, 0.0]).collect(),
        }
    }
}

fn encoder(artifact: &Path) -> Encoder {
    let Artifact { manifest, tokenizer, .. } = Artifact::open(artifact).expect("the artifact is good");
    Encoder::new(&tokenizer, manifest.pair_tokens_max, manifest.query_tokens_max).expect("it reads")
}

/// Whether each pair and each query has the score that is due.
async fn as_expected(scorer: &Scorer, due: Due) -> String {
    let temperature = scorer.manifest().temperature;
    let scores = scorer.score_pairs(pairs(due.pairs.len())).await.expect("the device answers");
    for (i, ([distinct, duplicate], score)) in due.pairs.iter().zip(&scores).enumerate() {
        let due = 1.0 / (1.0 + ((distinct - duplicate) / temperature).exp());
        let is_close = (score.probability - due).abs() < TOLERANCE;
        if !is_close {
            return format!("pair {i} has {} where {due} is due", score.probability);
        }
    }
    let scores = scorer.score_queries(queries(due.queries.len())).await.expect("the device answers");
    for (i, (logits, score)) in due.queries.iter().zip(&scores).enumerate() {
        let due = logits[0].exp() / logits.iter().map(|logit| logit.exp()).sum::<f32>();
        let is_close = (score.probabilities[0] - due).abs() < TOLERANCE;
        if !is_close {
            return format!("query {i} has {} where {due} is due", score.probabilities[0]);
        }
    }
    "as expected".to_owned()
}

fn queries(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("kettle {i} litres")).collect()
}

/// Of 5 to 128 tokens, each one different.
fn pairs(count: usize) -> Vec<TextPair> {
    let text = |i: usize, words: usize| (0..words).map(|word| format!("w{} ", i * 31 + word)).collect::<String>();
    (0..count).map(|i| TextPair { left: text(i, 1 + i % 9).into(), right: text(i + 7, 1 + i % 23).into() }).collect()
}

fn with_causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
