//! The shipped artifact: what is refused, and what its scores do not depend on.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use models::encode::{Encoded, Encoder};
use models::features::FEATURES;
use models::manifest::{
    CASCADE_FILE, GOLDENS_FILE, MANIFEST_FILE, MODULE_FILE, Problem, QUERY_CASCADE_FILE, TOKENIZER_FILE,
};
use models::query_cascade::Pieces;
use models::{Artifact, Kernel, LoadError, MARKS, Manifest, Numeric, Scorer, ScorerOptions, TextPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{Intent, Product, ProductText, Stage, Verdict};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ONE_FP32: ScorerOptions = ScorerOptions { replicas: 1, numeric: Numeric::Fp32, kernel: Kernel::Auto };

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts/minilm-l6-v5")
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

/// A copy of the shipped artifact for a test to spoil; the module is linked, not copied.
struct Copy {
    folder: TempDir,
}

impl Copy {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for name in [MANIFEST_FILE, TOKENIZER_FILE, GOLDENS_FILE] {
            fs::copy(shipped().join(name), folder.path().join(name)).expect("the file is copied");
        }
        symlink(shipped().join(MODULE_FILE), folder.path().join(MODULE_FILE)).expect("the module is linked");
        for name in [CASCADE_FILE, QUERY_CASCADE_FILE] {
            fs::copy(shipped().join(name), folder.path().join(name)).expect("the file is copied");
        }
        Self { folder }
    }

    /// With a cascade that is sure of pairs which share less than a quarter of their words.
    fn with_cascade(distinct_below: f32) -> Self {
        let copy = Self::new();
        let shared_words = FEATURES.iter().position(|name| *name == "short_words_share").expect("a feature");
        let cascade = json!({
            "features": FEATURES.to_vec(),
            "base": 0.0,
            "trees": [[[shared_words, 0.25, 1, 2], -5.0, 2.0]],
            "goldens": [{"a": "red kettle", "b": "wool scarf", "probability": 1.0 / (1.0 + 5f64.exp())}],
        });
        copy.change(MANIFEST_FILE, |manifest| {
            manifest["schema_version"] = json!(3);
            manifest["cascade"] = json!({"distinct_below": distinct_below});
            manifest.as_object_mut().expect("an object").remove("query_cascade");
        });
        copy.change_vouched(CASCADE_FILE, |value| *value = cascade);
        copy
    }

    /// With a first stage that takes every query which says "parcel" for one that wants help, the
    /// surer the fewer words there are.
    fn with_query_cascade(settle_from: f32) -> Self {
        let copy = Self::new();
        let parcel = usize::from(Pieces::of("parcel").words[0]);
        copy.change(MANIFEST_FILE, |manifest| manifest["query_cascade"] = json!({"settle_from": settle_from}));
        copy.change_vouched(QUERY_CASCADE_FILE, |file| {
            let buckets = file["buckets"].as_u64().expect("a number") as usize;
            let mut weights = vec![0; 2 * buckets * 4];
            weights[parcel * 4 + Intent::Help as usize] = 100;
            file["weights"] = json!(BASE64_STANDARD.encode(weights));
            file["scale"] = json!([1.0, 1.0, 0.1, 1.0]);
            file["bias"] = json!([0.0, 0.0, 0.0, 0.0]);
            file["goldens"] = json!([{"query": "Parcel", "logits": [0.0, 0.0, 10.0, 0.0]}]);
        });
        copy
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.folder.path().join(name);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).expect("JSON")).expect("writable");
    }

    /// Changes a file and lets the manifest vouch for the change.
    fn change_vouched(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.change(name, change);
        let digest = Sha256::digest(fs::read(self.folder.path().join(name)).expect("readable"));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.change(MANIFEST_FILE, |manifest| manifest["files"][name]["sha256"] = json!(hex));
    }

    fn problems(&self) -> Vec<Problem> {
        Artifact::open(self.folder.path()).err().expect("the artifact is refused").problems
    }

    /// The error of a start and all of its causes, in one line.
    fn refusal(&self) -> String {
        let error = Scorer::start(self.folder.path(), ONE_FP32).err().expect("the artifact is refused");
        let mut said = error.to_string();
        let mut cause: Option<&dyn Error> = error.source();
        while let Some(error) = cause {
            said = format!("{said}: {error}");
            cause = error.source();
        }
        said
    }
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
    let avx512 =
        ["avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni"].iter().all(|flag| cpu.contains(flag));
    let avx2 = ["avx2", "fma"].iter().all(|flag| cpu.contains(flag));
    let (on_avx512, on_avx2) = (avx512 && numeric != Numeric::Fp32, avx2 && numeric != Numeric::Bf16);
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
fn the_cascade_settles_what_it_is_sure_of_and_the_cross_encoder_judges_the_rest() {
    let pairs = [
        ("norvik kettle kt1700", "orbisk desk lamp"),
        ("norvik kettle kt1700", "kettle by norvik, kt-1700"),
        ("orbisk desk lamp", "norvik kettle kt1700"),
        ("norvik kettle kt1700", "norvik kettle kt1800"),
    ];
    let pairs: Vec<TextPair> = pairs.iter().map(|(left, right)| pair(left, right)).collect();
    let copy = Copy::with_cascade(0.01);
    let with = Scorer::start(copy.folder.path(), ONE_FP32).expect("the artifact loads");
    let ask = |scorer: &Scorer| block_on(scorer.score_pairs(pairs.clone())).expect("the pairs are scored");
    let found = ask(&with);
    use Stage::{Cascade, CrossEncoder};
    assert_eq!(
        found.iter().map(|score| score.stage).collect::<Vec<_>>(),
        [Cascade, CrossEncoder, Cascade, CrossEncoder]
    );
    assert_eq!((found[0].verdict, found[0]), (Verdict::Distinct, found[2]));
    assert!((found[0].probability - 0.006_692_85).abs() < 1e-6);
    let every = ask(&with.without_cascade());
    assert!(every.iter().all(|score| score.stage == CrossEncoder));
    for row in [1, 3] {
        assert!((found[row].probability - every[row].probability).abs() < 1e-4, "row {row}");
    }
    assert_ne!(every[0].probability, found[0].probability);
}

#[test]
fn a_call_that_the_cascade_settles_whole_needs_no_batch() {
    let copy = Copy::with_cascade(0.01);
    let scorer = Scorer::start(copy.folder.path(), ONE_FP32).expect("the artifact loads");
    let sure = vec![pair("norvik kettle", "orbisk lamp"); 700];
    let scores = block_on(scorer.score_pairs(sure)).expect("the pairs are scored");
    assert_eq!(scores.iter().filter(|score| score.stage == Stage::Cascade).count(), 700);
}

#[test]
fn a_cascade_that_is_not_what_the_manifest_says_is_refused() {
    let refused = |spoil: fn(&Copy), reason: &str| {
        let copy = Copy::with_cascade(0.01);
        spoil(&copy);
        let said: Vec<String> = copy.problems().iter().map(Problem::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(reason), "{said:?}");
    };
    refused(|copy| copy.change(CASCADE_FILE, |file| file["base"] = json!(1)), "cascade.json: sha256 is");
    refused(
        |copy| copy.change_vouched(CASCADE_FILE, |file| *file = json!("x")),
        "cascade.json: is not what its name says",
    );
    refused(|copy| copy.change_vouched(CASCADE_FILE, |file| file["features"] = json!(["words"])), "other features");
    refused(|copy| copy.change_vouched(CASCADE_FILE, |file| file["base"] = json!(1)), "golden 0: the probability is");
    type Change = fn(&mut Value);
    let entries: [(Change, &str); 4] = [
        (
            |manifest| manifest["cascade"]["distinct_below"] = json!(0.5),
            "manifest.json: cascade: 0 < distinct_below (0.5)",
        ),
        (
            |manifest| manifest["cascade"]["distinct_below"] = json!(0.0),
            "manifest.json: cascade: 0 < distinct_below (0)",
        ),
        (|manifest| manifest["schema_version"] = json!(2), "schema_version: 2 has no cascade"),
        (|manifest| manifest["cascade"] = json!({}), "missing field `distinct_below`"),
    ];
    for (change, reason) in entries {
        let copy = Copy::with_cascade(0.01);
        copy.change(MANIFEST_FILE, change);
        assert!(copy.refusal().contains(reason), "{reason} is not in: {}", copy.refusal());
    }
    let copy = Copy::with_cascade(0.01);
    copy.change(MANIFEST_FILE, |manifest| {
        manifest["files"].as_object_mut().expect("an object").remove(CASCADE_FILE);
    });
    assert!(copy.refusal().contains("files: cascade.json is missing"));
}

#[test]
fn a_cascade_that_the_manifest_does_not_turn_on_is_left_alone() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| {
        let manifest = manifest.as_object_mut().expect("an object");
        manifest.remove("cascade");
        manifest.remove("query_cascade");
    });
    let artifact = Artifact::open(copy.folder.path()).expect("the artifact is good");
    assert_eq!((artifact.cascade, artifact.query_cascade), (None, None));
}

#[test]
fn the_first_stage_settles_the_queries_it_is_sure_of_and_the_network_reads_the_rest() {
    let queries = ["parcel", "red kettle", "  PARCEL ", "a parcel for my aunt in another town"].map(str::to_owned);
    let copy = Copy::with_query_cascade(0.999);
    let with = Scorer::start(copy.folder.path(), ONE_FP32).expect("the artifact loads");
    let ask = |scorer: &Scorer| block_on(scorer.score_queries(queries.to_vec())).expect("the queries are scored");
    let found = ask(&with);
    use Stage::{Cascade, CrossEncoder};
    let stages: Vec<Stage> = found.iter().map(|score| score.stage).collect();
    assert_eq!(stages, [Cascade, CrossEncoder, Cascade, CrossEncoder]);
    assert_eq!((found[0].intent, found[0]), (Intent::Help, found[2]));
    assert!((found[0].probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    block_on(with.probe(None)).expect("the network answers");
    let every = ask(&with.without_cascade());
    assert!(every.iter().all(|score| score.stage == CrossEncoder));
    for row in [1, 3] {
        let differs = found[row].probabilities.iter().zip(every[row].probabilities).any(|(a, b)| (a - b).abs() > 1e-4);
        assert!(!differs, "row {row}");
    }
}

#[test]
fn a_query_cascade_that_is_not_what_the_manifest_says_is_refused() {
    let refused = |spoil: fn(&Copy), reason: &str| {
        let copy = Copy::with_query_cascade(0.99);
        spoil(&copy);
        let said: Vec<String> = copy.problems().iter().map(Problem::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(reason), "{said:?}");
    };
    refused(|copy| copy.change(QUERY_CASCADE_FILE, |file| file["more"] = json!(1)), "query_cascade.json: sha256 is");
    refused(|copy| copy.change_vouched(QUERY_CASCADE_FILE, |file| *file = json!("x")), "is not what its name says");
    type Change = fn(&mut Value);
    let entries: [(Change, &str); 5] = [
        (|manifest| manifest["query_cascade"]["settle_from"] = json!(0.5), "0.5 < settle_from (0.5) < 1 does not hold"),
        (|manifest| manifest["query_cascade"]["settle_from"] = json!(1.0), "0.5 < settle_from (1) < 1 does not hold"),
        (|manifest| manifest["schema_version"] = json!(3), "schema_version: 3 has no query_cascade, and 4 has"),
        (|manifest| manifest["query_cascade"] = json!({}), "missing field `settle_from`"),
        (
            |manifest| drop(manifest["files"].as_object_mut().expect("an object").remove(QUERY_CASCADE_FILE)),
            "files: query_cascade.json is missing",
        ),
    ];
    for (change, reason) in entries {
        let copy = Copy::with_query_cascade(0.99);
        copy.change(MANIFEST_FILE, change);
        assert!(copy.refusal().contains(reason), "{reason} is not in: {}", copy.refusal());
    }
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
