//! Rows of the input, one after the other, as event bodies: constant memory, whatever the
//! size of the file.

use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field as Cell;
use serde_json::{Map, Value};
use shared::event::{SCHEMA_VERSION, Upsert};
use shared::{CatalogEvent, Product, ProductId};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::app::evaluate::dataset::{Field, open};

/// Column that holds a product's id.
const ID: &str = "id";
/// Column that holds a row's version; the others without one have `row_version`.
const VERSION: &str = "version";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Ndjson,
    Parquet,
}

impl Format {
    /// By the file's name; a `.gz` at the end says nothing of what is in it.
    pub fn of(path: &Path) -> Result<Self, String> {
        let name = path.to_string_lossy().to_lowercase();
        let (plain, gzipped) = match name.strip_suffix(".gz") {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        match plain.rsplit('.').next() {
            Some("csv") => Ok(Self::Csv),
            Some("ndjson" | "jsonl") => Ok(Self::Ndjson),
            Some("parquet") if !gzipped => Ok(Self::Parquet),
            _ => Err(format!(
                "{}: the name must end in .csv, .ndjson or .jsonl (each also with .gz), or in .parquet",
                path.display()
            )),
        }
    }
}

/// Why reading ended before the last row. A row that is no event ends nothing: it is
/// rejected with its reason.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("{}: cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: is no Parquet file that can be read", path.display())]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
    #[error("{}: row {number}: is no CSV", path.display())]
    Csv { path: PathBuf, number: u64, source: csv::Error },
    #[error("{}: column {column} is missing{hint}", path.display())]
    NoColumn { path: PathBuf, column: &'static str, hint: &'static str },
}

/// A row, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counted from 1, the header and empty lines not among them.
    pub number: u64,
    /// Counted from 0.
    pub window: u64,
    /// Rows in this window; fewer than in the others in the last one only.
    pub window_rows: usize,
    /// The event as JSON, or why there is none.
    pub body: Result<String, String>,
}

/// A file of rows.
#[derive(Clone, Debug)]
pub struct Rows {
    pub path: PathBuf,
    pub format: Format,
    pub window_rows: usize,
    pub row_version: u64,
    /// Goes before the id of each row that is no event.
    pub id_prefix: String,
}

/// What rows get that do not say it themselves.
#[derive(Clone, Copy)]
struct Stamp<'a> {
    id_prefix: &'a str,
    version: u64,
    occurred_at: Timestamp,
}

impl Rows {
    /// Number of rows, for the progress bar: exact, but for line breaks within CSV cells.
    pub fn count(&self) -> Result<u64, RowsError> {
        if self.format == Format::Parquet {
            return Ok(self.parquet()?.metadata().file_metadata().num_rows().max(0) as u64);
        }
        let mut file = self.text()?;
        let (mut lines, mut last) = (0, b'\n');
        loop {
            let block = file.fill_buf().map_err(|source| self.unreadable(source))?;
            let Some(&end) = block.last() else { break };
            lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
            last = end;
            let length = block.len();
            file.consume(length);
        }
        lines += u64::from(last != b'\n');
        Ok(lines.saturating_sub(u64::from(self.format == Format::Csv)))
    }

    /// Reads on a thread of its own, window by window, each shuffled by its number, from
    /// `first_window` on. At most two windows are in memory.
    pub fn start(self, first_window: u64, occurred_at: Timestamp, ahead: usize) -> Receiver<Result<Row, RowsError>> {
        let (sender, receiver) = channel(ahead);
        std::thread::spawn(move || {
            let stamp = Stamp { id_prefix: &self.id_prefix, version: self.row_version, occurred_at };
            let mut windows = Windows::new(self.window_rows, first_window, &sender);
            let read = match self.format {
                Format::Csv => self.csv(stamp, &mut windows),
                Format::Ndjson => self.ndjson(stamp, &mut windows),
                Format::Parquet => self.parquet_rows(stamp, &mut windows),
            };
            windows.flush();
            if let Err(error) = read {
                // Nobody listens any more where the run has ended: nobody needs to know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }

    fn csv(&self, stamp: Stamp<'_>, windows: &mut Windows) -> Result<(), RowsError> {
        let mut reader = csv::Reader::from_reader(self.text()?);
        let broken = |number, source| RowsError::Csv { path: self.path.clone(), number, source };
        let header = reader.headers().map_err(|source| broken(0, source))?.clone();
        self.check_columns(header.iter())?;
        for (number, record) in (1..).zip(reader.records()) {
            let record = record.map_err(|source| broken(number, source))?;
            let cells = header.iter().zip(&record).map(|(column, value)| (column, value.to_owned()));
            if !windows.push(number, || product_event(cells, stamp)) {
                break;
            }
        }
        Ok(())
    }

    fn ndjson(&self, stamp: Stamp<'_>, windows: &mut Windows) -> Result<(), RowsError> {
        let mut number = 0;
        for line in self.text()?.split(b'\n') {
            let line = line.map_err(|source| self.unreadable(source))?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            number += 1;
            if !windows.push(number, || line_event(&line, stamp)) {
                break;
            }
        }
        Ok(())
    }

    fn parquet_rows(&self, stamp: Stamp<'_>, windows: &mut Windows) -> Result<(), RowsError> {
        let file = self.parquet()?;
        let broken = |source| RowsError::Parquet { path: self.path.clone(), source };
        let schema = file.metadata().file_metadata().schema_descr();
        self.check_columns(schema.root_schema().get_fields().iter().map(|field| field.name()))?;
        for (number, row) in (1..).zip(file.get_row_iter(None).map_err(broken)?) {
            let row = row.map_err(broken)?;
            let cells = row.get_column_iter().filter_map(|(name, cell)| Some((name.as_str(), text_of(cell)?)));
            if !windows.push(number, || product_event(cells, stamp)) {
                break;
            }
        }
        Ok(())
    }

    fn check_columns<'a>(&self, columns: impl Iterator<Item = &'a str>) -> Result<(), RowsError> {
        let columns: Vec<&str> = columns.collect();
        let missing = |column, hint| Err(RowsError::NoColumn { path: self.path.clone(), column, hint });
        if !columns.contains(&ID) {
            return missing(ID, "");
        }
        if !columns.iter().any(|column| Field::of_column(column) == Some(Field::Title)) {
            return missing("title", ", and so is name");
        }
        Ok(())
    }

    fn text(&self) -> Result<Box<dyn BufRead>, RowsError> {
        open(&self.path).map_err(|source| self.unreadable(source))
    }

    fn parquet(&self) -> Result<SerializedFileReader<File>, RowsError> {
        let file = File::open(&self.path).map_err(|source| self.unreadable(source))?;
        SerializedFileReader::new(file).map_err(|source| RowsError::Parquet { path: self.path.clone(), source })
    }

    fn unreadable(&self, source: std::io::Error) -> RowsError {
        RowsError::Unreadable { path: self.path.clone(), source }
    }
}

/// Rows gathered into windows, shuffled and sent.
struct Windows<'a> {
    rows_max: usize,
    first: u64,
    number: u64,
    rows: Vec<(u64, Result<String, String>)>,
    /// Rows of windows before the first, which are only counted.
    skipped: usize,
    sender: &'a Sender<Result<Row, RowsError>>,
}

impl<'a> Windows<'a> {
    fn new(rows_max: usize, first: u64, sender: &'a Sender<Result<Row, RowsError>>) -> Self {
        Self { rows_max, first, number: 0, rows: Vec::new(), skipped: 0, sender }
    }

    /// Takes one more row; false when nobody wants any.
    fn push(&mut self, number: u64, body: impl FnOnce() -> Result<String, String>) -> bool {
        if self.number < self.first {
            self.skipped += 1;
        } else {
            self.rows.push((number, body()));
        }
        if self.skipped.max(self.rows.len()) < self.rows_max {
            return true;
        }
        self.flush()
    }

    fn flush(&mut self) -> bool {
        let mut rows = std::mem::take(&mut self.rows);
        self.skipped = 0;
        // By the window's number, so that a run that goes on meets the same order.
        fastrand::Rng::with_seed(self.number).shuffle(&mut rows);
        let (window, window_rows) = (self.number, rows.len());
        self.number += 1;
        rows.into_iter()
            .all(|(number, body)| self.sender.blocking_send(Ok(Row { number, window, window_rows, body })).is_ok())
    }
}

/// An event as it stands, or a product whose keys are column names.
fn line_event(line: &[u8], stamp: Stamp<'_>) -> Result<String, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?;
    let value: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("is not a JSON object: {error}"))?;
    if value.contains_key("schema_version") {
        return Ok(text.trim().to_owned());
    }
    let cells = value.iter().filter_map(|(name, value)| {
        let cell = match value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((name.as_str(), cell))
    });
    product_event(cells, stamp)
}

/// The upsert of a product from its columns; unknown ones are left out.
fn product_event<'a>(cells: impl Iterator<Item = (&'a str, String)>, stamp: Stamp<'_>) -> Result<String, String> {
    let (mut id, mut version, mut product) = (None, stamp.version, Product::default());
    for (column, value) in cells {
        match column {
            ID => {
                let prefixed = format!("{}{value}", stamp.id_prefix);
                id = Some(ProductId::new(prefixed).map_err(|error| format!("column {ID}: {error}"))?);
            }
            VERSION if !value.is_empty() => {
                let bad = |_| format!("column {VERSION}: {value:?} is not a whole number of 0 or more");
                version = value.parse().map_err(bad)?;
            }
            _ => {
                if let Some(field) = Field::of_column(column) {
                    field.fill(&mut product, &value);
                }
            }
        }
    }
    let product_id = id.ok_or_else(|| format!("column {ID}: is missing"))?;
    let occurred_at = stamp.occurred_at;
    let upsert = Upsert { schema_version: SCHEMA_VERSION, product_id, version, occurred_at, product };
    serde_json::to_string(&CatalogEvent::Upsert(upsert)).map_err(|error| error.to_string())
}

/// A Parquet value as a CSV file would hold it; none for null and nested values.
fn text_of(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Null | Cell::Group(_) | Cell::ListInternal(_) | Cell::MapInternal(_) => None,
        Cell::Str(text) => Some(text.clone()),
        Cell::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).ok(),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const THEN: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn file(folder: &TempDir, name: &str, content: &[u8]) -> Rows {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("writable");
        let format = Format::of(&path).expect("a known ending");
        Rows { path, format, window_rows: 4, row_version: 9, id_prefix: String::new() }
    }

    async fn all(rows: &Rows, first_window: u64) -> Result<Vec<Row>, RowsError> {
        let mut receiver = rows.clone().start(first_window, THEN, 1);
        let mut out = Vec::new();
        while let Some(row) = receiver.recv().await {
            out.push(row?);
        }
        Ok(out)
    }

    fn event(id: &str, version: u64, product: Value) -> Value {
        json!({"schema_version": 1, "type": "upsert", "product_id": id, "version": version,
               "occurred_at": THEN, "product": product})
    }

    fn body(row: &Row) -> Value {
        serde_json::from_str(row.body.as_ref().expect("a good row")).expect("JSON")
    }

    #[tokio::test]
    async fn rows_of_every_format_are_the_same_events() {
        let folder = TempDir::new().expect("a folder");
        let csv = file(&folder, "c.csv", b"id,name,version,colour\nk1,\"Kettle,\n1.7 l\",,red\nk2,Pan,3,\n");
        let lines = b"{\"id\":\"k1\",\"name\":\"Kettle,\\n1.7 l\",\"brand\":null}\n\n{\"id\":\"k2\",\"title\":\"Pan\",\"version\":3}";
        let ndjson = file(&folder, "n.jsonl", lines);
        let parquet = folder.path().join("p.parquet");
        let schema = "message row { required binary id (UTF8); required binary title (UTF8); optional int64 version; }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let mut writer = SerializedFileWriter::new(File::create(&parquet).expect("writable"), schema, Arc::default())
            .expect("a writer");
        let mut group = writer.next_row_group().expect("a group");
        for values in [["k1", "k2"], ["Kettle,\n1.7 l", "Pan"]] {
            let mut column = group.next_column().expect("a column").expect("one more");
            let values = values.map(ByteArray::from);
            column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("written");
            column.close().expect("closed");
        }
        let mut column = group.next_column().expect("a column").expect("the last");
        column.typed::<Int64Type>().write_batch(&[3], Some(&[0, 1]), None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
        writer.close().expect("closed");
        let parquet =
            Rows { path: parquet, format: Format::Parquet, window_rows: 4, row_version: 9, id_prefix: String::new() };

        let expected = [event("k1", 9, json!({"title": "Kettle,\n1.7 l"})), event("k2", 3, json!({"title": "Pan"}))];
        for rows in [csv, ndjson, parquet] {
            let mut found = all(&rows, 0).await.expect("readable");
            found.sort_by_key(|row| row.number);
            assert_eq!(found.iter().map(body).collect::<Vec<_>>(), expected, "{}", rows.path.display());
            assert!(rows.count().expect("readable") >= 2);
        }
    }

    #[tokio::test]
    async fn events_pass_as_they_are_and_bad_rows_say_why() {
        let folder = TempDir::new().expect("a folder");
        let delete = r#"{"schema_version":1,"type":"delete","product_id":"k1","version":4,"occurred_at":"2026-09-01T00:00:00Z"}"#;
        let content =
            [delete, "{", r#"{"title":"Pan"}"#, r#"{"id":"k 2","title":"Pan"}"#, r#"{"id":"k3","version":-1}"#];
        let mut found = all(&file(&folder, "e.ndjson", content.join("\n").as_bytes()), 0).await.expect("readable");
        found.sort_by_key(|row| row.number);
        assert_eq!(found[0].body.as_deref(), Ok(delete));
        let reasons =
            ["not a JSON object", "column id: is missing", "column id: a product id is", "column version: \"-1\""];
        for (row, reason) in found[1..].iter().zip(reasons) {
            let said = row.body.as_ref().expect_err("a bad row");
            assert!(said.contains(reason), "{said}");
        }
        let none = all(&file(&folder, "n.csv", b"id,colour\n1,red\n"), 0).await.expect_err("no title");
        assert!(none.to_string().ends_with("column title is missing, and so is name"), "{none}");
        assert!(Format::of(Path::new("rows.xlsx")).expect_err("unknown").contains(".parquet"));
    }

    #[tokio::test]
    async fn windows_hold_every_row_once_and_later_ones_are_the_same_from_any_start() {
        let folder = TempDir::new().expect("a folder");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for i in 1..=10 {
            writeln!(gzip, "{{\"id\":\"p{i}\",\"title\":\"Pan {i}\"}}").expect("memory takes it");
        }
        let rows = file(&folder, "r.ndjson.gz", &gzip.finish().expect("memory takes it"));
        let whole = all(&rows, 0).await.expect("readable");
        let mut numbers: Vec<u64> = whole.iter().map(|row| row.number).collect();
        assert_ne!(numbers, (1..=10).collect::<Vec<u64>>(), "they are shuffled");
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=10).collect::<Vec<u64>>());
        let sizes: Vec<(u64, usize)> = whole.iter().map(|row| (row.window, row.window_rows)).collect();
        assert_eq!(sizes, [vec![(0, 4); 4], vec![(1, 4); 4], vec![(2, 2); 2]].concat());
        assert_eq!(all(&rows, 1).await.expect("readable"), whole[4..]);
        assert_eq!(rows.count().expect("readable"), 10);
    }
}
