//! Forms that send a file: read as it comes, and no more than may be held.

use std::collections::BTreeMap;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest as _, FromRequestParts as _, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use crate::body::SentBody;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::form::{FORM_TOKEN, require_same_origin};
use crate::role::Role;
use crate::show::number::bytes;
use crate::visitor::Visitor;

/// Files that are read at a time, at most: each is in memory.
static READING: Semaphore = Semaphore::const_new(2);
/// Bytes of a field besides the file, at most.
const MAX_FIELD: usize = 8 << 10;
/// Bytes of a form beside the file, at most.
const BESIDE: usize = 64 << 10;
/// Characters of a text that was pasted that are shown again when it was refused, at most.
pub const SHOWN_AGAIN: usize = 1 << 20;

/// A form that sends a file as its field `file`.
pub struct FileForm {
    /// The least role that may send it.
    pub role: Role,
    /// Bytes of the file, at most.
    pub max: usize,
    /// The field of a text that can be pasted in the place of the file; empty: there is none.
    pub pasted: &'static str,
    /// What takes larger files, as a sentence.
    pub larger: &'static str,
}

/// What was sent.
#[derive(Default)]
pub struct SentFile {
    /// The short fields.
    pub fields: BTreeMap<String, String>,
    /// What was pasted.
    pub pasted: Bytes,
    /// The file; empty: none was chosen.
    pub file: Bytes,
    /// What it is called.
    pub name: String,
}

impl FileForm {
    /// Bytes of the whole form, at most.
    pub const fn max_form(&self) -> usize {
        self.max + BESIDE
    }

    /// Reads the form, if it is of this session and its token has the role.
    ///
    /// # Errors
    /// When it is neither, is too large, does not come whole, or others are sent at this moment.
    pub async fn read(
        &self,
        dashboard: &Dashboard,
        request: Request,
    ) -> Result<(Visitor, SentFile), PageError> {
        let (parts, body) = request.into_parts();
        let body = SentBody::new(body);
        body.after(self.read_parts(dashboard, parts, &body).await).await
    }

    async fn read_parts(
        &self,
        dashboard: &Dashboard,
        mut parts: Parts,
        body: &SentBody,
    ) -> Result<(Visitor, SentFile), PageError> {
        require_same_origin(&parts.headers, &parts.uri)?;
        let visitor = match Visitor::from_request_parts(&mut parts, dashboard).await {
            Err(PageError::SignedOut { .. }) => {
                let request = Request::from_parts(parts, body.paced());
                let typed = match Multipart::from_request(request, dashboard).await {
                    Ok(mut sent) => self.pasted_in(&mut sent).await,
                    Err(_) => Vec::new(),
                };
                return Err(PageError::Ended { typed });
            }
            visitor => visitor?,
        };
        if !visitor.may(self.role) {
            let role = self.role.name();
            let detail = format!("This needs a token of the role {role}. Nothing was changed.");
            return Err(PageError::refused(StatusCode::FORBIDDEN, "Your token may not do this", detail));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > self.max_form()) {
            return Err(self.too_large());
        }
        let not_now = |who: &str| {
            let detail = format!("{who} at this moment. Nothing was changed: try again in a few seconds.");
            PageError::refused(StatusCode::SERVICE_UNAVAILABLE, "Not now", detail)
        };
        let _own = visitor
            .sending_place()
            .ok_or_else(|| not_now("Another window of yours sends a file or a list"))?;
        let _place = READING.try_acquire().map_err(|_| not_now("Others send files or lists"))?;
        let request = Request::from_parts(parts, body.paced());
        let form = Multipart::from_request(request, dashboard).await;
        let form = form.map_err(|_| broken("it is no form with a file"))?;
        let sent = self.read_fields(form, &visitor).await?;
        Ok((visitor, sent))
    }

    async fn read_fields(&self, mut form: Multipart, visitor: &Visitor) -> Result<SentFile, PageError> {
        let (mut sent, mut is_ours) = (SentFile::default(), false);
        while let Some(field) = form.next_field().await.map_err(|error| self.unread(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            match name.as_str() {
                FORM_TOKEN => {
                    is_ours = visitor.is_form_token(&self.text(field).await?);
                    if !is_ours {
                        return Err(PageError::OutOfDate { typed: self.pasted_in(&mut form).await });
                    }
                }
                // Nothing of another site's form is taken.
                _ if !is_ours => return Err(PageError::OutOfDate { typed: Vec::new() }),
                "file" => {
                    sent.name = field.file_name().unwrap_or_default().to_owned();
                    sent.file = self.whole(field, self.max).await?;
                }
                name if name == self.pasted => sent.pasted = self.whole(field, self.max).await?,
                _ => drop(sent.fields.insert(name, self.text(field).await?)),
            }
        }
        if is_ours { Ok(sent) } else { Err(PageError::OutOfDate { typed: Vec::new() }) }
    }

    /// The text that was pasted in a form that is not taken, if it is not too long to be shown.
    async fn pasted_in(&self, form: &mut Multipart) -> Vec<String> {
        while let Ok(Some(field)) = form.next_field().await {
            if !self.pasted.is_empty() && field.name() == Some(self.pasted) {
                let text = self.whole(field, SHOWN_AGAIN).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                return if text.trim().is_empty() { Vec::new() } else { vec![text] };
            }
        }
        Vec::new()
    }

    /// A short field.
    async fn text(&self, field: Field<'_>) -> Result<String, PageError> {
        let bytes = self.whole(field, MAX_FIELD).await?;
        String::from_utf8(bytes.into()).map_err(|_| broken("a field is not UTF-8"))
    }

    /// A field with `most` bytes.
    async fn whole(&self, mut field: Field<'_>, most: usize) -> Result<Bytes, PageError> {
        let mut all = BytesMut::new();
        while let Some(chunk) = field.chunk().await.map_err(|error| self.unread(&error))? {
            if all.len() + chunk.len() > most {
                return Err(if most == self.max { self.too_large() } else { broken("a field is too long") });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    fn unread(&self, error: &MultipartError) -> PageError {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => self.too_large(),
            _ => broken("it did not arrive whole, or not in time: nothing may be missing for 15 s"),
        }
    }

    fn too_large(&self) -> PageError {
        let most = bytes(self.max as u64);
        let detail =
            format!("It has over {most}, which is what a page takes. Nothing was changed. {}", self.larger);
        PageError::refused(StatusCode::PAYLOAD_TOO_LARGE, "It is too large for this page", detail)
    }
}

fn broken(why: &str) -> PageError {
    let detail = format!("The form cannot be read: {why}. Nothing was changed.");
    PageError::refused(StatusCode::BAD_REQUEST, "The form cannot be read", detail)
}
