//! Findings: what is wrong with the service or its gateways, or worth knowing, and what mends it.
//! Health, `GET /api/admin/doctor` and `tidegate doctor` say the same ones.

use serde::Serialize;
use utoipa::ToSchema;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work now.
    Error,
    /// Something will not work, or hardly as it was meant.
    Warning,
    /// Worth knowing, and no trouble.
    Note,
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Finding {
    /// Stable code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, a sentence for people.
    pub detail: String,
    /// The command that mends it, or what else to do; empty: nothing needs to be done.
    pub mend: &'static str,
}

/// Declares every code once: variant, name, severity, when it is found (its row in docs/API.md, in
/// the order of the rows), and what mends it.
macro_rules! finding_codes {
    ($($variant:ident = $name:literal, $severity:ident, $when:literal, $mend:literal;)*) => {
        /// Kind of a finding. Its name is part of the interface: programs depend on it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum FindingCode {
            $(#[doc = $when] $variant,)*
        }

        impl FindingCode {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// When it is found, as docs/API.md says it.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$variant => $when,)* }
            }

            /// What mends it.
            #[must_use]
            pub fn mend(self) -> &'static str {
                match self { $(Self::$variant => $mend,)* }
            }
        }
    };
}

finding_codes! {
    FeedStopped = "feed_stopped", Error,
        "the feed cannot follow the database: gateways keep what they have",
        "mend the database as the sentence says; the feed goes on by itself";
    StoreLocked = "store_locked", Error,
        "another program has held the write lock for over 1 s",
        "end that program, or its transaction: `fuser -v PATH` of the database names it";
    StoreUnusable = "store_unusable", Error,
        "the database file is gone, or what is in its place cannot be used: nothing can be written",
        "put the file back, or a backup in its place: `tidegate restore FILE --db PATH`";
    AcceptFailed = "accept_failed", Error,
        "a listener could not accept connections within the last minute: the process may open no more files, most likely",
        "raise the limit of open files, `LimitNOFILE=` of systemd or `ulimit -n`, and start the service again";
    CertificateRefused = "certificate_refused", Error,
        "a listener's files of certificate, key or clients' authority cannot be used as they are now, so what they held before is; the detail names the file",
        "mend the file that the sentence names; the service looks again by itself";
    CertificateEndsSoon = "certificate_ends_soon", Warning,
        "a listener's certificate ends within two weeks, or is in the last fifth of its life if that is shorter",
        "put a new certificate with its key into the files: the service takes them by itself";
    CertificateEnded = "certificate_ended", Error,
        "a listener's certificate has ended: clients refuse it",
        "put a new certificate with its key into the files: the service takes them by itself";
    ConnectionsFull = "connections_full", Error,
        "a listener had no room within the last minute, and closed idle connections for new ones, or refused some",
        "find who holds the connections, `ss -tnp`, or raise the limit of open files and start the service again";
    StoreWriteFailed = "store_write_failed", Error,
        "the last write failed: the disk is full, the file cannot be written or is damaged. Until one succeeds; one is tried every half second",
        "make room: `df -h` of the database's directory; if the file is damaged, `tidegate restore FILE --db PATH`";
    StoreReadFailed = "store_read_failed", Error,
        "the last read failed, of the kind that the detail names; until one of that kind succeeds, or for 10 min if nobody tries",
        "see what is damaged, `sqlite3 PATH 'PRAGMA integrity_check'`, and put a backup in its place: `tidegate restore FILE --db PATH`";
    StoreCheckpointFailed = "store_checkpoint_failed", Error,
        "the write-ahead log cannot be written back into the database, so it grows; until it can",
        "make room: `df -h` of the database's directory";
    EventsOverLimit = "events_over_limit", Error,
        "events take more than `--events-max-bytes` by over a tenth, for a minute: retention does not keep up, or the newest event alone is larger",
        "raise the limit: `tidegate serve --events-max-bytes BYTES`";
    WalLarge = "wal_large", Error,
        "the write-ahead log is over 256 MiB: some reader does not end",
        "end the program that reads for so long: `fuser -v PATH` of the database names it";
    RowsQuarantined = "rows_quarantined", Error,
        "rows do not parse; `quarantine` says what holds instead",
        "`tidegate status -o json` names them and what is wrong; mend them by SQL, or write them anew through the API";
    TableFull = "table_full", Error,
        "entries of `ip_monitor` do not fit into their table and have no effect; `quarantine.left_out` counts them",
        "remove entries that are not needed, `tidegate unban`, or ban blocks in the place of addresses";
    ScopesFull = "scopes_full", Error,
        "bans with `applies_to` have no effect, for there are too many different ones, or too many such addresses; `quarantine.left_out.scoped_bans` counts them",
        "give bans of several sites one `applies_to`, or remove those of one that is not needed: `tidegate unban ADDRESS --host NAME`, `tidegate sources delete NAME`";
    SourceHeldBack = "source_held_back", Warning,
        "a source's list became empty, or lost more of its entries at once than its `max_shrink`: what was fetched before stays in force",
        "look at the list; `tidegate sources refresh NAME --force` takes it as it is";
    SourceFailing = "source_failing", Warning,
        "the last fetch of a source failed, or what it fetched could not be read as a list: what was fetched before stays in force",
        "`tidegate sources list` says why; mend its server or its list, or change or remove the source";
    SourceStale = "source_stale", Warning,
        "a source was not fetched for three of its intervals and five minutes: its bans are old",
        "`tidegate sources list` says why; mend its server, or change or remove the source";
    ShadowMismatch = "shadow_mismatch", Error,
        "a cache in shadow answered differently than the database, with the same tables",
        "leave the flag in shadow: `tidegate flags set NAME=shadow`";
    RolloutPaused = "rollout_paused", Warning,
        "the run of a rollout is paused: a person asked for it, somebody set a flag, a gate failed, its time was over, or the database was put back from a backup; the detail says which",
        "`tidegate rollout status NAME` says more; then `tidegate rollout resume NAME`, or `tidegate rollout abort NAME`";
    RolloutUnreadable = "rollout_unreadable", Error,
        "what the database has of a run that goes on cannot be read: another version of Tidegate wrote it, or it was damaged; nothing is decided",
        "`tidegate rollout abort NAME` ends it, and sets the flags back as far as it is known what they were";
    RolloutRemoved = "rollout_removed", Warning,
        "the run of a rollout goes on whose document is no more there",
        "`tidegate rollout abort NAME`, or put the document back";
    RolloutWaits = "rollout_waits", Note,
        "the run of a rollout waits for approval: `tidegate rollout approve NAME`", "";
    WebhooksFailing = "webhooks_failing", Warning,
        "a webhook of a rollout does not take notices, or one was given up within the last hour",
        "see why in the sentence; notices are tried again for a day";
    UnknownListener = "unknown_listener", Error,
        "a route is held to a listener that is not there: what it would take gets 500",
        "declare it, `tidegate listeners apply -f FILE`, or change the route: `tidegate routes apply -f FILE`";
    UnknownBackend = "unknown_backend", Error,
        "a route names a backend that nobody knows: that share of its requests gets 500",
        "add it, `tidegate backends apply -f FILE`, or say that Envoy has it: `tidegate serve --cluster NAME`";
    GeoRuleMissing = "geo_rule_missing", Error,
        "a route names a geo rule that is not there: its requests get 500",
        "add it: `tidegate geo-rules apply -f FILE`";
    LimitRouteMissing = "limit_route_missing", Error,
        "a limit names a route that is not there, for which it holds for no request",
        "add the route, `tidegate routes apply -f FILE`, or take its name out: `tidegate limits apply -f FILE`";
    BanRouteMissing = "ban_route_missing", Warning,
        "a ban or a source applies to a route that is not there: to no request, until it is",
        "add the route, `tidegate routes apply -f FILE`, or ban again for another: `tidegate ban ADDRESS --route NAME`";
    CountriesMissing = "countries_missing", Error,
        "there are geo rules and no country table",
        "bring one: `tidegate geo import FILE`";
    AutoBansHeldBack = "auto_bans_held_back", Warning,
        "a rule of automatic bans reached its `max_bans` within the last 10 minutes, and banned no more in that window",
        "see whom it bans, `tidegate auto-bans list`: make it stricter, or raise `max_bans`";
    AutoBansFull = "auto_bans_full", Warning,
        "a rule of automatic bans dropped counters within the last 10 minutes because too many addresses came: it may have missed some",
        "count fewer requests by it: a narrower `match`, or no `share`";
    AutoBansTooMany = "auto_bans_too_many", Error,
        "there are more rules of automatic bans than count: the last by name do nothing",
        "remove those that are not needed: `tidegate auto-bans delete NAME`";
    GatewayLost = "gateway_lost", Error,
        "a gateway was not heard of for over 3 s",
        "see whether that Envoy runs and reaches the gateways' listener; `tidegate gateways` shows when it was last heard of";
    GatewayNotPolling = "gateway_not_polling", Error,
        "a gateway posts events, but has not polled for over 3 s: it hears of no change",
        "see that Envoy's log and `tidegate.sync.poll_failures`: something in between may refuse its polls";
    GatewayStale = "gateway_stale", Error,
        "VMs of a gateway were not heard of for over 2 s",
        "see that Envoy's load; a worker that hangs on needs a restart of it";
    ShadowLagging = "shadow_lagging", Note,
        "a cache in shadow answered differently, only because it was behind the database", "";
    CountriesByHeader = "countries_by_header", Note,
        "there are geo rules and no country table, and gateways report countries: from a header", "";
    ServiceAway = "service_away", Error,
        "of `tidegate doctor` alone: the service does not answer, or does not take the token",
        "start it, `tidegate serve`, or say with --server and --token-file where it is and who asks";
    GatewayLagging = "gateway_lagging", Error,
        "gateways that poll have not enforced a change for over 5 s",
        "have them load all tables anew: `tidegate refresh`";
    FlagsDiffer = "flags_differ", Error,
        "a gateway holds other flags than the service has",
        "have it load all tables anew, `tidegate refresh`; one of another version has to be upgraded";
    OtherVersion = "other_version", Warning,
        "a gateway's filter does not read all tables as this service writes them: it keeps the former ones",
        "upgrade that Envoy's filter, after the service: docs/OPERATIONS.md, \"Upgrading\"";
    LeaseChanges = "lease_changes", Warning,
        "the lease of a gateway's process changed hands three times or more within a minute",
        "see that Envoy's log: a VM traps again and again, or does not get to run";
    ClockSkew = "clock_skew", Warning,
        "the clock of a gateway's machine and that of the service differ by over 5 s",
        "see which of the two is wrong, `chronyc tracking`, and set it";
    DiskLow = "disk_low", Error,
        "the disk with the database has less than 256 MiB, or a fiftieth of it, left",
        "make room: `df -h` of the database's directory";
    RetentionNoRoom = "retention_no_room", Warning,
        "events may still take more than the disk has left: retention will not keep it from being full",
        "lower the limit, `tidegate serve --events-max-bytes BYTES`, or make room";
    EventsDropped = "events_dropped", Warning,
        "over one in 200 numbered events was dropped or lost; fewer are a note",
        "`tidegate recording` says how many and why; `tidegate gateways` which gateway is away";
    EventsWaiting = "events_waiting", Warning,
        "a recorder holds events for over a minute",
        "see that Envoy's log and `tidegate.recorder.retries`: its posts are refused, or the database is slow";
    TokenEnding = "token_ending", Warning,
        "a token ends within a week",
        "make the next one, `tidegate token create`, and give it to those who use this one";
    NoGateway = "no_gateway", Note,
        "no gateway has reported to the service",
        "start one with the filter: docs/DEPLOY.md";
    NoRecorder = "no_recorder", Note,
        "a gateway has no recorder of its own: one of its workers polls, and posts events, beside its requests",
        "add the bootstrap extension of envoy/envoy.yaml: docs/DEPLOY.md, \"A recorder of its own\"";
}

impl FindingCode {
    /// A finding of this code.
    #[must_use]
    pub fn says(self, detail: impl Into<String>) -> Finding {
        Finding { code: self.name(), severity: self.severity(), detail: detail.into(), mend: self.mend() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_these_codes_and_no_others() {
        let docs = include_str!("../../../docs/API.md");
        let table = docs.split("| finding | severity | when |\n| --- | --- | --- |\n").nth(1).unwrap();
        let severity = |code: &FindingCode| serde_json::to_value(code.severity()).unwrap();
        let row = |code: &FindingCode| {
            format!("| `{}` | {} | {} |\n", code.name(), severity(code).as_str().unwrap(), code.when())
        };
        let rows: String = FindingCode::ALL.iter().map(row).collect();
        assert_eq!(table.split("\n\n").next().unwrap(), rows.trim_end(), "\n{rows}");
    }
}
