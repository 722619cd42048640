//! The file of an export: written beside its place, and moved there when it is whole.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::NamedTempFile;

use super::row::{Row, Value};
use super::{Error, Format};

/// Rows of one Parquet row group: what is held in memory until it is written.
const GROUP_ROWS: usize = 50_000;

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("--out: cannot write {}; is the folder there, and may you write to it?", .path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("--out: cannot move the finished file to {}", .path.display())]
    Rename { path: PathBuf, source: io::Error },
}

/// Removed when dropped before [`ExportFile::finish`].
pub struct ExportFile<R> {
    path: PathBuf,
    unfinished: NamedTempFile,
    writer: Writer<R>,
    rows: u64,
}

#[expect(clippy::large_enum_variant, reason = "one writer exists at a time")]
enum Writer<R> {
    Ndjson(BufWriter<File>),
    Parquet { writer: SerializedFileWriter<BufWriter<File>>, group: Vec<R> },
}

impl<R: Row> ExportFile<R> {
    pub fn create(path: PathBuf, format: Format) -> Result<Self, Error> {
        let create = |source| FileError::Create { path: path.clone(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        // Like any new file, not private as temporary ones are.
        let permissions = Permissions::from_mode(0o666);
        let unfinished = tempfile::Builder::new().permissions(permissions).prefix(".export-").tempfile_in(folder);
        let unfinished = unfinished.map_err(create)?;
        let out = BufWriter::new(unfinished.reopen().map_err(create)?);
        let writer = match format {
            Format::Ndjson => Writer::Ndjson(out),
            Format::Parquet => Writer::Parquet { writer: parquet_writer::<R>(out)?, group: Vec::new() },
        };
        Ok(Self { path, unfinished, writer, rows: 0 })
    }

    pub fn write(&mut self, rows: Vec<R>) -> Result<(), Error> {
        self.rows += rows.len() as u64;
        match &mut self.writer {
            Writer::Ndjson(out) => {
                for row in rows {
                    serde_json::to_writer(&mut *out, &row)?;
                    out.write_all(b"\n")?;
                }
            }
            Writer::Parquet { writer, group } => {
                group.extend(rows);
                if group.len() >= GROUP_ROWS {
                    write_group(writer, &std::mem::take(group))?;
                }
            }
        }
        Ok(())
    }

    /// Puts the file in its place and says how many rows it has.
    pub fn finish(self) -> Result<u64, Error> {
        let out = match self.writer {
            Writer::Ndjson(out) => out,
            Writer::Parquet { mut writer, group } => {
                if !group.is_empty() {
                    write_group(&mut writer, &group)?;
                }
                writer.into_inner()?
            }
        };
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let moved = self.unfinished.persist(&self.path);
        moved.map_err(|error| FileError::Rename { path: self.path, source: error.error })?;
        Ok(self.rows)
    }
}

fn parquet_writer<R: Row>(out: BufWriter<File>) -> Result<SerializedFileWriter<BufWriter<File>>, ParquetError> {
    let column = |column: &super::row::Column<R>| {
        let name = column.name;
        match column.value {
            Value::Text(_) => format!("REQUIRED BYTE_ARRAY {name} (STRING);"),
            Value::Number(_) => format!("REQUIRED INT64 {name} (INTEGER(64,false));"),
            Value::Share(_) => format!("REQUIRED FLOAT {name};"),
            Value::Time(_) => format!("REQUIRED INT64 {name} (TIMESTAMP(MICROS,true));"),
        }
    };
    let columns: String = R::COLUMNS.iter().map(column).collect();
    let schema = Arc::new(parse_message_type(&format!("message label {{ {columns} }}"))?);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    SerializedFileWriter::new(out, schema, Arc::new(properties))
}

fn write_group<R: Row>(writer: &mut SerializedFileWriter<BufWriter<File>>, rows: &[R]) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for column in R::COLUMNS {
        let mut out = group.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".to_owned()))?;
        match (&column.value, out.untyped()) {
            (Value::Text(value), ColumnWriter::ByteArrayColumnWriter(out)) => {
                let values: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(value(row).into_bytes())).collect();
                out.write_batch(&values, None, None)?
            }
            (Value::Number(value), ColumnWriter::Int64ColumnWriter(out)) => {
                let values: Vec<i64> = rows.iter().map(|row| value(row).cast_signed()).collect();
                out.write_batch(&values, None, None)?
            }
            (Value::Time(value), ColumnWriter::Int64ColumnWriter(out)) => {
                let values: Vec<i64> = rows.iter().map(|row| value(row).as_microsecond()).collect();
                out.write_batch(&values, None, None)?
            }
            (Value::Share(value), ColumnWriter::FloatColumnWriter(out)) => {
                let values: Vec<f32> = rows.iter().map(value).collect();
                out.write_batch(&values, None, None)?
            }
            _ => return Err(ParquetError::General(format!("column {} has another type in the schema", column.name))),
        };
        out.close()?;
    }
    group.close()?;
    Ok(())
}
