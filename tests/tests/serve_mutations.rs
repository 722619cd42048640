//! Requests that were damaged at random, against the real binary: each is answered, by its results or by a
//! problem that says why not, and a good request after it is served as ever.

use serde_json::{Value, json};
use tests::http::{Answer, Connection};
use tests::server::Server;

const ALONE: &[&str] = &["--without-tables", "--online-replicas", "1", "--replicas", "1"];
/// A deadline that any machine keeps.
const PATIENT: &str = "request-timeout-ms: 60000";
const MUTATIONS: usize = 600;

/// What stands for a value in place of it.
fn instead(random: &mut fastrand::Rng) -> Value {
    let others = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("\u{0}\u{feff}\u{202e}"),
        json!("x".repeat(70_000)),
        json!([]),
        json!({}),
        json!([[[["deep"]]]]),
        json!({"query": "lamp"}),
    ];
    others[random.usize(..others.len())].clone()
}

/// Every value of a document, by its pointer.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(values) => values.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(name, v)| pointers(v, &format!("{at}/{name}"), found)),
        _ => {}
    }
}

/// A value replaced, a field renamed, or bytes changed, left out, doubled or cut off.
fn damaged(good: &Value, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut value = good.clone();
    let mut all = Vec::new();
    pointers(&value, "", &mut all);
    let at = &all[random.usize(..all.len())];
    let target = value.pointer_mut(at).expect("it is there");
    let kind = random.usize(..6);
    match (kind, target) {
        (0 | 1, target) => *target = instead(random),
        (2, Value::Object(fields)) => drop(fields.insert("unknown".to_owned(), instead(random))),
        _ => {}
    }
    let mut bytes = serde_json::to_vec(&value).expect("JSON");
    let (from, length) = (random.usize(..bytes.len()), random.usize(1..8));
    let to = (from + length).min(bytes.len());
    match kind {
        3 => bytes[from] = random.u8(..),
        4 => drop(bytes.drain(from..to)),
        5 => bytes.truncate(from),
        _ => {}
    }
    bytes
}

/// Its results, or a problem of the request.
fn is_answered(answer: &Answer, body: &[u8]) {
    let said = || format!("{} to {}: {}", answer.status, String::from_utf8_lossy(body), answer.json());
    if answer.status == 200 {
        assert!(answer.json()["results"].is_array(), "{}", said());
        return;
    }
    assert!([400, 413, 422].contains(&answer.status), "{}", said());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", said());
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status, "{}", said());
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {}", said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_requests_are_answered_and_cost_no_other() {
    let mut server = Server::start(ALONE).await;
    let product = json!({"title": "Norvik kettle", "brand": "Norvik", "model_number": "KT-17"});
    let good = [
        ("/v1/intent", json!({"queries": ["red kettle", "where is my order"]})),
        ("/v1/intent", json!({"query": "cordless drill 18v"})),
        ("/v1/duplicates", json!({"pairs": [{"left": product, "right": {"title": "Kettle by Norvik"}}]})),
    ];
    let mut random = fastrand::Rng::with_seed(11);
    let mut connection: Connection = server.connect().await;
    let mut refused = 0;
    for round in 0..MUTATIONS {
        let (path, request) = &good[round % good.len()];
        let body = damaged(request, &mut random);
        let answer = connection.post(path, &[PATIENT], &body).await.expect("the connection stays open");
        is_answered(&answer, &body);
        refused += usize::from(answer.status != 200);
        if round % 50 == 0 {
            let answer = server.post(path, &[PATIENT], request).await;
            assert_eq!(answer.status, 200, "{}", answer.json());
        }
    }
    assert!(refused > MUTATIONS / 4 && refused < MUTATIONS, "{refused} of {MUTATIONS} were refused");
    server.until_readiness_is(200).await;
    server.terminate();
    assert!(server.ended().await.success());
}
