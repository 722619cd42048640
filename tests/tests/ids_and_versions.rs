//! Bad input about ids, pairs and versions: each row of "Ids, pairs and versions" in the semantics
//! page, from the body of a message to the tables.

use consumer::fault::{Fault, Faulty};
use consumer::flow::{FlowError, Outcome, Processed};
use consumer::store::{Embedded, Store};
use serde_json::json;
use shared::{CatalogEvent, Event, ProductText, Verdict};
use tests::converged::{assert_converged, neighbours};
use tests::deliveries::{Message, body, process, tables};
use tests::events::{score_pairs, upsert as upsert_event};
use tests::fleet::{TextModel, pipeline, stored};
use tests::history::{delete, upsert};
use tests::items::id;

/// Tables with a few products, labelled by one model.
struct Fixture {
    _engine: Embedded,
    store: Store,
    model: TextModel,
    history: Vec<CatalogEvent>,
}

impl Fixture {
    async fn new(model: TextModel) -> Self {
        let engine = Embedded::memory().expect("memory needs nothing");
        let store = tables(&engine, "input-").await;
        let mut fixture = Self { _engine: engine, store, model, history: Vec::new() };
        for event in neighbours() {
            fixture.done(event).await;
        }
        fixture
    }

    async fn send(&self, body: &str) -> Result<Processed, FlowError> {
        pipeline(self.store.clone(), &self.model).process(body, 1).await
    }

    /// What becomes of an event that is well formed, and how many pairs it had scored.
    async fn done(&mut self, event: CatalogEvent) -> (Outcome, i64) {
        let scored = self.model.pairs_scored();
        let done = self.send(&body(&event)).await.expect("nothing is in its way");
        self.history.push(event);
        (done.outcome, self.model.pairs_scored() - scored)
    }

    async fn poison(&self, body: &str) -> String {
        let before = self.store.meter().snapshot();
        let error = self.send(body).await.expect_err("is refused");
        let written = self.store.meter().snapshot().since(&before).total().requests();
        assert_eq!(written, 0, "an event is refused before the tables are asked");
        match error.fault() {
            Fault::Poison { reason } => reason,
            fault => panic!("{fault:?}"),
        }
    }

    async fn assert_converged(&self) {
        assert_converged(&self.store, std::slice::from_ref(&self.model), &self.history).await;
    }
}

/// A model under which these two titles are duplicates.
fn duplicate_model(titles: [&str; 2]) -> TextModel {
    let texts = titles.map(|title| {
        let CatalogEvent::Upsert(event) = upsert("A", 1, title, 1.0) else { unreachable!("it is an upsert") };
        ProductText::of(&event.product).text
    });
    let says_duplicate = |model: &TextModel| model.score(&texts[0], &texts[1]).1 == Verdict::Duplicate;
    (0..).map(|n| TextModel::new(&format!("model {n}"))).find(says_duplicate).expect("one in three does")
}

#[tokio::test]
async fn ids_that_differ_by_case_are_two_products() {
    let titles = ["large lamp qx4471z", "steel lamp qx4471z"];
    let mut fixture = Fixture::new(duplicate_model(titles)).await;
    for (name, title) in ["case", "CASE"].into_iter().zip(titles) {
        assert_eq!(fixture.done(upsert(name, 1, title, 1.0)).await.0, Outcome::Written);
    }
    fixture.assert_converged().await;
    // Either may even be the other's duplicate, and a delete takes the one that it names.
    let lower = [id("case")];
    let entries = |table: tests::table_model::Table| table.get(&id("case")).map(|(_, entries)| entries.clone());
    let with_both = entries(stored(&fixture.store, &lower, &fixture.model).await).expect("is labelled");
    assert!(with_both.contains_key(&id("CASE")), "{with_both:?}");
    fixture.done(delete("CASE", 2)).await;
    let alone = entries(stored(&fixture.store, &lower, &fixture.model).await).expect("is labelled");
    assert!(!alone.contains_key(&id("CASE")), "{alone:?}");
    fixture.assert_converged().await;
}

#[tokio::test]
async fn an_id_that_differs_by_width_is_poison() {
    let fixture = Fixture::new(TextModel::new("m")).await;
    // Full width, a space that is not seen, one that does not break, letters of another script.
    for wide in ["\u{ff22}01", "B01\u{200b}", "B\u{a0}01", "\u{412}01"] {
        for event in [upsert_event(wide, 1, "kettle"), score_pairs(1, &[("N0", wide)])] {
            let reason = fixture.poison(&event.to_string()).await;
            assert!(reason.contains("printable ASCII"), "{reason}");
        }
    }
    fixture.assert_converged().await;
}

#[tokio::test]
async fn a_self_pair_is_poison_and_its_event_with_it() {
    let fixture = Fixture::new(TextModel::new("m")).await;
    let reason = fixture.poison(&score_pairs(1, &[("N0", "N1"), ("N2", "N2")]).to_string()).await;
    assert!(reason.contains("pairs[1]"), "{reason}");
    fixture.assert_converged().await;
}

/// Blocking finds a product under its own keys; it is never its own look-alike.
#[tokio::test]
async fn no_product_is_paired_with_itself() {
    let mut fixture = Fixture::new(TextModel::new("m")).await;
    for version in 2..4 {
        fixture.done(upsert("N0", version, &format!("kettle qx4471z mark {version}"), 1.0)).await;
        let item = fixture.store.label_item(&id("N0"), &fixture.model.id).await.expect("reads").expect("is labelled");
        assert!(!item.pairs.contains_key(&id("N0")), "{item:?}");
    }
}

#[tokio::test]
async fn a_version_that_goes_backwards_is_stale_and_costs_one_read() {
    let mut fixture = Fixture::new(TextModel::new("m")).await;
    fixture.done(upsert("X", 5, "kettle qx4471z", 1.0)).await;
    for event in [upsert("X", 4, "steel kettle mv8835k", 1.0), delete("X", 4), upsert("X", 0, "kettle qx4471z", 1.0)] {
        let before = fixture.store.meter().snapshot();
        assert_eq!(fixture.done(event).await, (Outcome::Stale, 0));
        let usage = fixture.store.meter().snapshot().since(&before).total();
        assert_eq!((usage.read_requests, usage.write_requests), (1, 0));
    }
    fixture.assert_converged().await;
}

#[tokio::test]
async fn the_same_event_twice_writes_nothing_and_costs_no_inference() {
    let mut fixture = Fixture::new(TextModel::new("m")).await;
    let event = upsert("X", 5, "kettle qx4471z", 1.0);
    fixture.done(event.clone()).await;
    let before = fixture.store.meter().snapshot();
    assert_eq!(fixture.done(event).await, (Outcome::Unchanged, 0));
    assert_eq!(fixture.store.meter().snapshot().since(&before).total().write_requests, 0);
    fixture.assert_converged().await;
}

/// The higher content hash wins, whichever comes first, on one worker or on several at once.
#[tokio::test]
async fn of_two_events_of_one_version_one_wins_in_every_order() {
    let contested = [upsert("X", 3, "kettle qx4471z", 1.0), upsert("X", 3, "large lamp mv8835k", 1.0), delete("X", 3)];
    let mut winners = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let events = order.map(|place| contested[place].clone());
        let mut one = Fixture::new(TextModel::new("m")).await;
        for event in events.clone() {
            one.done(event).await;
        }
        one.assert_converged().await;
        let mut many = Fixture::new(TextModel::new("m")).await;
        let worker = |tables, _| pipeline(tables, &many.model);
        process(&many.store, worker, events.iter().map(Message::of).collect()).await;
        many.history.extend(events);
        many.assert_converged().await;
        for store in [&one.store, &many.store] {
            winners.push(store.product(&id("X")).await.expect("reads").expect("is known").content_hash);
        }
    }
    assert!(winners.iter().all(|winner| *winner == winners[0]), "{winners:?}");
}

#[tokio::test]
async fn a_delete_of_a_product_never_seen_keeps_late_upserts_out() {
    let mut fixture = Fixture::new(TextModel::new("m")).await;
    assert_eq!(fixture.done(delete("never-seen", 2)).await, (Outcome::Written, 0));
    assert_eq!(fixture.done(upsert("never-seen", 1, "kettle qx4471z", 1.0)).await, (Outcome::Stale, 0));
    fixture.assert_converged().await;
}

#[tokio::test]
async fn an_upsert_after_a_delete_lives_only_with_a_higher_version() {
    let mut fixture = Fixture::new(TextModel::new("m")).await;
    fixture.done(upsert("X", 1, "kettle qx4471z", 1.0)).await;
    fixture.done(delete("X", 3)).await;
    assert_eq!(fixture.done(upsert("X", 2, "kettle qx4471z", 1.0)).await, (Outcome::Stale, 0));
    fixture.assert_converged().await;
    assert_eq!(fixture.done(upsert("X", 4, "kettle qx4471z", 1.0)).await.0, Outcome::Written);
    fixture.assert_converged().await;
}

#[test]
fn a_version_is_a_whole_number_that_is_not_negative() {
    for version in [json!(-1), json!(1.5), json!("7"), json!(null), json!(1e20)] {
        let mut event = upsert_event("B01", 1, "kettle");
        event["version"] = version.clone();
        let reason =
            Event::parse(event.to_string().as_bytes(), jiff::Timestamp::now()).expect_err("is refused").to_string();
        assert!(reason.contains("version"), "{version}: {reason}");
    }
    let mut event = upsert_event("B01", 1, "kettle");
    event["version"] = json!(u64::MAX);
    Event::parse(event.to_string().as_bytes(), jiff::Timestamp::now()).expect("the largest there is");
}
