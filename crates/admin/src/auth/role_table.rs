//! Which role each endpoint needs.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::Method;

use super::Role;

/// The roles of one listener's endpoints, by path pattern and method. Clones share it.
#[derive(Clone, Debug)]
pub struct RoleTable {
    endpoints: Arc<HashMap<String, Vec<(Method, Role)>>>,
    /// What everything else needs: a path or a method that there is not.
    otherwise: Role,
}

impl RoleTable {
    /// The table of `endpoints`.
    pub fn new<'e>(
        endpoints: impl IntoIterator<Item = (&'e Method, &'e str, Role)>,
        otherwise: Role,
    ) -> Self {
        let mut table: HashMap<String, Vec<(Method, Role)>> = HashMap::new();
        for (method, path, role) in endpoints {
            table.entry(path.to_owned()).or_default().push((method.clone(), role));
        }
        Self { endpoints: Arc::new(table), otherwise }
    }

    /// The role that a request needs whose path matched the pattern `path`; `None`: no pattern.
    #[must_use]
    pub fn needed(&self, method: &Method, path: Option<&str>) -> Role {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let of_path = path.and_then(|path| self.endpoints.get(path));
        let of_method = of_path.and_then(|methods| methods.iter().find(|(known, _)| known == method));
        of_method.map_or(self.otherwise, |(_, role)| *role)
    }
}
