//! Path parameters (RFC 3986, 3.3): `/secret;x=1` is the resource `/secret` to Java's servlets and
//! others, and `/a/..;/secret` is, too. To most servers they are part of the name.

/// The path of `target` without parameters, and what follows it; `None` if it has none.
///
/// Elements that were empty or dots but for their parameters are carried out then, as Envoy does
/// with those that have none.
#[must_use]
pub fn without(target: &[u8]) -> Option<Vec<u8>> {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let (path, rest) = target.split_at_checked(end)?;
    if !path.starts_with(b"/") || !path.contains(&b';') {
        return None;
    }
    let (mut elements, mut is_open) = (Vec::new(), false);
    for element in path.split(|byte| *byte == b'/') {
        let element = element.split(|byte| *byte == b';').next().unwrap_or_default();
        is_open = match dots(element) {
            Some(dots) => {
                if dots == 2 {
                    elements.pop();
                }
                true
            }
            None => {
                elements.push(element);
                false
            }
        };
    }
    let mut stripped = Vec::with_capacity(target.len());
    for element in &elements {
        stripped.push(b'/');
        stripped.extend_from_slice(element);
    }
    if is_open || elements.is_empty() {
        stripped.push(b'/');
    }
    stripped.extend_from_slice(rest);
    Some(stripped)
}

/// How many dots an element is made of, written as they are or encoded: none for an empty one.
/// `None`: of something else, or of more than two.
fn dots(mut element: &[u8]) -> Option<usize> {
    for dots in 0..=2 {
        element = match element {
            [] => return Some(dots),
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_is_left_without_parameters() {
        for (target, left) in [
            ("/secret;x=1", Some("/secret")),
            ("/;/secret", Some("/secret")),
            ("/a;x=1/b;y?q=;#;", Some("/a/b?q=;#;")),
            ("/a/..;/secret", Some("/secret")),
            ("/a/..;x=1", Some("/")),
            ("/a/b/%2e%2E;/c", Some("/a/c")),
            ("/a/%2e;/b", Some("/a/b")),
            ("/..;/..;/a", Some("/a")),
            ("/a/...;/b", Some("/a/.../b")),
            ("/secret;/", Some("/secret/")),
            ("/secret/;x", Some("/secret/")),
            ("/;", Some("/")),
            ("/a;b?", Some("/a?")),
            ("/a", None),
            ("/a?b;c", None),
            ("*;", None),
            ("", None),
        ] {
            let stripped = without(target.as_bytes()).map(|stripped| String::from_utf8(stripped).unwrap());
            assert_eq!(stripped.as_deref(), left, "{target}");
        }
    }
}
