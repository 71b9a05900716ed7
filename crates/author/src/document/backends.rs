//! A rule's `backendRefs`.

use super::super::reader::{DocumentNode, Object};
use super::super::route_id::DEFAULT_NAMESPACE;
use super::super::{BackendRef, Match, ObjectRef};
use super::rule_reader::{FilterOwner, GROUP, RuleReader, namespace};
use tidegate_policy::route::{Backend, RESERVED_CLUSTER_PREFIX};

const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;
/// A backend of the admin service's API.
const BACKEND: &str = "Backend";

/// The fields that every reference to a backend has.
const REFERENCE: &[&str] = &["group", "kind", "name", "namespace", "port"];

impl RuleReader<'_> {
    pub(super) fn backends(&mut self, list: Option<DocumentNode<'_>>, matches: &[Match]) -> Vec<BackendRef> {
        let places = list.map(|list| list.list(MAX_BACKENDS, self.errors)).unwrap_or_default();
        places.iter().filter_map(|node| self.backend(node, matches)).collect()
    }

    fn backend(&mut self, node: &DocumentNode<'_>, matches: &[Match]) -> Option<BackendRef> {
        let known = &["group", "kind", "name", "namespace", "port", "weight", "filters"];
        let fields = node.object(known, self.errors)?;
        let to = self.referent(&fields);
        let weight = fields.get("weight");
        let weight = weight.map_or(Some(1), |node| node.integer(0, MAX_WEIGHT, self.errors));
        let filters = self.filters(fields.get("filters"), FilterOwner::Backend, matches);
        Some(BackendRef { to: to?, weight: weight?, action: filters.action, mirrors: filters.mirrors })
    }

    /// The backend of a mirror.
    pub(super) fn mirrored(&mut self, node: &DocumentNode<'_>) -> Option<ObjectRef> {
        let fields = node.object(REFERENCE, self.errors)?;
        self.referent(&fields)
    }

    fn referent(&mut self, fields: &Object<'_>) -> Option<ObjectRef> {
        let mut word = |field, default| match fields.get(field) {
            Some(node) => node.text(0, 253, self.errors),
            None => Some(default),
        };
        let (group, kind) = (word("group", "")?, word("kind", "Service")?);
        let name = fields.require("name", self.errors).and_then(|node| self.backend_name(&node));
        let namespace_node = fields.get("namespace");
        let namespace = namespace_node.as_ref().and_then(|node| namespace(node, self.errors));
        let port = fields.get("port").and_then(|node| node.integer(1, 65_535, self.errors));
        let port = port.and_then(|port| u16::try_from(port).ok());
        let name = name?;
        Some(match (group, kind) {
            ("", "Service") => ObjectRef::Service(Backend { name, namespace, port, target: None }),
            (GROUP, BACKEND) => {
                if let Some(node) = namespace_node
                    && namespace.is_some_and(|name| name != DEFAULT_NAMESPACE)
                {
                    node.note(
                        self.errors,
                        "not_supported",
                        "backends of the API have no namespace: leave it out",
                    );
                }
                ObjectRef::Api(name)
            }
            _ => ObjectRef::Foreign([group, "/", kind, " ", &name].concat()),
        })
    }

    /// The name, which becomes part of a cluster's name in a header.
    fn backend_name(&mut self, node: &DocumentNode<'_>) -> Option<String> {
        let name = node.text(1, 253, self.errors)?;
        if !name.bytes().all(|b| b.is_ascii_graphic()) {
            node.note(self.errors, "invalid", "must be visible ASCII without spaces");
            return None;
        }
        if name.starts_with(RESERVED_CLUSTER_PREFIX) {
            let says = format!(
                "names that begin with {RESERVED_CLUSTER_PREFIX} are of clusters between the gate and Envoy"
            );
            node.note(self.errors, "reserved", says);
            return None;
        }
        Some(name.to_owned())
    }
}
