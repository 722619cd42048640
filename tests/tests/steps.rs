//! A worker dies in each gap between two of the six steps of an event; its redelivery ends right.
//!
//! `convergence` lets workers die before any request. Here each gap has a test that says its
//! name, and each proves from the tables that the worker died in that gap and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use consumer::flow::{FlowError, Outcome, Pipeline, Processed};
use consumer::store::{Embedded, Store};
use reader::{LabelReader, Options};
use shared::{CatalogEvent, ProductId, ProductText, Verdict};
use tests::converged::{assert_converged, neighbours};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::history::{delete, upsert};
use tests::items::id;
use tests::steps::{Begins, DiesAtScoring, Written, dying_before};
use tests::table_model::{newest, table};

/// Where a worker dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    Before(Begins),
    AtScoring,
}

/// Whether X's label changes the items of other products, under the models that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Change,
    Stay,
}

/// What happened before, and the last event, about product X.
struct Case {
    name: &'static str,
    before: Vec<CatalogEvent>,
    last: CatalogEvent,
}

fn upserts() -> Vec<Case> {
    let first = upsert("X", 1, "large lamp qx4471z", 1.0);
    let with = |more: &[CatalogEvent]| neighbours().into_iter().chain(more.iter().cloned()).collect::<Vec<_>>();
    let case = |name, before: &[CatalogEvent], last| Case { name, before: with(before), last };
    vec![
        case("first", &[], first.clone()),
        case("change", std::slice::from_ref(&first), upsert("X", 2, "steel kettle mv8835k", 1.0)),
        case("again", &[first, delete("X", 2)], upsert("X", 3, "large lamp mv8835k", 1.0)),
    ]
}

fn deletes() -> Vec<Case> {
    let mut before = neighbours();
    before.push(upsert("X", 1, "large lamp qx4471z", 1.0));
    vec![Case { name: "delete", before, last: delete("X", 2) }]
}

fn all() -> Vec<Case> {
    upserts().into_iter().chain(deletes()).collect()
}

impl Case {
    fn history(&self) -> Vec<CatalogEvent> {
        self.before.iter().chain([&self.last]).cloned().collect()
    }

    /// The version of the last event and its text, empty for a delete.
    fn version_and_text(&self) -> (u64, String) {
        match &self.last {
            CatalogEvent::Upsert(event) => (event.version, ProductText::of(&event.product).text),
            CatalogEvent::Delete(event) => (event.version, String::new()),
            CatalogEvent::ScorePairs(_) => unreachable!("no case is one"),
        }
    }

    /// A model under which X has pairs at every time that it is in the catalog, or never has.
    fn model(&self, others: Others) -> TextModel {
        let history = self.history();
        let is_so = |model: &TextModel| {
            (neighbours().len()..=history.len()).all(|length| {
                let states = newest(&history[..length]);
                let table = table(&states, |left, right| model.score(left, right));
                table.get(&id("X")).is_none_or(|(_, entries)| entries.is_empty() == (others == Others::Stay))
            })
        };
        (0..).map(|n| TextModel::new(&format!("model {n}"))).find(is_so).expect("one in a hundred is")
    }
}

async fn deliver(pipeline: Pipeline, event: &CatalogEvent, receive_count: u32) -> Result<Processed, FlowError> {
    pipeline.process(&body(event), receive_count).await
}

/// Lets a worker die at the last event of a case, and gives what the tables hold then and how many
/// pairs it scored; delivers it again and compares everything with the reference model.
async fn repaired(case: &Case, death: Death, others: Others) -> (Written, i64) {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, &format!("{}-", case.name)).await;
    let model = case.model(others);
    for event in &case.before {
        deliver(pipeline(store.clone(), &model), event, 1).await.expect("nothing is in its way");
    }
    let scored = model.pairs_scored();
    let dying = match death {
        Death::Before(step) => pipeline(dying_before(&store, step), &model),
        Death::AtScoring => {
            Pipeline { scorer: Box::new(DiesAtScoring(model.clone())), ..pipeline(store.clone(), &model) }
        }
    };
    deliver(dying, &case.last, 1).await.expect_err(&format!("{}: the worker dies: {death:?}", case.name));
    let (version, text) = case.version_and_text();
    let written = Written::of(&store, &model, &id("X"), version, &text).await;
    let scored = model.pairs_scored() - scored;
    assert_safe(&store, &model, case).await;

    deliver(pipeline(store.clone(), &model), &case.last, 2).await.expect("nothing is in its way");
    assert_converged(&store, std::slice::from_ref(&model), &case.history()).await;
    (written, scored)
}

/// Promise 2a while nobody has repaired anything yet: each label that a reader is given is one of
/// the table before the event or of the one after it, whether another one contests it or not.
async fn assert_safe(store: &Store, model: &TextModel, case: &Case) {
    let (history, ids) = (case.history(), newest(&case.history()).into_keys().collect::<Vec<ProductId>>());
    let mut right = BTreeSet::new();
    for history in [&case.before, &history] {
        for (own, (_, entries)) in table(&newest(history), |left, right| model.score(left, right)) {
            right.extend(entries.into_iter().map(|(other, (_, score, verdict))| (own.clone(), other, score, verdict)));
        }
    }
    let options = Options {
        model: Some(model.id.clone()),
        consistent: true,
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    let reader = LabelReader::new(store.client().clone(), store.prefix(), options);
    let page = reader.labels_for_page(&ids).await.expect("the table answers");
    for pair in page.pairs {
        let verdict = if pair.contested_by.is_some() { Verdict::Duplicate } else { pair.verdict };
        let read = (pair.first, pair.second, pair.score.to_bits(), verdict);
        assert!(right.contains(&read), "{}: {read:?} is in neither table", case.name);
    }
}

const NOTHING: Written = Written { state: false, postings: false, labels: false, marker: false };
const STATE: Written = Written { state: true, ..NOTHING };
const POSTINGS: Written = Written { postings: true, ..STATE };
const LABELS: Written = Written { labels: true, ..POSTINGS };

#[tokio::test]
async fn a_crash_before_step_1_the_state_is_repaired() {
    for case in all() {
        assert_eq!(repaired(&case, Death::Before(Begins::State), Others::Change).await, (NOTHING, 0), "{}", case.name);
    }
}

#[tokio::test]
async fn a_crash_between_step_1_state_and_2_postings_is_repaired() {
    for case in all() {
        assert_eq!(repaired(&case, Death::Before(Begins::Postings), Others::Change).await, (STATE, 0), "{}", case.name);
    }
}

#[tokio::test]
async fn a_crash_between_step_2_postings_and_3_look_up_is_repaired() {
    for case in all() {
        assert_eq!(
            repaired(&case, Death::Before(Begins::LookUp), Others::Change).await,
            (POSTINGS, 0),
            "{}",
            case.name
        );
    }
}

#[tokio::test]
async fn a_crash_between_step_3_look_up_and_4_scores_is_repaired() {
    for case in upserts() {
        assert_eq!(repaired(&case, Death::AtScoring, Others::Change).await, (POSTINGS, 0), "{}", case.name);
    }
}

/// A delete has no scores: it dies between what it read and what it writes.
#[tokio::test]
async fn a_crash_between_step_4_scores_and_5_labels_is_repaired() {
    for others in [Others::Change, Others::Stay] {
        for case in all() {
            let (written, scored) = repaired(&case, Death::Before(Begins::Labels), others).await;
            assert_eq!((written, scored > 0), (POSTINGS, case.name != "delete"), "{}, {others:?}", case.name);
        }
    }
}

#[tokio::test]
async fn a_crash_between_step_5_labels_and_6_marker_is_repaired() {
    for case in upserts() {
        let (written, scored) = repaired(&case, Death::Before(Begins::Marker), Others::Stay).await;
        assert_eq!((written, scored > 0), (LABELS, true), "{}", case.name);
    }
    for others in [Others::Change, Others::Stay] {
        for case in deletes() {
            let done = repaired(&case, Death::Before(Begins::Marker), others).await;
            assert_eq!(done, (LABELS, 0), "{}, {others:?}", case.name);
        }
    }
}

/// Where another product's item changes, an upsert's marker is part of the labels' transaction: a
/// worker that would die before a marker of its own never meets one.
#[tokio::test]
async fn between_step_5_labels_and_6_marker_is_no_gap_where_another_side_changes() {
    for case in upserts() {
        let engine = Embedded::memory().expect("memory needs nothing");
        let store = tables(&engine, &format!("{}-", case.name)).await;
        let model = case.model(Others::Change);
        for event in &case.before {
            deliver(pipeline(store.clone(), &model), event, 1).await.expect("nothing is in its way");
        }
        let would_die = pipeline(dying_before(&store, Begins::Marker), &model);
        deliver(would_die, &case.last, 1).await.expect("it sends no marker of its own");
        assert_converged(&store, &[model], &case.history()).await;
    }
}

/// The message was not deleted: it comes again, and costs no inference and no label.
#[tokio::test]
async fn a_crash_between_step_6_marker_and_the_delete_of_the_message_is_repaired() {
    for others in [Others::Change, Others::Stay] {
        for case in all() {
            let engine = Embedded::memory().expect("memory needs nothing");
            let store = tables(&engine, &format!("{}-", case.name)).await;
            let model = case.model(others);
            let history = case.history();
            for event in &history {
                deliver(pipeline(store.clone(), &model), event, 1).await.expect("nothing is in its way");
            }
            let scored = model.pairs_scored();
            let again = deliver(pipeline(store.clone(), &model), &case.last, 2).await.expect("nothing is in its way");
            let done = (again.outcome, again.tally.items_written, model.pairs_scored() - scored);
            assert_eq!(done, (Outcome::Unchanged, 0, 0), "{}, {others:?}", case.name);
            assert_converged(&store, &[model], &history).await;
        }
    }
}
