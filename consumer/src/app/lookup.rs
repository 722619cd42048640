//! `lookup`: what the tables say of one product or one query, for people and scripts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use models::explain::{Explanation, OwnWord, explain};
use reader::{LabelReader, Options, ProductLabels};
use serde_json::{Value, json};
use shared::item::{IntentItem, LabelItem, PairEntry, ProductItem};
use shared::text::normalise_query;
use shared::{Intent, ModelId, ProductId, TextHash};

use super::CommandResult;
use super::config::TableArgs;
use super::open::Tables;
use crate::store::Store;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A person waits longer than a results page.
const DEADLINE: Duration = Duration::from_secs(30);
/// Columns of a table, the same wherever the output goes.
const WIDTH: u16 = 130;
/// Words of one side that are shown; `--json` has all.
const WHY_WORDS_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,

    #[command(flatten)]
    tables: TableArgs,

    /// Read this model's labels instead of the active one's
    #[arg(long, global = true, value_name = "MODEL")]
    model: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The duplicates of a product
    Product { id: String },
    /// The intent of a query
    Query { text: String },
}

/// What was found, or what is not there.
#[expect(clippy::large_enum_variant, reason = "one answer exists at a time")]
enum Answer {
    Product { state: ProductItem, labels: ProductLabels, others: Vec<ProductItem> },
    Query(IntentItem),
    Nothing { reason: String },
}

pub fn run(args: Args) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let answer = runtime.block_on(answer(&args))?;
    show(&answer, args.json)?;
    Ok(match answer {
        Answer::Nothing { .. } => ExitCode::FAILURE,
        Answer::Product { .. } | Answer::Query(_) => ExitCode::SUCCESS,
    })
}

async fn answer(args: &Args) -> Result<Answer, Error> {
    let tables = Tables::open(&args.tables).await?;
    let store = &tables.store;
    let model = args.model.clone().map(ModelId);
    let options = Options { model, deadline: DEADLINE, consistent: true, ..Options::default() };
    let reader = LabelReader::new(store.client().clone(), store.prefix(), options);
    let answer = match &args.subject {
        Subject::Product { id } => product(store, &reader, &ProductId::new(id.as_str())?).await,
        Subject::Query { text } => query(&reader, text).await,
    };
    tables.close().await?;
    answer
}

async fn product(store: &Store, reader: &LabelReader, id: &ProductId) -> Result<Answer, Error> {
    let nothing = |reason: String| Ok(Answer::Nothing { reason });
    let Some(state) = store.product(id).await? else { return nothing(format!("there is no product {id}")) };
    if state.deleted {
        return nothing(format!("product {id} was deleted at version {}", state.version));
    }
    let Some(labels) = reader.duplicates_of(id).await? else {
        let model = reader.active_model().await?;
        return nothing(format!("product {id} (version {}) has no labels of model {model} yet", state.version));
    };
    let ids: Vec<ProductId> = labels.item.pairs.keys().cloned().collect();
    let others = store.products(&ids).await?;
    Ok(Answer::Product { state, labels, others })
}

async fn query(reader: &LabelReader, text: &str) -> Result<Answer, Error> {
    if let Some(intent) = reader.intent_for(text).await? {
        return Ok(Answer::Query(intent));
    }
    let (query, model) = (normalise_query(text), reader.active_model().await?);
    Ok(Answer::Nothing { reason: format!("query {query:?} has no live label of model {model}") })
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the answer of a command")]
fn show(answer: &Answer, as_json: bool) -> Result<(), Error> {
    match answer {
        _ if as_json => println!("{}", serde_json::to_string_pretty(&to_json(answer))?),
        Answer::Product { state, labels, others } => println!("{}", product_text(state, labels, others)),
        Answer::Query(intent) => println!("{}", query_text(intent)),
        Answer::Nothing { reason } => eprintln!("{reason}"),
    }
    Ok(())
}

fn to_json(answer: &Answer) -> Value {
    match answer {
        Answer::Product { state, labels, others } => {
            let pairs: Vec<Value> = by_score(labels, others)
                .map(|(id, entry, other)| {
                    json!({
                        "other": id, "title": other.map(|other| &other.title), "verdict": entry.verdict,
                        "contested_by": labels.contested_by.get(id), "score": entry.score, "stage": entry.stage, "other_text_hash": entry.other_hash,
                        "other_version": entry.other_version, "labelled_at": entry.labelled_at,
                        "why": why(state, labels, entry, other),
                    })
                })
                .collect();
            json!({
                "product": state.id, "title": state.title, "version": state.version,
                "text_hash": labels.item.text_hash, "model": labels.item.model, "current": is_current(state, labels), "overflow": labels.item.overflow,
                "outdated": labels.outdated, "pairs": pairs,
            })
        }
        Answer::Query(intent) => {
            let scores: serde_json::Map<String, Value> =
                Intent::ALL.iter().zip(intent.scores).map(|(i, score)| (i.as_str().to_owned(), json!(score))).collect();
            json!({
                "query": intent.query, "model": intent.model, "intent": intent.intent, "scores": scores,
                "version": intent.version, "labelled_at": intent.labelled_at, "expires_at": intent.expires_at,
            })
        }
        Answer::Nothing { reason } => json!({ "error": reason }),
    }
}

fn product_text(state: &ProductItem, labels: &ProductLabels, others: &[ProductItem]) -> String {
    let mut lines = vec![format!("{}  {}", state.id, state.title)];
    let LabelItem { model, text_hash, .. } = &labels.item;
    lines.push(format!("version {}, text {}, labels of model {model}", state.version, short(*text_hash)));
    if !is_current(state, labels) {
        lines.push("its text has changed since; these labels are about the text before".to_owned());
    }
    if labels.item.pairs.is_empty() {
        lines.push("no duplicates".to_owned());
    } else {
        let mut table = table(&["product", "verdict", "score", "stage", "text, version", "labelled at", "why"]);
        for (id, entry, other) in by_score(labels, others) {
            let why = why(state, labels, entry, other);
            table.add_row([
                format!("{id}\n{}", other.map_or("", |other| other.title.as_str())),
                verdict_text(entry, labels.contested_by.get(id)),
                format!("{:.3}", entry.score),
                entry.stage.as_str().to_owned(),
                format!("{}\nversion {}", short(entry.other_hash), entry.other_version),
                format!("{:.0}", entry.labelled_at),
                why.map_or("its text has changed since".to_owned(), |why| why_text(&why)),
            ]);
        }
        align_right(&mut table, 2);
        lines.push(table.to_string());
    }
    if labels.item.overflow {
        lines.push("weaker look-alikes were dropped to keep the item small".to_owned());
    }
    if labels.outdated > 0 {
        lines.push(format!("{} left out: the other product has changed or is gone", labels.outdated));
    }
    lines.join("\n")
}

/// A contested pair says by which product.
fn verdict_text(entry: &PairEntry, contested_by: Option<&ProductId>) -> String {
    let verdict = entry.verdict.as_str();
    contested_by.map_or_else(|| verdict.to_owned(), |rival| format!("{verdict}\nsurer: {rival}"))
}

fn query_text(intent: &IntentItem) -> String {
    let mut table = table(&["intent", "score"]);
    let mut scores: Vec<(Intent, f32)> = Intent::ALL.into_iter().zip(intent.scores).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (intent, score) in scores {
        table.add_row([intent.as_str().to_owned(), format!("{score:.3}")]);
    }
    align_right(&mut table, 1);
    let IntentItem { query, intent, stage, model, version, labelled_at, .. } = intent;
    let origin = format!("{} of model {model}, version {version}, labelled at {labelled_at:.0}", stage.as_str());
    format!("{query:?} is {}\n{origin}\n{table}", intent.as_str())
}

/// Whether the labels are about the text that the product has now.
fn is_current(state: &ProductItem, labels: &ProductLabels) -> bool {
    state.text_hash == labels.item.text_hash
}

/// The words that speak for and against a pair; none where a text has changed since it
/// was labelled.
fn why(
    state: &ProductItem,
    labels: &ProductLabels,
    entry: &PairEntry,
    other: Option<&ProductItem>,
) -> Option<Explanation> {
    let other = other.filter(|other| other.text_hash == entry.other_hash && is_current(state, labels))?;
    Some(explain(&state.text, &other.text))
}

/// Each side's words in one line: numbers and codes first, since they decide most.
fn why_text(why: &Explanation) -> String {
    let shared: Vec<&str> = why.shared.iter().map(String::as_str).collect();
    let sides = [("both", shared), ("this", own_words(&why.left_only)), ("other", own_words(&why.right_only))];
    let mut lines = Vec::new();
    for (who, mut words) in sides.into_iter().filter(|(_, words)| !words.is_empty()) {
        words.sort_by_key(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
        let more = if words.len() > WHY_WORDS_MAX { " …" } else { "" };
        words.truncate(WHY_WORDS_MAX);
        lines.push(format!("{who}: {}{more}", words.join(" ")));
    }
    lines.join("\n")
}

fn own_words(words: &[OwnWord]) -> Vec<&str> {
    words.iter().map(|own| own.word.as_str()).collect()
}

/// The first digits of a text's hash: enough for people to tell texts apart.
fn short(hash: TextHash) -> String {
    hash.to_hex().chars().take(8).collect()
}

/// The pairs, best first, with the other product's state.
fn by_score<'a>(
    labels: &'a ProductLabels,
    others: &'a [ProductItem],
) -> impl Iterator<Item = (&'a ProductId, &'a PairEntry, Option<&'a ProductItem>)> {
    let mut pairs: Vec<_> = labels.item.pairs.iter().collect();
    pairs.sort_by(|a, b| b.1.score.total_cmp(&a.1.score).then_with(|| a.0.cmp(b.0)));
    pairs.into_iter().map(move |(other, entry)| (other, entry, others.iter().find(|state| state.id == *other)))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(WIDTH).set_header(header.iter().copied());
    table
}

fn align_right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use clap::Parser;
    use jiff::Timestamp;
    use shared::table::PREFIX_DEFAULT;
    use shared::{Stage, Verdict};

    use super::*;
    use crate::store::Embedded;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    async fn look_up(directory: &Path, words: &[&str]) -> Result<Answer, Error> {
        let local = ["lookup", "--local", directory.to_str().expect("a temporary directory is UTF-8")];
        answer(&Command::try_parse_from(local.iter().chain(words)).expect("parses").args).await
    }

    async fn reason(directory: &Path, words: &[&str]) -> String {
        match look_up(directory, words).await.expect("the tables answer") {
            Answer::Nothing { reason } => reason,
            Answer::Product { .. } | Answer::Query(_) => panic!("{words:?} should not be there"),
        }
    }

    fn state(id: &str, deleted: bool) -> ProductItem {
        ProductItem {
            id: ProductId::new(id).expect("a valid id"),
            version: 3,
            content_hash: TextHash::of(0, id),
            text_hash: TextHash::of(1, id),
            text: format!("kettle {id}"),
            previous_texts: vec![],
            title: format!("Kettle {id}"),
            deleted,
            occurred_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            labelled: BTreeMap::new(),
        }
    }

    fn labels(owner: &str, other: &str) -> LabelItem {
        let entry = PairEntry {
            other_hash: TextHash::of(1, other),
            other_version: 3,
            score: 0.9375,
            verdict: Verdict::Duplicate,
            stage: Stage::CrossEncoder,
            labelled_at: Timestamp::UNIX_EPOCH,
        };
        LabelItem {
            id: ProductId::new(owner).expect("a valid id"),
            model: ModelId("m".to_owned()),
            text_hash: TextHash::of(1, owner),
            version: 3,
            content_hash: TextHash::of(0, owner),
            pairs: BTreeMap::from([(ProductId::new(other).expect("a valid id"), entry)]),
            distinct: vec![],
            overflow: false,
            deleted: false,
            expires_at: None,
            revision: 1,
        }
    }

    async fn fill(directory: &Path) {
        let embedded = Embedded::open(directory).expect("opens");
        let store = embedded.store(PREFIX_DEFAULT);
        store.create_tables().await.expect("creates");
        store.set_active_model(&ModelId("m".to_owned()), None).await.expect("activates");
        for (id, deleted) in [("A", false), ("B", false), ("new", false), ("gone", true)] {
            store.put_state(&state(id, deleted), None).await.expect("writes");
        }
        for item in [labels("A", "B"), labels("B", "A")] {
            store.put_label_item(&item).await.expect("writes");
        }
        let now = Timestamp::now();
        let intent = IntentItem {
            query: "red kettle".to_owned(),
            model: ModelId("m".to_owned()),
            intent: Intent::Product,
            scores: [0.9, 0.05, 0.03, 0.02],
            stage: Stage::CrossEncoder,
            version: 1,
            labelled_at: now,
            expires_at: now.as_second() + 3600,
        };
        store.put_intent(&intent).await.expect("writes");
        embedded.stop().await.expect("stops");
    }

    #[tokio::test]
    async fn what_is_there_is_shown_and_what_is_not_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let directory = directory.path();
        let error = look_up(directory, &["product", "A"]).await.err().expect("nothing was written yet");
        assert!(error.to_string().contains("no tables in"), "{error}");
        fill(directory).await;

        let found = look_up(directory, &["product", "A"]).await.expect("the tables answer");
        let Answer::Product { state, labels, others } = &found else { panic!("A has labels") };
        let text = product_text(state, labels, others);
        for part in ["Kettle A", "Kettle B", "duplicate", "0.938", "model m", "both: kettle", "this: A", "other: B"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let json = to_json(&found);
        assert_eq!((&json["pairs"][0]["other"], &json["current"]), (&json!("B"), &json!(true)), "{json}");
        assert_eq!(json["pairs"][0]["why"]["shared"], json!(["kettle"]), "{json}");
        assert_eq!(json["pairs"][0]["other_text_hash"], json!(TextHash::of(1, "B")), "{json}");

        let found = look_up(directory, &["query", " RED  kettle"]).await.expect("the tables answer");
        let Answer::Query(intent) = &found else { panic!("the query has a label") };
        assert!(query_text(intent).contains("\"red kettle\" is product"), "{}", query_text(intent));

        assert_eq!(reason(directory, &["product", "nowhere"]).await, "there is no product nowhere");
        assert_eq!(reason(directory, &["product", "gone"]).await, "product gone was deleted at version 3");
        assert!(reason(directory, &["product", "new"]).await.contains("has no labels of model m yet"));
        assert!(reason(directory, &["product", "A", "--model", "x"]).await.contains("no labels of model x yet"));
        assert!(reason(directory, &["query", "blue kettle"]).await.contains("no live label of model m"));
        assert!(look_up(directory, &["product", "not an id"]).await.is_err());
    }
}
