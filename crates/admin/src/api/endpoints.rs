//! Endpoints, each declared together with the role that it needs and with what the OpenAPI document
//! says of it: there is no other way to add one to a listener.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::app_state::AppState;
use super::openapi::about::About;
use crate::auth::{Role, RoleTable};

/// One endpoint, as it was declared.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its method.
    pub method: Method,
    /// The pattern of its path.
    pub path: String,
    /// The role that a token needs; `None`: it needs no token.
    pub role: Option<Role>,
    /// What else the document says of it.
    pub about: About,
}

/// Endpoints of one listener.
#[derive(Default)]
pub struct Endpoints {
    router: Router<AppState>,
    declared: Vec<Endpoint>,
}

impl Endpoints {
    /// Adds a GET that needs no token.
    pub fn open<H: Handler<T, AppState>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::GET, None, path, get(handler))
    }

    /// Adds a GET.
    pub fn get<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::GET, Some(role), path, get(handler))
    }

    /// Adds a POST.
    pub fn post<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::POST, Some(role), path, post(handler))
    }

    /// Adds a PUT.
    pub fn put<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::PUT, Some(role), path, put(handler))
    }

    /// Adds a DELETE.
    pub fn delete<H: Handler<T, AppState>, T: 'static>(self, role: Role, path: &str, handler: H) -> Self {
        self.add(Method::DELETE, Some(role), path, delete(handler))
    }

    /// Says what the document has of the endpoint that was added last.
    pub fn about(mut self, about: About) -> Self {
        if let Some(last) = self.declared.last_mut() {
            last.about = about;
        }
        self
    }

    /// Adds those of another family.
    pub fn merge(mut self, other: Self) -> Self {
        self.declared.extend(other.declared);
        Self { router: self.router.merge(other.router), declared: self.declared }
    }

    /// What was declared.
    pub fn into_declared(self) -> Vec<Endpoint> {
        self.declared
    }

    /// The routes of endpoints that need no token.
    pub fn into_router(self) -> Router<AppState> {
        self.router
    }

    /// The routes, and the roles that they need; `otherwise`: what a path or method needs that
    /// there is not.
    pub fn into_parts(self, otherwise: Role) -> (Router<AppState>, RoleTable) {
        let roles = self.declared.iter().filter_map(|one| Some((&one.method, one.path.as_str(), one.role?)));
        let roles = RoleTable::new(roles, otherwise);
        (self.router, roles)
    }

    fn add(
        mut self,
        method: Method,
        role: Option<Role>,
        path: &str,
        handler: MethodRouter<AppState>,
    ) -> Self {
        self.declared.push(Endpoint { method, path: path.to_owned(), role, about: About::default() });
        Self { router: self.router.route(path, handler), declared: self.declared }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documentation_has_these_endpoints_with_these_roles() {
        let docs = include_str!("../../../../docs/API.md");
        let table = docs.split("| method | path | role |\n| --- | --- | --- |\n").nth(1).unwrap();
        let row = |one: crate::api::endpoints::Endpoint| {
            let role = one.role.map_or_else(|| "none".to_owned(), |role| format!("`{}`", role.name()));
            format!("| {} | `{}` | {role} |\n", one.method, one.path)
        };
        let rows: String = crate::api::declared().into_iter().map(row).collect();
        assert_eq!(table.split("\n\n").next().unwrap(), rows.trim_end(), "\n{rows}");
    }
}
