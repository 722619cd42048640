//! Promises 2b and 4: any history ends in the table that brute force foretells.

use std::sync::atomic::{AtomicUsize, Ordering};

use consumer::flow::Outcome;
use consumer::store::Embedded;
use proptest::prelude::*;
use shared::{CatalogEvent, ProductText, Verdict};
use tests::converged::{assert_converged, neighbours};
use tests::deliveries::{Message, body, process, tables};
use tests::fleet::{TextModel, mortal, paused, pipeline, stored};
use tests::history::{delete, upsert};
use tests::items::id;
use tests::recorded::Recording;
use tests::table_model::newest;

const PRODUCTS: usize = 5;

const CODES: [&str; 3] = ["qx4471z", "mv8835k", "tb2296w"];
const WORDS: [&str; 3] = ["kettle", "steel kettle", "large lamp"];

fn event() -> impl Strategy<Value = CatalogEvent> {
    let title = (0..CODES.len(), 0..WORDS.len()).prop_map(|(code, word)| format!("{} {}", WORDS[word], CODES[code]));
    let content = prop_oneof![4 => (title, 0..2_u8).prop_map(Some), 1 => Just(None)];
    (0..PRODUCTS, 1..5_u64, content).prop_map(|(product, version, content)| {
        let name = format!("P{product}");
        match content {
            Some((title, price)) => upsert(&name, version, &title, f64::from(price)),
            None => delete(&name, version),
        }
    })
}

/// Every event once or twice to each of two fleets, in any order, with crashes.
fn messages() -> impl Strategy<Value = Vec<Message>> {
    let crashes = prop::collection::vec(0..24_i64, 0..3);
    let copies = prop::collection::vec((crashes, 0..40_usize), 2..5);
    prop::collection::vec((event(), copies), 1..14)
        .prop_map(|events| {
            let copy = |event: &CatalogEvent, number: usize, (crashes, delay): (Vec<i64>, usize)| Message {
                event: event.clone(),
                fleet: number % 2,
                crashes: crashes.into(),
                delay,
                receive_count: 0,
            };
            let of_event = |(event, copies): (CatalogEvent, Vec<(Vec<i64>, usize)>)| {
                copies.into_iter().enumerate().map(move |(n, c)| copy(&event, n, c)).collect::<Vec<_>>()
            };
            events.into_iter().flat_map(of_event).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

#[test]
fn promise_2b_any_history_ends_in_the_same_table() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let engine = Embedded::memory().expect("memory needs nothing");
    let number = AtomicUsize::new(0);
    let config =
        ProptestConfig { cases: 96, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() };
    proptest!(config, |(messages in messages())| {
        let case = number.fetch_add(1, Ordering::SeqCst);
        runtime.block_on(async {
            let store = tables(&engine, &format!("case{case}-")).await;
            let fleets = [TextModel::new("now"), TextModel::new("next")];
            let history: Vec<CatalogEvent> = messages.iter().map(|message| message.event.clone()).collect();
            process(&store, |tables, fleet| pipeline(tables, &fleets[fleet]), messages).await;
            assert_converged(&store, &fleets, &history).await;
        });
    });
}

/// Runs `before`, then `last` with a crash before request 0, 1, 2, ... of its delivery,
/// each on tables of its own, then delivers `last` again.
async fn survives_every_crash(name: &str, before: &[CatalogEvent], last: CatalogEvent) {
    let engine = Embedded::memory().expect("memory needs nothing");
    let history: Vec<CatalogEvent> = before.iter().chain([&last]).cloned().collect();
    for requests in 0_i64.. {
        let store = tables(&engine, &format!("{name}{requests}-")).await;
        let model = [TextModel::new("now")];
        for event in before {
            pipeline(store.clone(), &model[0]).process(&body(event), 1).await.expect("nothing is in its way");
        }
        let dying = pipeline(mortal(&store, requests), &model[0]).process(&body(&last), 1).await;
        pipeline(store.clone(), &model[0]).process(&body(&last), 2).await.expect("nothing is in its way");
        assert_converged(&store, &model, &history).await;
        if dying.is_ok() {
            assert!(requests >= 6, "{name} takes {requests} requests, so not every step was cut off");
            return;
        }
    }
}

#[tokio::test]
async fn a_crash_in_any_gap_of_a_first_upsert_is_repaired() {
    survives_every_crash("first", &neighbours(), upsert("X", 1, "large lamp qx4471z", 1.0)).await;
}

#[tokio::test]
async fn a_crash_in_any_gap_of_a_text_change_is_repaired() {
    let mut before = neighbours();
    before.push(upsert("X", 1, "large lamp qx4471z", 1.0));
    survives_every_crash("change", &before, upsert("X", 2, "steel kettle mv8835k", 1.0)).await;
}

#[tokio::test]
async fn a_crash_in_any_gap_of_a_delete_is_repaired() {
    let mut before = neighbours();
    before.push(upsert("X", 1, "large lamp qx4471z", 1.0));
    survives_every_crash("delete", &before, delete("X", 2)).await;
}

#[tokio::test]
async fn a_crash_in_any_gap_of_a_re_creation_is_repaired() {
    let mut before = neighbours();
    before.extend([upsert("X", 1, "large lamp qx4471z", 1.0), delete("X", 2)]);
    survives_every_crash("again", &before, upsert("X", 3, "large lamp mv8835k", 1.0)).await;
}

/// Both products of a pair change at once, on two workers, many times.
#[tokio::test(flavor = "multi_thread")]
async fn both_products_of_a_pair_may_change_at_once() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "race-").await;
    let model = [TextModel::new("now")];
    let known = neighbours();
    for event in &known {
        pipeline(store.clone(), &model[0]).process(&body(event), 1).await.expect("nothing is in its way");
    }
    for version in 1..=20_u64 {
        let title = |of: u64| format!("{} {}", WORDS[(of % 3) as usize], CODES[(of / 3 % 2) as usize]);
        let round = [upsert("X", version, &title(version), 1.0), upsert("Y", version, &title(version * 5), 1.0)];
        let messages = round.iter().map(Message::of).collect();
        process(&store, |tables, fleet| pipeline(tables, &model[fleet]), messages).await;
        let history: Vec<CatalogEvent> = known.iter().chain(&round).cloned().collect();
        assert_converged(&store, &model, &history).await;
    }
}

/// A look-alike that labels X between X's new state and X's own labels must not lose who
/// else has an entry about X's text before.
#[tokio::test]
async fn a_look_alike_that_comes_between_state_and_labels_loses_nothing() {
    let engine = Embedded::memory().expect("memory needs nothing");
    for number in 0..12 {
        let store = tables(&engine, &format!("between{number}-")).await;
        let model = [TextModel::new(&format!("model {number}"))];
        let mut history = neighbours();
        history.push(upsert("X", 1, "large lamp qx4471z", 1.0));
        for event in &history {
            pipeline(store.clone(), &model[0]).process(&body(event), 1).await.expect("nothing is in its way");
        }
        let (change, between) = (upsert("X", 2, "lamp tb2296w", 1.0), upsert("Y", 1, "large lamp tb2296w", 1.0));
        // It reads and writes the state, and dies.
        let dying = pipeline(mortal(&store, 2), &model[0]).process(&body(&change), 1).await;
        assert!(dying.is_err());
        pipeline(store.clone(), &model[0]).process(&body(&between), 1).await.expect("nothing is in its way");
        pipeline(store.clone(), &model[0]).process(&body(&change), 2).await.expect("nothing is in its way");
        history.extend([change, between]);
        assert_converged(&store, &model, &history).await;
    }
}

/// A worker that holds an old state stops before each of its requests in turn while the
/// newer state is labelled by another one; what it writes afterwards leaves no trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_worker_leaves_nothing_behind() {
    let engine = Embedded::memory().expect("memory needs nothing");
    for (name, newer) in [("text", upsert("X", 2, "lamp tb2296w", 1.0)), ("gone", delete("X", 2))] {
        for requests in 0_i64.. {
            let store = tables(&engine, &format!("late-{name}{requests}-")).await;
            let model = [TextModel::new("now")];
            let mut history = neighbours();
            for event in &history {
                pipeline(store.clone(), &model[0]).process(&body(event), 1).await.expect("nothing is in its way");
            }
            let older = upsert("X", 1, "large lamp qx4471z", 1.0);
            let ((stopped, has_stopped), (go, may_go)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
            let late = pipeline(paused(&store, requests, stopped, may_go), &model[0]);
            let message = body(&older);
            let late = tokio::spawn(async move { late.process(&message, 1).await });
            let was_stopped = tokio::task::block_in_place(|| has_stopped.recv()).is_ok();
            pipeline(store.clone(), &model[0]).process(&body(&newer), 1).await.expect("nothing is in its way");
            drop(go);
            late.await.expect("no panic").expect("nothing is in its way");
            history.extend([older, newer.clone()]);
            assert_converged(&store, &model, &history).await;
            if !was_stopped {
                assert!(requests >= 6, "{name}: the late worker made {requests} requests only");
                break;
            }
        }
    }
}

/// An event that is stale by now comes again and looks once more at the newer state; while its
/// worker stands before any of its requests, a third state is labelled, and after one request
/// more it dies. The next delivery knows of the event's text and of the third state, so nothing of
/// the second may be left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_worker_that_dies_over_another_state_than_its_events_leaves_nothing_behind() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let model = [TextModel::new("now")];
    let (first, second) = (upsert("X", 1, "large lamp qx4471z", 1.0), upsert("X", 2, "steel kettle mv8835k", 1.0));
    let thirds = [upsert("X", 3, "lamp tb2296w", 1.0), upsert("X", 3, "large lamp qx4471z", 1.0), delete("X", 3)];
    for (name, third) in ["text", "back", "gone"].into_iter().zip(thirds) {
        let mut deaths = 0;
        for requests in 0_i64.. {
            let store = tables(&engine, &format!("dies-{name}{requests}-")).await;
            let mut history = neighbours();
            history.extend([first.clone(), second.clone()]);
            for event in &history {
                pipeline(store.clone(), &model[0]).process(&body(event), 1).await.expect("nothing is in its way");
            }
            let ((stopped, has_stopped), (go, may_go)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
            let late = mortal(&paused(&store, requests, stopped, may_go), requests + 1);
            let (late, message) = (pipeline(late, &model[0]), body(&first));
            let late = tokio::spawn(async move { late.process(&message, 2).await });
            let was_stopped = tokio::task::block_in_place(|| has_stopped.recv()).is_ok();
            pipeline(store.clone(), &model[0]).process(&body(&third), 1).await.expect("nothing is in its way");
            drop(go);
            if late.await.expect("no panic").is_err() {
                deaths += 1;
                let again = pipeline(store.clone(), &model[0]).process(&body(&first), 3).await;
                again.expect("nothing is in its way");
            }
            history.push(third.clone());
            assert_converged(&store, &model, &history).await;
            if !was_stopped {
                break;
            }
        }
        assert!(deaths >= 4, "{name}: only {deaths} runs were cut off");
    }
}

/// Two workers have one event. The first plans with a look-alike that is deleted meanwhile,
/// the second finds nothing left to write and sets the marker, and the first sends one more
/// request and dies: not even until its redelivery may an entry of what is gone be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_dies_after_another_one_finished_its_event_leaves_nothing_behind() {
    /// Y's state and postings are there, its labels are not.
    const Y_REQUESTS: i64 = 4;
    let engine = Embedded::memory().expect("memory needs nothing");
    let (x, y) = (upsert("X", 1, "kettle qx4471z", 1.0), upsert("Y", 1, "large lamp qx4471z", 1.0));
    let gone = delete("Y", 2);
    let texts = newest([&x, &y]).into_values().flatten().map(|product| ProductText::of(&product).text);
    let texts: Vec<String> = texts.collect();
    let says_review = |model: &TextModel| model.score(&texts[0], &texts[1]).1 == Verdict::Review;
    let model = [(0..).map(|n| TextModel::new(&format!("model {n}"))).find(says_review).expect("one in three does")];
    let (mut is_done, mut first, mut deaths) = (false, 1, 0);
    while !is_done {
        first += 1;
        for requests in 0_i64.. {
            let store = tables(&engine, &format!("twice-{first}-{requests}-")).await;
            is_done = pipeline(mortal(&store, first), &model[0]).process(&body(&x), 1).await.is_ok();
            let dying = pipeline(mortal(&store, Y_REQUESTS), &model[0]).process(&body(&y), 1).await;
            assert!(dying.is_err(), "these are not all");
            let ((stopped, has_stopped), (go, may_go)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
            let late = mortal(&paused(&store, requests, stopped, may_go), requests + 1);
            let (late, message) = (pipeline(late, &model[0]), body(&x));
            let late = tokio::spawn(async move { late.process(&message, 2).await });
            let was_stopped = tokio::task::block_in_place(|| has_stopped.recv()).is_ok();
            for (event, receive_count) in [(&gone, 1), (&x, 1)] {
                let done = pipeline(store.clone(), &model[0]).process(&body(event), receive_count).await;
                done.expect("nothing is in its way");
            }
            drop(go);
            if late.await.expect("no panic").is_err() {
                let left = stored(&store, [&id("X")], &model[0]).await;
                assert!(left.values().all(|(_, entries)| entries.is_empty()), "{left:?}");
                deaths += 1;
                let again = pipeline(store.clone(), &model[0]).process(&body(&x), 3).await;
                again.expect("nothing is in its way");
            }
            assert_converged(&store, &model, &[x.clone(), y.clone(), gone.clone()]).await;
            if !was_stopped {
                break;
            }
        }
    }
    assert!(deaths > 10, "only {deaths} runs were cut off");
}

/// Promise 4: what changes no text costs one conditional write, and no inference.
#[tokio::test]
async fn promise_4_a_price_costs_one_write_and_no_inference() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "price-").await;
    let model = TextModel::new("now");
    for event in neighbours() {
        pipeline(store.clone(), &model).process(&body(&event), 1).await.expect("nothing is in its way");
    }
    let (recording, scored) = (Recording::default(), model.pairs_scored());
    let cheaper = upsert("N0", 2, "kettle qx4471z", 0.5);
    let worker = pipeline(recording.of(&store), &model);
    let done = worker.process(&body(&cheaper), 1).await.expect("nothing is in its way");
    assert_eq!((done.outcome, model.pairs_scored() - scored), (Outcome::Unchanged, 0));
    let sent = recording.sent();
    let operations: Vec<&str> = sent.iter().map(|sent| sent.operation.as_str()).collect();
    assert_eq!(operations, ["GetItem", "PutItem"], "one read of the state and one write");
    assert!(sent[1].body["ConditionExpression"].is_string(), "on a condition: {:?}", sent[1].body);
}
