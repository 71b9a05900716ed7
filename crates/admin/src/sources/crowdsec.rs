//! CrowdSec's local API. All decisions are read at first and once an hour, and what changed in between. A
//! decision that was deleted says only which address it was for, and there may be others for it: if its
//! ban is still held, all are read again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderName;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tidegate_author::ban_list::{BanListReader, ListFormat};
use tidegate_author::{Place, Source};
use tidegate_policy::address::Prefix;
use tidegate_policy::table::EntryState;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::files::SourceFiles;
use super::http::{self, Reach, SourceRequest};
use super::set::Counts;
use super::{Answer, End, FetchError, Held, Listing, list};
use crate::ban_lists::check::{CheckedList, ImportRules};
use crate::ban_lists::unpack::{ListSink, MAX_LIST, read_chunks};
use crate::lock::locked;
use crate::time;

/// All decisions are read again after this long.
const ALL_EVERY: Duration = Duration::from_secs(3_600);
/// Bytes of what changed, at most; of more all is read.
const MAX_CHANGES: usize = 8 << 20;
/// A deleted decision whose ban ends within this many seconds has ended.
const ENDING_S: u32 = 2;

/// When all decisions of a source were last read, by its name: what changed since then can be asked for.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<String, (Instant, Source)>>);

impl Streams {
    /// All decisions of the source are read next.
    pub fn forget(&self, name: &str) {
        locked(&self.0).remove(name);
    }

    fn is_followed(&self, source: &Source) -> bool {
        let known = locked(&self.0);
        known.get(&source.name).is_some_and(|(at, as_it_was)| at.elapsed() < ALL_EVERY && as_it_was == source)
    }

    fn note(&self, source: &Source) {
        locked(&self.0).insert(source.name.clone(), (Instant::now(), source.clone()));
    }
}

/// Decisions that are no longer there.
#[derive(Deserialize, Default)]
struct Changes {
    #[serde(default)]
    deleted: Option<Vec<Deleted>>,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(default)]
    value: String,
}

/// Asks for the decisions.
pub(super) async fn fetch(
    source: &Source,
    files: &SourceFiles,
    streams: &Streams,
    held: &Held,
    rules: ImportRules,
) -> Result<Answer, FetchError> {
    if streams.is_followed(source) && held.origin.is_some() {
        let answer = ask(source, files, false).await?;
        if let Some(listing) = changed(answer, held, rules.clone()).await? {
            return Ok(Answer::All(listing));
        }
    }
    let answer = ask(source, files, true).await?;
    let all = list::of_answer(answer, sink(rules)).await?;
    streams.note(source);
    Ok(match all {
        Answer::All(mut listing) => {
            listing.counts.skip_other_decisions();
            (listing.etag, listing.last_modified) = (None, None);
            Answer::All(listing)
        }
        Answer::NotModified => Answer::NotModified,
    })
}

fn sink(rules: ImportRules) -> ListSink {
    let reader = BanListReader::new(Some(ListFormat::Json), None);
    ListSink::new(reader, CheckedList::new(rules).without_reasons(), MAX_LIST)
}

/// Asks for all decisions, or for what changed since this key last asked.
async fn ask(source: &Source, files: &SourceFiles, all: bool) -> Result<Response, FetchError> {
    let Place::Url(base) = &source.place else { return Err(FetchError::new("CrowdSec needs a url")) };
    let credentials = source.credentials.as_ref().map(|named| files.header(named)).transpose()?;
    let request = SourceRequest {
        url: format!("{}/v1/decisions/stream?startup={all}&scopes=ip,range", base.trim_end_matches('/')),
        reach: Reach::of(source),
        credentials,
        headers: vec![(HeaderName::from_static("accept"), "application/json".to_owned())],
    };
    let answer = request.send().await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let status = answer.status();
            Err(FetchError::new(format!(
                "CrowdSec does not take the key ({status}): `cscli bouncers list` shows who has one, `cscli bouncers add` \
                 makes one"
            )))
        }
        status => Err(FetchError::new(format!("CrowdSec answered {status}"))),
    }
}

/// What is held with the changes of `answer`; `None`: all has to be read.
async fn changed(
    mut answer: Response,
    held: &Held,
    rules: ImportRules,
) -> Result<Option<Listing>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = http::chunk(&mut answer).await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_CHANGES {
            return Ok(None);
        }
    }
    let body = unpacked(body)?;
    let Changes { deleted } = serde_json::from_slice(&body).map_err(|error| {
        FetchError::new(format!("what CrowdSec answered is not JSON of its stream: {error}"))
    })?;
    let now = time::now_seconds();
    let is_held = |deleted: &Deleted| {
        let entry = deleted.value.parse::<Prefix>().ok().and_then(|prefix| held.table.get(&prefix));
        match entry {
            Some(EntryState::Present(end)) => end.is_none_or(|end| end > now.saturating_add(ENDING_S)),
            Some(EntryState::Absent) | None => false,
        }
    };
    if deleted.unwrap_or_default().iter().any(is_held) {
        return Ok(None);
    }
    let (chunks, from) = mpsc::channel(1);
    let read = spawn_blocking(move || read_chunks(from, false, sink(rules)));
    // Whether all of it was taken, its reader says.
    let _ = chunks.send(Bytes::from(body)).await;
    drop(chunks);
    let read = read.await.map_err(|_| FetchError::new("the service is stopping"))?;
    let (format, list) = read.map_err(|fault| FetchError::new(fault.to_string()))?;
    let mut counts = Counts::of(format, &list);
    counts.skip_other_decisions();
    let mut bans: BTreeMap<Prefix, End> = BTreeMap::new();
    for entry in held.table.iter() {
        if let EntryState::Present(end) = entry.state
            && end.is_none_or(|end| end > now)
        {
            bans.insert(entry.prefix, end);
        }
    }
    for ban in list.bans {
        let latest = |had: End| had.zip(ban.expires).map(|(had, new)| had.max(new));
        bans.entry(ban.prefix).and_modify(|had| *had = latest(*had)).or_insert(ban.expires);
    }
    counts.taken = bans.len();
    Ok(Some(Listing { bans: bans.into_iter().collect(), counts, etag: None, last_modified: None }))
}

/// `body`, unpacked if it is packed.
fn unpacked(body: Vec<u8>) -> Result<Vec<u8>, FetchError> {
    use std::io::Read as _;
    if !body.starts_with(b"\x1f\x8b") {
        return Ok(body);
    }
    let mut plain = Vec::new();
    let limit = MAX_CHANGES as u64 * 4;
    let read = flate2::read::MultiGzDecoder::new(body.as_slice()).take(limit + 1).read_to_end(&mut plain);
    match read {
        Ok(length) if length as u64 <= limit => Ok(plain),
        _ => Err(FetchError::new("what CrowdSec answered is no gzip, or far too large")),
    }
}
