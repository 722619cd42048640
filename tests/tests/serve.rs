//! `serve` over HTTP, by the real binary.

use std::io::{Read, Write};
use std::time::Duration;

use consumer::store::Embedded;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::item::IntentItem;
use shared::{Intent, ModelId, Stage};
use tests::artifacts::{give_first_stage, network_alone, reading_twice};
use tests::faulty::faulty_artifact;
use tests::http::Answer;
use tests::server::Server;

const ALONE: &[&str] = &["--without-tables", "--online-replicas", "2", "--replicas", "1"];
/// A deadline that any machine keeps.
const PATIENT: &str = "request-timeout-ms: 60000";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).expect("memory takes it");
    packed.finish().expect("memory takes it")
}

fn is_problem(answer: &Answer, status: u16, kind: &str) -> Value {
    let problem = answer.json();
    assert_eq!(answer.status, status, "{problem}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], format!("urn:catalog-labels:problem:{kind}"), "{problem}");
    problem
}

async fn is_served(server: &Server) {
    let answer = server.post("/v1/intent", &[PATIENT], &json!({"query": "red kettle"})).await;
    assert_eq!((answer.status, &answer.json()["results"][0]["intent"]), (200, &json!("product")));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_pairs_are_answered() {
    let artifact = reading_twice();
    let server = Server::start_with(artifact.path(), ALONE).await;
    // The network reads the first and the last, and is sure of the last early.
    let queries = [
        "Red kettle",
        "play some jazz music",
        "where is my order",
        "what is the weather tomorrow",
        "the kettle documentary",
    ];
    let answer = server.post("/v1/intent", &[PATIENT], &json!({"queries": queries})).await;
    let results = answer.json()["results"].clone();
    let intents: Vec<&Value> = results.as_array().expect("a list").iter().map(|result| &result["intent"]).collect();
    assert_eq!(intents, ["product", "media", "help", "other", "media"]);
    assert_eq!(results[0]["source"], "model");
    let sum: f64 = results[0]["probabilities"].as_object().expect("an object").values().filter_map(Value::as_f64).sum();
    assert!((sum - 1.0).abs() < 1e-5);

    let kettle = json!({"title": "Tarnwick TK-1780 Electric Kettle 1.7 L", "brand": "Tarnwick"});
    let scarf = json!({"title": "Wool scarf grey"});
    // Too much alike for the first stage.
    let jackets =
        ["medium", "large"].map(|size| json!({"title": format!("Fellmark trail runner jacket men navy {size}")}));
    // One reading leaves it in doubt whether they are one.
    let alike = ["TK-1780 Electric Kettle 1.7 L", "electric kettle 1.7 litre steel"]
        .map(|rest| json!({"title": format!("Tarnwick {rest}")}));
    let pairs = json!({"pairs": [
        {"left": kettle, "right": kettle}, {"left": kettle, "right": scarf}, {"left": jackets[0], "right": jackets[1]},
        {"left": alike[0], "right": alike[1]},
    ]});
    let answer = server.post("/v1/duplicates", &[PATIENT], &pairs).await;
    let of_each = |field: &str| (0..4).map(|i| answer.json()["results"][i][field].clone()).collect::<Vec<_>>();
    assert_eq!(of_each("verdict"), ["duplicate", "distinct", "distinct", "duplicate"]);
    assert_eq!(of_each("stage"), ["cross_encoder", "cascade", "cross_encoder", "cross_encoder"]);

    let settled = results.as_array().expect("a list").iter().filter(|result| result["stage"] == "cascade").count();
    assert!((1..5).contains(&settled), "the first stage is sure of some and not of all: {results}");
    let metrics = server.metrics().await;
    for line in [
        "http_requests_total{route=\"intent\",status=\"200\"} 1".to_owned(),
        "pairs_scored_total 4".to_owned(),
        "pairs_settled_total 1".to_owned(),
        "pairs_read_twice_total 1".to_owned(),
        format!("pairs_left_early_total {}", u8::from(runs_layers_one_by_one())),
        "queries_scored_total 5".to_owned(),
        format!("queries_settled_total {settled}"),
        format!("queries_left_early_total {}", u8::from(runs_layers_one_by_one())),
    ] {
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    server.terminate();
    assert!(server.ended().await.success());
}

/// Elsewhere libtorch runs all of them at once.
fn runs_layers_one_by_one() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpu| cpu.contains("avx2"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_the_committed_one() {
    let server = Server::start(ALONE).await;
    let committed = std::fs::read(tests::worker::repository().join("docs/schema/openapi.json")).expect("committed");
    let committed: Value = serde_json::from_slice(&committed).expect("JSON");
    assert_eq!(server.get("/openapi.json").await.expect("answered").json(), committed);
    assert_eq!(server.get("/healthz").await.expect("answered").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_packed_both_ways() {
    let server = Server::start(ALONE).await;
    let queries: Vec<String> = (0..40).map(|i| format!("kettle {i}")).collect();
    let body = gzip(json!({"queries": queries}).to_string().as_bytes());
    let headers = ["content-encoding: gzip", "accept-encoding: gzip", PATIENT];
    let answer = server.connect().await.post("/v1/intent", &headers, &body).await.expect("answered");
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    let mut text = String::new();
    GzDecoder::new(&answer.body[..]).read_to_string(&mut text).expect("gzip");
    let unpacked: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(unpacked["results"].as_array().map(Vec::len), Some(40));

    // 64 MB of spaces in 64 KB: the limit holds after unpacking.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let answer = server.connect().await.post("/v1/intent", &["content-encoding: gzip"], &bomb).await.expect("answered");
    is_problem(&answer, 413, "too-large");
    let answer =
        server.connect().await.post("/v1/intent", &["content-encoding: gzip"], b"plain").await.expect("answered");
    is_problem(&answer, 400, "unreadable-body");
    let answer =
        server.connect().await.post("/v1/intent", &["content-encoding: br"], b"plain").await.expect("answered");
    is_problem(&answer, 415, "content-encoding");
    is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name_and_neighbours_served() {
    let server = Server::start(ALONE).await;
    let product = json!({"title": "kettle"});
    let fields: [(&str, Value, &str); 12] = [
        ("/v1/intent", json!({}), "query"),
        ("/v1/intent", json!({"query": "a", "queries": ["b"]}), "queries"),
        ("/v1/intent", json!({"query": 7}), "query"),
        ("/v1/intent", json!({"query": " "}), "query"),
        ("/v1/intent", json!({"queries": []}), "queries"),
        ("/v1/intent", json!({"queries": vec!["a"; 257]}), "queries"),
        ("/v1/intent", json!({"queries": ["a", "x".repeat(513)]}), "queries[1]"),
        ("/v1/intent", json!({"queries": ["a", null]}), "queries[1]"),
        ("/v1/intent", json!({"query": "a", "lang": "en"}), "lang"),
        ("/v1/duplicates", json!({"pairs": [{"left": product, "right": {"title": ""}}]}), "pairs[0].right.title"),
        (
            "/v1/duplicates",
            json!({"pairs": [{"left": product, "right": {"title": "a", "brand": 3}}]}),
            "pairs[0].right.brand",
        ),
        ("/v1/duplicates", json!({"pairs": [{"left": product}]}), "pairs[0]"),
    ];
    for (path, body, field) in fields {
        let problem = is_problem(&server.post(path, &[], &body).await, 422, "invalid-field");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let pair = json!({"pairs": [{"left": product, "right": {"title": "a", "price": "9.99"}}]});
    for (path, body, field, fix) in [
        ("/v1/duplicates", pair, "pairs[0].right.price", "{\"amount\": 9.99, \"currency\": \"EUR\"}"),
        ("/v1/duplicates", json!({"pairs": [{"left": "a", "right": "b"}]}), "pairs[0].left", "{\"title\": "),
        ("/v1/duplicates", json!("a"), "the body", "an object with `pairs`"),
        ("/v1/intent", json!("kettle"), "the body", "{\"query\": "),
    ] {
        let problem = is_problem(&server.post(path, &[], &body).await, 422, "invalid-field");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        let said = problem["errors"][0]["reason"].as_str().unwrap_or_default();
        assert!(said.contains(fix), "{problem}");
    }
    for body in ["", "{\"query\":", "query=kettle", "\u{feff}{}"] {
        let answer = server.connect().await.post("/v1/intent", &[], body.as_bytes()).await.expect("answered");
        is_problem(&answer, 400, "not-json");
    }
    let large = json!({"query": "x".repeat(3 << 20)});
    is_problem(&server.post("/v1/intent", &[], &large).await, 413, "too-large");
    let untyped = server.connect().await.request("POST", "/v1/intent", &[], b"{}").await.expect("answered");
    is_problem(&untyped, 415, "media-type");
    is_problem(
        &server.post("/v1/intent", &["request-timeout-ms: soon"], &json!({"query": "a"})).await,
        400,
        "bad-header",
    );
    is_problem(&server.get("/v1/nothing").await.expect("answered"), 404, "no-such-path");
    let answer = server.get("/v1/intent").await.expect("answered");
    is_problem(&answer, 405, "method");
    assert_eq!(answer.header("allow"), Some("POST"));
    is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up_at_the_deadline() {
    let server = Server::start(ALONE).await;
    let mut slow = server.connect().await;
    let headers = ["content-type: application/json", "content-length: 100", "request-timeout-ms: 200"];
    slow.send("POST", "/v1/intent", &headers, b"{\"query\": ").await.expect("sent");
    is_problem(&slow.answer().await.expect("answered"), 408, "slow-body");
    is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_label_of_the_table_is_taken_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let embedded = Embedded::open(folder.path()).expect("the tables open");
    let store = embedded.store("serve-");
    store.create_tables().await.expect("the tables are created");
    let model = ModelId("some-model".to_owned());
    store.set_active_model(&model, None).await.expect("written");
    let now = Timestamp::now();
    let label = |query: &str, expires_in: i64| IntentItem {
        query: query.to_owned(),
        model: model.clone(),
        intent: Intent::Media,
        scores: [0.0, 1.0, 0.0, 0.0],
        stage: Stage::CrossEncoder,
        version: 1,
        labelled_at: now,
        expires_at: now.as_second() + expires_in,
    };
    for item in [label("usb c cable", 3600), label("old label", -3600)] {
        store.put_intent(&item).await.expect("written");
    }
    embedded.stop().await.expect("the tables close");

    let directory = folder.path().display().to_string();
    let server = Server::start(&["--local", &directory, "--table-prefix", "serve-", "--replicas", "1"]).await;
    let queries = json!({"queries": ["where is my order", "USB  C cable", "old label"]});
    // A lookup may be late on a busy machine, and the model answers instead.
    let results = loop {
        let answer = server.post("/v1/intent", &[PATIENT], &queries).await;
        assert_eq!(answer.status, 200);
        let results = answer.json()["results"].clone();
        if results[1]["source"] == "table" {
            break results;
        }
    };
    assert_eq!((&results[1]["intent"], &results[1]["model"]), (&json!("media"), &json!("some-model")));
    assert_eq!((&results[0]["intent"], &results[0]["source"]), (&json!("help"), &json!("model")));
    assert_eq!(results[2]["source"], "model", "an expired label is none");
    server.terminate();
    assert!(server.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_is_not_finite_is_named_and_its_neighbours_are_served() {
    let artifact = faulty_artifact();
    give_first_stage(artifact.path(), 0.95);
    let server = Server::start_with(artifact.path(), ALONE).await;
    // The first stage settles the first one, so that the network reads three rows of four.
    let bad = json!({"queries": ["where is my order", "nan", "lamp", "nan"]});
    let good = json!({"queries": ["kettle", "lamp"]});
    let requests = (0..20).map(|i| server.post("/v1/intent", &[PATIENT], if i % 5 == 2 { &bad } else { &good }));
    for (i, answer) in join_all(requests).await.into_iter().enumerate() {
        if i % 5 == 2 {
            let problem = is_problem(&answer, 500, "not-finite");
            let fields: Vec<&Value> =
                problem["errors"].as_array().expect("a list").iter().map(|e| &e["field"]).collect();
            assert_eq!(fields, ["queries[1]", "queries[3]"]);
        } else {
            assert_eq!(answer.status, 200);
        }
    }
    let pair = |title: &str| json!({"left": {"title": "kettle"}, "right": {"title": title}});
    let pairs = json!({"pairs": [pair("kettle"), pair("nan")]});
    let problem = is_problem(&server.post("/v1/duplicates", &[PATIENT], &pairs).await, 500, "not-finite");
    assert_eq!(problem["errors"][0]["field"], "pairs[1]");
    assert_eq!(server.get("/readyz").await.expect("answered").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_hangs_costs_its_batch_and_then_readiness() {
    let artifact = faulty_artifact();
    let mut server = Server::start_with(artifact.path(), ALONE).await;
    let hang = json!({"query": "hang"});
    is_problem(&server.post("/v1/intent", &["request-timeout-ms: 300"], &hang).await, 504, "deadline");
    // The other replica answers still.
    let answer = server.post("/v1/intent", &[PATIENT], &json!({"query": "kettle"})).await;
    assert_eq!(answer.status, 200);
    is_problem(&server.post("/v1/intent", &["request-timeout-ms: 300"], &hang).await, 504, "deadline");
    let readiness = server.until_readiness_is(503).await.json();
    assert!(
        readiness["because"][0].as_str().is_some_and(|why| why.contains("has not finished a batch")),
        "{readiness}"
    );
    let answer = server.post("/v1/intent", &[], &json!({"query": "kettle"})).await;
    is_problem(&answer, 503, "not-ready");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(server.get("/healthz").await.expect("answered").status, 200);
    server.terminate();
    assert!(server.ended().await.success(), "a stop does not wait for a device that hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let network = network_alone();
    let server = Server::start_with(network.path(), ALONE).await;
    is_served(&server).await;
    let queries: Vec<String> = (0..256).map(|i| format!("women running shoes size {i}")).collect();
    let body = json!({"queries": queries});
    let answers = join_all((0..40).map(|_| server.post("/v1/intent", &["request-timeout-ms: 1500"], &body))).await;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty(), "10,240 queries fit into a second and a half");
    for answer in refused {
        is_problem(answer, 429, "overloaded");
        let seconds: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    assert!(answers.iter().all(|answer| [200, 429, 504].contains(&answer.status)));
    is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_in_work() {
    let network = network_alone();
    let server = Server::start_with(network.path(), ALONE).await;
    let queries: Vec<String> = (0..256).map(|i| format!("women running shoes size {i}")).collect();
    let (address, body) = (server.address.clone(), json!({"queries": queries}).to_string());
    let mut connection = tests::http::Connection::open(&address).await.expect("the server listens");
    let headers = ["content-type: application/json", PATIENT, &format!("content-length: {}", body.len())];
    connection.send("POST", "/v1/intent", &headers, &body.as_bytes()[..20]).await.expect("sent");
    while !server.metrics().await.contains("http_requests_in_work{route=\"intent\"} 1") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.terminate();
    connection.send_raw(&body.as_bytes()[20..]).await.expect("sent");
    let answer = connection.answer().await.expect("answered");
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(256));
    assert!(server.ended().await.success());
}
