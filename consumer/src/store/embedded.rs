//! DynamoDB's API inside this process, on a SQLite file or in memory: dynoxide behind a
//! loopback port, so that the same SDK client and store reach it.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use dynoxide::Database;
use tokio::runtime;
use tokio::sync::oneshot;

use super::Store;
use crate::aws::dynamo::{Limits, local_client};

/// Name of the SQLite file in the directory.
const FILE: &str = "tables.sqlite";

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("cannot create the directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("no tables in {}; name a directory that `demo` or `--local` has written", .path.display())]
    Missing { path: PathBuf },
    #[error("the path {} is not UTF-8", .path.display())]
    NotUtf8 { path: PathBuf },
    #[error("cannot open the tables in {}: {reason}", .path.display())]
    Open { path: PathBuf, reason: String },
    #[error("cannot serve the tables on a loopback port")]
    Serve { source: io::Error },
    #[error("the server of the embedded tables ended early: {reason}")]
    Died { reason: String },
}

/// A running engine. It stops when dropped; [`Embedded::stop`] also waits for that.
#[derive(Debug)]
pub struct Embedded {
    endpoint_url: String,
    /// Dropped or sent to: the server finishes the requests in flight and ends.
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), String>>,
}

impl Embedded {
    /// Opens the tables in this directory, creating both where they do not exist. What was
    /// written is there again after a crash or `kill -9`: SQLite's write-ahead log is
    /// synced with each write.
    pub fn open(directory: &Path) -> Result<Self, EmbeddedError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| EmbeddedError::Directory { path: directory.to_owned(), source })?;
        Self::open_file(&directory.join(FILE))
    }

    /// As [`Embedded::open`], for those who only read: an error where there are no tables.
    pub fn open_existing(directory: &Path) -> Result<Self, EmbeddedError> {
        let file = directory.join(FILE);
        if !file.is_file() {
            return Err(EmbeddedError::Missing { path: directory.to_owned() });
        }
        Self::open_file(&file)
    }

    /// Tables that vanish with this value.
    pub fn memory() -> Result<Self, EmbeddedError> {
        let path = PathBuf::from(":memory:");
        Database::memory()
            .map_err(|error| EmbeddedError::Open { path, reason: error.to_string() })
            .and_then(Self::serve)
    }

    /// The tables in `database`, of which the caller may keep a clone.
    pub fn of(database: Database) -> Result<Self, EmbeddedError> {
        Self::serve(database)
    }

    /// Where a DynamoDB client finds the engine; only this machine can reach it, and any
    /// credentials will do.
    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// A store on this engine, with the default time limits.
    pub fn store(&self, prefix: &str) -> Store {
        Store::new(local_client(&self.endpoint_url, &Limits::default()), prefix)
    }

    /// Finishes the requests in flight, closes the file, and returns when that is done.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        let Self { stop, server, .. } = self;
        drop(stop);
        let died = |reason: String| EmbeddedError::Died { reason };
        let joined = tokio::task::spawn_blocking(move || server.join());
        match joined.await.map_err(|error| died(error.to_string()))? {
            Ok(served) => served.map_err(died),
            Err(_) => Err(died("it panicked".to_owned())),
        }
    }

    fn open_file(path: &Path) -> Result<Self, EmbeddedError> {
        let name = path.to_str().ok_or_else(|| EmbeddedError::NotUtf8 { path: path.to_owned() })?;
        Database::new(name)
            .map_err(|error| EmbeddedError::Open { path: path.to_owned(), reason: error.to_string() })
            .and_then(Self::serve)
    }

    /// The engine has a thread and a runtime of its own, because it runs SQLite inside its
    /// request handlers, which would block the workers of the caller's runtime.
    fn serve(database: Database) -> Result<Self, EmbeddedError> {
        let serve = |source| EmbeddedError::Serve { source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(serve)?;
        listener.set_nonblocking(true).map_err(serve)?;
        let endpoint_url = format!("http://{}", listener.local_addr().map_err(serve)?);
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(serve)?;
        let (stop, stopped) = oneshot::channel();
        let server = std::thread::Builder::new().name("embedded-tables".to_owned()).spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
                let stopped = async { drop(stopped.await) };
                dynoxide::server::serve_with_shutdown(listener, database, stopped).await
            })
        });
        Ok(Self { endpoint_url, stop, server: server.map_err(serve)? })
    }
}
