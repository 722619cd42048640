//! What an inf1 host spends on a pair beside its NeuronCores: the worker on one set, from SQS to
//! DynamoDB, with four cores that a stand-in plays at 5 ms a batch. CPU of the worker's process
//! alone; the engines beside it are no part of a host. `make bench-inf1 SET=FOLDER` runs it.

#![expect(clippy::print_stdout, reason = "the result")]

use std::path::Path;

use models::manifest::{CASCADE_FILE, MANIFEST_FILE};
use models::shape::Shape;
use serde_json::Value;
use tests::ministack::Ministack;
use tests::page::sum;
use tests::report::machine;
use tests::stage::Stage;
use tests::worker::Launch;

#[path = "../../models/tests/stand_in/mod.rs"]
mod stand_in;

const CORES: usize = 4;
const DEVICE_US: u64 = 5_000;
/// Rows and tokens of each: the grid that `compile_neuron.py` compiles for.
const SHAPES: [(usize, usize); 9] =
    [(4, 16), (8, 24), (32, 24), (2, 40), (19, 40), (16, 48), (12, 64), (9, 80), (6, 128)];
/// What the public figures say of one chip, and the vCPUs beside it in an inf1.xlarge.
const PAIRS_PER_SECOND: f64 = 1_181.0;
const HOST_CPUS: f64 = 4.0;

#[tokio::main]
async fn main() {
    let set = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let set = set.expect("give the folder of a set: tableA.csv and tableB.csv");
    println!("{}", machine());
    let artifact = stand_in::artifact(&SHAPES.map(|(rows, length)| Shape { rows, length }));
    give_cascade(artifact.path());
    let device = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(device.path().join("behaviour"), format!("device_us={DEVICE_US}")).expect("writable");
    let inherited = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let libraries = format!("{}:{inherited}", stand_in::library().display());
    let (device, cores) = (device.path().display().to_string(), CORES.to_string());
    let environment = [("STAND_IN", &*device), ("NEURON_RT_NUM_CORES", &*cores), ("LD_LIBRARY_PATH", &*libraries)];
    let launch = Launch {
        artifact: Some(artifact.path()),
        arguments: &["--replicas", &cores],
        environment: &environment,
        ..Launch::default()
    };
    let stage = Stage::launch(Ministack::start(), launch).await;
    let cpu = stage.worker().cpu_s();
    stage.send_set(Path::new(&set));
    stage.drained().await;
    let cpu_us = 1e6 * (stage.worker().cpu_s() - cpu);
    let page = stage.worker().metrics().await;
    assert!(stage.stop().await.success(), "the worker failed");
    report(cpu_us, ["events_total", "pairs_scored_total", "pairs_settled_total"].map(|name| sum(&page, name)));
}

fn report(cpu_us: f64, [events, pairs, settled]: [f64; 3]) {
    let on_device = pairs - settled;
    println!("{events} events, {pairs} pairs, {settled} of them settled by the cascade");
    println!("{:.0} us of CPU an event, {:.0} us a pair", cpu_us / events, cpu_us / pairs);
    let share = |pairs: f64| PAIRS_PER_SECOND * cpu_us / pairs / (1e6 * HOST_CPUS);
    println!(
        "at {PAIRS_PER_SECOND} pairs/s: {:.1}% of {HOST_CPUS} vCPU where the device scores all, {:.1}% where they are \
         what the cascade leaves",
        100.0 * share(pairs),
        100.0 * share(on_device)
    );
}

/// Puts the shipped cascade before the device, whose pairs it costs the host less of.
fn give_cascade(artifact: &Path) {
    let shipped = std::fs::read(stand_in::shipped().join(MANIFEST_FILE)).expect("readable");
    let shipped: Value = serde_json::from_slice(&shipped).expect("JSON");
    stand_in::edit_manifest(artifact, |manifest| {
        manifest["cascade"] = shipped["cascade"].clone();
        manifest["files"][CASCADE_FILE] = shipped["files"][CASCADE_FILE].clone();
    });
    std::fs::copy(stand_in::shipped().join(CASCADE_FILE), artifact.join(CASCADE_FILE)).expect("it is copied");
}
