//! The real worker binary as a child process.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    health_address: String,
}

/// What a worker is pointed at.
#[derive(Clone, Debug)]
pub struct WorkerTarget {
    pub endpoint_url: String,
    pub catalog_queue_url: String,
    pub dead_letter_queue_url: String,
    pub table_prefix: String,
}

impl Worker {
    /// Starts the binary and waits until it says that it is ready, or fails with its
    /// output if it ends before that.
    pub async fn start(target: &WorkerTarget, more: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let health_address = free.local_addr().expect("a bound socket has an address").to_string();
        drop(free);
        let mut child = Command::new(binary())
            .arg("worker")
            .args(["--endpoint-url", &target.endpoint_url, "--region", "us-east-1", "--create-tables"])
            .args(["--catalog-queue-url", &target.catalog_queue_url])
            .args(["--dead-letter-queue-url", &target.dead_letter_queue_url])
            .args(["--table-prefix", &target.table_prefix, "--health-address", &health_address])
            .args(["--artifact", &artifact().display().to_string()])
            .args(["--poll", "1s"])
            .args(more)
            .env("OMP_NUM_THREADS", "1")
            .env("CATALOG_LABELS_LOG", "warn")
            .kill_on_drop(true)
            .spawn()
            .expect("the worker binary starts");
        let waited = tokio::time::timeout(Duration::from_secs(120), async {
            loop {
                if let Some(status) = child.try_wait().expect("the child can be asked") {
                    panic!("the worker ended with {status} before it was ready");
                }
                if http_status(&health_address, "/readyz").await == Some(200) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        waited.await.expect("the worker is ready within two minutes");
        Self { child, health_address }
    }

    /// The Prometheus page.
    pub async fn metrics(&self) -> String {
        http_get(&self.health_address, "/metrics").await.expect("the worker answers")
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().expect("the worker runs");
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.expect("kill runs");
        assert!(sent.success());
        tokio::time::timeout(Duration::from_secs(60), self.child.wait())
            .await
            .expect("the worker stops within a minute")
            .expect("the child can be waited for")
    }

    /// Sends SIGKILL: nothing is flushed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the worker can be killed");
    }
}

/// The binary beside the test binary; `make test` builds it first.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let path = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join("catalog-labels");
    assert!(path.is_file(), "{} is missing: `cargo build --release` (or `make test`) builds it", path.display());
    path
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// The shipped artifact.
pub fn artifact() -> PathBuf {
    repository().join("models/artifacts/minilm-l6-v2")
}

async fn http_status(address: &str, path: &str) -> Option<u16> {
    let answer = http_get(address, path).await?;
    answer.split_whitespace().nth(1)?.parse().ok()
}

/// The whole answer, head included; none while nobody listens.
async fn http_get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
