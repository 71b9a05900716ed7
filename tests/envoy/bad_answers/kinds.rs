//! Answers that are wrong, each in one way.

use std::time::Duration;

use super::hpack::literal;
use super::service::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    headers,
};

/// A way in which an answer is wrong.
#[derive(Clone, Copy)]
pub struct Kind {
    /// In words.
    pub name: &'static str,
    /// How it is given in a stream. The number counts answers of the kind.
    pub steps: fn(stream: u32, number: u64) -> Vec<Step>,
}

/// A part of an answer.
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends nothing for so long.
    Wait(Duration),
    /// Closes the connection.
    Close,
}

use Step::{Close, Send, Wait};

/// Fields of text.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

/// 200 with more fields; the answer is not over.
fn begun(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, 0, &[fields(&[(":status", "200")]), fields(more)].concat())
}

/// Nothing but headers.
fn only(stream: u32, block: &[u8]) -> Vec<Step> {
    vec![Send(headers(stream, END_STREAM, block))]
}

/// 200 with one more field of any bytes.
fn odd(stream: u32, name: &[u8], value: &[u8]) -> Vec<Step> {
    only(stream, &[fields(&[(":status", "200")]), literal(name, value)].concat())
}

/// A body and the end.
fn body(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, body)
}

/// A reset, with one code after the other: all that there are, and one that there is not.
fn reset(stream: u32, number: u64) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &(number as u32 / 2 % 15).to_be_bytes())
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

macro_rules! kinds {
    ($($name:literal = |$stream:pat_param, $number:pat_param| $steps:expr;)*) => {
        &[$(Kind { name: $name, steps: |$stream: u32, $number: u64| $steps }),*]
    };
}

/// Those that end a call at once.
pub const KINDS: &[Kind] = kinds! {
    "a body shorter than its length" = |s, _| vec![Send(begun(s, &[("content-length", "10")])), Send(body(s, b"abc"))];
    "a body longer than its length" = |s, _| vec![Send(begun(s, &[("content-length", "1")])), Send(body(s, b"abc"))];
    "a length and no body" = |s, _| only(s, &fields(&[(":status", "200"), ("content-length", "10")]));
    "a length that is no number" = |s, _| vec![Send(begun(s, &[("content-length", "ten")])), Send(body(s, b"abc"))];
    "two lengths" = |s, _| vec![
        Send(begun(s, &[("content-length", "3"), ("content-length", "4")])), Send(body(s, b"abc")),
    ];
    "100 that ends the stream" = |s, _| only(s, &fields(&[(":status", "100")]));
    "103 that ends the stream" = |s, _| only(s, &fields(&[(":status", "103")]));
    "100 and then the end of the body" = |s, _| vec![
        Send(headers(s, 0, &fields(&[(":status", "100")]))), Send(body(s, b"abc")),
    ];
    "a hundred times 100" = |s, _| vec![
        Send(headers(s, 0, &fields(&[(":status", "100")])).repeat(100)), Send(begun(s, &[])), Send(body(s, b"")),
    ];
    "101" = |s, _| vec![Send(headers(s, 0, &fields(&[(":status", "101")]))), Send(body(s, b"abc"))];
    "over a hundred headers" = |s, _| only(s, &[fields(&[(":status", "200")]), fields(&[("x-a", "b")]).repeat(150)].concat());
    "over 60 KiB in one header" = |s, _| odd(s, b"x-large", &[b'a'; 70_000]);
    "over 60 KiB of headers" = |s, _| only(
        s, &[fields(&[(":status", "200")]), fields(&[("x-a", &"b".repeat(1_000))]).repeat(80)].concat(),
    );
    "no status" = |s, _| only(s, &fields(&[("content-type", "text/plain")]));
    "no headers at all" = |s, _| only(s, &[]);
    "a status that is no number" = |s, _| only(s, &fields(&[(":status", "abc")]));
    "an empty status" = |s, _| only(s, &fields(&[(":status", "")]));
    "a status of two digits" = |s, _| only(s, &fields(&[(":status", "20")]));
    "a status of four digits" = |s, _| only(s, &fields(&[(":status", "2000")]));
    "a status of zero" = |s, _| only(s, &fields(&[(":status", "000")]));
    "a status over 599" = |s, _| only(s, &fields(&[(":status", "999")]));
    "a status with its phrase" = |s, _| only(s, &fields(&[(":status", "200 OK")]));
    "two statuses" = |s, _| only(s, &fields(&[(":status", "200"), (":status", "404")]));
    "a status after other headers" = |s, _| only(s, &fields(&[("server", "a"), (":status", "200")]));
    "a pseudo header of requests" = |s, _| only(s, &fields(&[(":status", "200"), (":path", "/")]));
    "an unknown pseudo header" = |s, _| only(s, &fields(&[(":status", "200"), (":mood", "good")]));
    "a name in upper case" = |s, _| odd(s, b"X-Upper", b"a");
    "a name that is not UTF-8" = |s, _| odd(s, b"x-\xff\xfe", b"a");
    "a name of another alphabet" = |s, _| odd(s, "x-\u{e9}".as_bytes(), b"a");
    "a name with a space" = |s, _| odd(s, b"x y", b"a");
    "a name with a colon" = |s, _| odd(s, b"x:y", b"a");
    "a name with a zero" = |s, _| odd(s, b"x\0y", b"a");
    "an empty name" = |s, _| odd(s, b"", b"a");
    "a value that is not UTF-8" = |s, _| odd(s, b"x-a", b"\xff\xfe\x80");
    "a value with a zero" = |s, _| odd(s, b"x-a", b"a\0b");
    "a value of two lines" = |s, _| odd(s, b"x-a", b"a\r\nx-b: c");
    "a value with spaces around it" = |s, _| odd(s, b"x-a", b" \t a ");
    "headers of HTTP/1.1" = |s, _| only(s, &fields(&[
        (":status", "200"), ("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"),
    ]));
    "an index of no header" = |s, _| only(s, &[0x80]);
    "an index that no table has" = |s, _| only(s, &[0xff, 0xff, 0x7f]);
    "a header cut off" = |s, _| only(s, &[0, 7, b':', b's']);
    "a code of no symbol" = |s, _| only(s, &[0x08, 0x84, 0xff, 0xff, 0xff, 0xff]);
    "a table larger than allowed" = |s, _| only(s, &[0x3f, 0xff, 0xff, 0xff, 0x7f]);
    "an integer without an end" = |s, _| only(s, &[0xff; 40]);
    "a body before headers" = |s, _| vec![Send(frame(DATA, 0, s, b"abc")), Send(begun(s, &[])), Send(body(s, b""))];
    "only a body" = |s, _| vec![Send(body(s, b"abc"))];
    "headers twice" = |s, _| vec![Send(begun(s, &[])), Send(begun(s, &[])), Send(body(s, b"abc"))];
    "trailers with a status" = |s, _| vec![
        Send(begun(s, &[])), Send(frame(DATA, 0, s, b"abc")), Send(headers(s, END_STREAM, &fields(&[(":status", "200")]))),
    ];
    "a hundred trailers" = |s, _| vec![
        Send(begun(s, &[])), Send(frame(DATA, 0, s, b"abc")), Send(headers(s, END_STREAM, &fields(&[("x-a", "b")]).repeat(150))),
    ];
    "trailers that do not end it" = |s, _| vec![Send(begun(s, &[])), Send(headers(s, 0, &fields(&[("x-a", "b")]))), Send(body(s, b""))];
    "trailers with a name in upper case" = |s, _| vec![Send(begun(s, &[])), Send(headers(s, END_STREAM, &fields(&[("X-A", "b")])))];
    "a reset" = |s, n| vec![Send(reset(s, n))];
    "a reset after 100" = |s, n| vec![Send(headers(s, 0, &fields(&[(":status", "100")]))), Send(reset(s, n))];
    "a reset after the headers" = |s, n| vec![Send(begun(s, &[])), Send(reset(s, n))];
    "a reset in the body" = |s, n| vec![Send([begun(s, &[]), frame(DATA, 0, s, b"abc"), reset(s, n)].concat())];
    "a reset after the end" = |s, n| vec![Send([begun(s, &[]), body(s, b"abc"), reset(s, n)].concat())];
    "a reset of all streams" = |s, n| vec![Send((0..20).flat_map(|back| reset(s.saturating_sub(2 * back).max(1), n)).collect())];
    "a reset of the wrong length" = |s, _| vec![Send(frame(RST_STREAM, 0, s, &[0; 3]))];
    "a reset of no stream" = |_, n| vec![Send(reset(0, n))];
    "the end of the connection announced" = |s, _| vec![Send([go_away(i32::MAX as u32, 0), begun(s, &[]), body(s, b"abc")].concat())];
    "the end of the connection announced, this stream left out" = |s, _| vec![Send(go_away(s.saturating_sub(2), 0))];
    "the end of the connection announced, all streams left out" = |_, _| vec![Send(go_away(0, 0))];
    "an error of the connection announced" = |s, n| vec![Send(go_away(s, 1 + n as u32 % 13)), Close];
    "an error of the connection announced in the body" = |s, n| vec![Send(begun(s, &[])), Send(go_away(0, 1 + n as u32 % 13)), Close];
    "a close" = |_, _| vec![Close];
    "a close in a frame's head" = |_, _| vec![Send(vec![0, 0, 9]), Close];
    "a close in the headers" = |s, _| vec![Send(begun(s, &[("x-a", "b")])[..12].to_vec()), Close];
    "a close after 100" = |s, _| vec![Send(headers(s, 0, &fields(&[(":status", "100")]))), Close];
    "a close after the headers" = |s, _| vec![Send(begun(s, &[])), Close];
    "a close in the body" = |s, _| vec![Send([begun(s, &[]), body(s, b"abcdefg")].concat()[..20].to_vec()), Wait(Duration::from_millis(5)), Close];
    "a close after the end" = |s, _| vec![Send([begun(s, &[]), body(s, b"abc")].concat()), Close];
    "a frame larger than allowed" = |s, _| vec![Send(begun(s, &[])), Send(body(s, &[0; 20_000]))];
    "a frame of 16 MiB" = |s, _| vec![Send([&[0xff, 0xff, 0xff, DATA, 0][..], &s.to_be_bytes(), &[0; 100]].concat())];
    "a body of no stream" = |_, _| vec![Send(body(0, b"abc"))];
    "headers of no stream" = |_, _| vec![Send(headers(0, END_STREAM, &fields(&[(":status", "200")])))];
    "headers of a stream of the server's" = |_, _| vec![Send(headers(2, END_STREAM, &fields(&[(":status", "200")])))];
    "headers of a stream to come" = |s, _| vec![Send(headers(s + 1_000, END_STREAM, &fields(&[(":status", "200")])))];
    "two whole answers" = |s, _| vec![Send([begun(s, &[]), body(s, b"abc")].concat().repeat(2))];
    "a padding longer than the frame" = |s, _| vec![Send(begun(s, &[])), Send(frame(DATA, END_STREAM | 8, s, &[200, b'a']))];
    "headers that depend on themselves" = |s, _| vec![
        Send(frame(HEADERS, END_HEADERS | END_STREAM | 0x20, s, &[&s.to_be_bytes()[..], &[1], &fields(&[(":status", "200")])].concat())),
    ];
    "a window without an end" = |s, _| vec![Send(frame(WINDOW_UPDATE, 0, s, &[0x7f, 0xff, 0xff, 0xff]))];
    "a window of the connection without an end" = |_, _| vec![Send(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))];
    "a window of nothing" = |s, _| vec![Send(frame(WINDOW_UPDATE, 0, s, &[0; 4]))];
    "a window of nothing of the connection" = |_, _| vec![Send(frame(WINDOW_UPDATE, 0, 0, &[0; 4]))];
    "more headers without headers" = |s, _| vec![Send(frame(CONTINUATION, END_HEADERS, s, b""))];
    "headers interrupted" = |s, _| vec![Send(frame(HEADERS, 0, s, &fields(&[(":status", "200")]))), Send(frame(PING, 0, 0, &[0; 8]))];
    "headers in a thousand frames" = |s, _| vec![
        Send(frame(HEADERS, END_STREAM, s, &fields(&[(":status", "200")]))),
        Send(frame(CONTINUATION, 0, s, b"").repeat(1_000)), Send(frame(CONTINUATION, END_HEADERS, s, b"")),
    ];
    "a promise" = |s, _| vec![Send(frame(5, END_HEADERS, s, &[&[0, 0, 0, 2][..], &fields(&[(":method", "GET"), (":path", "/")])].concat()))];
    "settings that are none" = |_, _| vec![Send(frame(SETTINGS, 0, 0, &[0; 5]))];
    "settings of a window that is none" = |_, _| vec![Send(frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]))];
    "two thousand settings" = |s, _| vec![Send(frame(SETTINGS, 0, 0, &[]).repeat(2_000)), Send(begun(s, &[])), Send(body(s, b""))];
    "two thousand pings" = |s, _| vec![Send(frame(PING, 0, 0, &[0; 8]).repeat(2_000)), Send(begun(s, &[])), Send(body(s, b""))];
    "a ping of the wrong length" = |_, _| vec![Send(frame(PING, 0, 0, &[0; 7]))];
    "an unknown frame" = |s, _| vec![Send(frame(0xee, 0xff, s, b"abc")), Send(begun(s, &[])), Send(body(s, b""))];
    "a body of many empty frames" = |s, _| vec![Send(begun(s, &[])), Send(frame(DATA, 0, s, b"").repeat(500)), Send(body(s, b""))];
    "204 with a body" = |s, _| vec![Send(headers(s, 0, &fields(&[(":status", "204")]))), Send(body(s, b"abc"))];
    "204 with a length" = |s, _| only(s, &fields(&[(":status", "204"), ("content-length", "3")]));
    "304 with a body" = |s, _| vec![Send(headers(s, 0, &fields(&[(":status", "304")]))), Send(body(s, b"abc"))];
    "304" = |s, _| only(s, &fields(&[(":status", "304")]));
    "a redirect" = |s, _| only(s, &fields(&[(":status", "302"), ("location", "/api/data-plane/v1/sync")]));
    "an error of the service's" = |s, n| only(s, &fields(&[(":status", ["401", "403", "404", "429", "500", "502", "503", "504"][n as usize / 2 % 8])]));
    "another service's page" = |s, _| vec![Send(begun(s, &[("content-type", "text/html")])), Send(body(s, b"<html>Welcome</html>"))];
    "an empty body" = |s, _| vec![Send(begun(s, &[])), Send(body(s, b""))];
    "a body of noise" = |s, n| vec![
        Send(begun(s, &[("content-type", "application/octet-stream")])), Send(body(s, &(0..200).map(|at| (at * n) as u8).collect::<Vec<_>>())),
    ];
    "a body larger than any answer" = |s, _| vec![Send(begun(s, &[])), Send(frame(DATA, 0, s, &[0; 16_384]).repeat(40)), Send(body(s, b""))];
    "HTTP/1.1" = |_, _| vec![Send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec())];
    "noise" = |_, n| vec![Send((0..40_000u64).map(|at| (at * at * 31 + at * 7 + n) as u8).collect())];
};

/// Those that Envoy waits for until the call's time is up.
pub const SLOW: &[Kind] = kinds! {
    "100 and then nothing" = |s, _| vec![Send(headers(s, 0, &fields(&[(":status", "100")])))];
    "settings that let no stream be" = |s, _| vec![
        Send(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0])), Wait(Duration::from_millis(100)), Send(begun(s, &[])), Send(body(s, b"abc")), Close,
    ];
    "a body that drips" = |s, _| [Send(begun(s, &[]))].into_iter()
        .chain((0..50).flat_map(|_| [Wait(Duration::from_millis(20)), Send(frame(DATA, 0, s, b"a"))])).collect();
    "headers and then nothing" = |s, _| vec![Send(begun(s, &[("content-length", "10")]))];
    "nothing" = |_, _| vec![];
};
