//! CrowdSec's local API. All decisions are read at first and once an hour, and what changed in between. A
//! decision that was deleted says only which address it was for, and there may be others for it: if its
//! ban is still held, all are read again.
//!
//! What a key was told of once it is not told again. So until what came is stored, nothing is known of how
//! far the decisions were read, and after an error or a stop in between all are read again.
//!
//! A decision does not say whether it is simulated (CrowdSec 1.4): the API leaves such out unless it is asked for
//! them. So where all is read, what only an answer with them has is simulated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderName;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tidegate_author::ban_list::{BanListReader, ListFormat};
use tidegate_author::{Place, Source};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::{AddressTable, EntryState};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::files::SourceFiles;
use super::http::{self, Reach, SourceRequest};
use super::set::Counts;
use super::{Bans, End, FetchError, Held, Listing, list};
use crate::ban_lists::check::ImportRules;
use crate::ban_lists::unpack::{ListSink, read_chunks};
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
    /// When all decisions of the source were read, if what changed since then can be asked for. Until
    /// [`Self::note`] it cannot.
    pub fn take(&self, source: &Source) -> Option<Instant> {
        let (at, as_it_was) = locked(&self.0).remove(&source.name)?;
        (at.elapsed() < ALL_EVERY && as_it_was == *source).then_some(at)
    }

    /// All that came until now is stored; all decisions were read at `at`.
    pub fn note(&self, source: &Source, at: Instant) {
        locked(&self.0).insert(source.name.clone(), (at, source.clone()));
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

/// Asks for the decisions. `all_read`: when all were read, if what changed since then is enough.
pub(super) async fn fetch(
    source: &Source,
    files: &SourceFiles,
    all_read: Option<Instant>,
    held: &Held,
    rules: ImportRules,
) -> Result<Listing, FetchError> {
    if let (Some(at), Some(_)) = (all_read, &held.origin) {
        let answer = ask(source, files, "/stream?startup=false").await?;
        if let Some(listing) = changed(answer, held, rules.clone()).await? {
            return Ok(Listing { all_read: Some(at), ..listing });
        }
    }
    let at = Instant::now();
    let with_simulated = ask(source, files, "/stream?startup=true&simulated=true").await?;
    let with_simulated = list::of_answer(with_simulated, sink(rules.clone())).await?.bans;
    // Last: what changes after this is told from now on.
    let answer = ask(source, files, "/stream?startup=true").await?;
    let mut listing = list::of_answer(answer, sink(rules)).await?;
    listing.counts.skip_other_decisions();
    let denies =
        |prefix: &Prefix| listing.bans.listed.binary_search_by_key(prefix, |(held, _)| *held).is_ok();
    let simulated = with_simulated.listed.into_iter().chain(with_simulated.simulated);
    let simulated: BTreeMap<Prefix, End> = simulated.filter(|(prefix, _)| !denies(prefix)).collect();
    listing.bans.simulated = simulated.into_iter().collect();
    listing.counts.simulated = listing.bans.simulated.len();
    Ok(Listing { all_read: Some(at), etag: None, last_modified: None, ..listing })
}

fn sink(rules: ImportRules) -> ListSink {
    list::sink(BanListReader::new(Some(ListFormat::Json), None), rules)
}

/// Asks for decisions of addresses.
async fn ask(source: &Source, files: &SourceFiles, which: &str) -> Result<Response, FetchError> {
    let Place::Url(base) = &source.place else { return Err(FetchError::new("CrowdSec needs a url")) };
    let credentials = source.credentials.as_ref().map(|named| files.header(named)).transpose()?;
    let request = SourceRequest {
        url: format!("{}/v1/decisions{which}&scopes=ip,range", base.trim_end_matches('/')),
        reach: Reach::of(source),
        credentials,
        authorities: source.ca_file.as_deref().map(|name| files.authorities(name)).transpose()?,
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
        let Ok(prefix) = deleted.value.parse::<Prefix>() else { return false };
        [&held.set.listed, &held.set.simulated].into_iter().any(|table| match table.get(&prefix) {
            Some(EntryState::Present(end)) => end.is_none_or(|end| end > now.saturating_add(ENDING_S)),
            Some(EntryState::Absent) | None => false,
        })
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
    let new = Bans::from(list);
    let bans = Bans {
        listed: with_new(&held.set.listed, new.listed, now),
        simulated: with_new(&held.set.simulated, new.simulated, now),
    };
    (counts.taken, counts.simulated) = (bans.listed.len(), bans.simulated.len());
    Ok(Some(Listing { bans, counts, etag: None, last_modified: None, all_read: None }))
}

/// The bans of `held` that have not ended at `now`, with those that are `new`.
fn with_new(held: &AddressTable, new: Vec<(Prefix, End)>, now: UnixSeconds) -> Vec<(Prefix, End)> {
    let mut bans: BTreeMap<Prefix, End> = BTreeMap::new();
    for entry in held.iter() {
        if let EntryState::Present(end) = entry.state
            && end.is_none_or(|end| end > now)
        {
            bans.insert(entry.prefix, end);
        }
    }
    for (prefix, end) in new {
        let latest = |had: End| had.zip(end).map(|(had, new)| had.max(new));
        bans.entry(prefix).and_modify(|had| *had = latest(*had)).or_insert(end);
    }
    bans.into_iter().collect()
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
