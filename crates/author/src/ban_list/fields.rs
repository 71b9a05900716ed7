//! Entries with named fields: rows of CSV, and JSON objects.

use std::borrow::Cow;
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::duration;
use tidegate_policy::scope::Scope;

use super::address::blocks;
use super::lines::is_high_enough;
use super::refusal::{BanDetails, Output, Refusal, RefusalCode, SkipReason};
use super::{ListItem, ListedEnd};
use crate::scope::read_scope_text;

/// Characters of a reason; the rest is cut off.
const MAX_REASON: usize = 250;
/// Names of the address, the surest first: an object may have an address and the network around it.
const ADDRESS: [&str; 12] = [
    "ip",
    "ipaddress",
    "value",
    "address",
    "cidr",
    "range",
    "prefix",
    "network",
    "block",
    "subnet",
    "netblock",
    "net",
];
/// Names of the reason, the best first.
const REASON: [&str; 6] = ["reason", "scenario", "comment", "description", "note", "sblid"];
/// What an entry says that bans nobody.
const NO_BANS: [&str; 9] =
    ["captcha", "throttle", "mfa", "allow", "allowed", "pass", "watched", "none", "log"];

/// What a field means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    /// With its place in [`ADDRESS`].
    Address(usize),
    First,
    Last,
    Score,
    /// With its place in [`REASON`].
    Reason(usize),
    Until,
    Ttl,
    Scope,
    Simulated,
    Action,
    Type,
    AppliesTo,
}

impl Field {
    /// The meaning of a name: case, `_`, `-` and blanks in it do not count.
    pub fn of(name: &str) -> Option<Self> {
        let name: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        let at = |names: &[&str]| names.iter().position(|known| *known == name);
        if let Some(place) = at(&ADDRESS) {
            return Some(Self::Address(place));
        }
        if let Some(place) = at(&REASON) {
            return Some(Self::Reason(place));
        }
        Some(match name.as_str() {
            "start" | "startip" | "ipstart" | "first" | "firstip" | "from" => Self::First,
            "end" | "endip" | "ipend" | "last" | "lastip" | "to" => Self::Last,
            "score" | "abuseconfidencescore" | "confidence" | "confidencescore" => Self::Score,
            "until" | "expiresat" | "expires" | "expiry" | "validuntil" => Self::Until,
            "ttl" | "duration" | "expiration" => Self::Ttl,
            "scope" => Self::Scope,
            "simulated" => Self::Simulated,
            "action" | "status" => Self::Action,
            "type" => Self::Type,
            "appliesto" => Self::AppliesTo,
            _ => return None,
        })
    }
}

/// An entry's fields, those that are empty left out.
#[derive(Default)]
pub(super) struct Record<'t>(Vec<(Field, Cow<'t, str>)>);

impl<'t> Record<'t> {
    pub fn set(&mut self, field: Field, text: impl Into<Cow<'t, str>>) {
        let text = text.into();
        if !text.trim().is_empty() {
            self.0.push((field, text));
        }
    }

    fn get(&self, field: Field) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == field).map(|(_, text)| text.trim())
    }

    fn best(&self, place: impl Fn(Field) -> Option<usize>) -> Option<&str> {
        let ranked = self.0.iter().filter_map(|(field, text)| Some((place(*field)?, text)));
        ranked.min_by_key(|(place, _)| *place).map(|(_, text)| text.trim())
    }

    /// Takes the entry in `line`; `shown` is its text.
    pub fn take(&self, line: u64, shown: &[u8], out: &mut Output<'_>) {
        if self.is_metadata() {
            return out.skip(SkipReason::Metadata);
        }
        let is_simulated = self.get(Field::Simulated).is_some_and(|text| text.eq_ignore_ascii_case("true"));
        match self.read(out.min_score) {
            Ok(Some((blocks, said))) if is_simulated => {
                out.blocks(line, blocks, &said, ListItem::Simulated);
            }
            // Whatever is wrong with it: it bans nobody.
            _ if is_simulated => out.skip(SkipReason::Simulated),
            Ok(None) => out.skip(SkipReason::BelowMinScore),
            Ok(Some((blocks, said))) => out.bans(line, blocks, &said),
            Err(refusal) => out.refuse(line, shown, refusal),
        }
    }

    fn is_metadata(&self) -> bool {
        self.best(address_place).is_none() && self.get(Field::Type) == Some("metadata")
    }

    /// `None`: its score is too low.
    fn read(&self, min_score: Option<f64>) -> Result<Option<(Vec<Prefix>, BanDetails)>, Refusal> {
        self.check_meaning()?;
        if !is_high_enough(self.get(Field::Score), min_score)? {
            return Ok(None);
        }
        let said = BanDetails { reason: self.reason(), end: self.end()?, applies_to: self.applies_to()? };
        if let Some(address) = self.best(address_place) {
            // As `cscli decisions list -o raw` writes them: Ip:192.0.2.7.
            let lower = address.to_ascii_lowercase();
            let bare = ["ip:", "range:"].iter().find(|scope| lower.starts_with(**scope));
            let address = bare.and_then(|scope| address.get(scope.len()..)).unwrap_or(address);
            return Ok(Some((blocks(address)?, said)));
        }
        match (self.get(Field::First), self.get(Field::Last)) {
            (Some(first), Some(last)) => Ok(Some((blocks(&format!("{first}-{last}"))?, said))),
            _ => Err(Refusal::new(RefusalCode::NoAddress, "there is no address here, like in a field `ip`")),
        }
    }

    /// Refuses what is no ban, or of something else than an address.
    fn check_meaning(&self) -> Result<(), Refusal> {
        let scope = self.get(Field::Scope).map(str::to_ascii_lowercase);
        if let Some(scope) = scope.as_deref().filter(|scope| !matches!(*scope, "ip" | "range")) {
            let shown: String = scope.chars().take(20).collect();
            let why = format!("the scope `{shown}` is no address: only Ip and Range can be banned");
            return Err(Refusal::new(RefusalCode::OtherScope, why));
        }
        for field in [Field::Action, Field::Type] {
            let Some(word) = self.get(field).map(str::to_ascii_lowercase) else { continue };
            // Other lists have types of their own; a decision's type is what is done.
            let is_decision = field == Field::Type && scope.is_some();
            if NO_BANS.contains(&word.as_str()) || is_decision && word != "ban" {
                let shown: String = word.chars().take(20).collect();
                return Err(Refusal::new(RefusalCode::NotABan, format!("`{shown}` is no ban")));
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<ListedEnd, Refusal> {
        if let Some(until) = self.get(Field::Until) {
            return Ok(ListedEnd::At(until.to_owned()));
        }
        let Some(ttl) = self.get(Field::Ttl) else { return Ok(ListedEnd::Unsaid) };
        let expired = || Refusal::new(RefusalCode::Expired, format!("the ban ended before now ({ttl})"));
        let span = match ttl.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) if ttl.strip_prefix('-').is_some_and(|span| duration::parse(span).is_some()) => {
                return Err(expired());
            }
            Err(_) => duration::parse(ttl),
        };
        match span {
            Some(span) if span.is_zero() => Err(expired()),
            Some(span) => Ok(ListedEnd::After(span)),
            // Some lists have a time in a column of this name.
            None => Ok(ListedEnd::At(ttl.to_owned())),
        }
    }

    /// Where the ban applies, which is JSON also in a row of CSV: what narrows a ban is never left out.
    fn applies_to(&self) -> Result<Option<Scope>, Refusal> {
        let read = self.get(Field::AppliesTo).map(read_scope_text).transpose();
        read.map_err(|why| Refusal::new(RefusalCode::BadAppliesTo, format!("applies_to {why}")))
    }

    fn reason(&self) -> Option<String> {
        let text = self.best(|field| match field {
            Field::Reason(place) => Some(place),
            _ => None,
        })?;
        Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect())
    }
}

fn address_place(field: Field) -> Option<usize> {
    match field {
        Field::Address(place) => Some(place),
        _ => None,
    }
}
