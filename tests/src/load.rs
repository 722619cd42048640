//! Load on an HTTP server, and how long its answers take.
//!
//! Open-loop arrivals come when they come, whether or not the server keeps up, and each
//! latency counts from when the request was due: a server that stalls is charged for every
//! request that it held up (no coordinated omission).
//!
//! One thread that blocks sends and reads, with as few system calls and changes of threads as
//! it can: it shares its cores with the server, and what it takes is not the server's to use.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;

/// Open-loop arrivals are sent, and answers looked for, at steps of this. It adds up to twice
/// itself to a latency, and never takes from one.
pub const STEP: Duration = Duration::from_micros(250);
/// Connections of open-loop arrivals, as a load balancer keeps them: a request that finds none idle waits for one. Were
/// one opened for each, a server that stalled would have thousands to accept as soon as it went on.
pub const CONNECTIONS: usize = 256;
/// Clients of a closed loop that saturates a server.
pub const CLIENTS: usize = 32;
/// Longest head and body of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 32;

/// What is sent, and where.
#[derive(Clone, Debug)]
pub struct Target {
    address: String,
    /// Whole requests, sent in turn.
    requests: Arc<Vec<Vec<u8>>>,
}

impl Target {
    /// Posts each of `bodies`, which are JSON, to `path`.
    pub fn new(address: String, path: &str, bodies: &[String]) -> Self {
        let request = |body: &String| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body.as_bytes()].concat()
        };
        Self { requests: Arc::new(bodies.iter().map(request).collect()), address }
    }

    /// How many there are before they come again.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of answers with status 200, in microseconds; of each second of the run in which they were due.
    seconds: Vec<Histogram<u64>>,
    /// Answers with another status.
    pub refused: u64,
    took: Duration,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are good")
}

fn quantile_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1_000.0
}

impl Outcome {
    fn new() -> Self {
        Self { seconds: Vec::new(), refused: 0, took: Duration::ZERO }
    }

    /// Good answers a second.
    pub fn rate(&self) -> f64 {
        self.latencies().len() as f64 / self.took.as_secs_f64()
    }

    /// Over the whole run.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latencies(), quantile)
    }

    /// The quantile of each second of the run, and their median: what the server does while the host
    /// leaves it its cores, where the host takes them away in fewer than half of the seconds.
    pub fn median_second_ms(&self, quantile: f64) -> f64 {
        let mut seconds: Vec<f64> = self.seconds.iter().map(|second| quantile_ms(second, quantile)).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub fn latencies(&self) -> Histogram<u64> {
        let mut all = histogram();
        self.seconds.iter().for_each(|second| all.add(second).expect("the bounds are equal"));
        all
    }

    fn record(&mut self, status: u16, started: Instant, since: Instant) {
        if status != 200 {
            self.refused += 1;
            return;
        }
        let second = since.saturating_duration_since(started).as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize_with(second + 1, histogram);
        }
        self.seconds[second].saturating_record(since.elapsed().as_micros() as u64);
    }

    /// As one run after the other.
    pub fn add(&mut self, other: &Self) {
        self.seconds.extend_from_slice(&other.seconds);
        self.refused += other.refused;
        self.took += other.took;
    }
}

/// A connection, kept alive, with at most one request on its way.
struct Client {
    stream: TcpStream,
    /// Of an answer, as much as has come.
    received: Vec<u8>,
    /// When the request was due.
    since: Instant,
}

impl Client {
    /// Reads what has come, without waiting; the status once the answer is whole.
    fn read(&mut self) -> io::Result<Option<u16>> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.received.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some((status, bytes)) = status_and_bytes(&self.received)? else { return Ok(None) };
        if self.received.len() < bytes {
            return Ok(None);
        }
        self.received.clear();
        Ok(Some(status))
    }
}

/// The status of an answer and all its bytes, head and body; none before its head is whole.
fn status_and_bytes(received: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let broken = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(received).map_err(|error| broken(&error.to_string()))?
    else {
        return Ok(None);
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length =
        length.filter(|&length| length <= ANSWER_BYTES_MAX).ok_or_else(|| broken("no length, or a large one"))?;
    Ok(Some((head.code.ok_or_else(|| broken("no status"))?, head_bytes + length)))
}

/// All connections to a target, and who of them waits for an answer.
struct Clients {
    target: Target,
    ready: OwnedFd,
    all: Vec<Client>,
    idle: Vec<usize>,
    sent: usize,
}

impl Clients {
    /// Opens so many connections.
    fn open(target: &Target, connections: usize) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut all = Vec::with_capacity(connections);
        for client in 0..connections {
            let stream = TcpStream::connect(&target.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&ready, &stream, epoll::EventData::new_u64(client as u64), epoll::EventFlags::IN)?;
            all.push(Client { stream, received: Vec::new(), since: Instant::now() });
        }
        Ok(Self { target: target.clone(), ready, all, idle: (0..connections).collect(), sent: 0 })
    }

    fn in_work(&self) -> usize {
        self.all.len() - self.idle.len()
    }

    /// Sends the next request, due at `since`, on an idle connection; false where there is none.
    fn send(&mut self, since: Instant) -> io::Result<bool> {
        let Some(client) = self.idle.pop() else { return Ok(false) };
        let Client { stream, since: due, .. } = &mut self.all[client];
        *due = since;
        // A connection without a request on its way has room for one.
        stream.write_all(&self.target.requests[self.sent % self.target.requests.len()])?;
        self.sent += 1;
        Ok(true)
    }

    /// Gives `record` the status of each answer that has come, and when its request was due; waits for
    /// one where `waits`.
    fn answers(&mut self, waits: bool, mut record: impl FnMut(u16, Instant)) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), (!waits).then_some(&now))?;
        for event in events {
            let client = event.data.u64() as usize;
            if let Some(status) = self.all[client].read()? {
                record(status, self.all[client].since);
                self.idle.push(client);
            }
        }
        Ok(())
    }
}

/// `connections` clients that each send their next request when the last is answered. Blocks.
pub fn closed_loop(target: &Target, connections: usize, lasts: Duration) -> io::Result<Outcome> {
    let mut clients = Clients::open(target, connections)?;
    let mut outcome = Outcome::new();
    let started = Instant::now();
    loop {
        while started.elapsed() < lasts && clients.send(Instant::now())? {}
        if clients.in_work() == 0 {
            break;
        }
        clients.answers(true, |status, since| outcome.record(status, started, since))?;
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// Poisson arrivals at `rate` a second, drawn from `seed`. Blocks.
pub fn open_loop(target: &Target, rate: f64, lasts: Duration, seed: u64) -> io::Result<Outcome> {
    let mut clients = Clients::open(target, CONNECTIONS)?;
    let mut outcome = Outcome::new();
    let mut random = fastrand::Rng::with_seed(seed);
    // Exponential gaps; 1 - f64() is never 0.
    let mut gap = || Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
    let started = Instant::now();
    let (mut arrival, mut step) = (gap(), Duration::ZERO);
    while arrival < lasts || clients.in_work() > 0 {
        step = started.elapsed().max(step + STEP);
        sleep(step.saturating_sub(started.elapsed()));
        clients.answers(false, |status, since| outcome.record(status, started, since))?;
        let now = started.elapsed();
        while arrival < lasts.min(now) && clients.send(started + arrival)? {
            arrival += gap();
        }
    }
    outcome.took = started.elapsed().max(lasts);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::Mutex;
    use std::thread;

    /// Answers every request after `stall`, one at a time over all connections.
    fn slow_server(stall: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let turn = Arc::new(Mutex::new(()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, turn) = (stream.expect("a connection"), Arc::clone(&turn));
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
                        if line == "\r\n" {
                            stream.read_exact(&mut [0; 2]).expect("a body of two bytes");
                            let _turn = turn.lock().expect("nobody panics");
                            sleep(stall);
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                            stream.get_mut().write_all(answer).expect("the client reads");
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
    #[test]
    fn waiting_requests_are_charged_from_when_they_were_due() {
        let stall = Duration::from_millis(10);
        let target = Target::new(slow_server(stall), "/", &["{}".to_owned()]);
        let outcome = open_loop(&target, 200.0, Duration::from_millis(600), 1).expect("the server answers");
        assert!(outcome.latencies().len() > 60, "{} arrivals", outcome.latencies().len());
        assert!(outcome.quantile_ms(0.99) > 10.0 * stall.as_millis() as f64, "{}", outcome.quantile_ms(0.99));
    }

    /// Each of the clients has one request on its way, so that none waits for more than the others' turns.
    #[test]
    fn clients_in_a_closed_loop_wait_for_their_answers() {
        let stall = Duration::from_millis(5);
        let target = Target::new(slow_server(stall), "/", &["{}".to_owned()]);
        let outcome = closed_loop(&target, 3, Duration::from_millis(200)).expect("the server answers");
        assert!((3..=43).contains(&outcome.latencies().len()), "{} answers", outcome.latencies().len());
        assert!(outcome.latencies().min() >= stall.as_micros() as u64);
    }

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(status_and_bytes(&answer[..40]).expect("a good start"), None);
        assert_eq!(status_and_bytes(answer).expect("a good answer"), Some((429, answer.len())));
        status_and_bytes(b"HTTP/1.1 200 OK\r\n\r\n").expect_err("how long it is, nobody knows");
    }
}
