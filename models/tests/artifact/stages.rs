//! The stages beside the network: what they settle, and what of them is refused.

use models::manifest::{CASCADE_FILE, EARLY_EXIT_FILE, MANIFEST_FILE, Problem, QUERY_CASCADE_FILE};
use models::{Artifact, Kernel, Scorer, ScorerOptions, TextPair};
use serde_json::{Value, json};
use shared::{Intent, Stage, Verdict};

use crate::copy::Copy;
use crate::{ONE_FP32, block_on, pair, shipped};

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
fn a_stage_that_the_manifest_does_not_turn_on_is_left_alone() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| {
        let manifest = manifest.as_object_mut().expect("an object");
        manifest.remove("cascade");
        manifest.remove("query_cascade");
        manifest.remove("early_exit");
        manifest.remove("second_reading");
    });
    let artifact = Artifact::open(copy.folder.path()).expect("the artifact is good");
    assert_eq!((artifact.cascade, artifact.query_cascade, artifact.early_exits), (None, None, None));
    assert_eq!(artifact.manifest.second_reading, None);
}

#[test]
fn the_first_stage_settles_the_queries_it_is_sure_of_and_the_network_reads_the_rest() {
    let queries = ["parcel", "red kettle", "  PARCEL ", "a parcel for my aunt in another town"].map(str::to_owned);
    let copy = Copy::with_query_cascade(0.999);
    // An exit's probabilities are its own.
    copy.change(MANIFEST_FILE, |manifest| {
        manifest.as_object_mut().expect("an object").remove("early_exit");
    });
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
fn a_second_reading_that_cannot_be_is_refused() {
    type Change = fn(&mut Value);
    let entries: [(Change, &str); 4] = [
        (
            |manifest| manifest["second_reading"] = json!({"above": 0.6, "below": 0.4}),
            "second_reading: 0 < above (0.6) < below (0.4) < 1 does not hold",
        ),
        (|manifest| manifest["second_reading"] = json!({"above": 0.0, "below": 0.4}), "0 < above (0) < below"),
        (|manifest| manifest["second_reading"] = json!({"above": 0.4}), "missing field `below`"),
        (|manifest| manifest["schema_version"] = json!(6), "schema_version: 6 has no second_reading, and 7 has"),
    ];
    for (change, reason) in entries {
        let copy = Copy::new();
        copy.change(MANIFEST_FILE, |manifest| {
            manifest["schema_version"] = json!(7);
            manifest["second_reading"] = json!({"above": 0.2, "below": 0.8});
        });
        Artifact::open(copy.folder.path()).expect("the bounds are good");
        copy.change(MANIFEST_FILE, change);
        assert!(copy.refusal().contains(reason), "{reason} is not in: {}", copy.refusal());
    }
}

/// Queries of which the shipped exits are sure of most.
const QUERIES: [&str; 6] = [
    "cordless drill 18v",
    "norvik kettle 1.7 l",
    "season 2 of a detective series on blu-ray",
    "i want to return a damaged blender",
    "set an alarm for six thirty",
    "zzz",
];

#[test]
fn queries_leave_early_on_the_kernels_that_run_layers_one_by_one_and_libtorch_reads_them_whole() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| {
        manifest.as_object_mut().expect("an object").remove("query_cascade");
    });
    let queries = || QUERIES.map(str::to_owned).to_vec();
    let start = |kernel| Scorer::start(copy.folder.path(), ScorerOptions { kernel, ..ONE_FP32 });
    let native = start(Kernel::Auto).expect("the artifact loads");
    let found = block_on(native.score_queries(queries())).expect("the queries are scored");
    let left: Vec<bool> = found.iter().map(|score| score.left_early).collect();
    assert_eq!(left.contains(&true), native.kernel() != Kernel::Libtorch, "{left:?}");
    assert!(found.iter().all(|score| score.stage == Stage::CrossEncoder));
    let whole = block_on(native.clone().without_cascade().score_queries(queries())).expect("the queries are scored");
    assert!(whole.iter().all(|score| !score.left_early));
    for (found, whole) in found.iter().zip(&whole) {
        assert_eq!(found.intent, whole.intent);
        assert!(found.left_early || found.probabilities == whole.probabilities);
    }
    block_on(native.probe(None)).expect("the network answers");
    let libtorch = start(Kernel::Libtorch).expect("the artifact loads");
    let found = block_on(libtorch.score_queries(queries())).expect("the queries are scored");
    assert!(found.iter().all(|score| !score.left_early));
}

#[test]
fn distinct_pairs_leave_early_on_the_kernels_that_run_layers_one_by_one() {
    let copy = Copy::new();
    copy.change(MANIFEST_FILE, |manifest| {
        manifest.as_object_mut().expect("an object").remove("cascade");
    });
    let pairs = || {
        let texts = [("norvik kettle kt1700", "orbisk desk lamp"), ("norvik kettle kt1700", "norvik kettle kt-1700")];
        texts.map(|(left, right)| pair(left, right)).to_vec()
    };
    let native = Scorer::start(copy.folder.path(), ONE_FP32).expect("the artifact loads");
    let found = block_on(native.score_pairs(pairs())).expect("the pairs are scored");
    let leaves = native.kernel() != Kernel::Libtorch;
    assert_eq!(found.iter().map(|score| score.left_early).collect::<Vec<_>>(), [leaves, false]);
    assert!(found.iter().all(|score| score.stage == Stage::CrossEncoder));
    let whole = block_on(native.without_cascade().score_pairs(pairs())).expect("the pairs are scored");
    assert!(whole.iter().all(|score| !score.left_early));
    assert_eq!((found[0].verdict, whole[0].verdict, found[1]), (Verdict::Distinct, Verdict::Distinct, whole[1]));
}

#[test]
fn an_exit_that_is_not_what_the_manifest_says_is_refused() {
    let refused = |spoil: fn(&Copy), reason: &str| {
        let copy = Copy::new();
        spoil(&copy);
        assert!(copy.refusal().contains(reason), "{reason} is not in: {}", copy.refusal());
    };
    refused(|copy| copy.change(EARLY_EXIT_FILE, |file| file["more"] = json!(1)), "early_exit.json: sha256 is");
    refused(|copy| copy.change_vouched(EARLY_EXIT_FILE, |file| *file = json!("x")), "is not what its name says");
    type Change = fn(&mut Value);
    let entries: [(Change, &str); 7] = [
        (|manifest| first(manifest, "queries")["settle_from"] = json!(0.5), "early_exit: 0.5 < settle_from (0.5) < 1"),
        (|manifest| first(manifest, "queries")["settle_from"] = json!(1.0), "settle_from (1) < 1"),
        (|manifest| first(manifest, "pairs")["distinct_below"] = json!(0.0), "early_exit: 0 < distinct_below (0) < "),
        (
            |manifest| {
                let review = manifest["thresholds"]["review"].clone();
                first(manifest, "pairs")["distinct_below"] = review;
            },
            ") < thresholds.review (",
        ),
        (|manifest| first(manifest, "pairs")["kind"] = json!("offers"), "unknown variant `offers`"),
        (|manifest| manifest["schema_version"] = json!(5), "schema_version: 5 is not known"),
        (|manifest| manifest["schema_version"] = json!(4), "schema_version: 4 has no early_exit, and 6 has"),
    ];
    for (change, reason) in entries {
        let copy = Copy::new();
        copy.change(MANIFEST_FILE, change);
        assert!(copy.refusal().contains(reason), "{reason} is not in: {}", copy.refusal());
    }
    refused(
        |copy| {
            copy.change(MANIFEST_FILE, |manifest| {
                manifest["files"].as_object_mut().expect("an object").remove(EARLY_EXIT_FILE);
            });
        },
        "files: early_exit.json is missing",
    );
    // What only the network can tell, where it is ours.
    if Scorer::start(&shipped(), ONE_FP32).expect("the artifact loads").kernel() == Kernel::Libtorch {
        return;
    }
    refused(
        |copy| copy.change(MANIFEST_FILE, |manifest| first(manifest, "queries")["after"] = json!(6)),
        "an early exit: parameter after: is 6; the network has 6 layers",
    );
    refused(|copy| copy.change(MANIFEST_FILE, |manifest| first(manifest, "pairs")["after"] = json!(1)), "golden case");
    refused(
        |copy| copy.change_vouched(EARLY_EXIT_FILE, |file| file["goldens"][0]["logits"][0][0] = json!(-9.0)),
        "row 0: logits are",
    );
    refused(
        |copy| {
            copy.change(MANIFEST_FILE, |manifest| {
                for exit in manifest["early_exit"]["exits"].as_array_mut().expect("a list") {
                    exit["settle_from"] = json!(0.999_999);
                }
            });
        },
        "row 0: it leaves the network late",
    );
}

/// The manifest's first exit of a kind.
fn first<'m>(manifest: &'m mut Value, kind: &str) -> &'m mut Value {
    let exits = manifest["early_exit"]["exits"].as_array_mut().expect("a list");
    exits.iter_mut().find(|exit| exit["kind"] == kind).expect("there is one")
}
