//! Reads the document of a page into a [`Page`].
//!
//! ```json
//! {"html": "<!doctype html><title>Blocked</title><p>Quote {{request_id}} to support."}
//! ```

use serde_json::Value;
use tidegate_policy::decide::Reason;
use tidegate_policy::pages::{MAX_PAGE, MAX_PLACEHOLDERS, Page, Placeholder, next_placeholder};

use super::reader::{DocumentError, DocumentErrors, DocumentNode};

const FIELDS: &[&str] = &["name", "html"];

/// Reads the page for the reason of this code. A `name` in the document must be that code.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with the reason itself has the pointer `/name`.
pub fn read_page(reason: &str, document: &Value) -> Result<Page, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if !Reason::ALL.iter().any(|known| known.code() == reason) {
        let message = format!("no denial has this reason; there are {}", codes());
        errors.note("/name", "invalid", message);
    }
    let page = page(reason, &DocumentNode::root(document), &mut errors);
    errors.into_result(page)
}

fn codes() -> String {
    Reason::ALL.map(Reason::code).join(", ")
}

fn page(reason: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Page> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the page is for", reason, errors);
    let node = fields.require("html", errors)?;
    let html = node.text(1, MAX_PAGE, errors)?;
    if html.len() > MAX_PAGE {
        node.note(errors, "too_long", format!("{} bytes, at most {MAX_PAGE} are allowed", html.len()));
        return None;
    }
    check_placeholders(html, &node, errors);
    Some(Page { reason: reason.to_owned(), html: html.to_owned() })
}

fn check_placeholders(html: &str, node: &DocumentNode<'_>, errors: &mut DocumentErrors) {
    let (mut rest, mut count) = (html, 0);
    while let Some((_, found)) = next_placeholder(rest) {
        let Some((name, after)) = found else {
            return node.note(errors, "invalid", "a placeholder has no end: after {{ there must be }}");
        };
        if Placeholder::named(name).is_none() {
            let known = Placeholder::ALL.map(|one| format!("{{{{{}}}}}", one.name())).join(", ");
            let name: String = name.chars().take(40).collect();
            let message = format!(
                "there is no placeholder `{name}`; there are {known}, and {{{{ as text is &#123;&#123;"
            );
            return node.note(errors, "invalid", message);
        }
        (rest, count) = (after, count + 1);
    }
    if count > MAX_PLACEHOLDERS {
        node.note(
            errors,
            "too_many",
            format!("{count} placeholders, at most {MAX_PLACEHOLDERS} are allowed"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_policy::pages::BUILT_IN;

    use super::*;

    fn refused(reason: &str, document: &Value) -> (String, &'static str, String) {
        let found = read_page(reason, document).expect_err("must be refused").remove(0);
        (found.pointer, found.code, found.message)
    }

    #[test]
    fn a_page_is_html_with_known_placeholders() {
        let all = Placeholder::ALL.map(|one| format!("{{{{ {} }}}}", one.name())).concat();
        for html in ["<p>Go away", BUILT_IN, &all, "a } b { c", &"x".repeat(MAX_PAGE)] {
            let page = read_page("ip_banned", &json!({"name": "ip_banned", "html": html})).unwrap();
            assert_eq!((page.reason.as_str(), page.html.as_str()), ("ip_banned", html));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (html, code, said) in [
            (json!("{{request-id}}"), "invalid", "no placeholder `request-id`; there are {{request_id}}, "),
            (json!("{{}}"), "invalid", "&#123;&#123;"),
            (json!("{{status}} {{status"), "invalid", "no end"),
            (json!("{{status}}".repeat(MAX_PLACEHOLDERS + 1)), "too_many", "at most 64"),
            (json!("\u{e9}".repeat(MAX_PAGE / 2 + 1)), "too_long", "65538 bytes, at most 65536"),
            (json!(""), "invalid", "from 1"),
            (json!(5), "wrong_type", "a string"),
            (json!(null), "required", "must be given"),
        ] {
            let (pointer, found, message) = refused("no_route", &json!({"html": html}));
            assert_eq!((pointer.as_str(), found), ("/html", code), "{message}");
            assert!(message.contains(said), "{message}");
        }
        let (pointer, code, message) = refused("ip_baned", &json!({"html": "x"}));
        assert_eq!((pointer.as_str(), code), ("/name", "invalid"));
        for reason in Reason::ALL {
            assert!(message.contains(reason.code()), "{message}");
        }
        let other = json!({"html": "x", "name": "no_route"});
        assert_eq!(refused("ip_banned", &other).0, "/name");
        assert_eq!(refused("ip_banned", &json!({"html": "x", "text": "y"})).1, "unknown_field");
        assert_eq!(refused("ip_banned", &json!([])).1, "wrong_type");
    }
}
