//! Routes: Gateway API HTTPRoute semantics. `author` reads, validates and
//! compiles; what is here holds the compiled table and searches it.

use crate::decide::Facts;
use crate::wire::WireError;

/// Compiled routes, searched without regard to how many there are.
pub struct RouteTable {}

/// The rule that wins for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteMatch<'t> {
    /// Name of the HTTPRoute.
    pub route: &'t str,
    /// Index of the rule within it.
    pub rule: usize,
    /// Which backend takes the request, as an index into
    /// [`RouteTable::backends`]; `None`: the rule has none that could (500).
    pub backend: Option<usize>,
}

/// Where a rule sends its requests.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Backend {
    /// The backendRef's name.
    pub name: String,
    /// Its namespace, where given.
    pub namespace: Option<String>,
    /// Its port, where given.
    pub port: Option<u16>,
}

impl RouteTable {
    /// A table without routes.
    #[must_use]
    pub fn empty() -> Self {
        todo!()
    }

    /// Takes and checks what `author::compile` made.
    ///
    /// # Errors
    /// When the bytes are not a route table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let _ = bytes;
        todo!()
    }

    /// Number of HTTPRoutes.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every backend that a rule names, each once.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        todo!()
    }

    /// The rule that wins, by the precedence of the Gateway API specification.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Option<RouteMatch<'_>> {
        let _ = facts;
        todo!()
    }
}
