//! The demo's labels and numbers, for people.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use shared::{Intent, ProductId};

use super::RunReport;
use super::verdict::Judged;
use crate::app::sample::{KnownPair, Pair, Sample};

/// Rows shown of the duplicates found; `lookup` shows the rest.
const DUPLICATES_SHOWN: usize = 20;
/// Columns of a terminal that shows two titles side by side.
const WIDTH: u16 = 120;

/// The labels: duplicates, the model's mistakes, and intents.
pub fn labels(out: &mut impl Write, sample: &Sample, judged: &Judged) -> io::Result<()> {
    duplicates(out, sample, judged)?;
    mistakes(out, sample, judged)?;
    intents(out, judged)
}

/// Precision, recall, rates, and where to go on.
pub fn summary(out: &mut impl Write, report: &RunReport, judged: &Judged) -> io::Result<()> {
    let outcome = &judged.outcome;
    let seconds = report.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    writeln!(
        out,
        "duplicates: precision {:.3}, recall {:.3}, f1 {:.3} ({} right, {} wrong, {} missed, {} left for review)",
        outcome.precision(),
        outcome.recall(),
        outcome.f1(),
        outcome.correct.len(),
        outcome.wrong.len(),
        outcome.missed.len(),
        judged.review.len(),
    )?;
    writeln!(out, "intents:    accuracy {:.3} of {} queries", judged.intent_accuracy(), judged.intents.len())?;
    writeln!(
        out,
        "speed:      {:.1} events/s, {:.1} pairs/s ({} events, {} pairs in {seconds:.1} s)",
        report.events as f64 / seconds,
        report.pairs_scored as f64 / seconds,
        report.events,
        report.pairs_scored,
    )?;
    writeln!(
        out,
        "cost:       {:.1} read units, {:.1} write units an event",
        report.usage.read_units / report.events as f64,
        report.usage.write_units / report.events as f64,
    )?;
    writeln!(out, "tables:     {}", report.tables.display())?;
    if let Some(pair) = outcome.correct.first() {
        let folder = report.tables.parent().filter(|_| report.tables.is_file()).unwrap_or(&report.tables);
        writeln!(out, "look one up: catalog-labels lookup product {} --local {}", pair.low(), folder.display())?;
    }
    Ok(())
}

fn duplicates(out: &mut impl Write, sample: &Sample, judged: &Judged) -> io::Result<()> {
    let mut found: Vec<(&Pair, f32)> = judged.found.iter().map(|(pair, score)| (pair, *score)).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let shown = found.len().min(DUPLICATES_SHOWN);
    let mut table = new_table(["score", "product", "is the same as", "truth"]);
    // Evenly over the scores, so that the uncertain ones are seen as well.
    for i in 0..shown {
        let (pair, score) = found[i * found.len() / shown];
        let truth = if judged.outcome.correct.contains(pair) { "yes" } else { "NO" };
        table.add_row([format!("{score:.3}"), listing(sample, pair.low()), listing(sample, pair.high()), truth.into()]);
    }
    writeln!(out, "Duplicates found: {} ({shown} shown, from the surest to the least sure)\n{table}\n", found.len())
}

fn mistakes(out: &mut impl Write, sample: &Sample, judged: &Judged) -> io::Result<()> {
    let known = |pair: &Pair| sample.pairs.iter().find(|known: &&KnownPair| known.pair == *pair);
    let why = |pair: &Pair| known(pair).map_or("no pair of the truth", |known| known.why.as_str()).to_owned();
    for (title, pairs) in [("Wrongly merged", &judged.outcome.wrong), ("Missed duplicates", &judged.outcome.missed)] {
        let mut table = new_table(["score", "product", "other product", "how they differ"]);
        for pair in pairs {
            let score = judged.found.get(pair).or_else(|| judged.review.get(pair));
            let score = score.map_or("distinct".to_owned(), |score| format!("{score:.3}"));
            table.add_row([score, listing(sample, pair.low()), listing(sample, pair.high()), why(pair)]);
        }
        if pairs.is_empty() {
            writeln!(out, "{title}: none\n")?;
        } else {
            writeln!(out, "{title}: {}\n{table}\n", pairs.len())?;
        }
    }
    Ok(())
}

fn intents(out: &mut impl Write, judged: &Judged) -> io::Result<()> {
    let mut table = new_table(["intent", "right", "of", "an example", "mistaken"]);
    for intent in Intent::ALL {
        let of_class: Vec<_> = judged.intents.iter().filter(|(known, _)| known.intent == intent).collect();
        let (right, wrong): (Vec<_>, Vec<_>) =
            of_class.into_iter().partition(|(known, read)| *read == Some(known.intent));
        let example = right.first().map_or("", |(known, _)| known.text.as_str());
        let mistaken: Vec<String> = wrong
            .iter()
            .map(|(known, read)| format!("{} -> {}", known.text, read.map_or("no label", Intent::as_str)))
            .collect();
        table.add_row([
            intent.as_str().to_owned(),
            right.len().to_string(),
            (right.len() + wrong.len()).to_string(),
            example.to_owned(),
            mistaken.join("\n"),
        ]);
    }
    writeln!(out, "Intents\n{table}\n")
}

fn listing(sample: &Sample, id: &ProductId) -> String {
    let title = sample.product(id).map_or("(not in the sample)", |product| product.title.as_str());
    format!("{id}  {title}")
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(WIDTH);
    table.set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::app::demo::ReadBack;
    use crate::app::demo::verdict::judge_run;
    use crate::store::Usage;

    fn printed(read: &ReadBack) -> String {
        let sample = Sample::load(Timestamp::now()).expect("the embedded sample parses");
        let judged = judge_run(&sample, read);
        let report = RunReport {
            events: 100,
            parked: 0,
            pairs_scored: 400,
            labels_written: 90,
            elapsed: Duration::from_secs(8),
            usage: Usage { read_units: 8.0, write_units: 12.0, ..Usage::default() },
            tables: PathBuf::from("somewhere/tables.sqlite"),
        };
        let mut out = Vec::new();
        labels(&mut out, &sample, &judged).expect("a vector takes every write");
        summary(&mut out, &report, &judged).expect("a vector takes every write");
        String::from_utf8(out).expect("output is text")
    }

    #[test]
    fn nothing_found_prints_every_miss_and_no_panic() {
        let text = printed(&ReadBack::default());
        assert!(text.contains("Duplicates found: 0"), "{text}");
        assert!(text.contains("Wrongly merged: none"), "{text}");
        assert!(text.contains("Missed duplicates: 6"), "{text}");
        assert!(text.contains("no label"), "{text}");
        assert!(text.contains("12.5 events/s, 50.0 pairs/s"), "{text}");
        assert!(text.contains("0.1 read units, 0.1 write units an event"), "{text}");
        assert!(text.contains("tables:     somewhere/tables.sqlite"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_table() {
        let text = printed(&ReadBack::default());
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(usize::from(WIDTH) + 20), "{widest:?}");
        assert!(text.contains('│'), "labels stand in tables");
    }
}
