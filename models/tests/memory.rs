//! How much memory replicas need: they share one copy of the weights.

use std::path::Path;
use std::process::Command;

use models::{Kernel, Numeric, Scorer, ScorerOptions};

/// Tells the child process how many replicas to start, and on which numeric path.
const CHILD_REPLICAS: &str = "MEMORY_CHILD_REPLICAS";
const CHILD_NUMERIC: &str = "MEMORY_CHILD_NUMERIC";
const TEST: &str = "two_replicas_hold_one_copy_of_the_weights";

/// Peak memory above that of the process before it loaded, in KiB, and the kernel that computed.
fn peak_kib(replicas: usize, numeric: Numeric) -> (u64, Kernel) {
    let output = Command::new(std::env::current_exe().expect("a running test has a path"))
        .args([TEST, "--exact", "--nocapture"])
        .env(CHILD_REPLICAS, replicas.to_string())
        .env(CHILD_NUMERIC, numeric.to_string())
        .output()
        .expect("the child runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let mut words = said.split("peak KiB: ").nth(1).unwrap_or_default().split_whitespace();
    let (kib, kernel) = (words.next().and_then(|kib| kib.parse().ok()), words.next().and_then(|k| k.parse().ok()));
    kib.zip(kernel).unwrap_or_else(|| panic!("the child said {said}"))
}

#[expect(clippy::print_stdout, reason = "what the parent reads, and a figure for people")]
#[test]
fn two_replicas_hold_one_copy_of_the_weights() {
    let artifact = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts/minilm-l6-v6");
    let told = |name| std::env::var(name).ok();
    if let (Some(replicas), Some(numeric)) = (told(CHILD_REPLICAS), told(CHILD_NUMERIC)) {
        let (replicas, numeric) = (replicas.parse().expect("a number"), numeric.parse().expect("a numeric path"));
        let before = high_water_kib();
        let scorer = Scorer::start(&artifact, ScorerOptions { replicas, numeric, ..ScorerOptions::default() })
            .expect("it loads");
        println!("peak KiB: {} {} above {before}", high_water_kib() - before, scorer.kernel());
        drop(scorer);
        return;
    }
    // The file holds bfloat16.
    let weights_kib = 2 * std::fs::metadata(artifact.join("model.ts")).expect("readable").len() / 1024;
    for numeric in [Numeric::Fp32, Numeric::Auto] {
        let ((one, kernel), (two, _)) = (peak_kib(1, numeric), peak_kib(2, numeric));
        println!(
            "{numeric}, {kernel}: weights {weights_kib} KiB in fp32; peak above the empty process {one} KiB with 1 replica, {two} KiB with 2"
        );
        // A copy of the weights would add all of them. What a replica adds is its activations and
        // what its thread's heap holds back, 11 to 28 MiB from run to run.
        assert!(two < one + weights_kib / 2, "{two} KiB with 2 replicas, {one} KiB with 1");
        if kernel != Kernel::Libtorch {
            // What libtorch holds for itself is in this as well.
            assert!(two * 10 <= weights_kib * 13, "{two} KiB with 2 replicas is over 1.3 times the weights");
        }
    }
}

fn high_water_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux counts peak memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}
