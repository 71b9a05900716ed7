//! Reading bodies, limited in bytes and time. They are read as YAML if Content-Type says so,
//! otherwise as JSON whatever it says (`curl -d` calls JSON a form).

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{ApiResult, Problem, ProblemCode};
use tidegate_author::strict_json::{
    StrictValue, carry_out_merges, check_yaml_depth, without_byte_order_mark,
};

/// Bytes of a body on the people's listener, at most.
pub const MAX_PEOPLE_BODY: usize = 1 << 20;
/// How long a body may take to arrive; of a large one, how long there may be nothing of it.
const BODY_TIME: Duration = Duration::from_secs(15);
/// JSON of more bytes is read on a thread of its own.
const LARGE_JSON: usize = 64 << 10;
/// Bytes of a too large body that are still read and discarded: otherwise a client that writes
/// before it reads would never see the answer.
const MAX_DRAINED: usize = 8 << 20;

/// The whole body of `request`, at most `max` bytes.
///
/// # Errors
/// When it is larger, compressed, broken off, or takes over 15 s.
pub async fn bytes(request: Request<Body>, max: usize) -> ApiResult<(HeaderMap, Vec<u8>)> {
    let late =
        || Problem::new(ProblemCode::BodyTimeout, format!("the body took over {} s", BODY_TIME.as_secs()));
    tokio::time::timeout(BODY_TIME, large_bytes(request, max)).await.map_err(|_| late())?
}

/// The same of a large body, which may take its time, but not pause for 15 s.
///
/// # Errors
/// When it is larger, compressed, broken off, or pauses.
pub async fn large_bytes(request: Request<Body>, max: usize) -> ApiResult<(HeaderMap, Vec<u8>)> {
    let (head, body) = request.into_parts();
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|e| e.as_bytes() != b"identity") {
        let detail = format!("send the body without Content-Encoding {encoding:?}");
        return Err(Problem::new(ProblemCode::UnsupportedMediaType, detail));
    }
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    Ok((head.headers, collect(body, max, declared).await?))
}

/// The next piece of a body; `None`: its end.
///
/// # Errors
/// When it breaks off, or there is nothing for 15 s.
pub async fn next_piece(body: &mut Body) -> ApiResult<Option<Bytes>> {
    let late = |_| {
        let detail = format!("there was nothing of the body for {} s", BODY_TIME.as_secs());
        Problem::new(ProblemCode::BodyTimeout, detail)
    };
    let broken =
        |_| Problem::new(ProblemCode::BodyIncomplete, "the connection ended before the body was complete");
    loop {
        let Some(frame) = tokio::time::timeout(BODY_TIME, body.frame()).await.map_err(late)? else {
            return Ok(None);
        };
        // Others are trailers.
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            return Ok(Some(data));
        }
    }
}

async fn collect(mut body: Body, max: usize, declared: Option<usize>) -> ApiResult<Vec<u8>> {
    let too_large = || {
        Problem::new(ProblemCode::BodyTooLarge, format!("this endpoint takes bodies of up to {max} bytes"))
    };
    if declared.is_some_and(|len| len > max.saturating_add(MAX_DRAINED)) {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(max));
    let mut dropped = 0usize;
    while let Some(data) = next_piece(&mut body).await? {
        if dropped == 0 && bytes.len().saturating_add(data.len()) <= max {
            bytes.extend_from_slice(&data);
            continue;
        }
        dropped = dropped.saturating_add(data.len());
        if dropped > MAX_DRAINED {
            break;
        }
    }
    if dropped == 0 { Ok(bytes) } else { Err(too_large()) }
}

/// The body as `T`, from JSON.
///
/// # Errors
/// When there is none, it is not JSON, or not a `T`: the pointer says where.
pub async fn json<T: DeserializeOwned>(request: Request<Body>) -> ApiResult<T> {
    let (_, bytes) = bytes(request, MAX_PEOPLE_BODY).await?;
    object(without_byte_order_mark(&bytes))
}

/// The same of an endpoint that needs none: without one, or with `null`, all is as by default.
///
/// # Errors
/// When it is not JSON, or not a `T`.
pub async fn json_if_any<T: DeserializeOwned + Default>(request: Request<Body>) -> ApiResult<T> {
    let (_, bytes) = bytes(request, MAX_PEOPLE_BODY).await?;
    let bytes = without_byte_order_mark(&bytes).trim_ascii();
    if bytes.is_empty() || bytes == b"null" { Ok(T::default()) } else { object(bytes) }
}

/// The body as a JSON document, from JSON or YAML.
///
/// # Errors
/// When there is none, it is neither, or a name stands twice in one object.
pub async fn document(request: Request<Body>) -> ApiResult<Value> {
    document_up_to(request, MAX_PEOPLE_BODY).await
}

/// The same of up to `max` bytes.
///
/// # Errors
/// As [`document`].
pub async fn document_up_to(request: Request<Body>, max: usize) -> ApiResult<Value> {
    let (headers, bytes) = bytes(request, max).await?;
    match headers.get(CONTENT_TYPE) {
        // Much slower than JSON, so not on the async threads.
        Some(kind) if is_yaml(kind.as_bytes()) => {
            tokio::task::spawn_blocking(move || from_yaml(without_byte_order_mark(&bytes)))
                .await
                .unwrap_or_else(|_| Err(Problem::stopping()))
        }
        _ if bytes.len() > LARGE_JSON => {
            tokio::task::spawn_blocking(move || document_from_json(without_byte_order_mark(&bytes)))
                .await
                .unwrap_or_else(|_| Err(Problem::stopping()))
        }
        _ => document_from_json(without_byte_order_mark(&bytes)),
    }
}

fn is_yaml(content_type: &[u8]) -> bool {
    let kind = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.strip_prefix("application/")
        .or_else(|| kind.strip_prefix("text/"))
        .is_some_and(|sub| sub == "yaml" || sub == "x-yaml" || sub.ends_with("+yaml"))
}

/// A JSON object: serde alone would also accept a list of the fields' values.
fn object<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if bytes.trim_ascii().first().is_some_and(|first| *first != b'{') {
        from_json::<serde::de::IgnoredAny>(bytes)?;
        return Err(Problem::field("", "wrong_type", "the body must be a JSON object"));
    }
    from_json(bytes)
}

fn document_from_json(bytes: &[u8]) -> ApiResult<Value> {
    not_empty(bytes, "a JSON object")?;
    serde_json::from_slice(bytes)
        .map(|StrictValue(document)| document)
        .map_err(|error| Problem::new(ProblemCode::InvalidJson, error.to_string()))
}

fn not_empty(bytes: &[u8], what: &str) -> ApiResult<()> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::new(ProblemCode::EmptyBody, format!("send {what} as the body")));
    }
    Ok(())
}

/// A value as a `T`.
///
/// # Errors
/// When it is not one: the pointer says where.
pub fn fields_of<T: DeserializeOwned>(value: &Value) -> ApiResult<T> {
    if !value.is_object() {
        return Err(Problem::field("", "wrong_type", "must be an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| describe(&error))
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    not_empty(bytes, "a JSON object")?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| describe(&error))?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(Problem::new(ProblemCode::InvalidJson, error.to_string())),
    }
}

fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let mut text = error.inner().to_string();
    if !error.inner().is_data() {
        return Problem::new(ProblemCode::InvalidJson, text);
    }
    // The pointer says where; people see the text beside a field of a form.
    let place = format!(" at line {} column {}", error.inner().line(), error.inner().column());
    if let Some(without) = text.strip_suffix(&place) {
        text.truncate(without.len());
    }
    let code = if text.starts_with("unknown field") {
        "unknown_field"
    } else if text.starts_with("missing field") {
        "required"
    } else if text.starts_with("invalid type") {
        "wrong_type"
    } else {
        "invalid"
    };
    // A missing field has no position of its own: it is named below its object.
    let mut pointer = pointer(error.path());
    if let ("required", Some(name)) = (code, text.split('`').nth(1)) {
        pointer.push('/');
        pointer.push_str(name);
    }
    Problem::field(pointer, code, text)
}

/// `path` as a JSON pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

fn from_yaml(bytes: &[u8]) -> ApiResult<Value> {
    not_empty(bytes, "a YAML document")?;
    check_yaml_depth(bytes).map_err(|wrong| Problem::new(ProblemCode::InvalidYaml, wrong.to_string()))?;
    let invalid = |error: String| Problem::new(ProblemCode::InvalidYaml, error);
    let StrictValue(mut document) =
        yaml_serde::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    carry_out_merges(&mut document).map_err(invalid)?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_body_may_take_its_time_but_not_pause() {
        let request = |pause: Duration| {
            let (chunks, body) = crate::api::streamed_body::StreamedBody::new();
            tokio::spawn(async move {
                for _ in 0..4 {
                    tokio::time::sleep(pause).await;
                    chunks.send(Ok(Bytes::from_static(b"x"))).await;
                }
            });
            Request::new(Body::new(body))
        };
        let [short, long] = [BODY_TIME / 2, BODY_TIME * 2];
        assert_eq!(large_bytes(request(short), 10).await.unwrap().1, b"xxxx");
        for late in [bytes(request(short), 10).await, large_bytes(request(long), 10).await] {
            assert_eq!(late.unwrap_err().code(), ProblemCode::BodyTimeout);
        }
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[expect(dead_code, reason = "only its shape matters")]
        ip: String,
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let cases: [(&str, &str, Option<&str>); 9] = [
            ("", "empty_body", None),
            ("  \n", "empty_body", None),
            ("{", "invalid_json", None),
            ("{\"ip\":\"x\"} x", "invalid_json", None),
            ("[\"x\"]", "invalid_field", Some("")),
            ("ip=x", "invalid_json", None),
            ("{\"ip\":5}", "invalid_field", Some("/ip")),
            ("{}", "invalid_field", Some("/ip")),
            ("{\"ip\":\"x\",\"a/b\":1}", "invalid_field", Some("/a~1b")),
        ];
        for (body, code, pointer) in cases {
            let problem = object::<Thing>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.code().name(), code, "{body}");
            let found = problem.errors().first().and_then(|error| error.pointer.as_deref());
            assert_eq!(found, pointer, "{body}: {problem:?}");
            if code == "invalid_field" {
                assert!(problem.errors().iter().all(|error| !error.detail.contains("column")), "{problem:?}");
            }
        }
    }

    #[test]
    fn yaml_is_read_only_when_it_is_called_so() {
        for yes in ["application/yaml", "text/x-yaml; charset=utf-8", "application/vnd.k8s+yaml", "Text/YAML"]
        {
            assert!(is_yaml(yes.as_bytes()), "{yes}");
        }
        for no in ["application/json", "application/x-www-form-urlencoded", "yaml", "image/yaml", ""] {
            assert!(!is_yaml(no.as_bytes()), "{no}");
        }
        assert_eq!(from_yaml(b"a: [1, {b: x}]").unwrap(), serde_json::json!({"a": [1, {"b": "x"}]}));
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [*a{below},*a{below},*a{below},*a{below},*a{below},*a{below},*a{below},*a{below}]\n"));
        }
        assert_eq!(from_yaml(bomb.as_bytes()).unwrap_err().code(), ProblemCode::InvalidYaml);
        let deep = "[".repeat(100_000);
        assert_eq!(from_yaml(deep.as_bytes()).unwrap_err().code(), ProblemCode::InvalidYaml);
        assert_eq!(document_from_json(deep.as_bytes()).unwrap_err().code(), ProblemCode::InvalidJson);
    }

    #[test]
    fn of_two_wishes_of_one_name_none_is_carried_out() {
        let json = br#"{"enableRouteCache": true, "enableRouteCache": false}"#;
        assert_eq!(document_from_json(json).unwrap_err().code(), ProblemCode::InvalidJson);
        let yaml = b"spec:\n  rules: [{}]\n  rules: []\n";
        assert_eq!(from_yaml(yaml).unwrap_err().code(), ProblemCode::InvalidYaml);
        for empty in ["", " \n"] {
            assert_eq!(document_from_json(empty.as_bytes()).unwrap_err().code(), ProblemCode::EmptyBody);
        }
    }
}
