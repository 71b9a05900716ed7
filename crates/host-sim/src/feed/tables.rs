//! Setting the tables other than bans.

use std::collections::BTreeMap;

use tidegate_author as author;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{CountryRange, CountryTable, GeoRule, GeoRules};
use tidegate_policy::limit::{Limit, Limits};
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::{ScopedBan, ScopedBans};
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::Table;

use super::Feed;

impl Feed {
    /// A table's bytes; bans since the base are empty here, as right after a cut of the base.
    ///
    /// # Panics
    /// Never: every table has bytes without entries.
    #[must_use]
    pub fn bytes(&self, table: Table) -> Vec<u8> {
        match table {
            Table::BanBase => self.base.clone(),
            table => match self.whole.get(&table) {
                Some(bytes) => bytes.clone(),
                None => table.empty_bytes().expect("a table"),
            },
        }
    }

    /// Sets all flags.
    ///
    /// # Panics
    /// Never: flags have bytes.
    pub fn set_flags(&mut self, flags: Flags) {
        self.set_whole(Table::Flags, flags.to_bytes().expect("flags"));
    }

    /// Sets one flag.
    ///
    /// # Panics
    /// Never: flags have bytes.
    pub fn set_flag(&mut self, flag: Flag, state: FlagState) {
        self.set_flags(self.flags().with(flag, state));
    }

    /// The flags.
    ///
    /// # Panics
    /// When they were set to other bytes.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags::from_bytes(&self.whole[&Table::Flags]).expect("flags")
    }

    /// Replaces the geo rules.
    ///
    /// # Panics
    /// When they are too large.
    pub fn set_geo(&mut self, rules: impl IntoIterator<Item = GeoRule>) {
        self.set_whole(Table::Geo, GeoRules::new(rules).to_bytes().expect("geo rules"));
    }

    /// Replaces the country table.
    ///
    /// # Panics
    /// When the ranges overlap or are out of order.
    pub fn set_countries(&mut self, ranges: impl Iterator<Item = CountryRange>) {
        self.set_whole(Table::Countries, CountryTable::encode(ranges).expect("countries"));
    }

    /// Replaces the routes by these HTTPRoutes.
    ///
    /// # Panics
    /// When one is refused.
    pub fn set_routes(&mut self, documents: &[serde_json::Value]) {
        let routes: Vec<_> =
            documents.iter().map(|document| author::read(document).expect("a route")).collect();
        self.set_route_list(&routes);
    }

    /// Replaces the routes by these.
    ///
    /// # Panics
    /// When they do not compile.
    pub fn set_route_list(&mut self, routes: &[author::Route]) {
        let read = |(name, document): (&str, &str)| {
            let document = serde_json::from_str(document).expect("JSON");
            (name.to_owned(), author::read_listener(name, &document).expect("a listener"))
        };
        let listeners = author::FIRST_LISTENERS.map(read).into();
        let bytes = author::compile(routes, &author::Backends::new(), &listeners);
        self.set_whole(Table::Routes, bytes.expect("routes"));
    }

    /// Replaces the limits.
    ///
    /// # Panics
    /// When they are too large.
    pub fn set_limits(&mut self, limits: impl IntoIterator<Item = Limit>) {
        self.set_whole(Table::Limits, Limits::new(limits).to_bytes().expect("limits"));
    }

    /// Replaces the allow list; each entry expires at a time of this service's clock, in
    /// seconds, if any.
    ///
    /// # Panics
    /// When a text is no prefix.
    pub fn allow(&mut self, prefixes: &[(&str, Option<UnixSeconds>)]) {
        self.set_addresses(Table::Allow, prefixes);
    }

    /// Replaces the bans in shadow, as [`allow`](Self::allow) does the allow list.
    ///
    /// # Panics
    /// When a text is no prefix.
    pub fn ban_in_shadow(&mut self, prefixes: &[(&str, Option<UnixSeconds>)]) {
        self.set_addresses(Table::ShadowBans, prefixes);
    }

    /// Replaces the bans that apply at some hostnames or routes only.
    ///
    /// # Panics
    /// When a text is no prefix.
    pub fn ban_in_scopes(&mut self, bans: &[(&str, ScopedBan<Scope>)]) {
        let scopes: Vec<Scope> = bans.iter().map(|(_, ban)| ban.scope.clone()).collect();
        let mut by_prefix: BTreeMap<Prefix, Vec<ScopedBan<u8>>> = BTreeMap::new();
        for (scope, (prefix, ban)) in (0..).zip(bans) {
            let ban = ScopedBan { scope, shadow: ban.shadow, expires: ban.expires };
            by_prefix.entry(prefix.parse().expect("a prefix")).or_default().push(ban);
        }
        let bans = by_prefix.iter().map(|(prefix, bans)| (*prefix, &bans[..]));
        self.set_whole(Table::ScopedBans, ScopedBans::encode(scopes, bans).expect("a table"));
    }

    fn set_addresses(&mut self, table: Table, prefixes: &[(&str, Option<UnixSeconds>)]) {
        let entry = |(prefix, expires): &(&str, Option<UnixSeconds>)| {
            (prefix.parse::<Prefix>().expect("a prefix"), EntryState::Present(*expires))
        };
        let entries: BTreeMap<_, _> = prefixes.iter().map(entry).collect();
        let entries = entries.iter().map(|(prefix, state)| Entry { prefix: *prefix, state: *state });
        self.set_whole(table, AddressTable::encode(entries).expect("a table"));
    }
}
