//! Lists: fetched from their server or read from a file, unpacked and checked as they come.

use std::fs::File;
use std::io::Read;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use reqwest::header::{
    CONTENT_ENCODING, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode};
use tidegate_author::ban_list::BanListReader;
use tidegate_author::{Place, Source};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::files::SourceFiles;
use super::http::{self, Reach, SourceRequest};
use super::set::Counts;
use super::{Answer, Bans, FetchError, Listing};
use crate::ban_lists::check::{CheckedList, ImportRules};
use crate::ban_lists::unpack::{ListSink, MAX_LIST, read_chunks};
use crate::store::SetOrigin;

/// How a gzip file begins.
const GZIP: &[u8] = b"\x1f\x8b";
/// Chunks between the connection and the thread that reads them.
const CHUNKS_AHEAD: usize = 8;
/// Bytes that are read from a file at a time.
const CHUNK: usize = 64 << 10;
/// Longest `ETag` and `Last-Modified` that are kept.
const MAX_HEADER: usize = 1_024;

/// Fetches a list, unless it is what `held` is from.
pub(super) async fn fetch(
    source: &Source,
    files: &SourceFiles,
    held: Option<&SetOrigin>,
    rules: ImportRules,
) -> Result<Answer, FetchError> {
    let sink = sink(BanListReader::new(source.format, source.min_score), rules);
    match &source.place {
        Place::File(name) => of_file(files.open(name)?, held, sink).await,
        Place::Url(url) => {
            let mut headers = Vec::new();
            let mut add = |name: HeaderName, value: Option<&String>| {
                headers.extend(value.map(|value| (name, value.clone())));
            };
            add(IF_NONE_MATCH, held.and_then(|held| held.etag.as_ref()));
            add(IF_MODIFIED_SINCE, held.and_then(|held| held.last_modified.as_ref()));
            let credentials = source.credentials.as_ref().map(|named| files.header(named)).transpose()?;
            let has_conditions = !headers.is_empty();
            let authorities = source.ca_file.as_deref().map(|name| files.authorities(name)).transpose()?;
            let reach = Reach::of(source);
            let request = SourceRequest { url: url.clone(), reach, credentials, authorities, headers };
            let answer = request.send().await?;
            match answer.status() {
                StatusCode::NOT_MODIFIED if has_conditions => Ok(Answer::NotModified),
                StatusCode::OK => of_answer(answer, sink).await.map(Answer::All),
                status => Err(FetchError::new(format!("its server answered {status}"))),
            }
        }
    }
}

/// Takes the list that `reader` reads.
pub(super) fn sink(reader: BanListReader, rules: ImportRules) -> ListSink {
    ListSink::new(reader, CheckedList::new(rules).without_reasons().with_simulated(), MAX_LIST)
}

/// The list in an answer.
pub(super) async fn of_answer(mut answer: Response, sink: ListSink) -> Result<Listing, FetchError> {
    let encoding = kept(answer.headers(), &CONTENT_ENCODING).map(|encoding| encoding.to_ascii_lowercase());
    let is_encoded = match encoding.as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") => true,
        Some(_) => {
            return Err(FetchError::new("its server packs it in a way that is not understood: gzip is"));
        }
    };
    if answer.content_length().is_some_and(|length| length > MAX_LIST as u64) {
        return Err(FetchError::new(format!("it has over {MAX_LIST} bytes")));
    }
    let [etag, last_modified] = [ETAG, LAST_MODIFIED].map(|name| kept(answer.headers(), &name));
    let first = http::chunk(&mut answer).await?.unwrap_or_default();
    let is_packed = is_encoded || first.starts_with(GZIP);
    let (chunks, from) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
    let read = spawn_blocking(move || read_chunks(from, is_packed, sink));
    let (mut next, mut length, mut broken) = (Some(first), 0usize, None);
    while let Some(chunk) = next {
        length = length.saturating_add(chunk.len());
        if length > MAX_LIST {
            broken = Some(FetchError::new(format!("it has over {MAX_LIST} bytes")));
            break;
        }
        // The thread has given up, and says why.
        if chunks.send(chunk).await.is_err() {
            break;
        }
        match http::chunk(&mut answer).await {
            Ok(chunk) => next = chunk,
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(chunks);
    let read = read.await.map_err(|_| FetchError::new("the service is stopping"))?;
    if let Some(broken) = broken {
        return Err(broken);
    }
    let (format, list) = read.map_err(|fault| FetchError::new(fault.to_string()))?;
    let counts = Counts::of(format, &list);
    let bans = Bans::from(list);
    Ok(Listing { bans, counts, etag, last_modified, all_read: None })
}

/// A header's value, if it can be sent back.
fn kept(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= MAX_HEADER).then(|| value.to_owned())
}

/// The list in a file. Its time and length are its `ETag`.
async fn of_file(mut file: File, held: Option<&SetOrigin>, sink: ListSink) -> Result<Answer, FetchError> {
    let told = |error: std::io::Error| FetchError::new(format!("its file cannot be read: {error}"));
    let metadata = file.metadata().map_err(told)?;
    let changed =
        metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let etag = format!("{}-{}", changed.as_nanos(), metadata.len());
    if held.and_then(|held| held.etag.as_ref()) == Some(&etag) {
        return Ok(Answer::NotModified);
    }
    let read = spawn_blocking(move || {
        let mut first = vec![0; CHUNK];
        let count = file.read(&mut first)?;
        first.truncate(count);
        let is_packed = first.starts_with(GZIP);
        let (chunks, from) = mpsc::channel(CHUNKS_AHEAD);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || read_chunks(from, is_packed, sink));
            let mut chunk = first;
            while !chunk.is_empty() && chunks.blocking_send(Bytes::from(chunk)).is_ok() {
                chunk = Vec::with_capacity(CHUNK);
                file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            }
            drop(chunks);
            reader.join().map_err(|_| std::io::Error::other("its reader ended early"))
        })
    });
    let read = read.await.map_err(|_| FetchError::new("the service is stopping"))?.map_err(told)?;
    let (format, list) = read.map_err(|fault| FetchError::new(fault.to_string()))?;
    let counts = Counts::of(format, &list);
    let bans = Bans::from(list);
    Ok(Answer::All(Listing { bans, counts, etag: Some(etag), last_modified: None, all_read: None }))
}
