//! As much of HTTP/1.1 as the SDKs and the local engines speak, for servers that answer
//! as a test says, badly included.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest wait for the answer to a [`get`].
const GET_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What a server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer(Response),
    /// The answer's first half, and then the end of the connection.
    Cut(Response),
    /// The connection is reset.
    Reset,
    /// Nothing, for as long as the client waits.
    Never,
}

impl Request {
    /// A header's value by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Service and operation of a request in one of AWS's JSON protocols.
    pub fn target(&self) -> Option<(&str, &str)> {
        self.header("x-amz-target").and_then(|target| target.split_once('.'))
    }
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// In AWS's JSON protocols.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let kind = ("content-type".to_owned(), "application/x-amz-json-1.0".to_owned());
        Self { headers: vec![kind], ..Self::new(status, body.to_string()) }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} -\r\n", self.status).into_bytes();
        bytes.extend(head(&self.headers, self.body.len()));
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Serves on a free loopback port until dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start<F>(handle: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let handle = Arc::new(handle);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            // A connection that fails is the client's to notice.
            while let Ok((stream, _)) = listener.accept().await {
                let handle = handle.clone();
                connections.spawn(async move { serve(stream, handle.as_ref()).await.ok() });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { url, task }
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F: Future<Output = Reply>>(stream: TcpStream, handle: &impl Fn(Request) -> F) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        match handle(request).await {
            Reply::Answer(response) => stream.write_all(&response.to_bytes()).await?,
            Reply::Cut(response) => {
                let bytes = response.to_bytes();
                stream.write_all(&bytes[..bytes.len() / 2]).await?;
                return stream.shutdown().await;
            }
            // What is closed without lingering is reset.
            Reply::Reset => return stream.into_inner().set_zero_linger(),
            Reply::Never => std::future::pending().await,
        }
    }
    Ok(())
}

/// One request to the server at `url`, on a connection of its own.
pub async fn send(url: &str, request: &Request) -> io::Result<Response> {
    let address = url.trim_start_matches("http://");
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n", request.method, request.path)
        .into_bytes();
    let dropped = ["host", "connection", "content-length", "transfer-encoding"];
    let kept = request.headers.iter().filter(|(name, _)| !dropped.contains(&name.as_str())).cloned();
    bytes.extend(head(&kept.collect::<Vec<_>>(), request.body.len()));
    bytes.extend_from_slice(&request.body);
    stream.write_all(&bytes).await?;
    let status = read_line(&mut stream).await?;
    let status = status.as_deref().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let (mut headers, body) = read_rest(&mut stream, true).await?;
    let hop = ["connection", "content-length", "transfer-encoding", "keep-alive"];
    headers.retain(|(name, _)| !hop.contains(&name.as_str()));
    Ok(Response { status, headers, body })
}

/// None when the client has closed.
async fn read_request(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Request>> {
    let Some(line) = read_line(stream).await? else { return Ok(None) };
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (headers, body) = read_rest(stream, false).await?;
    Ok(Some(Request { method, path, headers, body }))
}

/// Headers, their names in lower case, and the body. Without a length the body of an
/// answer goes on to the end of the connection, and a request has none.
async fn read_rest(
    stream: &mut (impl AsyncBufRead + Unpin),
    is_answer: bool,
) -> io::Result<(Vec<(String, String)>, Vec<u8>)> {
    let mut headers = Vec::new();
    while let Some(line) = read_line(stream).await?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = find(&headers, "content-length").and_then(|length| length.parse().ok());
    let chunked = find(&headers, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let mut body = Vec::new();
    match length {
        _ if chunked => read_chunks(stream, &mut body).await?,
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
        }
        None if is_answer => {
            stream.read_to_end(&mut body).await?;
        }
        None => {}
    }
    Ok((headers, body))
}

async fn read_chunks(stream: &mut (impl AsyncBufRead + Unpin), body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = read_line(stream).await?.unwrap_or_default();
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..]).await?;
        read_line(stream).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Without its end; none at the end of the stream.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

fn head(headers: &[(String, String)], length: usize) -> Vec<u8> {
    let mut head = format!("content-length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A request without a body, as for a health page; none while nobody listens.
pub async fn get(url: &str, path: &str) -> Option<Response> {
    let request = Request { method: "GET".to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
    tokio::time::timeout(GET_TIME_MAX, send(url, &request)).await.ok()?.ok()
}
