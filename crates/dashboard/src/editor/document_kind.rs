//! The kinds of documents, and where they are.

use serde_json::Value;

use crate::api::{ApiClient, ApiError, Tagged, encoded};
use crate::error::PageError;

/// What happens once a document is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Gateways have it in their tables: it is said how many do by then.
    InTables,
    /// The service itself does something, in these words.
    Later(&'static str),
}

/// A kind of documents.
pub struct DocumentKind {
    /// The API's collection, as it stands behind `/api/admin/`.
    pub collection: &'static str,
    /// The command of `tidegate`.
    pub command: &'static str,
    /// The page of all of them. One of them is at its path with the name behind it.
    pub page: &'static str,
    /// One of them, in a sentence.
    pub noun: &'static str,
    /// What names are like.
    pub names: &'static str,
    /// What a new one begins with.
    pub template: &'static str,
    /// Whether answers carry `status`, which is not of the document.
    pub has_status: bool,
    /// What happens once one is saved.
    pub effect: Effect,
}

impl DocumentKind {
    /// The page of one document.
    pub fn page_of(&self, name: &str) -> String {
        format!("{}/{}", self.page, path_of(name))
    }

    /// The page that makes a new one.
    pub fn page_of_new(&self) -> String {
        format!("{}?new=1", self.page)
    }

    pub(super) fn api_path(&self, name: &str) -> String {
        format!("{}/{}", self.collection, path_of(name))
    }

    /// A document as YAML, without what is not of it.
    pub(super) fn yaml(&self, mut document: Value) -> String {
        if let (true, Some(fields)) = (self.has_status, document.as_object_mut()) {
            fields.remove("status");
        }
        yaml_serde::to_string(&document).unwrap_or_default()
    }

    /// What is live under a name; `None`: nothing is.
    pub(super) async fn live(&self, api: &ApiClient, name: &str) -> Result<Option<Live>, PageError> {
        match api.get_tagged(&self.api_path(name)).await {
            Ok(Tagged { document, etag }) => Ok(Some(Live { text: self.yaml(document), etag })),
            Err(ApiError::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name, which may have a namespace before it, as a part of a path.
pub fn path_of(name: &str) -> String {
    name.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

/// A document that is live, as text.
pub(super) struct Live {
    pub text: String,
    pub etag: String,
}
