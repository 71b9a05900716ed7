//! `/api/admin/backends`: where requests go that Envoy's configuration does not know.

use serde_json::Value;
use tidegate_policy::author;
use tidegate_policy::route::Target;

use super::Context;
use super::named::Resource;
use super::routes::fit_together;
use crate::feed::{Documents, World};
use crate::problem::{Answer, Code, Problem};
use crate::store::{Kind, Table};

/// Routes that are told by name when they need a backend that is to go.
const SHOWN_ROUTES: usize = 10;

/// The backends.
pub enum Backends {}

impl Resource for Backends {
    type Says = Target;
    const KIND: Kind = Kind::Backend;
    const NOUN: &str = "backend";
    const PATH: &str = "/api/admin/backends";
    const NOT_FOUND: Code = Code::BackendNotFound;
    const CHECKED_WITH: &'static [Table] = &[Table::Documents(Kind::Route), Table::Documents(Kind::Backend)];
    const NAMED_BY: &'static [Table] = &[Table::Documents(Kind::Route)];

    fn of(world: &World) -> &Documents<Target> {
        &world.backends
    }

    fn check(name: &str, document: Value, world: &World) -> Answer<(String, Target)> {
        let target = author::read_backend(name, &document)
            .map_err(|problems| Problem::document(Code::InvalidField, problems))?;
        let text = document.to_string();
        let mut backends = world.backends_by_name();
        backends.insert(name.to_owned(), target.clone());
        fit_together(world, None, &backends, text.len())?;
        Ok((text, target))
    }

    fn written(_: &Context, _: &World, _: &str, _: &Target) -> Vec<String> {
        Vec::new()
    }

    fn may_go(context: &Context, world: &World, name: &str) -> Answer<()> {
        let routes = world.routes_that_need(name, &context.clusters);
        if routes.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = routes.iter().take(SHOWN_ROUTES).map(|route| format!("`{route}`")).collect();
        let more = if routes.len() > shown.len() { " and others" } else { "" };
        let detail = format!("these routes need it, change them first: {}{more}", shown.join(", "));
        Err(Problem::new(Code::BackendInUse, detail))
    }
}
