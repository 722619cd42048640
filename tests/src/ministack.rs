//! A ministack of one's own: SQS and DynamoDB in one child process on a free port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for the first answer. It starts in half a second on an idle machine; a
/// loaded one takes ten times as long.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Pause between two probes of the port; nothing signals readiness, so it is asked for.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);
/// Another process may take the free port between its choice and its use.
const PORT_ATTEMPTS_MAX: u32 = 5;

/// A running ministack; killed on drop.
#[derive(Debug)]
pub struct Ministack {
    child: Child,
    port: u16,
}

impl Ministack {
    /// Starts a ministack and returns once it answers requests.
    ///
    /// # Panics
    /// When it is not installed or does not come up: a test without its engine fails,
    /// it does not pass unseen.
    pub fn start() -> Self {
        let binary = binary();
        assert!(
            binary.is_file(),
            "ministack is not at {}: run `make test-env`, which installs it, or set CATALOG_LABELS_MINISTACK to its path",
            binary.display()
        );
        for _ in 0..PORT_ATTEMPTS_MAX {
            let port = free_port();
            let child = Command::new(&binary)
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("LOG_LEVEL", "WARNING")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
            let mut ministack = Self { child, port };
            match ministack.wait_until_ready() {
                Ok(()) => return ministack,
                Err(exit) => note(&format!("ministack left with {exit} on port {port}; trying another port")),
            }
        }
        panic!("ministack did not come up on any of {PORT_ATTEMPTS_MAX} ports; its messages are above");
    }

    /// What `--endpoint-url` and the SDK's `endpoint_url` take.
    pub fn endpoint_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait_until_ready(&mut self) -> Result<(), ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(exit) = self.child.try_wait().expect("a child of ours can be asked") {
                return Err(exit);
            }
            if probe(self.port).unwrap_or(false) {
                return Ok(());
            }
            assert!(
                started.elapsed() < START_TIME_MAX,
                "ministack on port {} gives no answer after {START_TIME_MAX:?}",
                self.port
            );
            thread::sleep(PROBE_INTERVAL);
        }
    }
}

impl Drop for Ministack {
    fn drop(&mut self) {
        // It may be gone already; there is nothing to keep either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> PathBuf {
    std::env::var_os("CATALOG_LABELS_MINISTACK").map(PathBuf::from).unwrap_or_else(|| {
        let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        repository.join(".venv-ministack/bin/ministack")
    })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// One HTTP request; true when the answer is a 200.
fn probe(port: u16) -> std::io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIME_MAX)?;
    stream.set_read_timeout(Some(PROBE_TIME_MAX))?;
    stream.write_all(b"GET /_ministack/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut status_line = [0; 12];
    stream.read_exact(&mut status_line)?;
    Ok(status_line.ends_with(b" 200"))
}

#[expect(clippy::print_stderr, reason = "test output, shown only when the test fails")]
fn note(message: &str) {
    eprintln!("{message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_once_started_and_is_gone_after_drop() {
        let ministack = Ministack::start();
        let port = ministack.port;
        assert!(probe(port).expect("a running engine answers"));
        drop(ministack);
        assert!(probe(port).is_err(), "something still listens on {port}");
    }
}
