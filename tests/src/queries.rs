//! Queries that the benches of `serve` send.

use std::path::{Path, PathBuf};

use crate::worker::repository;

/// Queries in the order of their file, and what to call them: of the TSV file QUERIES those whose `source` is
/// SOURCE, where that is given, else the sample's.
///
/// # Panics
/// Where the file can't be read, lacks a column, or has no such queries.
pub fn queries() -> (Vec<String>, String) {
    let file = std::env::var_os("QUERIES").filter(|file| !file.is_empty()).map(PathBuf::from);
    let source = std::env::var("SOURCE").ok().filter(|source| !source.is_empty());
    let path = file.clone().unwrap_or_else(|| repository().join("consumer/src/app/sample/queries.tsv"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    let column = |name| header.iter().position(|found| *found == name);
    let (text, of) = (column("text").expect("a column text"), column("source"));
    let is_meant =
        |row: &Vec<&str>| source.is_none() || of.is_some_and(|of| row[of] == source.as_deref().unwrap_or(""));
    let queries: Vec<String> = rows.filter(is_meant).map(|row| row[text].to_owned()).collect();
    assert!(!queries.is_empty(), "{} has no such queries", path.display());
    let named = match (file.as_deref().and_then(Path::file_name), source) {
        (Some(file), Some(source)) => format!("queries of {} whose source is {source}", file.display()),
        (Some(file), None) => format!("queries of {}", file.display()),
        (None, _) => "queries of the sample".to_owned(),
    };
    (queries, named)
}
