//! What is done: counts, rejected rows, and the checkpoint that a killed run goes on from.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rows::Row;

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    Written,
    /// The tables said so already, or know something newer.
    Unchanged,
    /// On the queue; its labels are the fleet's.
    Sent,
    /// A dry run found nothing wrong.
    Checked,
    Rejected {
        reason: String,
    },
}

/// What the work is cut into; a checkpoint of another plan is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub file_bytes: u64,
    pub window_rows: usize,
}

/// The checkpoint, as it lies on the disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub plan: Plan,
    /// `occurred_at` of rows that are no events, so that a row is the same event in a run
    /// that goes on.
    pub started_at: Timestamp,
    /// Windows of which every row is done.
    pub windows: u64,
    pub written: u64,
    pub unchanged: u64,
    pub sent: u64,
    pub checked: u64,
    pub rejected: u64,
    /// Length of the file of rejected rows.
    pub rejects_bytes: u64,
    pub finished: bool,
}

impl Progress {
    fn new(plan: Plan, started_at: Timestamp) -> Self {
        let (windows, written, unchanged, sent, checked, rejected) = (0, 0, 0, 0, 0, 0);
        Self {
            plan,
            started_at,
            windows,
            written,
            unchanged,
            sent,
            checked,
            rejected,
            rejects_bytes: 0,
            finished: false,
        }
    }

    pub fn rows(&self) -> u64 {
        self.written + self.unchanged + self.sent + self.checked + self.rejected
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{}: the checkpoint cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: is no checkpoint of this build; --restart begins anew", path.display())]
    Unknown { path: PathBuf, source: serde_json::Error },
    #[error(
        "{}: belongs to a file of {} bytes and windows of {} rows, not {} and {}; use the same file and \
         --window, or --restart",
        path.display(), known.file_bytes, known.window_rows, given.file_bytes, given.window_rows
    )]
    OtherPlan { path: PathBuf, known: Plan, given: Plan },
}

/// A window in work.
#[derive(Default)]
struct Open {
    outcomes: BTreeMap<u64, RowOutcome>,
    rows: usize,
}

pub struct Ledger {
    path: PathBuf,
    progress: Progress,
    resumed: bool,
    open: BTreeMap<u64, Open>,
    rejects: File,
}

impl Ledger {
    /// Goes on from the checkpoint at `path`, or begins one.
    pub fn open(path: PathBuf, plan: Plan, restart: bool) -> Result<Self, LedgerError> {
        let fail = |source| LedgerError::Io { path: path.clone(), source };
        let known = match fs::read(&path) {
            Ok(_) if restart => None,
            Ok(bytes) => {
                let unknown = |source| LedgerError::Unknown { path: path.clone(), source };
                Some(serde_json::from_slice::<Progress>(&bytes).map_err(unknown)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail(error)),
        };
        if let Some(known) = known.as_ref().filter(|known| known.plan != plan) {
            return Err(LedgerError::OtherPlan { path, known: known.plan, given: plan });
        }
        let resumed = known.is_some();
        let progress = known.unwrap_or_else(|| Progress::new(plan, Timestamp::now()));
        let options = OpenOptions::new().create(true).truncate(false).write(true).clone();
        let mut rejects = options.open(rejects_path(&path)).map_err(fail)?;
        // Rejects that the checkpoint does not count belong to a window that is done again.
        rejects.set_len(progress.rejects_bytes).map_err(fail)?;
        rejects.seek(SeekFrom::End(0)).map_err(fail)?;
        let ledger = Self { path, progress, resumed, open: BTreeMap::new(), rejects };
        ledger.save()?;
        Ok(ledger)
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// True when an earlier run began this one.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub fn rejects_path(&self) -> PathBuf {
        rejects_path(&self.path)
    }

    /// Notes a row that is done; moves the checkpoint on when its window is, and all before it.
    pub fn note(&mut self, row: &Row, outcome: RowOutcome) -> Result<(), LedgerError> {
        let open = self.open.entry(row.window).or_default();
        open.rows = row.window_rows;
        open.outcomes.insert(row.number, outcome);
        while let Some(done) = self
            .open
            .first_entry()
            .filter(|first| *first.key() == self.progress.windows && first.get().outcomes.len() == first.get().rows)
        {
            let window = done.remove();
            self.close(window).map_err(|source| LedgerError::Io { path: self.path.clone(), source })?;
            self.save()?;
        }
        Ok(())
    }

    fn close(&mut self, window: Open) -> io::Result<()> {
        let mut lines = Vec::new();
        let progress = &mut self.progress;
        for (number, outcome) in window.outcomes {
            match outcome {
                RowOutcome::Written => progress.written += 1,
                RowOutcome::Unchanged => progress.unchanged += 1,
                RowOutcome::Sent => progress.sent += 1,
                RowOutcome::Checked => progress.checked += 1,
                RowOutcome::Rejected { reason } => {
                    progress.rejected += 1;
                    writeln!(lines, "{}", json!({"row": number, "reason": reason}))?;
                }
            }
        }
        progress.windows += 1;
        progress.rejects_bytes += lines.len() as u64;
        self.rejects.write_all(&lines)?;
        self.rejects.sync_data()
    }

    /// Says that every row is done.
    pub fn finish(&mut self) -> Result<&Progress, LedgerError> {
        self.progress.finished = true;
        self.save()?;
        Ok(&self.progress)
    }

    /// The file is replaced whole, so that a kill leaves the old or the new one.
    fn save(&self) -> Result<(), LedgerError> {
        let part = self.path.with_extension("part");
        let write = || {
            let mut file = File::create(&part)?;
            file.write_all(&serde_json::to_vec_pretty(&self.progress)?)?;
            file.sync_data()?;
            fs::rename(&part, &self.path)
        };
        write().map_err(|source| LedgerError::Io { path: self.path.clone(), source })
    }
}

fn rejects_path(checkpoint: &Path) -> PathBuf {
    checkpoint.with_extension("rejected.ndjson")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const PLAN: Plan = Plan { file_bytes: 100, window_rows: 2 };

    fn row(number: u64) -> Row {
        Row { number, window: (number - 1) / 2, window_rows: 2, body: Ok(String::new()) }
    }

    fn rejected(reason: &str) -> RowOutcome {
        RowOutcome::Rejected { reason: reason.to_owned() }
    }

    #[test]
    fn the_checkpoint_moves_by_whole_windows_in_order() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("rows.csv.backfill.json");
        let mut ledger = Ledger::open(path.clone(), PLAN, false).expect("opens");
        assert!(!ledger.is_resumed());
        // The second window ends before the first one.
        for (number, outcome) in [(4, rejected("no title")), (3, RowOutcome::Written), (1, RowOutcome::Unchanged)] {
            ledger.note(&row(number), outcome).expect("noted");
            assert_eq!(ledger.progress().windows, 0);
        }
        drop(ledger);

        let mut ledger = Ledger::open(path.clone(), PLAN, false).expect("opens");
        assert!(ledger.is_resumed());
        assert_eq!(ledger.progress().rows(), 0, "no window was whole");
        for number in [2, 1, 4] {
            ledger.note(&row(number), rejected("no title")).expect("noted");
        }
        assert_eq!((ledger.progress().windows, ledger.progress().rejected), (1, 2));
        // As if killed between a rejected row and its checkpoint.
        ledger.rejects.write_all(b"{\"row\": 4, half").expect("written");
        drop(ledger);

        let mut ledger = Ledger::open(path.clone(), PLAN, false).expect("opens");
        for number in [4, 3] {
            ledger.note(&row(number), rejected("no title")).expect("noted");
        }
        assert!(ledger.finish().expect("saved").finished);
        let rejects = fs::read_to_string(ledger.rejects_path()).expect("the file is there");
        let numbers: Vec<u64> = rejects
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["row"].as_u64().expect("a number")
            })
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4], "each rejected row once");
    }

    #[test]
    fn a_checkpoint_of_another_file_is_refused_and_restart_forgets() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("rows.csv.backfill.json");
        Ledger::open(path.clone(), PLAN, false).expect("opens").finish().expect("saved");
        let other = Plan { file_bytes: 101, ..PLAN };
        let error = Ledger::open(path.clone(), other, false).err().expect("another file");
        assert!(error.to_string().contains("--restart"), "{error}");
        assert!(!Ledger::open(path.clone(), other, true).expect("opens").progress().finished);
        fs::write(&path, "{}").expect("writable");
        assert!(matches!(Ledger::open(path, PLAN, false), Err(LedgerError::Unknown { .. })));
    }
}
