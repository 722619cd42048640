//! What docs/RUNBOOK.md names is there: metrics, options, and its own headings.

use clap::CommandFactory;
use consumer::app::Cli;
use consumer::metric;
use tests::worker::repository;

fn page() -> String {
    std::fs::read_to_string(repository().join("docs/RUNBOOK.md")).expect("the runbook is there")
}

/// What stands between backticks.
fn code(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_metric_of_the_runbook_exists_and_the_ones_that_page_are_in_it() {
    let page = page();
    let known = |name: &str| metric::ALL.iter().any(|metric| metric.name == name);
    let prefixes = ["queue_", "event_", "events_", "table_", "pairs_", "queries_", "label_"];
    let named = code(&page).into_iter().map(|code| code.split('{').next().unwrap_or(code));
    let named: Vec<&str> = named.filter(|code| prefixes.iter().any(|prefix| code.starts_with(prefix))).collect();
    for name in &named {
        assert!(known(name), "the runbook names {name}, which no worker has");
    }
    for metric in [metric::EVENT_FRESHNESS, metric::LEASES_LOST, metric::TABLE_THROTTLES, metric::RECEIVE_ERRORS] {
        assert!(named.contains(&metric.name), "the runbook does not speak of {}", metric.name);
    }
}

#[test]
fn every_option_of_the_runbook_exists() {
    let cli = Cli::command();
    let worker = cli.get_subcommands().find(|command| command.get_name() == "worker").expect("there is a worker");
    let known: Vec<&str> = worker.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let page = page();
    let options = code(&page).into_iter().filter_map(|code| code.strip_prefix("--"));
    for option in options.filter(|option| *option != "version") {
        assert!(known.contains(&option), "the runbook names --{option}, which the worker does not take");
    }
}

#[test]
fn every_link_within_the_runbook_leads_to_a_heading() {
    let page = page();
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let anchors: Vec<String> = page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    let links: Vec<&str> = page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(!links.is_empty());
    for link in links {
        assert!(anchors.iter().any(|anchor| anchor == link), "no heading for #{link} among {anchors:?}");
    }
}
