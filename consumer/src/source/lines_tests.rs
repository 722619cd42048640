use std::sync::Mutex;

use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;

use super::*;

/// One object in pieces of seven bytes; remembers from where it was read.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    piece_bytes: usize,
    read_from: Mutex<Vec<u64>>,
}

#[async_trait]
impl Objects for Held {
    async fn read(
        &self,
        _at: &ObjectAt,
        from_byte: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        self.read_from.lock().expect("no test panics with it").push(from_byte);
        let rest = &self.bytes[from_byte as usize..];
        let pieces: Vec<_> = rest.chunks(self.piece_bytes).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok(stream::iter(pieces).boxed())
    }
}

fn at() -> ObjectAt {
    ObjectAt { bucket: "b".to_owned(), key: "k".to_owned(), etag: None, version: None }
}

fn held(bytes: &[u8]) -> Held {
    Held { bytes: bytes.to_vec(), piece_bytes: 7, ..Held::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing into memory does not fail")
}

async fn all_from(objects: &Held, place: Place) -> Result<(Vec<Line>, Vec<Place>), LinesError> {
    let mut lines = Lines::open(objects, &at(), place).await?;
    let (mut read, mut places) = (Vec::new(), Vec::new());
    loop {
        let chunk = lines.next_chunk().await?;
        if chunk.is_empty() {
            return Ok((read, places));
        }
        read.extend(chunk);
        places.push(lines.place());
    }
}

async fn all(bytes: &[u8]) -> Vec<(u64, String)> {
    let (lines, _) = all_from(&held(bytes), Place::default()).await.expect("the object is readable");
    lines.into_iter().map(|line| (line.number, String::from_utf8(line.bytes).expect("the test wrote text"))).collect()
}

fn numbered(lines: &[(u64, &str)]) -> Vec<(u64, String)> {
    lines.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
}

#[tokio::test]
async fn lines_are_numbered_and_empty_ones_left_out() {
    assert_eq!(all(b"").await, []);
    assert_eq!(all(b"a").await, numbered(&[(1, "a")]));
    assert_eq!(
        all(b"first line\r\n\n \nsecond, a longer one\n").await,
        numbered(&[(1, "first line"), (4, "second, a longer one")])
    );
}

#[tokio::test]
async fn gzip_is_known_by_its_first_bytes_and_may_have_several_members() {
    let two = [gzip(b"a\nb"), gzip(b"b\nc\n")].concat();
    assert_eq!(all(&two).await, numbered(&[(1, "a"), (2, "bb"), (3, "c")]));
    assert_eq!(all(&gzip(b"")).await, []);
}

#[tokio::test]
async fn reading_goes_on_from_any_place_that_was_given() {
    let text: String = (1..=200).map(|n| format!("line {n}{}\n", if n % 7 == 0 { "\n" } else { "" })).collect();
    for (bytes, is_gzip) in [(text.clone().into_bytes(), false), (gzip(text.as_bytes()), true)] {
        let objects = held(&bytes);
        let (whole, places) = all_from(&objects, Place::default()).await.expect("the object is readable");
        assert_eq!((whole.len(), places.len()), (200, 4));
        for (chunk, place) in places.into_iter().enumerate() {
            assert_eq!(place.gzip, is_gzip);
            let (rest, _) = all_from(&objects, place).await.expect("the object is readable");
            assert_eq!(rest, whole[whole.len().min((chunk + 1) * CHUNK_LINES_MAX)..]);
            let read_from = objects.read_from.lock().expect("no test panics with it").last().copied();
            assert_eq!(read_from, Some(if is_gzip { 0 } else { place.bytes }), "plain text need not be read twice");
        }
    }
}

#[tokio::test]
async fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
    let long = "x".repeat(3 * LINE_BYTES_MAX);
    for bytes in [format!("a\n{long}\nb").into_bytes(), gzip(format!("a\n{long}\nb").as_bytes())] {
        let objects = Held { bytes, piece_bytes: 9_000, ..Held::default() };
        let (lines, _) = all_from(&objects, Place::default()).await.expect("the object is readable");
        let seen: Vec<(u64, usize, bool)> = lines.iter().map(|l| (l.number, l.bytes.len(), l.is_whole)).collect();
        assert_eq!(seen, [(1, 1, true), (2, CUT_BYTES, false), (3, 1, true)]);
    }
}

#[tokio::test]
async fn a_bomb_occupies_little_however_it_comes() {
    // 64 MB of one line in 65 kB, in one piece.
    let bytes = gzip(&vec![b'x'; 64 << 20]);
    let objects = Held { piece_bytes: bytes.len(), bytes, ..Held::default() };
    let mut lines = Lines::open(&objects, &at(), Place::default()).await.expect("the object is there");
    let chunk = lines.next_chunk().await.expect("the object is readable");
    assert_eq!(chunk.iter().map(|line| (line.bytes.len(), line.is_whole)).collect::<Vec<_>>(), [(CUT_BYTES, false)]);
    assert!(lines.buffer.capacity() <= 2 * 17_000_000, "{}", lines.buffer.capacity());
}

#[tokio::test]
async fn broken_gzip_is_refused_with_the_line_that_it_got_to() {
    let mut bytes = gzip("a\nb\n".repeat(9_000).as_bytes());
    bytes.truncate(bytes.len() - 9);
    let error = all_from(&held(&bytes), Place::default()).await.expect_err("its end is missing");
    assert!(matches!(error, LinesError::NotGzip { .. }), "{error:?}");
    assert!(matches!(error.fault(), Fault::Poison { reason } if reason.starts_with("s3://b/k begins as gzip")));
}
