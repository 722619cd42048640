//! Words that DynamoDB reserves: no expression holds one, and data may be any of them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;
use consumer::store::{Embedded, Store};
use reader::{LabelReader, Options};
use serde_json::Value;
use shared::table::POSTINGS;
use shared::{CatalogEvent, ModelId, Verdict};
use tests::converged::assert_converged;
use tests::deliveries::{body, tables};
use tests::events::{query, score_pairs};
use tests::fleet::{TextModel, pipeline};
use tests::history::{delete, upsert};
use tests::items::id;
use tests::recorded::Recording;
use tests::table_model::{newest, table};

/// All that an expression may hold besides names with `#` and values with `:`.
const GRAMMAR: [&str; 17] = [
    "SET",
    "REMOVE",
    "ADD",
    "DELETE",
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "attribute_exists",
    "attribute_not_exists",
    "attribute_type",
    "begins_with",
    "contains",
    "size",
    "if_not_exists",
    "list_append",
];

/// Words of DynamoDB's list of reserved ones that are valid as ids, models and queries.
const RESERVED: [&str; 6] = ["KEY", "VALUES", "SIZE", "COUNT", "NAME", "TEXT"];

/// Every expression of a request, wherever it is, by its name.
fn expressions(body: &Value, found: &mut Vec<(String, String)>) {
    match body {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name.ends_with("Expression") => found.push((name.clone(), text.clone())),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The words of an expression that are neither alias nor grammar.
fn bare_names(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_alphanumeric() && !"_#:".contains(c));
    words
        .filter(|word| !word.is_empty() && !word.starts_with(['#', ':']))
        .filter(|word| !GRAMMAR.contains(word) && word.parse::<u64>().is_err())
        .collect()
}

#[test]
fn bare_names_are_told_from_aliases_and_grammar() {
    assert_eq!(bare_names("SET #labelled.#model = :labelled REMOVE #previous_texts"), [""; 0]);
    assert_eq!(bare_names("attribute_not_exists(id) OR (#n<:n AND version<>:v)"), ["id", "version"]);
    assert_eq!(bare_names("labels.#key = :v"), ["labels"]);
}

/// Two products that look alike, changes, a delete, a pair by name, queries, a switch of models,
/// a reconciliation, and a reader: every kind of request that workers and search send.
async fn everything(store: &Store) {
    let model = TextModel::new("now");
    let worker = pipeline(store.clone(), &model);
    let events = [
        upsert("A", 1, "kettle qx4471z", 1.0),
        upsert("B", 1, "steel kettle qx4471z", 1.0),
        upsert("B", 2, "large kettle qx4471z", 1.0),
        upsert("C", 1, "lamp tb2296w", 1.0),
    ];
    for event in &events {
        worker.process(&body(event), 1).await.expect("nothing is in its way");
    }
    for other in [
        score_pairs(1, &[("A", "C")]).to_string(),
        query("steel kettle", 1).to_string(),
        query("Steel  kettle", 2).to_string(),
        body(&delete("A", 2)),
    ] {
        worker.process(&other, 1).await.expect("nothing is in its way");
    }
    worker.reconcile(2, &|_| {}).await.expect("nothing is in its way");
    store.set_active_model(&model.id, None).await.expect("activates");
    let reader = LabelReader::new(store.client().clone(), store.prefix(), Options::default());
    reader.labels_for_page(&["A", "B", "C"].map(id)).await.expect("reads");
    reader.intent_for("steel kettle").await.expect("reads");
}

#[tokio::test]
async fn every_attribute_goes_by_an_alias_in_every_expression() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let recording = Recording::default();
    everything(&recording.of(&tables(&engine, "words-").await)).await;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sent in recording.sent() {
        let mut found = Vec::new();
        expressions(&sent.body, &mut found);
        for (name, expression) in found {
            assert_eq!(bare_names(&expression), [""; 0], "{}, {name}: {expression}", sent.operation);
            seen.entry(sent.operation.clone()).or_default().insert(name);
        }
    }
    let expected = ["BatchGetItem", "PutItem", "Query", "TransactWriteItems", "UpdateItem"].map(str::to_owned);
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), expected, "all kinds of request were seen: {seen:?}");
}

/// The engine refuses what DynamoDB would, so that the tests of the store would notice.
#[tokio::test]
async fn a_reserved_word_without_an_alias_is_refused() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "bare-").await;
    let query = |condition: &str| {
        let request = store.client().query().table_name(POSTINGS.physical_name(store.prefix()));
        request.key_condition_expression(condition).expression_attribute_values(":key", AttributeValue::S("k".into()))
    };
    query("#key = :key").expression_attribute_names("#key", "key").send().await.expect("an alias is accepted");
    let error = query("key = :key").send().await.expect_err("`key` is reserved").into_service_error();
    assert!(error.to_string().contains("reserved") || format!("{error:?}").contains("reserved"), "{error:?}");
}

/// Ids and models become names within expressions and maps: any of them may be a reserved word.
#[tokio::test]
async fn ids_and_models_may_be_reserved_words() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "data-").await;
    let titles = ["kettle qx4471z", "steel kettle qx4471z", "large kettle qx4471z"];
    let history: Vec<CatalogEvent> =
        RESERVED.iter().enumerate().map(|(n, name)| upsert(name, 1, titles[n % 3], 1.0)).collect();
    let models = ["NAME", "KEY", "COUNT"].map(TextModel::new);
    for model in &models {
        let worker = pipeline(store.clone(), model);
        for event in &history {
            worker.process(&body(event), 1).await.expect("nothing is in its way");
        }
    }
    assert_converged(&store, &models, &history).await;
    let pairs = |model: &TextModel| table(&newest(&history), |left, right| model.score(left, right));
    assert!(models.iter().any(|model| pairs(model).values().any(|(_, entries)| !entries.is_empty())));

    let one = &models[0];
    store.set_active_model(&ModelId(one.id.0.clone()), None).await.expect("activates");
    let reader =
        LabelReader::new(store.client().clone(), store.prefix(), Options { consistent: true, ..Options::default() });
    let page = reader.labels_for_page(&RESERVED.map(id)).await.expect("reads");
    let expected = pairs(one).values().map(|(_, entries)| entries.len()).sum::<usize>() / 2;
    let read = page.pairs.iter().filter(|pair| pair.verdict != Verdict::Distinct).count();
    assert_eq!((read, page.missing), (expected, vec![]));
}
