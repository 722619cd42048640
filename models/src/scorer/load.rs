//! From an artifact in a folder to the replicas of each lane.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use super::{LoadError, Scorer, ScorerOptions, cores};
use crate::batch::Budget;
use crate::cascade::Cascade;
use crate::encode::Encoder;
use crate::engine::{Engine, Numeric};
use crate::grid::NEURON_BATCH_TOKENS;
use crate::kernel::Kernel;
use crate::lane::LaneOptions;
use crate::malloc;
use crate::manifest::{Artifact, Compiled, Manifest, Target};
use crate::neuron;
use crate::query_cascade::QueryCascade;
use crate::replica::{Checks, Replicas};
use crate::tokenise::Tokenisers;

/// Twice as long as the Neuron runtime waits for a core before it gives up by itself; the
/// slowest CPU takes seconds.
const RUN_TIME_MAX: Duration = Duration::from_secs(60);

/// An artifact in memory, checked but for its outputs, which each lane's replicas check.
pub(super) struct Loaded {
    manifest: Arc<Manifest>,
    cascade: Option<Arc<Cascade>>,
    query_cascade: Option<Arc<QueryCascade>>,
    tokenisers: Tokenisers,
    /// For the replicas of all lanes, in the order of the cores.
    engines: vec::IntoIter<Arc<Engine>>,
    checks: Arc<Checks>,
    numeric: Numeric,
    kernel: Kernel,
}

impl Loaded {
    pub fn open(folder: &Path, options: ScorerOptions, replicas: usize) -> Result<Self, LoadError> {
        let artifact = Artifact::open(folder)?;
        let Manifest { pair_tokens_max, query_tokens_max, golden_tolerance, .. } = artifact.manifest;
        let encoder = Encoder::new(&artifact.tokenizer, pair_tokens_max, query_tokens_max)?;
        let mut goldens = artifact.goldens.encode(&encoder)?;
        if let Some(exits) = &artifact.early_exits {
            goldens.extend(exits.goldens.encode_leaving(&encoder)?);
        }
        let numeric = match &artifact.manifest.compiled {
            Some(compiled) => numeric_of(compiled, options.numeric)?,
            None => options.numeric.resolve(),
        };
        let tolerance = match numeric {
            Numeric::Bf16 => golden_tolerance.bf16,
            Numeric::Int8 => golden_tolerance.int8.ok_or(LoadError::NoInt8)?,
            Numeric::Fp32 | Numeric::Auto => golden_tolerance.fp32,
        };
        let engines = engines(&artifact, numeric, options.kernel, replicas)?;
        let kernel = engines.first().map_or(Kernel::Libtorch, |engine| engine.kernel());
        artifact.verify_modules()?;
        malloc::keep_freed_blocks();
        // Half a core tokenises more than a core scores. Where NeuronCores score, all cores are there for it, but a
        // replica goes before: what it hands over takes a moment, and its device waits.
        let is_neuron = is_neuron(&artifact.manifest);
        let threads = if is_neuron { cores() } else { cores().div_ceil(2) };
        let tokenisers = Tokenisers::start(encoder, threads, is_neuron).map_err(LoadError::Thread)?;
        let checks = Arc::new(Checks { goldens, tolerance });
        Ok(Self {
            manifest: Arc::new(artifact.manifest),
            cascade: artifact.cascade.map(Arc::new),
            query_cascade: artifact.query_cascade.map(Arc::new),
            tokenisers,
            engines: engines.into_iter(),
            checks,
            numeric,
            kernel,
        })
    }

    pub fn lane(
        &mut self,
        budget: Budget,
        rows_max: usize,
        replicas: usize,
        yields: bool,
    ) -> Result<Scorer, LoadError> {
        let is_neuron = is_neuron(&self.manifest);
        let batch_tokens = if is_neuron { NEURON_BATCH_TOKENS } else { budget.batch_tokens };
        let budget = Budget { batch_tokens, ..budget };
        let options = LaneOptions { budget, rows_max, replicas, run_time_max: RUN_TIME_MAX };
        let engines = self.engines.by_ref().take(replicas).collect();
        // A core's replica only hands batches over, and does not compete for the CPU.
        let replicas = Replicas::start(engines, &self.checks, options, yields && !is_neuron)?;
        let Self { manifest, cascade, query_cascade, tokenisers, numeric, kernel, .. } = self;
        tracing::info!(model = %manifest.model_id, %numeric, %kernel, replicas = replicas.lane.options().replicas, "model loaded");
        Ok(Scorer {
            manifest: Arc::clone(manifest),
            cascade: cascade.clone(),
            query_cascade: query_cascade.clone(),
            may_leave: true,
            second_reading: manifest.second_reading,
            tokenisers: tokenisers.clone(),
            replicas: Arc::new(replicas),
            numeric: *numeric,
            kernel: *kernel,
        })
    }
}

/// Whether what computes is no core of the CPU.
fn is_neuron(manifest: &Manifest) -> bool {
    manifest.compiled.as_ref().is_some_and(|compiled| compiled.device == Target::Neuron)
}

/// In which type compiled modules multiply, which is no longer anybody's choice.
fn numeric_of(compiled: &Compiled, asked: Numeric) -> Result<Numeric, LoadError> {
    let compiled = match compiled.device {
        Target::Neuron => Numeric::Bf16,
        Target::Cpu => Numeric::Fp32,
    };
    if asked == Numeric::Auto || asked == compiled {
        Ok(compiled)
    } else {
        Err(LoadError::Compiled { compiled, asked })
    }
}

/// A network for each replica: on CPU one that all share, on NeuronCores one for each core.
fn engines(
    artifact: &Artifact,
    numeric: Numeric,
    kernel: Kernel,
    replicas: usize,
) -> Result<Vec<Arc<Engine>>, LoadError> {
    let shared = match &artifact.manifest.compiled {
        Some(compiled) if compiled.device == Target::Neuron => {
            match neuron::visible_cores() {
                Some(visible) if visible != replicas => return Err(LoadError::Cores { replicas, visible }),
                _ => neuron::open_op_library()?,
            }
            let engines = Engine::load_static(&artifact.modules(compiled), replicas)?;
            return Ok(engines.into_iter().map(Arc::new).collect());
        }
        Some(compiled) => Engine::load_static(&artifact.modules(compiled), 1)?.remove(0),
        None => {
            let mut engine = Engine::load(&artifact.module(), numeric, kernel)?;
            if let Some(exits) = &artifact.early_exits {
                engine.add_exits(exits, artifact.manifest.temperature)?;
            }
            engine
        }
    };
    Ok(std::iter::repeat_n(Arc::new(shared), replicas).collect())
}
