//! The real worker binary as a child process.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::http_server;
use crate::report::cpu_s_of;

/// Longest wait for readiness, and for the end after a SIGTERM; far more than a slow
/// machine needs.
const START_TIME_MAX: Duration = Duration::from_secs(120);
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at a process.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    health_url: String,
}

/// What a worker is pointed at.
#[derive(Clone, Debug)]
pub struct WorkerTarget {
    pub endpoint_url: String,
    pub catalog_queue_url: String,
    pub dead_letter_queue_url: String,
    pub table_prefix: String,
}

/// Which worker is started, and what it is told besides its target.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Name of the binary.
    pub program: &'a str,
    /// The shipped one, if none is named.
    pub artifact: Option<&'a Path>,
    pub arguments: &'a [&'a str],
    pub environment: &'a [(&'a str, &'a str)],
    pub log_filter: &'a str,
    /// Where its logs go; to the test's own output without it.
    pub log_file: Option<&'a Path>,
}

impl Default for Launch<'_> {
    /// The real worker, which tells of failures only.
    fn default() -> Self {
        let (artifact, log_file) = (None, None);
        Self { program: "catalog-labels", artifact, arguments: &[], environment: &[], log_filter: "warn", log_file }
    }
}

impl Worker {
    /// Starts the real worker; see [`Worker::launch`].
    pub async fn start(target: &WorkerTarget, more: &[&str]) -> Self {
        Self::launch(target, Launch { arguments: more, ..Launch::default() }).await
    }

    /// Starts a worker and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends before that.
    pub async fn launch(target: &WorkerTarget, launch: Launch<'_>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let health_address = free.local_addr().expect("a bound socket has an address").to_string();
        drop(free);
        let mut command = Command::new(program(launch.program));
        if launch.program == "catalog-labels" {
            command.arg("worker");
        }
        command
            .args(["--endpoint-url", &target.endpoint_url, "--region", "us-east-1", "--create-tables"])
            .args(["--catalog-queue-url", &target.catalog_queue_url])
            .args(["--dead-letter-queue-url", &target.dead_letter_queue_url])
            .args(["--table-prefix", &target.table_prefix, "--health-address", &health_address])
            .arg("--artifact")
            .arg(launch.artifact.map_or_else(artifact, Path::to_owned))
            .args(["--poll", "1s"])
            .args(launch.arguments)
            .env("OMP_NUM_THREADS", "1")
            .env("CATALOG_LABELS_LOG", launch.log_filter)
            .envs(launch.environment.iter().copied())
            .kill_on_drop(true);
        if let Some(path) = launch.log_file {
            command.stderr(std::fs::File::create(path).expect("the log file can be written"));
        }
        let child = command.spawn().expect("the worker binary starts");
        let mut worker = Self { child, health_url: format!("http://{health_address}") };
        tokio::time::timeout(START_TIME_MAX, worker.ready()).await.expect("the worker is ready in time");
        worker
    }

    async fn ready(&mut self) {
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                panic!("the worker ended with {status} before it was ready");
            }
            if http_server::get(&self.health_url, "/readyz").await.is_some_and(|answer| answer.status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The Prometheus page.
    pub async fn metrics(&self) -> String {
        let answer = http_server::get(&self.health_url, "/metrics").await.expect("the worker answers");
        String::from_utf8(answer.body).expect("the page is text")
    }

    /// The most memory that it ever held, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        peak_memory_kib_of(self.id()).expect("Linux tells of a child")
    }

    /// Seconds of CPU that it has used, on all its threads.
    pub fn cpu_s(&self) -> f64 {
        cpu_s_of(&self.id().to_string())
    }

    fn id(&self) -> u32 {
        self.child.id().expect("the worker runs")
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop(self) -> ExitStatus {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Sends a signal, by its name without `SIG`.
    pub async fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().await.expect("kill runs");
        assert!(sent.success());
    }

    /// Returns once the worker says that it is stopping.
    pub async fn stopping(&self) {
        let says =
            async || http_server::get(&self.health_url, "/readyz").await.is_some_and(|answer| answer.status == 503);
        while !says().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(STOP_TIME_MAX, self.child.wait())
            .await
            .expect("the worker stops in time")
            .expect("the child can be waited for")
    }

    /// Sends SIGKILL: nothing is flushed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the worker can be killed");
    }
}

/// The most memory that a process ever held, in KiB; none once it has ended.
fn peak_memory_kib_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs a command to its end, and gives the most memory that it held, in KiB, but for its last
/// moments: Linux forgets it with the process.
///
/// # Panics
/// When it fails.
pub async fn peak_memory_kib(command: std::process::Command) -> u64 {
    let mut child = Command::from(command).kill_on_drop(true).spawn().expect("the command starts");
    let id = child.id().expect("it was not waited for");
    let mut peak_kib = 0;
    loop {
        if let Some(status) = child.try_wait().expect("it can be asked") {
            assert!(status.success(), "the command ended with {status}");
            return peak_kib;
        }
        peak_kib = peak_memory_kib_of(id).unwrap_or(peak_kib);
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// The real binary.
pub fn binary() -> PathBuf {
    program("catalog-labels")
}

/// A binary beside the test binary, built in the same profile; `make test` builds both.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let path = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join(name);
    assert!(path.is_file(), "{} is missing: `make build` (or `make test`) builds it", path.display());
    path
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// The shipped artifact.
pub fn artifact() -> PathBuf {
    repository().join("models/artifacts/minilm-l6-v6")
}
