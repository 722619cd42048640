//! The artifact on disk: a folder of files and the manifest that vouches for them.

mod problems;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use shared::{ModelId, TEXT_VERSION};

use crate::cascade::{Cascade, Forest};
use crate::early_exit::EarlyExits;
use crate::golden::{Goldens, Kind};
use crate::query_cascade::{QueryCascade, QueryModel};
use crate::shape::Shape;

/// The manifest schemas that this build reads. A `cascade` needs the second, a `query_cascade` the
/// third, an `early_exit` the fourth, a `second_reading` the last: a build that knows less would skip
/// that field, and label otherwise under the same name.
pub const SCHEMA_VERSIONS: [u32; 5] =
    [2, CASCADE_SCHEMA_VERSION, QUERY_CASCADE_SCHEMA_VERSION, EARLY_EXIT_SCHEMA_VERSION, SECOND_READING_SCHEMA_VERSION];
pub const CASCADE_SCHEMA_VERSION: u32 = 3;
pub const QUERY_CASCADE_SCHEMA_VERSION: u32 = 4;
/// 5 had one exit, of queries alone, for a day.
pub const EARLY_EXIT_SCHEMA_VERSION: u32 = 6;
pub const SECOND_READING_SCHEMA_VERSION: u32 = 7;
pub const MANIFEST_FILE: &str = "manifest.json";
pub const MODULE_FILE: &str = "model.ts";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub const GOLDENS_FILE: &str = "goldens.json";
pub const CASCADE_FILE: &str = "cascade.json";
pub const QUERY_CASCADE_FILE: &str = "query_cascade.json";
pub const EARLY_EXIT_FILE: &str = "early_exit.json";

const HASH_CHUNK_BYTES: usize = 1 << 16;

/// What an artifact says of itself. Training provenance and other fields that a worker
/// has no use for are left unread.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Manifest {
    pub schema_version: u32,
    pub model_id: ModelId,
    /// [`shared::TEXT_VERSION`] of the texts that the model was trained on.
    pub text_version: u32,
    /// Longest pair, in tokens, `[CLS]` and both `[SEP]` included.
    pub pair_tokens_max: usize,
    /// Longest query, in tokens, `[CLS]` and `[SEP]` included.
    pub query_tokens_max: usize,
    /// [`MARKS`](crate::mark::MARKS) that the module was trained with.
    pub marks: Vec<String>,
    pub labels: LogitOrder,
    /// Pair logits are divided by it before the softmax.
    pub temperature: f32,
    pub thresholds: Thresholds,
    /// Which pairs are read in the other order of their texts as well; left out where one will do.
    pub second_reading: Option<SecondReading>,
    /// The first stage of pairs; left out where the cross-encoder judges every one.
    pub cascade: Option<CascadeEntry>,
    /// The first stage of queries; left out where the network reads every one.
    pub query_cascade: Option<QueryCascadeEntry>,
    /// Where rows leave the network early; left out where all of its layers read each.
    pub early_exit: Option<EarlyExitEntry>,
    pub golden_tolerance: Tolerance,
    /// In place of [`MODULE_FILE`], modules that take one shape each.
    #[serde(rename = "static")]
    pub compiled: Option<Compiled>,
    /// By name, without folders.
    pub files: BTreeMap<String, FileEntry>,
}

/// Modules of static shapes, as `training/compile_neuron.py` writes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Compiled {
    pub device: Target,
    pub buckets: Vec<Bucket>,
}

/// What modules were compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Traced only; libtorch runs them as any other.
    Cpu,
    Neuron,
}

/// The module of one shape.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bucket {
    /// Rows.
    pub batch: usize,
    /// Tokens of each row.
    pub length: usize,
    pub file: String,
}

impl Bucket {
    pub fn shape(&self) -> Shape {
        Shape { rows: self.batch, length: self.length }
    }
}

/// Which label each logit stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogitOrder {
    pub pair: Vec<String>,
    pub intent: Vec<String>,
}

/// Calibrated probabilities of `duplicate` from which on a verdict holds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Thresholds {
    pub duplicate: f32,
    pub review: f32,
}

/// Pairs that one reading leaves in doubt: those whose calibrated probability lies between the two.
/// They are read with their texts in the other order as well, and the mean of both logits decides.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct SecondReading {
    pub above: f32,
    pub below: f32,
}

impl SecondReading {
    pub fn is_asked(self, probability: f32) -> bool {
        self.above < probability && probability < self.below
    }
}

/// Turns the forest of [`CASCADE_FILE`] on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct CascadeEntry {
    /// Pairs of a smaller probability are distinct, without the cross-encoder.
    pub distinct_below: f32,
}

/// Turns the first stage of [`QUERY_CASCADE_FILE`] on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct QueryCascadeEntry {
    /// An intent of at least this probability stands, without the network.
    pub settle_from: f32,
}

/// Turns the exits of [`EARLY_EXIT_FILE`] on, in its order.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EarlyExitEntry {
    pub exits: Vec<ExitEntry>,
}

/// Which rows leave after so many layers, and how sure a head has to be of them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitEntry {
    Queries {
        after: usize,
        /// An intent of at least this probability stands, without the later layers.
        settle_from: f32,
    },
    Pairs {
        after: usize,
        /// Pairs of a smaller calibrated probability are distinct, without the later layers.
        distinct_below: f32,
    },
}

impl ExitEntry {
    pub fn kind(self) -> Kind {
        match self {
            Self::Queries { .. } => Kind::Queries,
            Self::Pairs { .. } => Kind::Pairs,
        }
    }

    pub fn after(self) -> usize {
        let (Self::Queries { after, .. } | Self::Pairs { after, .. }) = self;
        after
    }
}

/// Largest difference of any logit from the goldens, for each numeric path.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Tolerance {
    pub fp32: f32,
    pub bf16: f32,
    /// Left out where int8 flips too many decisions of this network: then it stays off.
    pub int8: Option<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileEntry {
    /// Lower-case hexadecimal.
    pub sha256: String,
    pub bytes: u64,
}

/// An artifact whose files are the ones that its manifest names. Small files are held in
/// memory, so that what was hashed is what is used; the module is not, because its weights
/// would be held twice: whoever loads it calls [`Artifact::verify_modules`] afterwards.
pub struct Artifact {
    pub manifest: Manifest,
    folder: PathBuf,
    pub tokenizer: Vec<u8>,
    pub goldens: Goldens,
    /// None where the manifest does not turn it on.
    pub cascade: Option<Cascade>,
    /// Likewise.
    pub query_cascade: Option<QueryCascade>,
    /// Likewise.
    pub early_exits: Option<EarlyExits>,
}

/// One reason not to use an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{file}: cannot be read: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("{file}: sha256 is {found}, the manifest says {expected}; restore the file or export the artifact again")]
    Hash { file: String, expected: String, found: String },
    #[error("{file}: is not what its name says: {reason}")]
    Malformed { file: String, reason: String },
    #[error("{MANIFEST_FILE}: schema_version: {found} is not known to this build, which reads {SCHEMA_VERSIONS:?}")]
    SchemaVersion { found: u32 },
    #[error(
        "{MANIFEST_FILE}: text_version: the model was trained on version {found}, this build writes {TEXT_VERSION}; \
         use an artifact of that version"
    )]
    TextVersion { found: u32 },
    #[error("{MANIFEST_FILE}: {field}: {reason}")]
    Field { field: &'static str, reason: String },
}

/// All problems of one artifact.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub folder: PathBuf,
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        write!(f, "the artifact in {} was refused: {}", self.folder.display(), problems.join("; "))
    }
}

impl std::error::Error for Refused {}

impl Artifact {
    /// Reads the artifact in `folder` and checks all of it except the outputs, which need
    /// a loaded module. The error lists every problem found.
    pub fn open(folder: &Path) -> Result<Self, Refused> {
        let refused = |problems| Refused { folder: folder.to_owned(), problems };
        let manifest = Manifest::read(folder).map_err(|problem| refused(vec![problem]))?;
        let mut problems = manifest.problems();
        let mut contents = BTreeMap::new();
        for (name, entry) in &manifest.files {
            let checked = match manifest.is_module(name) {
                true => verify(folder, name, entry).map(|()| Vec::new()),
                false => read_verified(folder, name, entry),
            };
            match checked {
                Ok(bytes) => {
                    contents.insert(name.as_str(), bytes);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let goldens = contents.remove(GOLDENS_FILE).map(|bytes| parse(GOLDENS_FILE, &bytes));
        let goldens = match goldens {
            Some(Err(problem)) => {
                problems.push(problem);
                None
            }
            other => other.and_then(Result::ok),
        };
        let forest = manifest.cascade.zip(contents.remove(CASCADE_FILE));
        let cascade = forest.and_then(|(CascadeEntry { distinct_below }, bytes)| {
            let forest = kept(CASCADE_FILE, Forest::read(&bytes), &mut problems)?;
            Some(Cascade { forest, distinct_below })
        });
        let first_stage = manifest.query_cascade.zip(contents.remove(QUERY_CASCADE_FILE));
        let query_cascade = first_stage.and_then(|(QueryCascadeEntry { settle_from }, bytes)| {
            let model = kept(QUERY_CASCADE_FILE, QueryModel::read(&bytes), &mut problems)?;
            Some(QueryCascade { model, settle_from })
        });
        let exits = manifest.early_exit.as_ref().zip(contents.remove(EARLY_EXIT_FILE));
        let early_exits = exits.and_then(|(EarlyExitEntry { exits }, bytes)| {
            kept(EARLY_EXIT_FILE, EarlyExits::read(&bytes, exits), &mut problems)
        });
        match (contents.remove(TOKENIZER_FILE), goldens) {
            (Some(tokenizer), Some(goldens)) if problems.is_empty() => Ok(Self {
                manifest,
                folder: folder.to_owned(),
                tokenizer,
                goldens,
                cascade,
                query_cascade,
                early_exits,
            }),
            _ => Err(refused(problems)),
        }
    }

    /// Path of the one TorchScript file of an artifact that is not compiled.
    pub fn module(&self) -> PathBuf {
        self.folder.join(MODULE_FILE)
    }

    /// Paths of compiled modules, in the order of the manifest.
    pub fn modules(&self, compiled: &Compiled) -> Vec<(Shape, PathBuf)> {
        compiled.buckets.iter().map(|bucket| (bucket.shape(), self.folder.join(&bucket.file))).collect()
    }

    /// Hashes the modules once more: a file that is the same before and after it was loaded
    /// is the one that was loaded.
    pub fn verify_modules(&self) -> Result<(), Refused> {
        let modules = self.manifest.files.iter().filter(|(name, _)| self.manifest.is_module(name));
        let problems: Vec<Problem> =
            modules.filter_map(|(name, entry)| verify(&self.folder, name, entry).err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(Refused { folder: self.folder.clone(), problems }) }
    }
}

impl Manifest {
    /// Reads `folder`'s manifest; an unknown schema is refused before anything else of it
    /// is believed.
    pub fn read(folder: &Path) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let bytes = read(folder, MANIFEST_FILE)?;
        let Version { schema_version } = parse(MANIFEST_FILE, &bytes)?;
        if !SCHEMA_VERSIONS.contains(&schema_version) {
            return Err(Problem::SchemaVersion { found: schema_version });
        }
        parse(MANIFEST_FILE, &bytes)
    }

    fn is_module(&self, file: &str) -> bool {
        match &self.compiled {
            Some(compiled) => compiled.buckets.iter().any(|bucket| bucket.file == file),
            None => file == MODULE_FILE,
        }
    }
}

/// A stage that could be read, or its problem among the others.
fn kept<T>(file: &str, stage: Result<T, impl fmt::Display>, problems: &mut Vec<Problem>) -> Option<T> {
    let malformed = |reason: String| Problem::Malformed { file: file.to_owned(), reason };
    stage.map_err(|error| problems.push(malformed(error.to_string()))).ok()
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Problem> {
    fs::read(folder.join(name)).map_err(|e| Problem::Unreadable { file: name.to_owned(), reason: e.to_string() })
}

fn read_verified(folder: &Path, name: &str, entry: &FileEntry) -> Result<Vec<u8>, Problem> {
    check_name(name)?;
    let bytes = read(folder, name)?;
    check_hash(name, entry, &Sha256::digest(&bytes))?;
    Ok(bytes)
}

/// As [`read_verified`], in constant memory.
fn verify(folder: &Path, name: &str, entry: &FileEntry) -> Result<(), Problem> {
    check_name(name)?;
    let unreadable = |e: io::Error| Problem::Unreadable { file: name.to_owned(), reason: e.to_string() };
    let mut file = BufReader::with_capacity(HASH_CHUNK_BYTES, File::open(folder.join(name)).map_err(unreadable)?);
    let mut digest = Sha256::new();
    loop {
        let chunk = file.fill_buf().map_err(unreadable)?;
        if chunk.is_empty() {
            return check_hash(name, entry, &digest.finalize());
        }
        digest.update(chunk);
        let read = chunk.len();
        file.consume(read);
    }
}

/// A manifest speaks for its own folder only.
fn check_name(name: &str) -> Result<(), Problem> {
    if Path::new(name).file_name().is_none_or(|file_name| file_name != name) {
        return Err(Problem::Field { field: "files", reason: format!("{name:?} is not a plain file name") });
    }
    Ok(())
}

fn check_hash(name: &str, entry: &FileEntry, digest: &[u8]) -> Result<(), Problem> {
    let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if found != entry.sha256 {
        return Err(Problem::Hash { file: name.to_owned(), expected: entry.sha256.clone(), found });
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|e| Problem::Malformed { file: file.to_owned(), reason: e.to_string() })
}
