//! Reads one rule of an HTTPRoute and its matches. Its filters, backends and times have
//! files of their own.

use std::collections::BTreeSet;

use super::super::names::{is_subdomain, is_token, path_problem};
use super::super::pattern::{Regex, ValueKind};
use super::super::reader::DocumentNode;
use super::super::template::Template;
use super::super::{Condition, Match, PathMatch, Rule, ValueMatch};
use super::rule_reader::{FilterOwner, RuleReader};
use tidegate_policy::host::RequestHost;
use tidegate_policy::route::Method;
use tidegate_policy::route::action::{MAX_MIRRORS, is_value};

/// The most bytes of the compiled regexes of one route together.
pub const MAX_ROUTE_AUTOMATA: usize = 1 << 20;

const MAX_MATCHES: usize = 64;
const MAX_CONDITIONS: usize = 16;
/// After this many refused regexes of one document the others are not tried: one that is
/// too large takes some 30 ms.
const MAX_BAD_REGEXES: usize = 8;

const RULE: &[&str] =
    &["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"];
/// The types of a path; `Template` is Tidegate's own.
const PATH_TYPES: &[&str] = &["Exact", "PathPrefix", "RegularExpression", "Template"];

impl RuleReader<'_> {
    pub fn rule(&mut self, node: &DocumentNode<'_>) -> Option<Rule> {
        let fields = node.object(RULE, self.errors)?;
        let name = fields.get("name").and_then(|node| self.rule_name(&node));
        let mut matches = Vec::new();
        if let Some(list) = fields.get("matches") {
            for node in list.list(MAX_MATCHES, self.errors) {
                matches.extend(self.one_match(&node));
            }
        }
        if matches.is_empty() {
            matches.push(Match::default());
        }
        let mut filters = self.filters(fields.get("filters"), FilterOwner::Rule, &matches);
        let backends = self.backends(fields.get("backendRefs"), &matches);
        if backends.iter().any(|to| filters.mirrors.len().saturating_add(to.mirrors.len()) > MAX_MIRRORS)
            && let Some(list) = fields.get("backendRefs")
        {
            let says = format!(
                "one of them has over {MAX_MIRRORS} mirrors, the rule's included: so many a request may have"
            );
            list.note(self.errors, "too_many", says);
        }
        filters.action.timeouts = self.timeouts(fields.get("timeouts"));
        filters.action.retry = self.retry(fields.get("retry"));
        self.refuse_persistence(fields.get("sessionPersistence"));
        if filters.action.redirect.is_some() && !backends.is_empty() {
            let says = "a rule redirects or has backendRefs, not both: leave one of them out";
            node.note(self.errors, "conflict", says);
        }
        Some(Rule {
            name,
            matches,
            backends,
            geo: filters.geo,
            action: filters.action,
            mirrors: filters.mirrors,
        })
    }

    fn rule_name(&mut self, node: &DocumentNode<'_>) -> Option<String> {
        let name = node.text(1, 253, self.errors)?;
        if !is_subdomain(name) {
            node.note(self.errors, "invalid", "must be labels of a-z, 0-9 and - with dots between");
        }
        Some(name.to_owned())
    }

    fn one_match(&mut self, node: &DocumentNode<'_>) -> Option<Match> {
        let fields = node.object(&["path", "headers", "queryParams", "method"], self.errors)?;
        let path = match fields.get("path") {
            Some(node) => self.path(&node)?,
            None => Match::default().path,
        };
        let method = fields.get("method").and_then(|node| {
            let name = node.one_of(&Method::ALL.map(Method::name), self.errors)?;
            Method::from_name(name.as_bytes())
        });
        let headers = self.conditions(fields.get("headers"), ValueKind::Header);
        let query = self.conditions(fields.get("queryParams"), ValueKind::Query);
        Some(Match { path, method, headers, query })
    }

    fn path(&mut self, node: &DocumentNode<'_>) -> Option<PathMatch> {
        let fields = node.object(&["type", "value"], self.errors)?;
        let kind = match fields.get("type") {
            Some(node) => node.one_of(PATH_TYPES, self.errors)?,
            None => "PathPrefix",
        };
        let Some(node) = fields.get("value") else {
            let value = "/".to_owned();
            return Some(match kind {
                "Exact" => PathMatch::Exact(value),
                "PathPrefix" => PathMatch::Prefix(value),
                "Template" => PathMatch::Template(Template::parse(&value).ok()?),
                _ => PathMatch::Regex(Regex::compile(&value).ok()?),
            });
        };
        let value = node.text(0, 1024, self.errors)?;
        match kind {
            "RegularExpression" => return Some(PathMatch::Regex(self.path_regex(&node, value)?)),
            "Template" => return Some(PathMatch::Template(self.template(&node, value)?)),
            _ => {}
        }
        if let Some(problem) = path_problem(value) {
            node.note(self.errors, "invalid", problem);
            return None;
        }
        let value = value.to_owned();
        Some(if kind == "Exact" { PathMatch::Exact(value) } else { PathMatch::Prefix(value) })
    }

    fn template(&mut self, node: &DocumentNode<'_>, pattern: &str) -> Option<Template> {
        match Template::parse(pattern) {
            Ok(template) => Some(template),
            Err(error) => {
                node.note(self.errors, "invalid", error.to_string());
                None
            }
        }
    }

    fn path_regex(&mut self, node: &DocumentNode<'_>, pattern: &str) -> Option<Regex> {
        let regex = self.regex(node, pattern)?;
        if !regex.takes(ValueKind::Path) {
            let message = "matches no path: a regex must match the whole path, from its first /, without the \
                           query, which queryParams match";
            node.note(self.errors, "invalid", message);
            return None;
        }
        Some(regex)
    }

    fn regex(&mut self, node: &DocumentNode<'_>, pattern: &str) -> Option<Regex> {
        if let Some(regex) = self.regexes.get(pattern) {
            return Some(regex.clone());
        }
        if self.bad_regexes >= MAX_BAD_REGEXES {
            return None;
        }
        match Regex::compile(pattern) {
            Ok(regex) => {
                self.automata_bytes = self.automata_bytes.saturating_add(regex.automaton().len());
                if self.automata_bytes > MAX_ROUTE_AUTOMATA {
                    self.bad_regexes = MAX_BAD_REGEXES;
                    let limit = MAX_ROUTE_AUTOMATA >> 10;
                    let message = format!("the regexes of this route compile to over {limit} KiB together");
                    node.note(self.errors, "bad_regex", message);
                    return None;
                }
                self.regexes.insert(pattern.to_owned(), regex.clone());
                Some(regex)
            }
            Err(error) => {
                self.bad_regexes = self.bad_regexes.saturating_add(1);
                node.note(self.errors, "bad_regex", error.to_string());
                None
            }
        }
    }

    /// Conditions; of several with one name only the first. All are checked.
    fn conditions(&mut self, list: Option<DocumentNode<'_>>, kind: ValueKind) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut names = BTreeSet::new();
        for node in list.map(|list| list.list(MAX_CONDITIONS, self.errors)).unwrap_or_default() {
            if let Some(condition) = self.condition(&node, kind)
                && names.insert(condition.name.clone())
            {
                conditions.push(condition);
            }
        }
        conditions
    }

    fn condition(&mut self, node: &DocumentNode<'_>, kind: ValueKind) -> Option<Condition> {
        let fields = node.object(&["type", "name", "value"], self.errors)?;
        let is_regex = match fields.get("type") {
            Some(node) => node.one_of(&["Exact", "RegularExpression"], self.errors)? == "RegularExpression",
            None => false,
        };
        let name = fields.require("name", self.errors).and_then(|node| {
            let name = node.text(1, 256, self.errors)?;
            // A query's names are compared decoded, so that they can have any character. The CRD allows
            // those of headers only.
            let problem =
                (kind == ValueKind::Header).then(|| never_matched(&name.to_ascii_lowercase())).flatten();
            let Some(problem) = problem else { return Some(name) };
            node.note(self.errors, "invalid", problem);
            None
        });
        let node = fields.require("value", self.errors)?;
        let value = node.text(1, if kind == ValueKind::Header { 4096 } else { 1024 }, self.errors)?;
        let value = if is_regex {
            let regex = self.regex(&node, value)?;
            if !regex.takes(kind) {
                node.note(self.errors, "invalid", "matches no value: a regex must match the whole value");
            }
            ValueMatch::Regex(regex)
        } else {
            if kind == ValueKind::Header && !is_value(value) {
                let message =
                    "no header has this value: control characters, and spaces at its ends, do not arrive";
                node.note(self.errors, "invalid", message);
            } else if kind == ValueKind::Header
                && name.is_some_and(|name| name.eq_ignore_ascii_case("host"))
                && RequestHost::read(value.as_bytes()).is_none()
            {
                let message = "no request has this host: one whose host cannot be read gets 400 bad_host";
                node.note(self.errors, "invalid", message);
            }
            ValueMatch::Exact(value.to_owned())
        };
        let name = if kind == ValueKind::Header { name?.to_ascii_lowercase() } else { name?.to_owned() };
        Some(Condition { name, value })
    }
}

/// Why no request has the header of this name, in lower case, when routes are matched.
fn never_matched(name: &str) -> Option<&'static str> {
    // `source/common/http/conn_manager_utility.cc`, `mutateRequestHeaders`.
    const REMOVED: [&str; 3] = ["keep-alive", "proxy-connection", "transfer-encoding"];
    if !is_token(name) {
        Some("must be letters, digits and !#$%&'*+-.^_`|~ only")
    } else if name.starts_with("x-tidegate-") {
        Some("headers that begin with x-tidegate- are the gate's: a client's are removed before routes")
    } else if REMOVED.contains(&name) {
        Some("Envoy removes this header, which says how the message is framed, before routes are matched")
    } else {
        None
    }
}
