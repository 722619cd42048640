//! The embedded tables: what was written stays, whatever ends the process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use consumer::aws::dynamo::{Limits, local_client};
use consumer::fault::{Fault, Faulty};
use consumer::store::{Embedded, StateOutcome, Store};
use tests::items::{id, state};

/// Tells the child process of the next test where the tables are.
const CHILD_DIRECTORY: &str = "STORE_CONTRACT_CHILD_DIRECTORY";

/// The test runs itself as a child, which writes, says so, and is killed.
#[test]
fn embedded_tables_survive_kill_9() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        write_and_wait(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(std::env::current_exe().expect("a running test has a path"))
        .args(["embedded_tables_survive_kill_9", "--exact", "--nocapture"])
        .env(CHILD_DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let written = lines.map_while(Result::ok).any(|line| line.contains("written"));
    child.kill().expect("SIGKILL");
    child.wait().expect("a child of ours");
    assert!(written, "the child ended before it had written");

    block_on(async {
        let embedded = Embedded::open_existing(directory.path()).expect("opens after a kill");
        let store = embedded.store("kill-");
        store.verify_tables().await.expect("the tables are there");
        for n in 0..20 {
            let state = state(&format!("P{n}"), 1, "text");
            assert_eq!(store.product(&state.id).await.expect("reads"), Some(state));
        }
        embedded.stop().await.expect("stops");
    });
}

#[expect(clippy::print_stdout, reason = "the signal to the parent process")]
fn write_and_wait(directory: &Path) -> ! {
    block_on(async {
        let embedded = Embedded::open(directory).expect("opens");
        let store = embedded.store("kill-");
        store.create_tables().await.expect("creates");
        for n in 0..20 {
            store.put_state(&state(&format!("P{n}"), 1, "text"), None).await.expect("writes");
        }
        println!("\nwritten");
        std::future::pending().await
    })
}

#[tokio::test]
async fn embedded_tables_stop_and_open_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = Embedded::open_existing(directory.path()).expect_err("nothing was written yet");
    assert!(missing.to_string().contains("no tables"), "{missing}");
    for version in 1..=3 {
        let embedded = Embedded::open(directory.path()).expect("opens");
        let store = embedded.store("again-");
        store.create_tables().await.expect("creates or finds");
        let before = store.product(&id("A")).await.expect("reads");
        assert_eq!(before.as_ref().map(|state| state.version), (version > 1).then(|| version - 1));
        let outcome = store.put_state(&state("A", version, "text"), before.as_ref()).await.expect("writes");
        assert_eq!(outcome, StateOutcome::Written);
        let endpoint_url = embedded.endpoint_url().to_owned();
        embedded.stop().await.expect("stops");
        let hasty = local_client(&endpoint_url, &Limits { attempts: 2, ..Limits::default() });
        let error = Store::new(hasty, "again-").product(&id("A")).await.expect_err("nobody listens");
        assert!(matches!(error.fault(), Fault::Retry { .. }), "{error:?}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime needs only memory and threads").block_on(future)
}
