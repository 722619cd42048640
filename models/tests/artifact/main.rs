//! The shipped artifact: what is refused, and what its scores do not depend on.

mod copy;
mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use copy::Copy;
use models::encode::{Encoded, Encoder};
use models::manifest::{GOLDENS_FILE, MANIFEST_FILE, Problem, TOKENIZER_FILE};
use models::{Kernel, LoadError, MARKS, Manifest, Numeric, Scorer, ScorerOptions, TextPair};
use serde_json::json;
use shared::{Intent, Product, ProductText, Verdict};
use tokio::runtime::Runtime;

const ONE_FP32: ScorerOptions = ScorerOptions { replicas: 1, numeric: Numeric::Fp32, kernel: Kernel::Auto };

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts/minilm-l6-v6")
}

/// The shipped model with two replicas, loaded once for all tests that only ask it.
fn scorer() -> &'static Scorer {
    static SCORER: OnceLock<Scorer> = OnceLock::new();
    SCORER.get_or_init(|| {
        Scorer::start(&shipped(), ScorerOptions { replicas: 2, ..ONE_FP32 }).expect("the shipped artifact loads")
    })
}

fn block_on<F: Future>(work: F) -> F::Output {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime starts")).block_on(work)
}

fn pair(left: &str, right: &str) -> TextPair {
    TextPair { left: left.into(), right: right.into() }
}

fn probabilities(pairs: Vec<TextPair>) -> Vec<f32> {
    block_on(scorer().score_pairs(pairs)).expect("the pairs are scored").iter().map(|score| score.probability).collect()
}

#[test]
fn a_tampered_file_is_refused_by_name() {
    let copy = Copy::new();
    let path = copy.folder.path().join(TOKENIZER_FILE);
    let mut bytes = fs::read(&path).expect("readable");
    bytes.push(b' ');
    fs::write(&path, bytes).expect("writable");
    let problems = copy.problems();
    assert!(matches!(&problems[..], [Problem::Hash { file, .. }] if file == TOKENIZER_FILE), "{problems:?}");
    assert!(copy.refusal().contains("tokenizer.json: sha256 is"));
}

#[test]
fn all_problems_are_listed_at_once() {
    let copy = Copy::new();
    fs::remove_file(copy.folder.path().join(GOLDENS_FILE)).expect("removable");
    copy.change(MANIFEST_FILE, |manifest| {
        manifest["text_version"] = json!(99);
        manifest["thresholds"] = json!({"duplicate": 0.2, "review": 0.4});
        manifest["labels"]["intent"] = json!(["media", "product", "help", "other"]);
        manifest["marks"] = json!(["plain", "own_word"]);
        manifest["files"]["../model.ts"] = json!({"sha256": "", "bytes": 1});
    });
    let refusal = copy.refusal();
    for part in [
        "text_version",
        "version 99",
        "goldens.json: cannot be read",
        "thresholds: 0 <",
        "labels.intent",
        "marks: must be",
        "\"../model.ts\"",
    ] {
        assert!(refusal.contains(part), "{part} is not in: {refusal}");
    }
    assert_eq!(copy.problems().len(), 6);
}

#[test]
fn another_text_version_is_refused() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| manifest["text_version"] = json!(shared::TEXT_VERSION + 1));
    assert_eq!(copy.problems(), [Problem::TextVersion { found: shared::TEXT_VERSION + 1 }]);
}

#[test]
fn an_unknown_schema_is_refused_before_its_fields_are_read() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| *manifest = json!({"schema_version": 99}));
    assert_eq!(copy.problems(), [Problem::SchemaVersion { found: 99 }]);
}

#[test]
fn other_outputs_than_the_goldens_are_refused() {
    let copy = Copy::new();
    let tolerance = Manifest::read(&shipped()).expect("the manifest reads").golden_tolerance.fp32;
    copy.change_vouched(GOLDENS_FILE, |goldens| {
        let logit = &mut goldens["cases"][1]["logits"][2][0];
        *logit = json!(logit.as_f64().expect("a number") + 3.0 * f64::from(tolerance));
    });
    let refusal = copy.refusal();
    assert!(refusal.contains("row 2: logits are") && refusal.contains("mixed lengths"), "{refusal}");
}

#[test]
fn another_tokenisation_than_the_goldens_is_refused() {
    for part in ["input_ids", "token_types"] {
        let copy = Copy::new();
        copy.change_vouched(GOLDENS_FILE, |goldens| goldens["cases"][0][part][0][1] = json!(99));
        let error = Scorer::start(copy.folder.path(), ONE_FP32).err().expect("the artifact is refused");
        assert!(matches!(error, LoadError::Golden(_)), "{part}: {error}");
    }
}

#[test]
fn an_artifact_without_goldens_for_a_head_is_refused() {
    let copy = Copy::new();
    copy.change_vouched(GOLDENS_FILE, |goldens| {
        goldens["cases"].as_array_mut().expect("a list").retain(|case| case["kind"] == "pairs");
    });
    assert!(copy.refusal().contains("no golden cases for Queries"));
}

#[test]
fn every_numeric_path_passes_the_goldens_on_every_kernel_of_this_cpu() {
    for numeric in [Numeric::Fp32, Numeric::Bf16, Numeric::Int8] {
        for kernel in [Kernel::Auto, Kernel::Libtorch, Kernel::Avx2, Kernel::Avx512, Kernel::Amx] {
            match Scorer::start(&shipped(), ScorerOptions { replicas: 1, numeric, kernel }) {
                Ok(scorer) => {
                    assert_eq!(scorer.numeric(), numeric);
                    assert!(kernel == Kernel::Auto || scorer.kernel() == kernel, "{kernel} became {}", scorer.kernel());
                    assert_eq!(scorer.model_id(), &scorer.manifest().model_id);
                }
                // Libtorch computes all but int8 on any CPU.
                Err(LoadError::Engine(error)) => {
                    let is_of_libtorch = matches!(kernel, Kernel::Auto | Kernel::Libtorch);
                    assert!(!is_of_libtorch || numeric == Numeric::Int8, "{numeric}, {kernel}: {error}");
                    assert!(!has(numeric, kernel), "{numeric}, {kernel}: {error}");
                }
                Err(error) => panic!("{numeric}, {kernel}: {error:?}"),
            }
        }
    }
}

/// True where the system says that the CPU has what `kernel` needs. AMX may still be refused to a
/// process, and is then not there.
fn has(numeric: Numeric, kernel: Kernel) -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = |flags: &[&str]| flags.iter().all(|flag| cpu.contains(flag));
    let avx512 = names(&["avx512bw", "avx512vl", "avx512dq", "avx512_vnni"]);
    let on_avx512 = avx512 && (numeric != Numeric::Bf16 || cpu.contains("avx512_bf16"));
    let on_avx2 = names(&["avx2", "fma"]) && numeric != Numeric::Bf16;
    match kernel {
        Kernel::Auto => on_avx512 || on_avx2,
        Kernel::Avx512 => on_avx512,
        Kernel::Avx2 => on_avx2,
        Kernel::Libtorch | Kernel::Amx => false,
    }
}

#[test]
fn a_pair_has_one_score_whatever_its_direction() {
    let texts = ["kettle 1.7 l | norvik", "Zebra kettle", "", "é kettle | norvik kt17", "~ 1.7 l"];
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for a in texts {
        for b in texts {
            there.push(pair(a, b));
            back.push(pair(b, a));
        }
    }
    assert_eq!(probabilities(there), probabilities(back));
}

#[test]
fn results_keep_the_order_of_their_rows() {
    let words = "norvik kettle stainless steel 1.7 l cordless boil dry protection auto off blue light filter lid";
    let words: Vec<&str> = words.split(' ').collect();
    let pairs: Vec<TextPair> = (0..60)
        .map(|i| pair(&words[..1 + (i * 7) % words.len()].join(" "), &words[i % 5..].join(" ").repeat(1 + i % 4)))
        .collect();
    let together = probabilities(pairs.clone());
    for (i, alone) in pairs.into_iter().enumerate() {
        let alone = probabilities(vec![alone])[0];
        assert!((alone - together[i]).abs() < 1e-4, "row {i}: {alone} alone, {} together", together[i]);
    }
}

#[test]
fn truncation_keeps_both_texts() {
    let tokenizer = fs::read(shipped().join(TOKENIZER_FILE)).expect("readable");
    let encoder = Encoder::new(&tokenizer, 128, 32).expect("the tokenizer is good");
    let long = "planetary ".repeat(500);
    let rows =
        encoder.pairs(&[pair(&long, "zinc kettle"), pair("zinc kettle", &long), pair(&long, &format!("a {long}"))]);
    let rows = rows.expect("the pairs are encoded");
    assert!(rows.iter().all(|row| row.ids.len() == 128), "cut to the model's room");
    assert_eq!(rows[0], rows[1]);
    let second = |row: &Encoded| row.types.iter().filter(|&&number| number >= MARKS.len() as i64).count();
    assert_eq!(second(&rows[0]), 3, "the short text is whole, with its [SEP]");
    assert_eq!(second(&rows[2]), 62 + 1, "two long texts share the room, the longer has the odd token");
    let queries = encoder.queries(&[long]).expect("the query is encoded");
    assert_eq!((queries[0].ids.len(), &queries[0].types), (32, &vec![0; 32]));
}

#[test]
fn a_text_that_spells_special_tokens_has_none() {
    let tokenizer = fs::read(shipped().join(TOKENIZER_FILE)).expect("readable");
    let encoder = Encoder::new(&tokenizer, 128, 32).expect("the tokenizer is good");
    let rows = encoder.pairs(&[pair("[SEP] [CLS] [PAD]", "lamp")]).expect("the pair is encoded");
    let (cls, sep) = (rows[0].ids[0], rows[0].ids[rows[0].ids.len() - 1]);
    assert_eq!(rows[0].ids.iter().filter(|&&id| id == sep).count(), 2);
    assert_eq!(rows[0].ids.iter().filter(|&&id| id == cls || id == 0).count(), 1);
}

#[test]
fn odd_texts_are_scored() {
    let odd = [
        String::new(),
        " \t\n".to_owned(),
        "🎧👩‍👩‍👧‍👦🇳🇴".to_owned(),
        "<p>kettle &amp; <b>toaster</b></p>".to_owned(),
        "[CLS] [SEP] [PAD] [MASK] [UNK]".to_owned(),
        "x".repeat(500_000),
        "a-".repeat(200_000),
        "日本語のタイトル \u{200b}\u{feff}\u{0}\u{301}".to_owned(),
    ];
    let pairs = odd.iter().flat_map(|a| odd.iter().map(|b| pair(a, b))).collect();
    assert!(probabilities(pairs).iter().all(|p| (0.0..=1.0).contains(p)));
    let intents = block_on(scorer().score_queries(odd.to_vec())).expect("the queries are scored");
    assert!(intents.iter().all(|score| (score.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5));
}

#[test]
fn nothing_in_nothing_out() {
    assert_eq!(block_on(scorer().score_pairs(Vec::new())).expect("no rows"), []);
    assert_eq!(block_on(scorer().score_queries(Vec::new())).expect("no rows"), []);
}

#[test]
fn the_model_is_of_use() {
    let text = |title: &str, brand: &str| -> TextPair {
        let product = Product { title: title.to_owned(), brand: Some(brand.to_owned()), ..Product::default() };
        let twin = Product { title: format!("{brand} {title}"), ..Product::default() };
        pair(&ProductText::of(&product).text, &ProductText::of(&twin).text)
    };
    let pairs =
        vec![text("DW-1180 Dishwasher 60 cm stainless", "Norvik"), pair("kettle 1.7 l | norvik", "wool scarf grey")];
    let scores = block_on(scorer().score_pairs(pairs)).expect("the pairs are scored");
    assert_eq!(scores[0].verdict, Verdict::Duplicate);
    assert_eq!(scores[1].verdict, Verdict::Distinct);
    let queries =
        ["Running shoes women size 8", "play some jazz music", "where is my order", "what is the weather tomorrow"];
    let network = scorer().clone().without_cascade();
    let scores = block_on(network.score_queries(queries.map(str::to_owned).to_vec())).expect("the queries are scored");
    let intents: Vec<Intent> = scores.iter().map(|score| score.intent).collect();
    assert_eq!(intents, Intent::ALL);
}

#[test]
fn queries_that_are_one_query_have_one_score() {
    let same = ["USB  C hub", " usb c HUB\n", "ｕｓｂ c hub"].map(str::to_owned).to_vec();
    let network = scorer().clone().without_cascade();
    let scores = block_on(network.score_queries(same)).expect("the queries are scored");
    assert!(scores.iter().all(|score| *score == scores[0]), "{scores:?}");
}
