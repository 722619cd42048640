//! NeuronCores, played by a stand-in for their op library (`stand_in/libtorchneuron.cpp`). A
//! library cannot be taken out of a process again, so each test loads it in a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use models::encode::Encoder;
use models::manifest::{MANIFEST_FILE, TOKENIZER_FILE};
use models::shape::Shape;
use models::{Kernel, Numeric, ScoreError, Scorer, ScorerOptions, TextPair};
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
        let artifact = stand_in::artifact(&SHAPES.map(|(rows, length)| Shape { rows, length }));
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
    let path = host.artifact.path().join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
    let bucket = |batch: usize, length: usize| json!({"batch": batch, "length": length, "file": "model.8x48.ts"});
    manifest["static"]["buckets"] = json!([bucket(8, 48), bucket(8, 48), bucket(0, 48)]);
    fs::write(&path, manifest.to_string()).expect("writable");
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
        "score" => as_expected(&scorer, artifact, PAIRS).await,
        "meet" => {
            behave(folder, "meet=16");
            as_expected(&scorer, artifact, 16 * PAIRS).await
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

/// Whether each pair and each query has the score that its own ids make.
async fn as_expected(scorer: &Scorer, artifact: &Path, count: usize) -> String {
    let manifest = scorer.manifest();
    let tokenizer = fs::read(artifact.join(TOKENIZER_FILE)).expect("readable");
    let encoder = Encoder::new(&tokenizer, manifest.pair_tokens_max, manifest.query_tokens_max).expect("it reads");
    let expected = encoder.pairs(&pairs(count)).expect("they are encoded");
    let scores = scorer.score_pairs(pairs(count)).await.expect("the device answers");
    for (i, (row, score)) in expected.iter().zip(&scores).enumerate() {
        let due = 1.0 / (1.0 + (-stand_in::residue(&row.ids) / manifest.temperature).exp());
        if (score.probability - due).abs() > 1e-5 {
            return format!("pair {i} has {} where {due} is due", score.probability);
        }
    }
    let queries: Vec<String> = (0..40).map(|i| format!("kettle {i} litres")).collect();
    let expected = encoder.queries(&queries).expect("they are encoded");
    for (row, score) in expected.iter().zip(scorer.score_queries(queries).await.expect("the device answers")) {
        let logits = [stand_in::residue(&row.ids), 0.5, 0.0, 0.0].map(f32::exp);
        let due = logits[0] / logits.iter().sum::<f32>();
        if (score.probabilities[0] - due).abs() > 1e-5 {
            return format!("a query has {} where {due} is due", score.probabilities[0]);
        }
    }
    "as expected".to_owned()
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
