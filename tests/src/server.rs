//! The real binary's `serve` as a child process.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::http::{Answer, Connection};
use crate::worker::{artifact, binary};

/// Longest wait for a start or a stop; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `serve`; killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    /// Serves the shipped artifact.
    pub async fn start(more: &[&str]) -> Self {
        Self::start_with(&artifact(), more).await
    }

    /// Serves another one.
    pub async fn start_with(artifact: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["serve", "--artifact", &artifact.display().to_string()]).args(more);
        Self::run(command).await
    }

    /// Runs `command`, a `serve` of any build, and waits until it says that it is ready.
    pub async fn run(mut command: Command) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("a bound socket has an address").to_string();
        drop(free);
        let child = command
            .args(["--address", &address])
            .env("OMP_NUM_THREADS", "1")
            .env("CATALOG_LABELS_LOG", "warn")
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut server = Self { child, address };
        server.until_readiness_is(200).await;
        server
    }

    /// Waits until `/readyz` answers so; returns the answer.
    pub async fn until_readiness_is(&mut self, status: u16) -> Answer {
        let asked = async {
            loop {
                if let Some(exit) = self.child.try_wait().expect("the child can be asked") {
                    panic!("the server ended with {exit}");
                }
                match self.get("/readyz").await {
                    Ok(answer) if answer.status == status => return answer,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("/readyz never answered {status}"))
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(&self.address).await.expect("the server listens")
    }

    pub async fn get(&self, path: &str) -> std::io::Result<Answer> {
        Connection::open(&self.address).await?.request("GET", path, &[], b"").await
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// The Prometheus page.
    pub async fn metrics(&self) -> String {
        String::from_utf8(self.get("/metrics").await.expect("the server answers").body).expect("metrics are text")
    }

    /// A JSON request on a connection of its own.
    pub async fn post(&self, path: &str, headers: &[&str], body: &Value) -> Answer {
        let body = body.to_string();
        self.connect().await.post(path, headers, body.as_bytes()).await.expect("the server answers")
    }

    pub fn terminate(&self) {
        let sent = std::process::Command::new("kill").args(["-TERM", &self.process().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub async fn ended(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the server stops").expect("the child can be waited for")
    }
}
