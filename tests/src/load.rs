//! Load on an HTTP server, and how long its answers take.
//!
//! Open-loop arrivals come when they come, whether or not the server keeps up, and each
//! latency counts from when the request was due: a server that stalls is charged for every
//! request that it held up (no coordinated omission).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use crate::http::Connection;

/// What is sent, and where.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub path: &'static str,
    /// Bodies, sent in turn.
    pub bodies: Arc<Vec<String>>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of answers with status 200, in microseconds.
    pub latencies: Histogram<u64>,
    /// Answers with another status.
    pub refused: u64,
    pub took: Duration,
}

impl Outcome {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are good");
        Self { latencies, refused: 0, took: Duration::ZERO }
    }

    /// Good answers a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn record(&mut self, status: u16, since: Instant) {
        if status == 200 {
            self.latencies.saturating_record(since.elapsed().as_micros() as u64);
        } else {
            self.refused += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("the bounds are equal");
        self.refused += other.refused;
        self.took += other.took;
    }
}

/// `connections` clients that each send their next request when the last is answered.
///
/// # Panics
/// When a connection fails.
pub async fn closed_loop(target: &Target, connections: usize, lasts: Duration) -> Outcome {
    let started = Instant::now();
    let clients = (0..connections).map(|client| {
        let target = target.clone();
        tokio::spawn(async move {
            let mut outcome = Outcome::new();
            let mut connection = Connection::open(&target.address).await.expect("the server listens");
            for i in (client..).step_by(connections) {
                if started.elapsed() >= lasts {
                    break;
                }
                let sent = Instant::now();
                let body = &target.bodies[i % target.bodies.len()];
                let answer = connection.post(target.path, &[], body.as_bytes()).await.expect("the server answers");
                outcome.record(answer.status, sent);
            }
            outcome
        })
    });
    let mut all = Outcome::new();
    for client in futures::future::join_all(clients).await {
        all.add(&client.expect("no client panics"));
    }
    all.took = started.elapsed();
    all
}

/// Poisson arrivals at `rate` a second, drawn from `seed`.
///
/// # Panics
/// When a connection fails.
pub async fn open_loop(target: &Target, rate: f64, lasts: Duration, seed: u64) -> Outcome {
    let alarm = Alarm::new().expect("Linux has timers with descriptors");
    let mut random = fastrand::Rng::with_seed(seed);
    let started = Instant::now();
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let outcome = Arc::new(Mutex::new(Outcome::new()));
    let mut requests = tokio::task::JoinSet::new();
    let (mut sent, mut at) = (0, 0.0);
    loop {
        // Exponential gaps; 1 - f64() is never 0.
        at -= (1.0 - random.f64()).ln() / rate;
        if at > lasts.as_secs_f64() {
            break;
        }
        let arrival = started + Duration::from_secs_f64(at);
        alarm.ring(arrival).await.expect("the timer can be set");
        let (target, idle, outcome) = (target.clone(), Arc::clone(&idle), Arc::clone(&outcome));
        let body = sent % target.bodies.len();
        sent += 1;
        requests.spawn(async move {
            let kept = idle.lock().await.pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&target.address).await.expect("the server listens"),
            };
            let answer = connection.post(target.path, &[], target.bodies[body].as_bytes()).await;
            outcome.lock().await.record(answer.expect("the server answers").status, arrival);
            idle.lock().await.push(connection);
        });
        while requests.try_join_next().is_some() {}
    }
    while let Some(request) = requests.join_next().await {
        request.expect("no request panics");
    }
    let mut outcome = outcome.lock().await.clone();
    outcome.took = started.elapsed().max(lasts);
    outcome
}

/// Rings at an instant. The runtime's timers have steps of a millisecond, and a thread that slept instead
/// would take two more changes of threads for each arrival from the cores that the server shares.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    #[allow(unsafe_code, reason = "tokio has no safe way to wait for a descriptor")]
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned, and stays open for as long as it is registered.
        Ok(Self(unsafe { AsyncFd::register(timer)? }))
    }

    /// Whoever else is ready has a turn meanwhile, even where `at` has passed.
    async fn ring(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut rung = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut rung)?)) {
                return read.map(|_| ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    /// Answers every request after `stall`, one at a time over all connections.
    async fn slow_server(stall: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let turn = Arc::new(Mutex::new(()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let turn = Arc::clone(&turn);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                        if line == "\r\n" {
                            let mut body = [0; 2];
                            stream.read_exact(&mut body).await.expect("a body of two bytes");
                            let _turn = turn.lock().await;
                            tokio::time::sleep(stall).await;
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                            stream.get_mut().write_all(answer).await.expect("the client reads");
                        }
                        line.clear();
                    }
                });
            }
        });
        address
    }

    /// At twice the rate that the server keeps up with, the queue grows for as long as the
    /// run lasts. A generator that waits for answers would see the stall alone.
    #[tokio::test]
    async fn waiting_requests_are_charged_from_when_they_were_due() {
        let stall = Duration::from_millis(10);
        let bodies = Arc::new(vec!["{}".to_owned()]);
        let target = Target { address: slow_server(stall).await, path: "/", bodies };
        let outcome = open_loop(&target, 200.0, Duration::from_millis(600), 1).await;
        assert!(outcome.latencies.len() > 60, "{} arrivals", outcome.latencies.len());
        assert!(outcome.quantile_ms(0.99) > 10.0 * stall.as_millis() as f64, "{}", outcome.quantile_ms(0.99));
    }
}
