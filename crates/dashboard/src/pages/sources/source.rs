//! A source of bans: its document, and how its fetches go.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::editor::{DocumentKind, Effect};
use crate::show::number::grouped;
use crate::show::text::in_table;

/// The page of all sources.
pub const PATH: &str = "/ui/sources";

/// Sources in the editor.
pub const SOURCES: DocumentKind = DocumentKind {
    collection: "sources",
    command: "sources",
    page: PATH,
    noun: "source",
    names: "drop; letters a to z, digits, - and .",
    template: "\
apiVersion: tidegate.dev/v1
kind: Source
spec:
  url: https://lists.example.com/drop.txt
  interval: 12h
  reason: on the drop list
",
    has_status: true,
    effect: Effect::Later("It is fetched within seconds; its page says what became of that."),
};

/// A source, and how its fetches go.
#[derive(Deserialize)]
pub struct Source {
    name: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    /// The document may have its fields here or at the top.
    #[serde(default)]
    spec: Spec,
    #[serde(flatten)]
    top: Spec,
    /// `None`: it was not tried yet.
    pub status: Option<Status>,
}

#[derive(Deserialize, Default)]
pub struct Metadata {
    name: Option<String>,
}

/// What the list shows of a document.
#[derive(Deserialize, Default)]
pub struct Spec {
    pub url: Option<String>,
    pub path: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub interval: Option<Value>,
    pub reason: Option<String>,
    pub mode: Option<String>,
    pub applies_to: Option<Value>,
}

#[derive(Deserialize)]
pub struct Status {
    pub state: String,
    pub entries: u64,
    pub fetched: Option<String>,
    pub tried: Option<String>,
    pub next_try: Option<String>,
    pub failures: u64,
    pub error: Option<String>,
    pub held_back: Option<HeldBack>,
    pub counts: Option<Value>,
}

/// Why a list is not in force.
#[derive(Deserialize)]
pub struct HeldBack {
    pub had: u64,
    pub has: u64,
    pub detail: String,
}

impl Source {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// A field of the document, wherever it stands.
    pub fn field<'s, T: ?Sized>(&'s self, of: impl Fn(&'s Spec) -> Option<&'s T>) -> Option<&'s T> {
        of(&self.spec).or_else(|| of(&self.top))
    }

    /// Where its list is.
    pub fn place(&self) -> Option<&str> {
        self.field(|spec| spec.url.as_deref().or(spec.path.as_deref()))
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.field(|spec| spec.mode.as_deref()) == Some("shadow")
    }

    /// Why its list is held back, if it is.
    pub fn held_back(&self) -> Option<&HeldBack> {
        self.status.as_ref()?.held_back.as_ref()
    }

    /// Its page.
    pub fn page(&self) -> String {
        SOURCES.page_of(self.name())
    }

    /// Whether it is well, as a tag.
    pub fn state(&self) -> Markup {
        let (class, word) = match self.status.as_ref().map(|status| status.state.as_str()) {
            None => ("plain", "not fetched yet"),
            Some("ok") => ("good", "ok"),
            Some("failing") => ("bad", "failing"),
            Some("held_back") => ("warn", "held back"),
            Some("stale") => ("bad", "stale"),
            Some(other) => ("plain", other),
        };
        html! {
            span class={ "tag " (class) } { (word) }
            @if self.is_shadow() { " " span.tag.warn title="Its bans deny nobody" { "in shadow" } }
        }
    }
}

/// What is wrong with a source.
pub fn wrong(status: Option<&Status>) -> Markup {
    html! {
        @match status {
            Some(Status { held_back: Some(why), error: None, .. }) => (in_table(&why.detail)),
            Some(Status { held_back, error: Some(error), failures, .. }) => {
                @if let Some(why) = held_back { (in_table(&why.detail)) "; and the last fetch failed: " }
                (in_table(error))
                @if *failures > 1 { span.quiet { " (" (grouped(*failures)) " times)" } }
            }
            _ => span.none { "–" },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(document: Value) -> Source {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_source_is_read_in_either_form() {
        let envelope = source(json!({
            "apiVersion": "tidegate.dev/v1", "kind": "Source", "metadata": {"name": "drop"},
            "spec": {"url": "https://a.example/", "mode": "shadow"}, "name": "drop",
        }));
        let bare = source(json!({"url": "https://a.example/", "mode": "shadow", "name": "drop"}));
        for source in [envelope, bare] {
            assert_eq!((source.name(), source.place()), ("drop", Some("https://a.example/")));
            assert!(source.is_shadow());
            assert!(source.state().into_string().contains("not fetched yet"));
        }
    }

    #[test]
    fn what_is_held_back_and_why_the_last_fetch_failed_are_both_said() {
        let held_back = json!({"had": 9, "has": 0, "detail": "it is empty"});
        for (held_back, error, wanted) in [
            (&held_back, &json!(null), &["it is empty"][..]),
            (&json!(null), &json!("no answer"), &["no answer", " (2 times)"]),
            (&held_back, &json!("no answer"), &["it is empty", "; and the last fetch failed: ", "no answer"]),
            (&json!(null), &json!(null), &["–"]),
        ] {
            let status = json!({"state": "held_back", "entries": 9, "failures": 2, "error": error, "held_back": held_back});
            let shown = wrong(Some(&serde_json::from_value(status).unwrap())).into_string();
            assert!(wanted.iter().all(|part| shown.contains(part)), "{shown}");
        }
    }
}
