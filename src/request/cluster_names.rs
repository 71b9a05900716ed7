//! The names of the Envoy clusters of routes' backends.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_policy::route::{Backend, Target};

/// The cluster of Envoy's dynamic forward proxy without TLS.
const DYNAMIC: &str = "tidegate-dynamic";
/// The one that speaks HTTP/2 without TLS.
const DYNAMIC_H2C: &str = "tidegate-dynamic-h2c";
/// The one with TLS that trusts the system's root certificates; `-<trust>` is appended
/// for one that trusts others.
const DYNAMIC_TLS: &str = "tidegate-dynamic-tls";

/// The most backends whose clusters' names are kept; beyond that all are dropped.
const MAX_CLUSTERS: usize = 10_000;

/// Cache of cluster names by backend.
pub struct ClusterNames {
    template: String,
    /// Sorted by backend.
    names: RefCell<Vec<(Backend, Rc<str>)>>,
}

impl ClusterNames {
    /// Names as `template` says: `{name}`, `{namespace}` and `{port}` stand for the
    /// backendRef's.
    pub fn new(template: String) -> Self {
        Self { template, names: RefCell::default() }
    }

    /// The cluster of a backend.
    pub fn of(&self, backend: &Backend) -> Rc<str> {
        let mut names = self.names.borrow_mut();
        let mut at = names.partition_point(|(other, _)| other < backend);
        if let Some((_, name)) = names.get(at).filter(|(other, _)| other == backend) {
            return name.clone();
        }
        if names.len() >= MAX_CLUSTERS {
            names.clear();
            at = 0;
        }
        let name: Rc<str> = match &backend.target {
            Some(target) => dynamic_cluster(target),
            None => cluster_name(&self.template, backend),
        }
        .into();
        names.insert(at, (backend.clone(), name.clone()));
        name
    }
}

/// The name of the forward proxy's cluster for a target.
fn dynamic_cluster(target: &Target) -> String {
    match &target.tls {
        None if target.h2c => DYNAMIC_H2C.to_owned(),
        None => DYNAMIC.to_owned(),
        Some(tls) => match &tls.trust {
            None => DYNAMIC_TLS.to_owned(),
            Some(trust) => [DYNAMIC_TLS, "-", trust].concat(),
        },
    }
}

/// A backend's cluster: `{name}`, `{namespace}` and `{port}` are replaced by the
/// backendRef's; a namespace that is not given is `default`, a port `80`.
fn cluster_name(template: &str, backend: &Backend) -> String {
    let port = backend.port.unwrap_or(80).to_string();
    let namespace = backend.namespace.as_deref().unwrap_or("default");
    let mut name = String::with_capacity(64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        name.push_str(before);
        let (placeholder, after) = after.split_once('}').unwrap_or((after, ""));
        name.push_str(match placeholder {
            "name" => &backend.name,
            "namespace" => namespace,
            "port" => &port,
            // The configuration refuses others.
            _ => "",
        });
        rest = after;
    }
    name.push_str(rest);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_cluster_and_few_are_kept() {
        let clusters = ClusterNames::new("{name}.{port}".to_owned());
        let backend = |i: usize| Backend {
            name: format!("b{}", i.wrapping_mul(7_919) % 10_007),
            namespace: None,
            port: Some(u16::try_from(i % 3).unwrap()),
            target: None,
        };
        for i in (0..12_000).chain(0..100) {
            let backend = backend(i);
            assert_eq!(&*clusters.of(&backend), format!("{}.{}", backend.name, backend.port.unwrap()));
            assert!(clusters.names.borrow().len() <= MAX_CLUSTERS);
        }
        assert_eq!(clusters.names.borrow().len(), 2_100, "forgotten once, and then each once");
    }

    #[test]
    fn clusters_are_named_as_the_template_says() {
        let full =
            Backend { name: "shop".into(), namespace: Some("prod".into()), port: Some(8080), target: None };
        let bare = Backend { name: "a{port}b".into(), namespace: None, port: None, target: None };
        let istio = "outbound|{port}||{name}.{namespace}.svc.cluster.local";
        assert_eq!(cluster_name("{name}", &full), "shop");
        assert_eq!(cluster_name(istio, &full), "outbound|8080||shop.prod.svc.cluster.local");
        assert_eq!(cluster_name(istio, &bare), "outbound|80||a{port}b.default.svc.cluster.local");
        assert_eq!(cluster_name("fixed", &bare), "fixed");
    }
}
