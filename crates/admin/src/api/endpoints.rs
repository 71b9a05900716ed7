//! Endpoints, each declared together with the role that it needs: there is no other way to add one
//! to a listener.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::app_state::AppState;
use crate::auth::{Role, RoleTable};

/// One endpoint, as it was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its method.
    pub method: Method,
    /// The pattern of its path.
    pub path: String,
    /// The role that a token needs.
    pub role: Role,
}

/// Endpoints of one listener.
#[derive(Default)]
pub struct Endpoints {
    router: Router<AppState>,
    declared: Vec<Endpoint>,
}

impl Endpoints {
    /// Adds a GET.
    pub fn get<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::GET, role, path, get(handler))
    }

    /// Adds a POST.
    pub fn post<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::POST, role, path, post(handler))
    }

    /// Adds a PUT.
    pub fn put<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::PUT, role, path, put(handler))
    }

    /// Adds a DELETE.
    pub fn delete<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::DELETE, role, path, delete(handler))
    }

    /// Adds those of another family.
    pub fn merge(mut self, other: Self) -> Self {
        self.declared.extend(other.declared);
        Self { router: self.router.merge(other.router), declared: self.declared }
    }

    /// What was declared.
    pub fn declared(&self) -> &[Endpoint] {
        &self.declared
    }

    /// The routes, and the roles that they need; `otherwise`: what a path or method needs that
    /// there is not.
    pub fn into_parts(self, otherwise: Role) -> (Router<AppState>, RoleTable) {
        let roles = self.declared.iter().map(|one| (&one.method, one.path.as_str(), one.role));
        (self.router, RoleTable::new(roles, otherwise))
    }

    fn add(mut self, method: Method, role: Role, path: &str, handler: MethodRouter<AppState>) -> Self {
        self.declared.push(Endpoint { method, path: path.to_owned(), role });
        Self { router: self.router.route(path, handler), declared: self.declared }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documentation_has_these_endpoints_with_these_roles() {
        let docs = include_str!("../../../../docs/API.md");
        let table = docs.split("| method | path | role |\n| --- | --- | --- |\n").nth(1).unwrap();
        let rows: String = crate::api::declared()
            .iter()
            .map(|one| format!("| {} | `{}` | `{}` |\n", one.method, one.path, one.role.name()))
            .collect();
        assert_eq!(table.split("\n\n").next().unwrap(), rows.trim_end(), "\n{rows}");
    }
}
