//! Header blocks of HTTP/2 (RFC 7541): those of requests read, those of answers written,
//! each field by itself, so that any bytes can be sent.

use std::collections::{HashMap, VecDeque};

/// The static table: names, and values where there are any.
const STATIC: &str = ":authority\n:method GET\n:method POST\n:path /\n:path /index.html\n:scheme http\n:scheme https\n\
    :status 200\n:status 204\n:status 206\n:status 304\n:status 400\n:status 404\n:status 500\naccept-charset\n\
    accept-encoding gzip, deflate\naccept-language\naccept-ranges\naccept\naccess-control-allow-origin\nage\nallow\n\
    authorization\ncache-control\ncontent-disposition\ncontent-encoding\ncontent-language\ncontent-length\n\
    content-location\ncontent-range\ncontent-type\ncookie\ndate\netag\nexpect\nexpires\nfrom\nhost\nif-match\n\
    if-modified-since\nif-none-match\nif-range\nif-unmodified-since\nlast-modified\nlink\nlocation\nmax-forwards\n\
    proxy-authenticate\nproxy-authorization\nrange\nreferer\nrefresh\nretry-after\nserver\nset-cookie\n\
    strict-transport-security\ntransfer-encoding\nuser-agent\nvary\nvia\nwww-authenticate";

/// The Huffman code, as far as headers of text need it: symbols by the length of their codes,
/// which follow from that (it is a canonical code).
const HUFFMAN: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

/// What a peer's header blocks are read with, one after the other.
pub struct Decoder {
    dynamic: VecDeque<(String, String)>,
    max: usize,
    codes: HashMap<(u32, u32), char>,
}

impl Decoder {
    pub fn new() -> Self {
        let mut codes = HashMap::new();
        let (mut code, mut before) = (0u32, 0);
        for (len, symbols) in HUFFMAN {
            code <<= len - before;
            before = len;
            for symbol in symbols.chars() {
                codes.insert((len, code), symbol);
                code += 1;
            }
        }
        Self { dynamic: VecDeque::new(), max: 4_096, codes }
    }

    /// The fields of a block; `None`: it is not one that this reads.
    pub fn decode(&mut self, mut block: &[u8]) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        while let Some(first) = block.first() {
            let prefix = match first {
                0x80.. => 7,
                0x40.. => 6,
                0x20.. => 5,
                _ => 4,
            };
            let index = integer(&mut block, prefix)?;
            if prefix == 5 {
                self.max = index;
                self.evict();
                continue;
            }
            let field = if prefix == 7 {
                self.at(index)?
            } else {
                let name = if index == 0 { self.text(&mut block)? } else { self.at(index)?.0 };
                (name, self.text(&mut block)?)
            };
            if prefix == 6 {
                self.dynamic.push_front(field.clone());
                self.evict();
            }
            fields.push(field);
        }
        Some(fields)
    }

    fn evict(&mut self) {
        let size = |all: &VecDeque<(String, String)>| -> usize {
            all.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        while size(&self.dynamic) > self.max {
            self.dynamic.pop_back();
        }
    }

    fn at(&self, index: usize) -> Option<(String, String)> {
        let mut fixed = STATIC.split('\n').map(|line| line.split_once(' ').unwrap_or((line, "")));
        match index.checked_sub(62) {
            Some(index) => self.dynamic.get(index).cloned(),
            None => fixed.nth(index.checked_sub(1)?).map(|(name, value)| (name.to_owned(), value.to_owned())),
        }
    }

    fn text(&self, block: &mut &[u8]) -> Option<String> {
        let is_huffman = block.first()? & 0x80 != 0;
        let len = integer(block, 7)?;
        let (bytes, rest) = block.split_at_checked(len)?;
        *block = rest;
        if !is_huffman {
            return String::from_utf8(bytes.to_vec()).ok();
        }
        let (mut text, mut len, mut code) = (String::new(), 0, 0);
        for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
            (len, code) = (len + 1, code << 1 | u32::from(bit));
            if let Some(symbol) = self.codes.get(&(len, code)) {
                text.push(*symbol);
                (len, code) = (0, 0);
            }
        }
        // What is left fills the last byte with ones.
        (len < 8).then_some(text)
    }
}

/// An integer that begins in the last `prefix` bits of a byte.
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let (first, mut rest) = block.split_first()?;
    let mut value = usize::from(*first) & mask;
    let mut shift = 0;
    while value >= mask {
        let (byte, left) = rest.split_first()?;
        rest = left;
        value = value.checked_add(usize::from(byte & 0x7f).checked_shl(shift)?)?;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    *block = rest;
    Some(value)
}

/// A field that no table keeps.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0u8][..], &length(name.len()), name, &length(value.len()), value].concat()
}

/// The length of a text without Huffman coding.
fn length(len: usize) -> Vec<u8> {
    let mut bytes = vec![len.min(0x7f) as u8];
    if let Some(mut rest) = len.checked_sub(0x7f) {
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, C.4: three requests with Huffman coding down one connection.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let mut decoder = Decoder::new();
        let mut read = |hex: &str| {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let fields = decoder.decode(&bytes).unwrap();
            fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let common = ":method=GET :scheme=http :path=/ :authority=www.example.com";
        assert_eq!(read("828684418cf1e3c2e5f23a6ba0ab90f4ff"), common);
        assert_eq!(read("828684be5886a8eb10649cbf"), format!("{common} cache-control=no-cache"));
        assert_eq!(
            read("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"),
            ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value"
        );
        let long = "x".repeat(300);
        assert_eq!(decoder.decode(&literal(b"a", long.as_bytes())).unwrap(), [("a".to_owned(), long)]);
    }
}
