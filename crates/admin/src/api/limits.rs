//! `/api/admin/limits`: how many requests may come.

use serde_json::Value;
use tidegate_policy::author;
use tidegate_policy::limit::{Limit, MAX_LIMITS};

use super::Context;
use super::named::Resource;
use crate::feed::{Documents, World};
use crate::problem::{Answer, Code, Problem};
use crate::store::{Kind, Table};

/// The limits.
pub enum Limits {}

impl Resource for Limits {
    type Says = Limit;
    const KIND: Kind = Kind::Limit;
    const NOUN: &str = "limit";
    const PATH: &str = "/api/admin/limits";
    const NOT_FOUND: Code = Code::LimitNotFound;
    const CHECKED_WITH: &'static [Table] = &[Table::Documents(Kind::Limit)];

    fn of(world: &World) -> &Documents<Limit> {
        &world.limits
    }

    fn check(name: &str, document: Value, world: &World) -> Answer<(String, Limit)> {
        let limit = author::read_limit(name, &document)
            .map_err(|problems| Problem::document(Code::InvalidField, problems))?;
        let limits = &world.limits.in_force;
        if limits.len() >= MAX_LIMITS && !limits.contains_key(name) {
            let detail = format!("with this one there are too many: up to {MAX_LIMITS}; remove others first");
            return Err(Problem::field("", "too_many", detail));
        }
        Ok((document.to_string(), limit))
    }

    fn written(_: &Context, world: &World, name: &str, _: &Limit) -> Vec<String> {
        let missing = world.missing_routes().into_iter().filter(|missing| *missing.limit == *name);
        let say = |route| {
            format!("there is no route `{route}`: for that one it holds for no request until there is")
        };
        missing.map(|missing| say(missing.route)).collect()
    }
}
