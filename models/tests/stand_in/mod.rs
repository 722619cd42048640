//! The stand-in for Neuron hardware: builds its op library with the system's compiler, and
//! writes artifacts whose modules only that library runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use models::manifest::{
    CASCADE_FILE, EARLY_EXIT_FILE, GOLDENS_FILE, MANIFEST_FILE, MODULE_FILE, QUERY_CASCADE_FILE, TOKENIZER_FILE,
};
use models::shape::Shape;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const LIBRARY_SOURCE: &str = include_str!("libtorchneuron.cpp");
const COMPILE_SOURCE: &str = include_str!("compile.cpp");
const BERT_SOURCE: &str = include_str!("bert.cpp");
const WRONG_ABI_SOURCE: &str = include_str!("wrong_abi.cpp");
/// The stand-in's device tells rows apart by the sum of their ids, modulo this.
const MODULUS: i64 = 1_009;

/// The folder with `libtorchneuron.so`, its `compile`, `bert`, and `wrong/libtorchneuron.so`,
/// which is for the other C++ ABI. Built once for each source, libtorch and target folder.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let libtorch = PathBuf::from(std::env::var_os("LIBTORCH").expect("cargo's configuration sets it"));
        let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
        let sources =
            [LIBRARY_SOURCE, COMPILE_SOURCE, BERT_SOURCE, WRONG_ABI_SOURCE, &abi, &libtorch.display().to_string()];
        let name: String = digest(sources.concat().as_bytes()).chars().take(16).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{name}"));
        fs::create_dir_all(folder.join("wrong")).expect("the target folder is writable");
        // Several test binaries may want it at once.
        let lock = File::create(folder.join("lock")).expect("the target folder is writable");
        lock.lock().expect("the file system has locks");
        if !folder.join("wrong/libtorchneuron.so").exists() {
            build(&libtorch, &abi, &folder);
        }
        folder
    })
}

/// The library that vouches for the rest of the folder is made last.
fn build(libtorch: &Path, abi: &str, folder: &Path) {
    let sources = [
        ("library.cpp", LIBRARY_SOURCE),
        ("compile.cpp", COMPILE_SOURCE),
        ("bert.cpp", BERT_SOURCE),
        ("wrong.cpp", WRONG_ABI_SOURCE),
    ];
    for (name, source) in sources {
        fs::write(folder.join(name), source).expect("the target folder is writable");
    }
    let (include, lib) = (libtorch.join("include"), libtorch.join("lib"));
    let with_torch = |arguments: &[&str]| {
        let mut command = compiler(folder, abi);
        command.args(arguments).arg("-I").arg(&include).arg("-I").arg(include.join("torch/csrc/api/include"));
        command.arg("-L").arg(&lib).args(["-ltorch_cpu", "-lc10"]);
        command
    };
    // A library's own needs are found at run time.
    const NEEDS: &str = "-Wl,--unresolved-symbols=ignore-in-shared-libs";
    // libtorch's headers take half a minute each time.
    thread::scope(|scope| {
        scope.spawn(|| run(&mut with_torch(&["bert.cpp", "-o", "bert", NEEDS])));
        run(&mut with_torch(&["-fPIC", "-shared", "library.cpp", "-o", "libtorchneuron.so"]));
    });
    let compile = ["compile.cpp", "-o", "compile", "-L.", "-ltorchneuron", "-Wl,-rpath,$ORIGIN", NEEDS];
    run(compiler(folder, abi).args(compile));
    let other = if abi == "1" { "0" } else { "1" };
    run(compiler(folder, other).args(["-fPIC", "-shared", "wrong.cpp", "-o", "wrong/libtorchneuron.so"]));
}

fn compiler(folder: &Path, abi: &str) -> Command {
    let mut command = Command::new("g++");
    command.current_dir(folder).args(["-std=c++14", "-O0", &format!("-D_GLIBCXX_USE_CXX11_ABI={abi}")]);
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The shipped tokenizer with a module for each shape, whose device answers residues.
pub fn artifact(shapes: &[Shape]) -> TempDir {
    artifact_of(shapes, None, &goldens())
}

/// The same with goldens of one's own, and a device that computes the module in `torchscript`.
pub fn artifact_of(shapes: &[Shape], torchscript: Option<&Path>, goldens: &Value) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let mut files = vec![TOKENIZER_FILE.to_owned(), GOLDENS_FILE.to_owned()];
    let mut buckets = Vec::new();
    for shape in shapes {
        let file = format!("model.{shape}.ts");
        run(Command::new(library().join("compile")).arg(shape.to_string()).arg(path(&file)).args(torchscript));
        buckets.push(json!({"batch": shape.rows, "length": shape.length, "file": file}));
        files.push(file);
    }
    fs::copy(shipped().join(TOKENIZER_FILE), path(TOKENIZER_FILE)).expect("the tokenizer is copied");
    fs::write(path(GOLDENS_FILE), goldens.to_string()).expect("writable");
    fs::copy(shipped().join(MANIFEST_FILE), path(MANIFEST_FILE)).expect("the manifest is copied");
    edit_manifest(folder.path(), |manifest| {
        manifest["static"] = json!({"device": "neuron", "buckets": buckets});
        // Every pair and query has to reach the device, and once.
        for stage in ["cascade", "query_cascade", "early_exit", "second_reading"] {
            manifest.as_object_mut().expect("a manifest is an object").remove(stage);
        }
        for name in [MODULE_FILE, CASCADE_FILE, QUERY_CASCADE_FILE, EARLY_EXIT_FILE] {
            manifest["files"].as_object_mut().expect("files are an object").remove(name);
        }
        for name in files {
            let bytes = fs::read(path(&name)).expect("readable");
            manifest["files"][name] = json!({"sha256": digest(&bytes), "bytes": bytes.len()});
        }
    });
    folder
}

/// Writes the manifest in `artifact` anew.
pub fn edit_manifest(artifact: &Path, edit: impl FnOnce(&mut Value)) {
    let path = artifact.join(MANIFEST_FILE);
    let mut manifest = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).expect("writable");
}

/// The shipped cases, with what the device answers.
fn goldens() -> Value {
    let mut goldens = shipped_goldens();
    for case in goldens["cases"].as_array_mut().expect("cases are a list") {
        let rows: Vec<Vec<i64>> = serde_json::from_value(case["input_ids"].clone()).expect("ids are numbers");
        let residues = rows.iter().map(|ids| residue(ids));
        case["logits"] = match case["kind"].as_str() {
            Some("pairs") => residues.map(|residue| json!([0.0, residue])).collect(),
            _ => residues.map(|residue| json!([residue, 0.5, 0.0, 0.0])).collect(),
        };
    }
    goldens
}

pub fn shipped_goldens() -> Value {
    read(GOLDENS_FILE)
}

/// What the device answers to a row of these ids.
pub fn residue(ids: &[i64]) -> f32 {
    (ids.iter().sum::<i64>() % MODULUS) as f32 / MODULUS as f32
}

pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/artifacts/minilm-l6-v6")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(shipped().join(name)).expect("the shipped file is readable")).expect("JSON")
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
