//! Documents as files have them: an HTTPRoute as for Kubernetes, every other kind in an object of the same
//! form, `apiVersion`, `kind`, `metadata.name` and `spec`. `POST /api/admin/apply` takes them, and `tidegate
//! export` writes them.

use serde_json::{Value, json};
use tidegate_author as author;

use crate::store::DocumentKind;

/// `apiVersion` of all kinds but HTTPRoutes.
pub const API_VERSION: &str = "tidegate.dev/v1";

/// Kind of a document in files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A named document of the API.
    Document(DocumentKind),
    /// A ban; its name is the address or block.
    Ban,
    /// An entry of the allow list; its name is the address or block.
    AllowListEntry,
    /// The flags, which have no name.
    Flags,
}

impl Kind {
    /// All of them, those that others refer to first.
    pub const ALL: [Self; 12] = [
        Self::Document(DocumentKind::Listener),
        Self::Document(DocumentKind::Backend),
        Self::Document(DocumentKind::GeoRule),
        Self::Document(DocumentKind::Limit),
        Self::Document(DocumentKind::Page),
        Self::Document(DocumentKind::Source),
        Self::Document(DocumentKind::Route),
        Self::Document(DocumentKind::AutoBan),
        Self::Document(DocumentKind::Rollout),
        Self::Ban,
        Self::AllowListEntry,
        Self::Flags,
    ];

    /// The name in `kind`, and that of several in commands, files and the API's paths.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Document(DocumentKind::Listener) => ("Listener", "listeners"),
            Self::Document(DocumentKind::Backend) => ("Backend", "backends"),
            Self::Document(DocumentKind::GeoRule) => ("GeoRule", "geo-rules"),
            Self::Document(DocumentKind::Limit) => ("Limit", "limits"),
            Self::Document(DocumentKind::Page) => ("Page", "pages"),
            Self::Document(DocumentKind::Source) => ("Source", "sources"),
            Self::Document(DocumentKind::Route) => ("HTTPRoute", "routes"),
            Self::Document(DocumentKind::AutoBan) => ("AutoBan", "auto-bans"),
            Self::Document(DocumentKind::Rollout) => ("Rollout", "rollouts"),
            Self::Ban => ("Ban", "bans"),
            Self::AllowListEntry => ("AllowListEntry", "allow-list"),
            Self::Flags => ("Flags", "flags"),
        }
    }

    /// The name in `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.names().0
    }

    /// What several are called in commands, files and the API's paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.names().1
    }

    /// The kind with this name in `kind`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A list of documents of this kind.
    #[must_use]
    pub fn list(self, items: Vec<Value>) -> Value {
        let version = match self {
            Self::Document(DocumentKind::Route) => author::API_VERSION,
            _ => API_VERSION,
        };
        json!({ "apiVersion": version, "kind": format!("{}List", self.name()), "items": items })
    }

    /// Where a ban with this spec applies, in one spelling; `None`: everywhere. Of one address there may be a document for
    /// each place.
    #[must_use]
    pub fn place(self, spec: &Value) -> Option<String> {
        let scope = spec.get("applies_to").filter(|scope| self == Self::Ban && !scope.is_null())?;
        let read = author::read_scope(scope);
        Some(read.map_or_else(|_| scope.to_string(), |scope| author::write_scope(&scope).to_string()))
    }

    /// The document that means `spec`, as answers and files have it: a route is its own.
    #[must_use]
    pub fn manifest(self, name: &str, mut spec: Value) -> Value {
        if self == Self::Document(DocumentKind::Route) {
            return author::canonical(spec);
        }
        author::without_nulls(&mut spec);
        let mut manifest = json!({ "apiVersion": API_VERSION, "kind": self.name(), "spec": spec });
        if self != Self::Flags {
            manifest["metadata"] = json!({ "name": name });
        }
        manifest
    }

    /// The document of this kind that the API gives, with its name if it has one.
    #[must_use]
    pub fn of_answer(self, mut answer: Value) -> (String, Value) {
        let name = match self {
            Self::Document(DocumentKind::Route) => {
                let of = |field: &str| answer["metadata"][field].as_str();
                author::route_id(of("namespace"), of("name").unwrap_or_default())
            }
            _ => {
                let mut take = |field| answer.as_object_mut().and_then(|fields| fields.remove(field));
                if matches!(self, Self::Document(DocumentKind::Source | DocumentKind::Rollout)) {
                    take("status");
                }
                let name = take("name");
                name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
            }
        };
        let manifest = self.manifest(&name, answer);
        (name, manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_gives_becomes_a_document_of_a_file() {
        let rule = Kind::Document(DocumentKind::GeoRule);
        let (name, manifest) = rule.of_answer(json!({"name": "eu", "mode": "deny", "hosts": null}));
        let wanted = json!({
            "apiVersion": "tidegate.dev/v1", "kind": "GeoRule", "metadata": {"name": "eu"}, "spec": {"mode": "deny"},
        });
        assert_eq!((name.as_str(), manifest), ("eu", wanted));
        let route = Kind::Document(DocumentKind::Route);
        let (name, _) = route.of_answer(json!({"metadata": {"namespace": "team-a", "name": "shop"}}));
        assert_eq!(name, "team-a/shop");
        assert_eq!(Kind::Flags.manifest("", json!({})).get("metadata"), None);
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
    }
}
