//! Labelled data as people have it: CSV tables with id pairs (the DeepMatcher layout),
//! JSON lines that carry both records (as the WDC files do), TSV of queries.
//!
//! Every error names the file, the line and the column.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};
use shared::product::Price;
use shared::{Intent, Product, ProductText};

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("{}: cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: column {column}: {reason}", path.display())]
    Cell { path: PathBuf, line: u64, column: String, reason: String },
}

/// Texts of two products, and whether they are one.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPair {
    pub left: ProductText,
    pub right: ProductText,
    pub duplicate: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LabelledQuery {
    pub text: String,
    pub intent: Intent,
    /// Value of the column that results are split by, if one was asked for.
    pub group: Option<String>,
}

/// A field of a product that a column can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Title,
    Brand,
    ModelNumber,
    ProductType,
    Description,
    Price,
}

impl Field {
    /// The field that a column of the public sets fills; other columns are ignored.
    pub(crate) fn of_column(name: &str) -> Option<Self> {
        match name {
            "title" | "name" => Some(Self::Title),
            "brand" | "manufacturer" => Some(Self::Brand),
            "model_number" | "modelno" => Some(Self::ModelNumber),
            "product_type" | "category" => Some(Self::ProductType),
            "description" => Some(Self::Description),
            "price" => Some(Self::Price),
            _ => None,
        }
    }

    /// Fills the field if it is still empty and the value is not.
    pub(crate) fn fill(self, product: &mut Product, value: &str) {
        let slot = match self {
            Self::Title => {
                if product.title.is_empty() {
                    product.title = value.to_owned();
                }
                return;
            }
            Self::Price => {
                // The model does not read prices, so one that is no number is left out.
                let amount = value.trim_start_matches(['$', '€', '£', ' ']).replace(',', "").parse().ok();
                let amount = amount.filter(|amount: &f64| amount.is_finite() && *amount >= 0.0);
                product.price = product.price.take().or(amount.map(|amount| Price { amount, currency: None }));
                return;
            }
            Self::Brand => &mut product.brand,
            Self::ModelNumber => &mut product.model_number,
            Self::ProductType => &mut product.product_type,
            Self::Description => &mut product.description,
        };
        if slot.is_none() && !value.is_empty() {
            *slot = Some(value.to_owned());
        }
    }
}

/// Reads a table of products: columns `id`, `title` or `name`, and any other known one.
pub fn read_table(path: &Path) -> Result<Vec<(String, Product)>, DatasetError> {
    let table = Table::open(path, b',')?;
    let id = table.column("id")?;
    let fields: Vec<Option<Field>> = table.header.iter().map(Field::of_column).collect();
    if !fields.contains(&Some(Field::Title)) {
        return Err(table.cell(1, "title", "is missing from the header, and so is \"name\""));
    }
    let mut seen = HashMap::new();
    let mut products = Vec::with_capacity(table.rows.len());
    for (line, row) in &table.rows {
        let mut product = Product::default();
        for (field, value) in fields.iter().zip(row) {
            if let Some(field) = field {
                field.fill(&mut product, value);
            }
        }
        if product.title.trim().is_empty() {
            return Err(table.cell(*line, "title", "is empty; every product needs a title"));
        }
        if let Some(first) = seen.insert(row[id].to_owned(), *line) {
            return Err(table.cell(*line, "id", &format!("{:?} is already in line {first}", &row[id])));
        }
        products.push((row[id].to_owned(), product));
    }
    Ok(products)
}

/// Reads pairs of two tables: columns `ltable_id`, `rtable_id` and `label`, 0 or 1.
pub fn read_pairs(left: &Path, right: &Path, pairs: &Path) -> Result<Vec<LabelledPair>, DatasetError> {
    let texts = |path| -> Result<HashMap<String, ProductText>, DatasetError> {
        Ok(read_table(path)?.into_iter().map(|(id, product)| (id, ProductText::of(&product))).collect())
    };
    let sides = [(left, texts(left)?), (right, texts(right)?)];
    let table = Table::open(pairs, b',')?;
    let columns = [table.column("ltable_id")?, table.column("rtable_id")?];
    let label = table.column("label")?;
    let mut out = Vec::with_capacity(table.rows.len());
    for (line, row) in &table.rows {
        let side = |i: usize| {
            let (path, texts) = &sides[i];
            let id = &row[columns[i]];
            let unknown =
                || table.cell(*line, &table.header[columns[i]], &format!("{id:?} is not in {}", path.display()));
            texts.get(id).cloned().ok_or_else(unknown)
        };
        let duplicate = match &row[label] {
            "0" => false,
            "1" => true,
            other => return Err(table.cell(*line, "label", &format!("{other:?} is neither 0 nor 1"))),
        };
        out.push(LabelledPair { left: side(0)?, right: side(1)?, duplicate });
    }
    Ok(out)
}

/// Reads matches of two tables: columns `ltable_id`, `rtable_id` and, where there is one,
/// `label`, whose rows other than 1 are left out. Ids are those of the tables.
pub fn read_matches(left: &Path, right: &Path, matches: &Path) -> Result<Vec<(String, String)>, DatasetError> {
    let rows = read_id_pairs([left, right], matches)?;
    Ok(rows.into_iter().filter(|row| row.duplicate).map(|row| (row.left, row.right)).collect())
}

/// One row of a file of pairs, by the ids of two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPair {
    pub left: String,
    pub right: String,
    pub duplicate: bool,
}

/// Reads pairs by id: columns `ltable_id`, `rtable_id` and, where there is one, `label`;
/// without it all are duplicates. Ids are those of the tables.
pub fn read_id_pairs(tables: [&Path; 2], pairs: &Path) -> Result<Vec<IdPair>, DatasetError> {
    let ids = |path| -> Result<HashSet<String>, DatasetError> {
        Ok(read_table(path)?.into_iter().map(|(id, _)| id).collect())
    };
    let sides = [(tables[0], ids(tables[0])?), (tables[1], ids(tables[1])?)];
    let table = Table::open(pairs, b',')?;
    let columns = [table.column("ltable_id")?, table.column("rtable_id")?];
    let label = table.column("label").ok();
    let mut out = Vec::with_capacity(table.rows.len());
    for (line, row) in &table.rows {
        for (column, (path, known)) in columns.iter().zip(&sides) {
            let id = &row[*column];
            if !known.contains(id) {
                let reason = format!("{id:?} is not in {}", path.display());
                return Err(table.cell(*line, &table.header[*column], &reason));
            }
        }
        let duplicate = label.is_none_or(|label| &row[label] == "1");
        out.push(IdPair { left: row[columns[0]].to_owned(), right: row[columns[1]].to_owned(), duplicate });
    }
    Ok(out)
}

/// Reads queries: columns `text` and `label`, and `by` where it is given. Cells are not
/// quoted.
pub fn read_queries(path: &Path, by: Option<&str>) -> Result<Vec<LabelledQuery>, DatasetError> {
    let table = Table::open(path, b'\t')?;
    let (text, label) = (table.column("text")?, table.column("label")?);
    let by = by.map(|name| table.column(name)).transpose()?;
    let queries = table.rows.iter().map(|(line, row)| {
        let given = &row[label];
        let intent = Intent::ALL.into_iter().find(|intent| intent.as_str() == given).ok_or_else(|| {
            let known = Intent::ALL.map(Intent::as_str).join(", ");
            table.cell(*line, "label", &format!("{given:?} is none of {known}"))
        })?;
        Ok(LabelledQuery { text: row[text].to_owned(), intent, group: by.map(|column| row[column].to_owned()) })
    });
    queries.collect()
}

/// Reads JSON lines, gzipped or not, of rows with both records: `title_left`,
/// `title_right`, any other known column with these endings, and `label`, 0 or 1.
pub fn read_rows(path: &Path) -> Result<Vec<LabelledPair>, DatasetError> {
    let unreadable = |source| DatasetError::Unreadable { path: path.to_owned(), source };
    let mut out = Vec::new();
    for (line, text) in (1..).zip(open(path).map_err(unreadable)?.lines()) {
        let text = text.map_err(unreadable)?;
        if text.trim().is_empty() {
            continue;
        }
        let cell = |column: &str, reason: String| cell(path, line, column, &reason);
        let row: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| cell("*", format!("is not a JSON object: {e}")))?;
        let duplicate = match row.get("label") {
            Some(Value::Number(n)) if n.as_u64() == Some(0) => false,
            Some(Value::Number(n)) if n.as_u64() == Some(1) => true,
            Some(Value::String(s)) if s == "0" => false,
            Some(Value::String(s)) if s == "1" => true,
            Some(other) => return Err(cell("label", format!("{other} is neither 0 nor 1"))),
            None => return Err(cell("label", "is missing".to_owned())),
        };
        let side = |ending| record(&row, ending).map_err(|(column, reason)| cell(&column, reason));
        out.push(LabelledPair { left: side("_left")?, right: side("_right")?, duplicate });
    }
    Ok(out)
}

/// Text of the record whose columns have this ending; an error is a column and a reason.
fn record(row: &Map<String, Value>, ending: &str) -> Result<ProductText, (String, String)> {
    let mut product = Product::default();
    for (column, value) in row {
        let Some(field) = column.strip_suffix(ending).and_then(Field::of_column) else { continue };
        match value {
            Value::Null => {}
            Value::String(value) => field.fill(&mut product, value),
            Value::Number(value) => field.fill(&mut product, &value.to_string()),
            other => return Err((column.clone(), format!("{other} is neither text nor a number"))),
        }
    }
    if product.title.trim().is_empty() {
        return Err((format!("title{ending}"), "is missing or empty; every product needs a title".to_owned()));
    }
    Ok(ProductText::of(&product))
}

/// A file of separated values with a header, in memory.
struct Table {
    path: PathBuf,
    header: StringRecord,
    /// With the line that each row starts in.
    rows: Vec<(u64, StringRecord)>,
}

impl Table {
    /// Commas come with quoting, tabs without.
    fn open(path: &Path, delimiter: u8) -> Result<Self, DatasetError> {
        let mut content = Vec::new();
        let read = open(path).and_then(|mut file| file.read_to_end(&mut content));
        read.map_err(|source| DatasetError::Unreadable { path: path.to_owned(), source })?;
        let mut reader = ReaderBuilder::new().delimiter(delimiter).quoting(delimiter == b',').from_reader(&content[..]);
        let header = reader.headers().map_err(|e| broken(path, &content, e))?.clone();
        let mut rows = Vec::new();
        for row in reader.into_records() {
            let row = row.map_err(|e| broken(path, &content, e))?;
            rows.push((line_of(row.position(), &content), row));
        }
        Ok(Self { path: path.to_owned(), header, rows })
    }

    fn column(&self, name: &str) -> Result<usize, DatasetError> {
        let missing = || self.cell(1, name, "is missing from the header");
        self.header.iter().position(|column| column == name).ok_or_else(missing)
    }

    fn cell(&self, line: u64, column: &str, reason: &str) -> DatasetError {
        cell(&self.path, line, column, reason)
    }
}

fn cell(path: &Path, line: u64, column: &str, reason: &str) -> DatasetError {
    DatasetError::Cell { path: path.to_owned(), line, column: column.to_owned(), reason: reason.to_owned() }
}

fn broken(path: &Path, content: &[u8], error: csv::Error) -> DatasetError {
    let line = line_of(error.position(), content);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => DatasetError::Unreadable { path: path.to_owned(), source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            cell(path, line, "*", &format!("the row has {len} cells, the header {expected_len}"))
        }
        csv::ErrorKind::Utf8 { err, .. } => cell(path, line, &format!("{}", err.field() + 1), "is not UTF-8"),
        other => cell(path, line, "*", &format!("{other:?}")),
    }
}

/// The line that a row starts in. The reader's position is before the empty lines that it
/// skips to reach the row.
fn line_of(position: Option<&csv::Position>, content: &[u8]) -> u64 {
    let Some(position) = position else { return 1 };
    let ahead = content.get(position.byte() as usize..).unwrap_or_default();
    let skipped = ahead.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).filter(|byte| **byte == b'\n').count();
    position.line() + skipped as u64
}

/// Opens a file, through gzip where its first bytes say so.
pub(crate) fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    Ok(if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::TempDir;

    struct Files(TempDir);

    impl Files {
        fn new() -> Self {
            Self(TempDir::new().expect("a temporary folder"))
        }

        fn with(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, content).expect("writable");
            path
        }
    }

    fn said<T: std::fmt::Debug>(result: Result<T, DatasetError>) -> String {
        result.expect_err("the file is bad").to_string()
    }

    #[test]
    fn tables_fill_products() {
        let files = Files::new();
        let path = files.with(
            "a.csv",
            "id,name,manufacturer,modelno,category,colour,price\n7,\"Kettle, \"\"XL\"\"\",Norvik,KT 17,kettles,red,\"$1,058.45\"\n8,Toaster,,,,,cheap\n",
        );
        let products = read_table(&path).expect("the table is good");
        let kettle = Product {
            title: "Kettle, \"XL\"".to_owned(),
            brand: Some("Norvik".to_owned()),
            model_number: Some("KT 17".to_owned()),
            product_type: Some("kettles".to_owned()),
            price: Some(Price { amount: 1058.45, currency: None }),
            ..Product::default()
        };
        let toaster = Product { title: "Toaster".to_owned(), ..Product::default() };
        assert_eq!(products, [("7".to_owned(), kettle), ("8".to_owned(), toaster)]);
    }

    #[test]
    fn broken_tables_name_file_line_and_column() {
        let files = Files::new();
        let table = |content| said(read_table(&files.with("t.csv", content)));
        assert!(table("name\nKettle\n").ends_with("t.csv:1: column id: is missing from the header"));
        assert!(table("id,brand\n1,Norvik\n").contains("t.csv:1: column title: is missing"));
        assert!(table("id,title\n1,Kettle\n2,\n").contains("t.csv:3: column title: is empty"));
        assert!(table("id,title\n1,Kettle\n\n1,Pan\n").contains("t.csv:4: column id: \"1\" is already in line 2"));
        assert!(table("id,title\n1,Kettle,red\n").contains("t.csv:2: column *: the row has 3 cells, the header 2"));
        assert!(said(read_table(Path::new("none.csv"))).contains("none.csv: cannot be read"));
        let path = files.0.path().join("latin.csv");
        std::fs::write(&path, b"id,title\n1,caf\xe9\n").expect("writable");
        assert!(said(read_table(&path)).contains("latin.csv:2: column 2: is not UTF-8"));
    }

    #[test]
    fn pairs_name_unknown_ids_and_labels() {
        let files = Files::new();
        let (a, b) = (files.with("a.csv", "id,name\n1,Kettle\n"), files.with("b.csv", "id,title\n1,Pan\n"));
        let pairs = |content| read_pairs(&a, &b, &files.with("p.csv", content));
        let good = pairs("ltable_id,rtable_id,label\n1,1,1\n").expect("the pair is good");
        assert_eq!(
            (good[0].left.text.as_str(), good[0].right.text.as_str(), good[0].duplicate),
            ("kettle", "pan", true)
        );
        assert!(said(pairs("ltable_id,rtable_id\n1,1\n")).contains("p.csv:1: column label: is missing"));
        assert!(
            said(pairs("ltable_id,rtable_id,label\n1,1,0\n1,9,0\n"))
                .contains("p.csv:3: column rtable_id: \"9\" is not in")
        );
        assert!(
            said(pairs("ltable_id,rtable_id,label\n1,1,yes\n")).contains("p.csv:2: column label: \"yes\" is neither")
        );
    }

    #[test]
    fn rows_with_both_records_are_read_gzipped_or_not() {
        let files = Files::new();
        let row = r#"{"title_left": "Kettle", "brand_left": null, "price_left": 5, "title_right": "Pan", "brand_right": "Norvik", "label": 0}"#;
        let plain = read_rows(&files.with("rows.jsonl", &format!("{row}\n\n{row}"))).expect("the rows are good");
        assert_eq!(plain.len(), 2);
        assert_eq!(plain[0].right.text, "pan | norvik");
        let path = files.0.path().join("rows.gz");
        let mut gzip =
            flate2::write::GzEncoder::new(File::create(&path).expect("writable"), flate2::Compression::fast());
        gzip.write_all(row.as_bytes()).expect("writable");
        gzip.finish().expect("writable");
        assert_eq!(read_rows(&path).expect("the row is good"), plain[..1]);

        let bad = |change: (&str, &str)| said(read_rows(&files.with("bad.jsonl", &row.replace(change.0, change.1))));
        assert!(bad(("\"label\": 0", "\"label\": 2")).contains("bad.jsonl:1: column label: 2 is neither"));
        assert!(bad((", \"label\": 0", "")).contains("column label: is missing"));
        assert!(bad(("title_right", "titre_right")).contains("column title_right: is missing or empty"));
        assert!(bad(("\"Norvik\"", "[1]")).contains("column brand_right: [1] is neither"));
        assert!(bad(("{", "")).contains("bad.jsonl:1: column *: is not a JSON object"));
    }

    #[test]
    fn queries_are_unquoted_and_labels_checked() {
        let files = Files::new();
        let path = files.with("q.tsv", "text\tlabel\tsource\r\n19\" monitor\tproduct\tshop\r\nbeet\thelp\tdesk\r\n");
        let queries = read_queries(&path, Some("source")).expect("the queries are good");
        assert_eq!((queries[0].text.as_str(), queries[0].intent), ("19\" monitor", Intent::Product));
        assert_eq!(queries[1].group.as_deref(), Some("desk"));
        assert!(said(read_queries(&path, Some("style"))).contains("q.tsv:1: column style: is missing"));
        let bad = files.with("bad.tsv", "text\tlabel\nkettle\tbuy\n");
        assert!(said(read_queries(&bad, None)).contains("bad.tsv:2: column label: \"buy\" is none of product, media"));
    }
}
