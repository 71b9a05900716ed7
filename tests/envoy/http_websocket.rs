//! WebSockets through HTTPRoutes on a real Envoy: an upgrade passes a route's filters
//! as any request does, and what follows it passes untouched.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::raw_backend::Head;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::PATIENCE;
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack, wait};

/// The backend's `/ws` echoes messages.
fn put_route(stack: &Stack) -> Result<()> {
    let by = |kind: &str, field: &str, who: &str| json!({ "type": kind, field: { "set": [{ "name": "x-by", "value": who }], "remove": ["x-gone"] } });
    let path = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/ws" });
    let rule = json!({
        "matches": [{ "path": { "type": "PathPrefix", "value": "/chat" }, "headers": [{ "name": "upgrade", "value": "websocket" }] }],
        "filters": [
            { "type": "URLRewrite", "urlRewrite": { "hostname": "b.example", "path": path } },
            by("RequestHeaderModifier", "requestHeaderModifier", "rule"),
            by("ResponseHeaderModifier", "responseHeaderModifier", "rule"),
            { "type": "CORS", "cors": { "allowOrigins": ["https://a.test"] } },
        ],
        "backendRefs": [{ "name": "chat", "filters": [by("RequestHeaderModifier", "requestHeaderModifier", "backend")] }],
        "retry": { "attempts": 1, "codes": [503] },
    });
    stack.put_spec("chat", &json!({ "rules": [rule] }))
}

/// Opens one, and says what the answer was.
fn open(stack: &Stack) -> Result<(BufReader<TcpStream>, Head)> {
    let mut stream = TcpStream::connect(stack.gate())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        b"GET /chat?room=1 HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
          origin: https://a.test\r\nx-gone: 1\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader).context("no whole answer")?;
    Ok((reader, head))
}

/// A text of two letters goes there and comes back, masked with zeros on its way there.
fn echo(stream: &mut BufReader<TcpStream>, text: [u8; 2]) -> Result<()> {
    let frame = [&[0x81, 0x82, 0, 0, 0, 0][..], &text].concat();
    stream.get_mut().write_all(&frame)?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    ensure!(back == [0x81, 2, text[0], text[1]], "{back:?} came back");
    Ok(())
}

fn check(stack: &Stack, chat: &InProcess, how: &str) -> Result<()> {
    let (mut stream, answer) = open(stack)?;
    assert_eq!(answer.first, "HTTP/1.1 101 Switching Protocols", "{how}");
    assert_eq!(answer.joined("upgrade").as_deref(), Some("websocket"), "{how}");
    assert_eq!(answer.joined("x-by").as_deref(), Some("rule"), "{how}");
    assert_eq!(answer.joined("access-control-allow-origin").as_deref(), Some("https://a.test"), "{how}");
    // The answer to RFC 6455's own example of a key.
    let accepted = answer.joined("sec-websocket-accept");
    assert_eq!(accepted.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{how}");
    echo(&mut stream, *b"hi")?;
    // A route that goes away does not end it.
    stack.delete_route("chat")?;
    echo(&mut stream, *b"ho")?;
    let (_, refused) = open(stack)?;
    assert_eq!(refused.first, "HTTP/1.1 404 Not Found", "{how}");
    put_route(stack)?;
    let seen = chat.seen().pop().context("it saw nothing")?;
    assert_eq!((&seen["path"], &seen["host"]), (&json!("/ws?room=1"), &json!("b.example")), "{how}");
    assert_eq!(
        (&seen["headers"]["x-by"], &seen["headers"]["x-gone"]),
        (&json!("backend"), &Value::Null),
        "{how}"
    );
    Ok(())
}

#[test]
fn a_websocket_passes_a_route_with_filters() {
    let chat = InProcess::start("chat", local(0)).unwrap();
    let mut options = Options::for_test("http-websocket").unwrap();
    options.backends.push(NamedBackend::at("chat", chat.address()));
    let stack = Stack::start(options).unwrap();
    put_route(&stack).unwrap();
    for (on, how) in [(true, "caches"), (false, "directly")] {
        stack.all_flags(on).unwrap();
        (0..4).for_each(|_| check(&stack, &chat, how).unwrap());
    }
    let mut sql = stack.sql().unwrap();
    wait::until("the tunnels' events are complete", Duration::from_secs(20), || {
        let count = "SELECT count(*) FROM traffic_events WHERE route = 'chat' AND verdict = 'allow' \
                     AND path = '/chat' AND status = 101 AND complete = 1";
        Ok((sql.number(count)? == 8).then_some(()))
    })
    .unwrap();
}
