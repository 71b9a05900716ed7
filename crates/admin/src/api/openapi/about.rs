//! What the OpenAPI document says of an endpoint besides its method, path and role.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::parameters::{CONDITIONS, IDEMPOTENCY_KEY, Parameter};
use crate::problem::ProblemCode;

/// What the document says of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// What it does, as a sentence.
    pub summary: String,
    /// Its query parameters.
    pub query: Vec<&'static Parameter>,
    /// Its headers.
    pub headers: Vec<&'static Parameter>,
    /// Its body.
    pub body: Option<Body>,
    /// Its answers that are no problems.
    pub answers: Vec<Answer>,
    /// Problems of it that [`ProblemCode`]s of every endpoint do not include.
    pub problems: Vec<ProblemCode>,
    /// Schemas that it refers to, by their names.
    pub schemas: BTreeMap<String, Value>,
}

/// A body that an endpoint takes.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its media types.
    pub media: &'static [&'static str],
    /// Its schema.
    pub schema: Value,
    /// A valid one; `null`: none is shown.
    pub example: Value,
    /// Whether a request may be without one.
    pub is_optional: bool,
}

/// An answer that is no problem.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// What it is.
    pub says: &'static str,
    /// Media type and schema of its body; `None`: it has none.
    pub body: Option<(&'static str, Value)>,
}

/// The media type of JSON.
const JSON: &str = "application/json";
/// The media type of the gateways' own formats.
pub const BINARY: &str = "application/octet-stream";

impl About {
    /// An endpoint that does this.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// It has these query parameters.
    #[must_use]
    pub fn query(self, query: &[&'static Parameter]) -> Self {
        Self { query: query.to_vec(), ..self }
    }

    /// It takes a `T` as JSON.
    #[must_use]
    pub fn takes<T: ToSchema>(mut self, example: Value) -> Self {
        let schema = self.reference::<T>();
        Self { body: Some(Body { media: &[JSON], schema, example, is_optional: false }), ..self }
    }

    /// A request may be without the body that it takes.
    #[must_use]
    pub fn or_no_body(self) -> Self {
        Self { body: self.body.map(|body| Body { is_optional: true, ..body }), ..self }
    }

    /// It takes a document, whose schema is called `schema`, as JSON or YAML.
    #[must_use]
    pub fn takes_document(self, schema: &str, example: Value) -> Self {
        let body =
            Body { media: &[JSON, "application/yaml"], schema: named(schema), example, is_optional: false };
        Self { body: Some(body), ..self }
    }

    /// It takes a body in one of the gateways' own formats.
    #[must_use]
    pub fn takes_binary(self) -> Self {
        let body = Body { media: &[BINARY], schema: json!({}), example: Value::Null, is_optional: false };
        Self { body: Some(body), ..self }
    }

    /// It answers 200 with a `T`.
    #[must_use]
    pub fn answers<T: ToSchema>(mut self) -> Self {
        let schema = self.reference::<T>();
        self.answers_json(schema)
    }

    /// It answers 200 with JSON of the schema that is called `schema`.
    #[must_use]
    pub fn answers_named(self, schema: &str) -> Self {
        self.answers_json(named(schema))
    }

    /// It answers 200 with JSON of this schema.
    #[must_use]
    pub fn answers_json(self, schema: Value) -> Self {
        self.answers_with(200, "done", Some((JSON, schema)))
    }

    /// It answers `status` with this body.
    #[must_use]
    pub fn answers_with(
        mut self,
        status: u16,
        says: &'static str,
        body: Option<(&'static str, Value)>,
    ) -> Self {
        self.answers.push(Answer { status, says, body });
        self
    }

    /// It has an `ETag`, and conditions count.
    #[must_use]
    pub fn conditional(mut self) -> Self {
        self.headers.extend(&CONDITIONS);
        self.problems(&[ProblemCode::PreconditionFailed, ProblemCode::InvalidHeader])
    }

    /// The same of a GET.
    #[must_use]
    pub fn conditional_get(self) -> Self {
        self.conditional().answers_with(304, "the client has it", None)
    }

    /// It is done once for an `Idempotency-Key`.
    #[must_use]
    pub fn once_per_key(mut self) -> Self {
        self.headers.push(&IDEMPOTENCY_KEY);
        self.problems(&[
            ProblemCode::InvalidHeader,
            ProblemCode::IdempotencyKeyInUse,
            ProblemCode::IdempotencyAnswerGone,
            ProblemCode::IdempotencyKeyReused,
        ])
    }

    /// It has these problems besides those of every endpoint.
    #[must_use]
    pub fn problems(mut self, problems: &[ProblemCode]) -> Self {
        self.problems.extend(problems);
        self
    }

    /// Adds the schema of `T` and those that it refers to.
    pub fn reference<T: ToSchema>(&mut self) -> Value {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            self.schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
        }
        named(&T::name())
    }
}

/// A reference to the schema of this name.
pub fn named(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}
