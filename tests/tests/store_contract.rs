//! One contract for the store, run against every engine: dynoxide in memory and on a file,
//! and ministack's DynamoDB.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType,
};
use consumer::aws::dynamo::{Limits, local_client};
use consumer::fault::{Fault, Faulty};
use consumer::store::{
    Embedded, IntentOutcome, LabelWrite, StateCheck, StateOutcome, Store, StoreError, TablesError, WriteOutcome,
};
use jiff::Timestamp;
use shared::item::{
    ACTIVE_MODEL, ActiveModelItem, IntentItem, LabelItem, Posting, ProductItem, SKETCH_BYTES_MAX, distinct_key,
};
use shared::table::{ALL, LABELS, POSTINGS, PRODUCTS};
use shared::{Intent, ModelId, ProductId, Stage, TextHash};
use tests::items::{check, id, label, marker, model, posting, state};
use tests::ministack::Ministack;

/// Runs every check on tables of its own, one after the other, and names each, so that a
/// failure's captured output ends with the one that failed.
macro_rules! contract {
    ($($check:ident),* $(,)?) => {
        #[allow(clippy::print_stdout, reason = "test output; clippy does not look into this macro on every version")]
        async fn contract(endpoint_url: &str) {
            $(
                println!("{}", stringify!($check));
                let client = local_client(endpoint_url, &Limits::default());
                $check(Store::new(client, concat!(stringify!($check), "-"))).await;
            )*
        }
    };
}

contract! {
    tables_are_created_once_and_verified,
    wrong_tables_are_reported_with_every_difference,
    missing_tables_are_fatal,
    a_state_replaces_only_the_one_it_was_planned_from,
    a_tombstone_replaces_and_is_replaced,
    the_marker_needs_the_state_it_is_about,
    of_racing_states_one_is_written,
    many_products_are_read_in_order,
    postings_are_put_read_and_deleted,
    postings_are_replaced_while_a_state_holds,
    bad_postings_are_refused,
    label_items_are_guarded_by_their_revision,
    label_items_are_guarded_by_checks,
    both_sides_and_the_marker_stand_or_fall_together,
    racing_label_writers_have_one_winner,
    distinct_keys_are_compact,
    items_over_400_kb_are_poison,
    intents_only_get_newer,
    the_active_model_switches_by_epoch,
    the_meter_counts,
}

#[tokio::test]
async fn dynoxide_in_memory() {
    let embedded = Embedded::memory().expect("memory needs nothing");
    contract(embedded.endpoint_url()).await;
    embedded.stop().await.expect("stops");
}

#[tokio::test]
async fn dynoxide_on_a_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let embedded = Embedded::open(&directory.path().join("deep/er")).expect("opens");
    contract(embedded.endpoint_url()).await;
    embedded.stop().await.expect("stops");
}

#[tokio::test]
async fn ministack() {
    let ministack = Ministack::start();
    contract(&ministack.endpoint_url()).await;
}

/// `make test-dynamodb-local` starts it.
#[tokio::test]
#[ignore = "needs DynamoDB Local, which has a licence of its own: make test-dynamodb-local"]
async fn the_official_engine() {
    let endpoint = std::env::var("CATALOG_LABELS_DYNAMODB_ENDPOINT").expect("scripts/test-dynamodb-local.sh sets it");
    contract(&endpoint).await;
}

async fn tables_are_created_once_and_verified(store: Store) {
    let created = store.create_tables().await.expect("creates");
    assert_eq!(created.len(), ALL.len());
    assert!(created.iter().all(|name| name.starts_with("tables_are_created_once_and_verified-")));
    assert_eq!(store.create_tables().await.expect("finds them"), Vec::<String>::new());
    store.verify_tables().await.expect("as defined");
}

async fn wrong_tables_are_reported_with_every_difference(store: Store) {
    let name = LABELS.physical_name(store.prefix());
    let attribute = AttributeDefinition::builder().attribute_name("asin").attribute_type(ScalarAttributeType::N);
    let key = KeySchemaElement::builder().attribute_name("asin").key_type(KeyType::Hash);
    let throughput = ProvisionedThroughput::builder().read_capacity_units(1).write_capacity_units(1);
    let request = store.client().create_table().table_name(&name).billing_mode(BillingMode::Provisioned);
    let request = request
        .attribute_definitions(attribute.build().expect("complete"))
        .key_schema(key.build().expect("complete"))
        .provisioned_throughput(throughput.build().expect("complete"));
    request.send().await.expect("a table of another kind");

    let error = store.verify_tables().await.expect_err("one is wrong, four are missing");
    let TablesError::Different { differences } = &error else { panic!("{error}") };
    let of_labels: Vec<&String> = differences.iter().filter(|difference| difference.starts_with(&name)).collect();
    assert_eq!(of_labels.len(), 4, "{error}");
    for part in ["asin HASH N, should be id HASH S + model RANGE S", "PROVISIONED", "expires_at", "NEW_AND_OLD_IMAGES"]
    {
        assert!(of_labels.iter().any(|difference| difference.contains(part)), "{part} is not in {error}");
    }
    assert_eq!(differences.iter().filter(|difference| difference.ends_with("does not exist")).count(), ALL.len() - 1);
    assert!(matches!(error.fault(), Fault::Fatal { .. }));
}

async fn missing_tables_are_fatal(store: Store) {
    let errors = [
        store.product(&id("A")).await.expect_err("no table"),
        store.products(&[id("A")]).await.expect_err("no table"),
        store.put_state(&state("A", 1, "a"), None).await.expect_err("no table"),
        store.put_postings(&[posting("k", "A")]).await.expect_err("no table"),
        store.postings(&["k".to_owned()], 1).await.expect_err("no table"),
        store.put_label_item(&label("A", 1)).await.expect_err("no table"),
        put_together(&store, &[label("A", 1)], &[check("A", "a")]).await.expect_err("no table"),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::NoTable { .. }), "{error:?}");
        assert!(error.to_string().contains("missing_tables_are_fatal-"), "{error} does not name the table");
        assert!(matches!(error.fault(), Fault::Fatal { .. }));
    }
}

async fn a_state_replaces_only_the_one_it_was_planned_from(store: Store) {
    store.create_tables().await.expect("creates");
    let first = state("A", 5, "red kettle | größe 1,5 l | 水壶");
    let put = async |state: &ProductItem, known| store.put_state(state, known).await.expect("answers");
    let stored = async || store.product(&id("A")).await.expect("reads");
    let never_written = state("A", 4, "never written");
    assert_eq!(put(&first, Some(&never_written)).await, StateOutcome::Conflict(None));
    assert_eq!(stored().await, None);
    assert_eq!(put(&first, None).await, StateOutcome::Written);
    assert_eq!(put(&first, None).await, instead(&first), "there is a state now");
    assert_eq!(stored().await, Some(first.clone()));

    let next = ProductItem { previous_texts: vec![first.text.clone()], ..state("A", 6, "blue kettle") };
    let other_content = state("A", 5, "same version, other content");
    assert_eq!(put(&next, Some(&other_content)).await, instead(&first));
    assert_eq!(put(&next, Some(&first)).await, StateOutcome::Written);
    assert_eq!(put(&next, Some(&first)).await, instead(&next), "that state is gone");
    assert_eq!(stored().await, Some(next.clone()));

    // Versions are compared as whole numbers, neither as floats nor as strings.
    let largest = state("A", u64::MAX, "kettle");
    assert_eq!(put(&largest, Some(&next)).await, StateOutcome::Written);
    let off_by_one = ProductItem { version: u64::MAX - 1, ..largest.clone() };
    assert_eq!(put(&next, Some(&off_by_one)).await, instead(&largest));
}

async fn a_tombstone_replaces_and_is_replaced(store: Store) {
    store.create_tables().await.expect("creates");
    let alive = state("A", 1, "text");
    let dead = ProductItem { deleted: true, expires_at: Some(4_000_000_000), ..state("A", 2, "") };
    let again = state("A", 3, "text");
    for (next, known) in [(&alive, None), (&dead, Some(&alive)), (&again, Some(&dead))] {
        assert_eq!(store.put_state(next, known).await.expect("answers"), StateOutcome::Written);
        assert_eq!(store.product(&id("A")).await.expect("reads").as_ref(), Some(next));
    }
}

async fn the_marker_needs_the_state_it_is_about(store: Store) {
    store.create_tables().await.expect("creates");
    let current = ProductItem { previous_texts: vec!["old".to_owned()], ..state("A", 2, "text") };
    let mark_by = async |model: &ModelId, state: &ProductItem| {
        store.mark_labelled(state, model, &marker(&current)).await.expect("answers")
    };
    let mark = async |state: &ProductItem| mark_by(&model(), state).await;
    assert_eq!(mark(&current).await, StateOutcome::Conflict(None), "there is no product yet");
    assert_eq!(store.product(&current.id).await.expect("reads"), None, "and a marker must not make one");
    put(&store, &current).await;
    assert_eq!(mark(&state("A", 1, "text")).await, instead(&current), "another version");
    assert_eq!(mark(&state("A", 2, "other")).await, instead(&current), "another content");
    assert_eq!(store.product(&current.id).await.expect("reads"), Some(current.clone()));
    assert_eq!(mark(&current).await, StateOutcome::Written);
    let mut labelled = ProductItem { previous_texts: vec![], ..current.clone() };
    labelled.labelled.insert(model(), marker(&current));
    assert_eq!(store.product(&current.id).await.expect("reads").as_ref(), Some(&labelled), "its old postings are gone");
    let next = ModelId("pair-2@2".to_owned());
    assert_eq!(mark_by(&next, &current).await, StateOutcome::Written);
    labelled.labelled.insert(next, marker(&current));
    assert_eq!(store.product(&current.id).await.expect("reads"), Some(labelled), "each model has its own");
}

async fn of_racing_states_one_is_written(store: Store) {
    store.create_tables().await.expect("creates");
    let mut writers = tokio::task::JoinSet::new();
    for version in 1..=8 {
        let store = store.clone();
        writers.spawn(async move {
            let state = state("A", version, &format!("text {version}"));
            (version, store.put_state(&state, None).await.expect("answers"))
        });
    }
    let outcomes = writers.join_all().await;
    let written = outcomes.iter().filter(|(_, outcome)| *outcome == StateOutcome::Written);
    let winners: Vec<u64> = written.map(|(version, _)| *version).collect();
    let stored = store.product(&id("A")).await.expect("reads").expect("one was written");
    assert_eq!(winners, [stored.version], "{outcomes:?}");
}

async fn many_products_are_read_in_order(store: Store) {
    store.create_tables().await.expect("creates");
    let states: Vec<ProductItem> = (0..230).map(|n| state(&format!("P{n:03}"), n + 1, &format!("Nº {n} é"))).collect();
    let mut writers = tokio::task::JoinSet::new();
    for chunk in states.chunks(60).map(<[ProductItem]>::to_vec) {
        let store = store.clone();
        writers.spawn(async move {
            for state in chunk {
                put(&store, &state).await;
            }
        });
    }
    writers.join_all().await;
    let mut ids: Vec<ProductId> = states.iter().rev().map(|state| state.id.clone()).collect();
    ids.insert(3, id("nowhere"));
    ids.extend(ids.clone());
    let before = store.meter().snapshot();
    let read = store.products(&ids).await.expect("reads");
    let mut expected = states;
    expected.reverse();
    assert_eq!(read, expected);
    let usage = store.meter().snapshot().since(&before).total();
    assert_eq!((usage.requests(), usage.items_read), (3, 230), "231 distinct ids are three batches");
    assert_eq!(store.products(&[]).await.expect("reads"), vec![]);
}

async fn postings_are_put_read_and_deleted(store: Store) {
    store.create_tables().await.expect("creates");
    let keys: Vec<String> = (0..60).map(|n| format!("模型#{n:02}")).collect();
    let mut postings: Vec<Posting> = keys.iter().map(|key| posting(key, "A")).collect();
    postings[0].sketch = Some(vec![0xFF; SKETCH_BYTES_MAX]);
    postings[1].sketch = None;
    let before = store.meter().snapshot();
    let twice: Vec<Posting> = postings.iter().chain(&postings).cloned().collect();
    store.put_postings(&twice).await.expect("puts");
    assert_eq!(store.meter().snapshot().since(&before).total().requests(), 3, "60 distinct postings are three batches");
    assert_eq!(store.postings(&keys, 10).await.expect("reads"), postings);

    let popular: Vec<Posting> = ["D", "B", "C", "A"].map(|id| posting("popular", id)).to_vec();
    store.put_postings(&popular).await.expect("puts");
    let asked = ["popular", "nowhere", "popular"].map(str::to_owned);
    let ids = |postings: Vec<Posting>| postings.into_iter().map(|p| p.id.to_string()).collect::<String>();
    assert_eq!(ids(store.postings(&asked, 3).await.expect("reads")), "ABC");
    assert_eq!(ids(store.postings(&asked, 9).await.expect("reads")), "ABCD");
    assert_eq!(ids(store.postings(&asked, 0).await.expect("reads")), "");

    store.delete_postings(&id("A"), &keys[..30]).await.expect("deletes");
    store.delete_postings(&id("A"), &keys[..30]).await.expect("deletes what is gone");
    store.delete_postings(&id("B"), &keys).await.expect("leaves what another product has");
    assert_eq!(store.postings(&keys, 10).await.expect("reads"), postings[30..]);
}

async fn postings_are_replaced_while_a_state_holds(store: Store) {
    store.create_tables().await.expect("creates");
    put(&store, &state("A", 1, "a")).await;
    let keys: Vec<String> = (0..150).map(|n| format!("k{n:03}")).collect();
    let postings: Vec<Posting> = keys[50..].iter().map(|key| posting(key, "A")).collect();
    store.put_postings(&keys[..50].iter().map(|key| posting(key, "A")).collect::<Vec<_>>()).await.expect("puts");
    let replace = async |check| store.replace_postings_while(&check, &postings, &keys[..50]).await.expect("answers");
    for other in [check("A", "b"), StateCheck { deleted: true, ..check("A", "a") }] {
        assert_eq!(replace(other).await, StateOutcome::Conflict(None));
    }
    let held = store.postings(&keys, 1).await.expect("reads");
    assert!(held.iter().map(|held| &held.key).eq(&keys[..50]), "it has another text, and is not deleted");
    assert_eq!(replace(check("A", "a")).await, StateOutcome::Written);
    assert_eq!(store.postings(&keys, 1).await.expect("reads"), postings);
}

async fn bad_postings_are_refused(store: Store) {
    let long = Posting { sketch: Some(vec![0; SKETCH_BYTES_MAX + 1]), ..posting("k", "A") };
    let errors = [
        store.put_postings(&[posting("", "A")]).await.expect_err("an empty key"),
        store.put_postings(&[posting(&"k".repeat(2049), "A")]).await.expect_err("a long key"),
        store.put_postings(&[long]).await.expect_err("a long sketch"),
        store.postings(&[String::new()], 1).await.expect_err("an empty key"),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}");
        assert!(matches!(error.fault(), Fault::Fatal { .. }));
    }
    assert_eq!(store.meter().snapshot().total().requests(), 0, "nothing was sent");
}

async fn label_items_are_guarded_by_their_revision(store: Store) {
    store.create_tables().await.expect("creates");
    let (first, second) = (label("A", 1), label("A", 2));
    let put = async |item: &LabelItem| store.put_label_item(item).await.expect("answers");
    let stored = async || store.label_item(&id("A"), &model()).await.expect("reads");
    assert_eq!(put(&second).await, WriteOutcome::Conflict, "there is no revision 1");
    assert_eq!(stored().await, None);
    assert_eq!(put(&first).await, WriteOutcome::Written);
    assert_eq!(put(&first).await, WriteOutcome::Conflict, "there is one now");
    assert_eq!(put(&second).await, WriteOutcome::Written);
    assert_eq!(put(&second).await, WriteOutcome::Conflict, "the revision has moved on");
    assert_eq!(stored().await, Some(second.clone()));

    let other_model = LabelItem { model: ModelId("other".to_owned()), ..first.clone() };
    assert_eq!(put(&other_model).await, WriteOutcome::Written, "models have slots of their own");
    let keys = [(id("A"), model()), (id("A"), other_model.model.clone()), (id("B"), model()), (id("A"), model())];
    let mut items = store.label_items(&keys).await.expect("reads");
    items.sort_by_key(|item| item.revision);
    assert_eq!(items, [other_model, second]);

    let mut slots = store.label_slots(&id("A")).await.expect("reads");
    slots.sort_by_key(|item| item.revision);
    assert_eq!(slots, items);
}

async fn label_items_are_guarded_by_checks(store: Store) {
    store.create_tables().await.expect("creates");
    put(&store, &state("A", 1, "a")).await;
    put(&store, &state("B", 7, "b")).await;
    put(&store, &ProductItem { deleted: true, ..state("D", 1, "d") }).await;
    let put = async |revision, checks: &[StateCheck]| {
        put_together(&store, &[label("A", revision)], checks).await.expect("answers")
    };
    let good = [check("A", "a"), StateCheck { version: Some(7), ..check("B", "b") }];
    let failing = [
        ("another text", check("B", "b2")),
        ("another version", StateCheck { version: Some(6), ..check("B", "b") }),
        ("no product", check("C", "c")),
        ("deleted", check("D", "d")),
    ];
    for (why, bad) in failing {
        assert_eq!(put(1, &[good[0].clone(), bad]).await, StateOutcome::Conflict(None), "{why}");
        assert_eq!(store.label_item(&id("A"), &model()).await.expect("reads"), None, "{why}");
    }
    assert_eq!(put(2, &good).await, StateOutcome::Conflict(None), "no revision 1 yet");
    let before = store.meter().snapshot();
    assert_eq!(put(1, &good).await, StateOutcome::Written);
    let usage = store.meter().snapshot().since(&before);
    assert!(usage.table(&LABELS).write_units >= 2.0 && usage.table(&PRODUCTS).write_units > 0.0, "{usage:?}");
    assert_eq!(store.label_item(&id("A"), &model()).await.expect("reads"), Some(label("A", 1)));
    assert_eq!(put(1, &good).await, StateOutcome::Conflict(None), "it is there now");
}

async fn both_sides_and_the_marker_stand_or_fall_together(store: Store) {
    store.create_tables().await.expect("creates");
    let (own, model) = (state("A", 1, "a"), model());
    put(&store, &own).await;
    let items = async || store.label_items(&["A", "B"].map(|name| (id(name), model.clone()))).await.expect("reads");
    let write = async |state: &ProductItem, revision| {
        let items = [label("A", 1), label("B", revision)];
        let marker = Some((state, &model, marker(&own)));
        store.put_label_items(&LabelWrite { items: &items, checks: &[], marker }).await.expect("answers")
    };
    assert_eq!(write(&own, 2).await, StateOutcome::Conflict(None), "one item's revision");
    assert_eq!(write(&state("A", 2, "a"), 1).await, instead(&own), "the product's state");
    assert_eq!((items().await, store.product(&own.id).await.expect("reads")), (vec![], Some(own.clone())));
    assert_eq!(write(&own, 1).await, StateOutcome::Written);
    let labelled = store.product(&own.id).await.expect("reads").expect("is there").labelled;
    assert_eq!((items().await.len(), labelled.get(&model)), (2, Some(&marker(&own))));
}

async fn racing_label_writers_have_one_winner(store: Store) {
    store.create_tables().await.expect("creates");
    put(&store, &state("A", 1, "a")).await;
    store.put_label_item(&label("A", 1)).await.expect("the item they race for");
    for is_checked in [false, true] {
        let current = store.label_item(&id("A"), &model()).await.expect("reads").expect("is there").revision;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let store = store.clone();
            let item = LabelItem { version: 100 + writer, ..label("A", current + 1) };
            writers.spawn(async move {
                let has_won = if is_checked {
                    let together = put_together(&store, std::slice::from_ref(&item), &[check("A", "a")]).await;
                    together.expect("answers") == StateOutcome::Written
                } else {
                    store.put_label_item(&item).await.expect("answers") == WriteOutcome::Written
                };
                has_won.then_some(item.version)
            });
        }
        let winners: Vec<u64> = writers.join_all().await.into_iter().flatten().collect();
        let stored = store.label_item(&id("A"), &model()).await.expect("reads").expect("is there");
        assert_eq!(winners, [stored.version]);
    }
}

async fn distinct_keys_are_compact(store: Store) {
    store.create_tables().await.expect("creates");
    let key = |n| distinct_key(&id(&format!("P{n}")), TextHash::of(1, "t"), Stage::Cascade);
    let distinct: Vec<u64> = (0..500).map(key).collect();
    let item = LabelItem { distinct, pairs: BTreeMap::new(), ..label("A", 1) };
    store.put_label_item(&item).await.expect("puts");
    assert_eq!(store.label_item(&id("A"), &model()).await.expect("reads"), Some(item));
    let request = store.client().get_item().table_name(LABELS.physical_name(store.prefix()));
    let request = request.key("id", AttributeValue::S("A".to_owned())).key("model", AttributeValue::S(model().0));
    let raw = request.send().await.expect("reads").item.expect("is there");
    assert_eq!(raw["distinct"].as_b().expect("one Binary").as_ref().len(), 4000);
}

async fn items_over_400_kb_are_poison(store: Store) {
    store.create_tables().await.expect("creates");
    put(&store, &state("A", 1, "a")).await;
    let huge = LabelItem { distinct: (0..60_000).collect(), ..label("A", 1) };
    let errors = [
        store.put_state(&state("B", 1, &"é".repeat(250_000)), None).await.expect_err("500 KB of text"),
        store.put_label_item(&huge).await.expect_err("480 KB of hashes"),
        put_together(&store, &[huge], &[check("A", "a")]).await.expect_err("480 KB of hashes"),
    ];
    for error in errors {
        let Fault::Poison { reason } = error.fault() else { panic!("{error:?}") };
        assert!(reason.contains("400 KB"), "{reason}");
    }
}

async fn intents_only_get_newer(store: Store) {
    store.create_tables().await.expect("creates");
    let intent = |version, labelled_at, expires_at| IntentItem {
        query: "größe 42 schuhe".to_owned(),
        model: model(),
        intent: Intent::Product,
        scores: [0.9, 0.05, 0.03, 0.02],
        stage: Stage::CrossEncoder,
        version,
        labelled_at: Timestamp::from_second(labelled_at).expect("in range"),
        expires_at,
    };
    let put = async |item: IntentItem| store.put_intent(&item).await.expect("answers");
    let stored = async || store.intent("größe 42 schuhe", &model()).await.expect("reads");
    assert_eq!(stored().await, None);
    assert_eq!(put(intent(5, 1000, 2000)).await, IntentOutcome::Written);
    assert_eq!(put(intent(5, 1001, 2001)).await, IntentOutcome::Stale, "the same version");
    assert_eq!(put(intent(4, 1001, 2001)).await, IntentOutcome::Stale, "an older version");
    assert_eq!(stored().await, Some(intent(5, 1000, 2000)));
    assert_eq!(put(intent(6, 1002, 2002)).await, IntentOutcome::Written, "a newer version");
    assert_eq!(put(intent(1, 2001, 3000)).await, IntentOutcome::Stale, "a second before it expires");
    assert_eq!(put(intent(1, 2002, 3000)).await, IntentOutcome::Written, "expired");
    assert_eq!(stored().await, Some(intent(1, 2002, 3000)));
}

async fn the_active_model_switches_by_epoch(store: Store) {
    store.create_tables().await.expect("creates");
    let id = |model: &str| ModelId(model.to_owned());
    let set = async |model: &str, known: Option<&ActiveModelItem>| {
        store.set_active_model(&id(model), known).await.expect("answers")
    };
    let active = async || store.active_model().await.expect("reads");
    let item = |model: &str, previous: Option<&str>, activation_epoch| ActiveModelItem {
        name: ACTIVE_MODEL.to_owned(),
        model: id(model),
        previous: previous.map(id),
        activation_epoch,
    };
    assert_eq!(active().await, None);
    let first = item("one", None, 1);
    assert_eq!(set("one", Some(&first)).await, WriteOutcome::Conflict, "nothing is active yet");
    assert_eq!(set("one", None).await, WriteOutcome::Written);
    assert_eq!(active().await.as_ref(), Some(&first));
    assert_eq!(set("two", None).await, WriteOutcome::Conflict);
    assert_eq!(set("two", Some(&first)).await, WriteOutcome::Written);
    assert_eq!(set("three", Some(&first)).await, WriteOutcome::Conflict, "somebody switched in between");
    assert_eq!(active().await, Some(item("two", Some("one"), 2)));
}

async fn the_meter_counts(store: Store) {
    store.create_tables().await.expect("creates");
    assert_eq!(store.meter().snapshot().total().requests(), 0, "tables are not data");
    let clone = store.clone();
    put(&clone, &state("A", 1, "a")).await;
    store.put_postings(&[posting("k", "A"), posting("l", "A")]).await.expect("puts");
    let written = store.meter().snapshot();
    assert!(written.table(&PRODUCTS).write_units >= 1.0, "{written:?}");
    assert!(written.table(&POSTINGS).write_units >= 2.0, "{written:?}");
    assert_eq!(written.total().read_units, 0.0);
    store.product(&id("A")).await.expect("reads");
    store.postings(&["k".to_owned()], 5).await.expect("reads");
    let read = store.meter().snapshot().since(&written);
    assert!(read.table(&PRODUCTS).read_units >= 1.0 && read.table(&POSTINGS).read_units >= 0.5, "{read:?}");
    assert_eq!((read.total().requests(), read.total().items_read, read.total().write_units), (2, 2, 0.0));
}

/// The first state of a product.
async fn put(store: &Store, state: &ProductItem) {
    assert_eq!(store.put_state(state, None).await.expect("answers"), StateOutcome::Written);
}

async fn put_together(store: &Store, items: &[LabelItem], checks: &[StateCheck]) -> Result<StateOutcome, StoreError> {
    store.put_label_items(&LabelWrite { items, checks, marker: None }).await
}

/// A conflict with this state.
fn instead(state: &ProductItem) -> StateOutcome {
    StateOutcome::Conflict(Some(Box::new(state.clone())))
}
