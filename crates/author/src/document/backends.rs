//! A rule's `backendRefs`.

use super::super::reader::{Object, Place};
use super::super::{BackendRef, Match, Referent};
use super::filters::Holder;
use super::namespace;
use super::rule::Reader;
use tidegate_policy::route::{Backend, RESERVED_CLUSTER_PREFIX};

const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;
/// The group of what Tidegate itself keeps.
pub(super) const GROUP: &str = "tidegate.dev";
/// A backend of the admin service's API.
const BACKEND: &str = "Backend";

/// The fields that every reference to a backend has.
const REFERENCE: &[&str] = &["group", "kind", "name", "namespace", "port"];

impl Reader<'_> {
    pub(super) fn backends(&mut self, list: Option<Place<'_>>, matches: &[Match]) -> Vec<BackendRef> {
        let places = list.map(|list| list.list(MAX_BACKENDS, self.problems)).unwrap_or_default();
        places.iter().filter_map(|place| self.backend(place, matches)).collect()
    }

    fn backend(&mut self, place: &Place<'_>, matches: &[Match]) -> Option<BackendRef> {
        let known = &["group", "kind", "name", "namespace", "port", "weight", "filters"];
        let fields = place.object(known, self.problems)?;
        let to = self.referent(&fields);
        let weight = fields.get("weight");
        let weight = weight.map_or(Some(1), |place| place.integer(0, MAX_WEIGHT, self.problems));
        let filters = self.filters(fields.get("filters"), Holder::Backend, matches);
        Some(BackendRef { to: to?, weight: weight?, action: filters.action, mirrors: filters.mirrors })
    }

    /// Who a mirror goes to.
    pub(super) fn mirrored(&mut self, place: &Place<'_>) -> Option<Referent> {
        let fields = place.object(REFERENCE, self.problems)?;
        self.referent(&fields)
    }

    fn referent(&mut self, fields: &Object<'_>) -> Option<Referent> {
        let mut word = |field, default| match fields.get(field) {
            Some(place) => place.text(0, 253, self.problems),
            None => Some(default),
        };
        let (group, kind) = (word("group", "")?, word("kind", "Service")?);
        let name = fields.require("name", self.problems).and_then(|place| self.backend_name(&place));
        let namespace = fields.get("namespace").and_then(|place| namespace(&place, self.problems));
        let port = fields.get("port").and_then(|place| place.integer(1, 65_535, self.problems));
        let port = port.and_then(|port| u16::try_from(port).ok());
        let name = name?;
        Some(match (group, kind) {
            ("", "Service") => Referent::Service(Backend { name, namespace, port, target: None }),
            (GROUP, BACKEND) => Referent::Api(name),
            _ => Referent::Foreign([group, "/", kind, " ", &name].concat()),
        })
    }

    /// The name becomes part of a cluster's name, which travels in a header.
    fn backend_name(&mut self, place: &Place<'_>) -> Option<String> {
        let name = place.text(1, 253, self.problems)?;
        if !name.bytes().all(|b| b.is_ascii_graphic()) {
            place.note(self.problems, "invalid", "must be visible ASCII without spaces");
            return None;
        }
        if name.starts_with(RESERVED_CLUSTER_PREFIX) {
            let says = format!(
                "names that begin with {RESERVED_CLUSTER_PREFIX} are of clusters between the gate and Envoy"
            );
            place.note(self.problems, "reserved", says);
            return None;
        }
        Some(name.to_owned())
    }
}
