//! libtorch: the only file that knows `tch`. Where the CPU has the instructions for it, the
//! same weights run through [`crate::native`] instead; on a NeuronCore, modules of static
//! shapes do.

#[cfg(target_arch = "x86_64")]
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use tch::kind::Element;
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::early_exit::EarlyExits;
use crate::encode::Encoded;
use crate::kernel::Kernel;
#[cfg(target_arch = "x86_64")]
use crate::native::{Instructions, Network, Parameter, Parameters, Precision};
use crate::shape::{Grid, Lengths, Shape, Shapes};

/// In which type the linear layers multiply. Norms, softmax and residuals are fp32 in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numeric {
    /// The faster one of those that this CPU computes in hardware.
    #[default]
    Auto,
    Fp32,
    /// Emulated, and about ten times slower than fp32, on CPUs without `avx512_bf16`; slower than fp32 as
    /// well on Intel's where they have no AMX.
    Bf16,
    /// Only on CPUs with AVX2 or more, and of artifacts that state a tolerance for it.
    Int8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a numeric path; use auto, fp32, bf16 or int8")]
pub struct UnknownNumeric {
    given: String,
}

impl FromStr for Numeric {
    type Err = UnknownNumeric;

    fn from_str(given: &str) -> Result<Self, UnknownNumeric> {
        match given {
            "auto" => Ok(Self::Auto),
            "fp32" => Ok(Self::Fp32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(UnknownNumeric { given: given.to_owned() }),
        }
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl Numeric {
    /// What `Auto` means on this CPU; never `Auto`.
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if bf16_is_fastest() => Self::Bf16,
            Self::Auto => Self::Fp32,
            chosen => chosen,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_is_fastest() -> bool {
    Instructions::detect().next().is_some_and(Instructions::multiplies_bf16)
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_is_fastest() -> bool {
    false
}

/// The device failed, or the module is not what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {reason}")]
pub struct EngineError {
    pub reason: String,
}

impl From<TchError> for EngineError {
    fn from(error: TchError) -> Self {
        // libtorch appends its C++ stack to a first line that says what happened; of what a
        // module raised, the line after the module's own stack does.
        let text = error.to_string();
        let raised = text.lines().find_map(|line| line.strip_prefix("RuntimeError: "));
        Self { reason: raised.or(text.lines().next()).unwrap_or_default().to_owned() }
    }
}

/// One loaded network, which several threads may call at once. Each call runs on the
/// calling thread alone, see [`use_one_thread`].
pub struct Engine {
    backend: Backend,
}

enum Backend {
    Module(CModule),
    /// One module for each shape of a grid.
    Static(Vec<(Shape, CModule)>),
    #[cfg(target_arch = "x86_64")]
    Native(Box<Network>),
}

/// What the network says of one row. Only the head of the row's kind need have been asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLogits {
    /// `[distinct, duplicate]`.
    pub pair: [f32; 2],
    /// In the order of [`shared::Intent::ALL`].
    pub intent: [f32; 4],
    /// By an early exit.
    pub left_early: bool,
}

/// Limits libtorch to one thread for calls from this thread: N replicas of one thread
/// each score more than one replica of N threads.
pub fn use_one_thread() {
    tch::set_num_threads(1);
}

impl Engine {
    /// Loads a TorchScript file and casts its weights to the numeric path's type. Loading
    /// from memory instead would hold four copies of the file at once.
    pub fn load(torchscript: &Path, numeric: Numeric, kernel: Kernel) -> Result<Self, EngineError> {
        let numeric = numeric.resolve();
        if let Some(backend) = native(torchscript, numeric, kernel)? {
            return Ok(Self { backend });
        }
        if !matches!(kernel, Kernel::Auto | Kernel::Libtorch) {
            let reason =
                format!("kernel {kernel} cannot compute this module in {numeric} on this CPU; use --kernel auto");
            return Err(EngineError { reason });
        }
        let kind = match numeric {
            Numeric::Bf16 => Kind::BFloat16,
            Numeric::Fp32 | Numeric::Auto => Kind::Float,
            Numeric::Int8 => {
                let reason = "int8 needs a CPU with AVX2, and is not libtorch's; use --numeric auto".to_owned();
                return Err(EngineError { reason });
            }
        };
        let mut module = CModule::load_on_device(torchscript, Device::Cpu)?;
        module.f_set_eval()?;
        module.to(Device::Cpu, kind, false);
        Ok(Self { backend: Backend::Module(module) })
    }

    /// Loads compiled modules for each of `replicas` cores: the first shape for all of them
    /// in order, then the next. The Neuron runtime places each module on the least used core,
    /// so that core i holds every module of replica i, if there are as many replicas as
    /// cores. To be called by one thread, after [`crate::neuron::open_op_library`].
    pub fn load_static(modules: &[(Shape, PathBuf)], replicas: usize) -> Result<Vec<Self>, EngineError> {
        let mut loaded: Vec<Vec<(Shape, CModule)>> = (0..replicas).map(|_| Vec::new()).collect();
        for (shape, path) in modules {
            for of_replica in &mut loaded {
                of_replica.push((*shape, CModule::load_on_device(path, Device::Cpu)?));
            }
        }
        Ok(loaded.into_iter().map(|modules| Self { backend: Backend::Static(modules) }).collect())
    }

    /// Lets rows leave early, where the layers are run one by one here. Modules of libtorch and of
    /// NeuronCores run all of them for every row. Pair logits are to be divided by `temperature`.
    pub fn add_exits(&mut self, exits: &EarlyExits, temperature: f32) -> Result<(), EngineError> {
        match &mut self.backend {
            Backend::Module(_) | Backend::Static(_) => Ok(()),
            #[cfg(target_arch = "x86_64")]
            Backend::Native(network) => network
                .add_exits(exits, temperature)
                .map_err(|why| EngineError { reason: format!("an early exit: {why}") }),
        }
    }

    pub fn has_exits(&self) -> bool {
        match &self.backend {
            Backend::Module(_) | Backend::Static(_) => false,
            #[cfg(target_arch = "x86_64")]
            Backend::Native(network) => network.has_exits(),
        }
    }

    /// The shapes that [`Engine::forward`] takes.
    pub fn shapes(&self) -> Shapes {
        match &self.backend {
            Backend::Module(_) => Shapes::Padded(Lengths::Steps),
            Backend::Static(modules) => {
                Shapes::Padded(Lengths::Grid(Grid::new(modules.iter().map(|&(shape, _)| shape))))
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Native(_) => Shapes::Packed,
        }
    }

    /// What computes; never [`Kernel::Auto`].
    pub fn kernel(&self) -> Kernel {
        match &self.backend {
            Backend::Module(_) | Backend::Static(_) => Kernel::Libtorch,
            #[cfg(target_arch = "x86_64")]
            Backend::Native(network) => kernel_of(network.instructions()),
        }
    }

    /// Scores rows, in their order. Where they are padded, none of them may exceed `shape`.
    pub fn forward<'r>(
        &self,
        rows: impl ExactSizeIterator<Item = &'r Encoded>,
        shape: Shape,
    ) -> Result<Vec<RowLogits>, EngineError> {
        match &self.backend {
            Backend::Module(module) => forward(module, rows, shape),
            Backend::Static(modules) => match modules.iter().find(|(of_module, _)| *of_module == shape) {
                Some((_, module)) => forward(module, rows, shape),
                None => Err(EngineError { reason: format!("no module was compiled for batches of {shape}") }),
            },
            #[cfg(target_arch = "x86_64")]
            Backend::Native(network) => network.forward(rows).map_err(|reason| EngineError { reason }),
        }
    }
}

/// [`Engine::forward`] through libtorch.
fn forward<'r>(
    module: &CModule,
    rows: impl ExactSizeIterator<Item = &'r Encoded>,
    shape: Shape,
) -> Result<Vec<RowLogits>, EngineError> {
    let (count, length) = (rows.len(), shape.length);
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > shape.rows {
        return Err(EngineError { reason: format!("{count} rows are in a batch of {shape}") });
    }
    let cells = shape.tokens();
    let (mut ids, mut mask, mut types) = (vec![0i64; cells], vec![0i64; cells], vec![0i64; cells]);
    for (i, row) in rows.enumerate() {
        if row.ids.len() > length {
            let reason = format!("a row of {} tokens is in a batch of rows of {length}", row.ids.len());
            return Err(EngineError { reason });
        }
        let (start, end) = (i * length, i * length + row.ids.len());
        ids[start..end].copy_from_slice(&row.ids);
        mask[start..end].fill(1);
        types[start..end].copy_from_slice(&row.types);
    }
    let sizes = [shape.rows as i64, length as i64];
    let input = |values: &[i64]| -> Result<IValue, TchError> {
        Ok(IValue::Tensor(Tensor::f_of_slice(values)?.f_view(&sizes[..])?))
    };
    let inputs = [input(&ids)?, input(&mask)?, input(&types)?];
    let output = tch::no_grad(|| module.forward_is(&inputs))?;
    let (pair, intent) = <(Tensor, Tensor)>::try_from(output)?;
    let rows = rows_of(&pair, shape.rows)?.into_iter().zip(rows_of(&intent, shape.rows)?);
    Ok(rows.take(count).map(|(pair, intent)| RowLogits { pair, intent, left_early: false }).collect())
}

/// The module's network in packed form, if this CPU and the path have one, and the module is
/// of the shape that is written down there.
#[cfg(target_arch = "x86_64")]
fn native(torchscript: &Path, numeric: Numeric, kernel: Kernel) -> Result<Option<Backend>, EngineError> {
    let precision = match numeric {
        Numeric::Bf16 | Numeric::Fp32 => Precision::Exact,
        Numeric::Int8 => Precision::Int8,
        Numeric::Auto => return Ok(None),
    };
    let is_asked = |found: &Instructions| {
        let has_type = numeric == Numeric::Int8 || found.multiplies_bf16() == (numeric == Numeric::Bf16);
        has_type && (kernel == Kernel::Auto || kernel == kernel_of(*found))
    };
    let Some(instructions) = Instructions::detect().find(is_asked) else { return Ok(None) };
    let module = CModule::load_on_device(torchscript, Device::Cpu)?;
    let parameters = module.named_parameters()?;
    if numeric == Numeric::Fp32 && parameters.iter().any(|(_, tensor)| tensor.kind() != Kind::BFloat16) {
        tracing::info!("libtorch runs this module: its weights are not stored in bf16");
        return Ok(None);
    }
    let mut weights = ModuleParameters(parameters.into_iter().collect());
    match Network::new(&mut weights, precision, instructions) {
        Ok(network) => Ok(Some(Backend::Native(Box::new(network)))),
        Err(why) => {
            tracing::info!(%why, "libtorch runs this module");
            Ok(None)
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn kernel_of(instructions: Instructions) -> Kernel {
    match instructions {
        Instructions::Amx(_) => Kernel::Amx,
        Instructions::Avx512Bf16(_) | Instructions::Avx512(_) => Kernel::Avx512,
        Instructions::Avx2(_) => Kernel::Avx2,
    }
}

/// The tensors of a module, which loses each that is taken.
#[cfg(target_arch = "x86_64")]
struct ModuleParameters(HashMap<String, Tensor>);

#[cfg(target_arch = "x86_64")]
impl ModuleParameters {
    fn values<T: Element + Copy + Default>(
        &mut self,
        name: &str,
        read: impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Option<Parameter<T>> {
        let mut tensor = self.0.remove(name)?;
        let mut copy = || {
            let shape = tensor.size().iter().map(|&length| length as usize).collect();
            let mut values = vec![T::default(); tensor.numel()];
            read(&tensor)?.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
            tensor.f_set_data(&Tensor::f_zeros(&[0], (tensor.kind(), Device::Cpu))?)?;
            Ok::<_, TchError>(Parameter { shape, values })
        };
        copy().inspect_err(|error| tracing::warn!(name, %error, "a parameter cannot be read")).ok()
    }
}

#[cfg(target_arch = "x86_64")]
impl Parameters for ModuleParameters {
    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn take(&mut self, name: &str) -> Option<Parameter<f32>> {
        self.values(name, |tensor| tensor.f_to_kind(Kind::Float))
    }

    fn take_bf16(&mut self, name: &str) -> Option<Parameter<u16>> {
        // A view of the bits, so that no conversion needs a copy of its own.
        let Parameter { shape, values } =
            self.values::<i16>(name, |tensor| tensor.f_to_kind(Kind::BFloat16)?.f_view_dtype(Kind::Int16))?;
        Some(Parameter { shape, values: values.into_iter().map(i16::cast_unsigned).collect() })
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn native(_torchscript: &Path, _numeric: Numeric, _kernel: Kernel) -> Result<Option<Backend>, EngineError> {
    Ok(None)
}

/// The rows of an fp32 tensor of shape (rows, N).
fn rows_of<const N: usize>(tensor: &Tensor, rows: usize) -> Result<Vec<[f32; N]>, EngineError> {
    if tensor.size() != [rows as i64, N as i64] {
        let reason = format!("the module answered a tensor of shape {:?} where [{rows}, {N}] is due", tensor.size());
        return Err(EngineError { reason });
    }
    let mut values = vec![0f32; rows * N];
    tensor.f_contiguous()?.f_copy_data(&mut values, rows * N)?;
    let (chunks, _) = values.as_chunks::<N>();
    Ok(chunks.to_vec())
}

/// TorchScript without weights, written by `training/summing.py`: of the sum S of a row's
/// ids it answers `[S, ln S]` and `[S, 0, 0, 0]`, so that a row of zeros has a score that
/// is not finite, and any other tells which row it was.
#[cfg(test)]
pub(crate) const SUMMING_MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/summing.ts");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_different_length_share_a_batch() {
        let engine = Engine::load(SUMMING_MODULE.as_ref(), Numeric::Fp32, Kernel::Auto).expect("the module loads");
        let row = |ids: Vec<i64>| Encoded {
            types: vec![0; ids.len()],
            ids,
            kind: crate::golden::Kind::Queries,
            may_leave: true,
        };
        let rows = [vec![1, 2, 3], vec![5]].map(row);
        let logits = engine.forward(rows.iter(), Shape { rows: 2, length: 8 }).expect("the rows are scored");
        let summed = |sum: f32| RowLogits { pair: [sum, sum.ln()], intent: [sum, 0.0, 0.0, 0.0], left_early: false };
        assert_eq!(logits, [summed(6.0), summed(5.0)]);
        assert_eq!(engine.forward([].iter(), Shape { rows: 0, length: 8 }), Ok(Vec::new()));
    }

    #[test]
    fn bytes_that_are_no_module_are_refused_in_one_line() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "PK not TorchScript").expect("writable");
        let error = Engine::load(file.path(), Numeric::Fp32, Kernel::Auto).err().expect("not a module");
        assert!(!error.reason.is_empty() && !error.reason.contains('\n'), "{error}");
    }

    #[test]
    fn numeric_paths_have_names() {
        for numeric in [Numeric::Auto, Numeric::Fp32, Numeric::Bf16, Numeric::Int8] {
            assert_eq!(numeric.to_string().parse(), Ok(numeric));
            assert_ne!(numeric.resolve(), Numeric::Auto);
        }
        assert!("int4".parse::<Numeric>().is_err());
    }
}
