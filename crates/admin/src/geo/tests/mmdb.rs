//! Databases in MaxMind's format, made by these tests.

use super::*;

/// A value of the data section.
#[derive(Clone)]
enum Data {
    Text(&'static str),
    Map(Vec<(&'static str, Data)>),
    /// A number of the format's type 5, 6 or 9.
    Number(u8, u64),
    List(Vec<Data>),
}

impl Data {
    fn write(&self, bytes: &mut Vec<u8>) {
        let head = |kind: u8, size: usize, bytes: &mut Vec<u8>| {
            let size = u8::try_from(size).unwrap();
            assert!(size < 29, "longer sizes are written otherwise");
            match kind {
                0..=7 => bytes.push(kind << 5 | size),
                _ => bytes.extend([size, kind - 7]),
            }
        };
        match self {
            Self::Text(text) => {
                head(2, text.len(), bytes);
                bytes.extend(text.as_bytes());
            }
            Self::Map(fields) => {
                head(7, fields.len(), bytes);
                for (name, value) in fields {
                    Self::Text(name).write(bytes);
                    value.write(bytes);
                }
            }
            Self::Number(kind, number) => {
                let digits: Vec<u8> =
                    number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
                head(*kind, digits.len(), bytes);
                bytes.extend(digits);
            }
            Self::List(members) => {
                head(11, members.len(), bytes);
                members.iter().for_each(|member| member.write(bytes));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

/// A database of IPv6, with IPv4 below `::/96`.
struct MmdbFile {
    nodes: Vec<[Record; 2]>,
    data: Vec<u8>,
}

impl MmdbFile {
    fn new() -> Self {
        Self { nodes: vec![[Record::Nothing; 2]], data: Vec::new() }
    }

    fn with(mut self, network: &str, data: &Data) -> Self {
        let at = self.data.len();
        data.write(&mut self.data);
        self.put(network, Record::Data(at));
        self
    }

    /// Makes `::ffff:0:0/96` point to IPv4 as well, as in MaxMind's own databases.
    fn with_alias(mut self) -> Self {
        let v4 = self.node("::", 96);
        self.put("::ffff:0:0/96", Record::Node(v4));
        self
    }

    fn put(&mut self, network: &str, record: Record) {
        let (ip, len) = network.split_once('/').unwrap();
        let (ip, len) = match (ip.parse().unwrap(), len.parse::<usize>().unwrap()) {
            (IpAddr::V4(ip), len) => (format!("::{ip}"), len + 96),
            (IpAddr::V6(ip), len) => (ip.to_string(), len),
        };
        let parent = self.node(&ip, len - 1);
        self.nodes[parent][bit(&ip, len - 1)] = record;
    }

    fn node(&mut self, ip: &str, depth: usize) -> usize {
        let mut at = 0;
        for level in 0..depth {
            let side = bit(ip, level);
            at = match self.nodes[at][side] {
                Record::Node(next) => next,
                _ => {
                    self.nodes.push([Record::Nothing; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[at][side] = Record::Node(next);
                    next
                }
            };
        }
        at
    }

    fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut bytes = Vec::new();
        for record in self.nodes.iter().flatten() {
            let value = match record {
                Record::Nothing => count,
                Record::Node(node) => *node,
                Record::Data(at) => count + 16 + at,
            };
            bytes.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        Data::Map(vec![
            ("binary_format_major_version", Data::Number(5, 2)),
            ("binary_format_minor_version", Data::Number(5, 0)),
            ("build_epoch", Data::Number(9, 1_795_000_000)),
            ("database_type", Data::Text("Test-Country")),
            ("description", Data::Map(vec![("en", Data::Text("a test"))])),
            ("ip_version", Data::Number(5, 6)),
            ("languages", Data::List(vec![Data::Text("en")])),
            ("node_count", Data::Number(6, count as u64)),
            ("record_size", Data::Number(5, 24)),
        ])
        .write(&mut bytes);
        bytes
    }
}

fn bit(ip: &str, at: usize) -> usize {
    let bits = ip.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
    usize::from(bits >> (127 - at) & 1 == 1)
}

fn iso(field: &'static str, code: &'static str) -> Data {
    let names = ("names", Data::Map(vec![("en", Data::Text("a name"))]));
    Data::Map(vec![
        ("continent", Data::Map(vec![("code", Data::Text("NA"))])),
        (field, Data::Map(vec![("geoname_id", Data::Number(6, 1)), ("iso_code", Data::Text(code)), names])),
    ])
}

/// As in ipinfo_lite.mmdb, where `country` is the name.
fn ipinfo() -> Data {
    let fields = [("asn", "AS1"), ("continent_code", "EU"), ("country", "Austria"), ("country_code", "AT")];
    Data::Map(fields.map(|(name, value)| (name, Data::Text(value))).to_vec())
}

fn sample() -> MmdbFile {
    MmdbFile::new()
        .with("1.0.0.0/24", &iso("country", "AU"))
        .with("1.0.1.0/24", &iso("country", "AU"))
        .with("1.0.2.0/23", &iso("registered_country", "CN"))
        .with("1.0.4.0/22", &Data::Map(vec![("country_code", Data::Text("JP"))]))
        .with("1.2.0.0/16", &ipinfo())
        .with("1.0.8.0/21", &Data::Map(vec![("country", Data::Text("TH"))]))
        .with("1.1.0.0/16", &Data::Map(vec![("continent", Data::Map(vec![("code", Data::Text("AS"))]))]))
        .with("2001:db8::/32", &iso("country", "DE"))
        .with_alias()
}

#[test]
fn a_database_of_countries_is_read() {
    let folder = Folder::new();
    for format in [FileFormat::Auto, FileFormat::Mmdb] {
        let imported = read(&[folder.file("x.mmdb", sample().bytes())], format).unwrap();
        assert_eq!((imported.v4, imported.v6, imported.countries), (5, 1, 6));
        assert_eq!(imported.skipped.get("none"), Some(&1));
        let cases = [
            ("1.0.0.0", Some("AU")),
            ("1.0.1.255", Some("AU")),
            ("1.0.3.0", Some("CN")),
            ("::ffff:1.0.4.1", Some("JP")),
            ("1.0.15.255", Some("TH")),
            ("1.1.0.1", None),
            ("1.2.3.4", Some("AT")),
            ("2001:db8:ffff::", Some("DE")),
            ("2001:db9::", None),
        ];
        for (ip, wanted) in cases {
            assert_eq!(country(&imported, ip).as_deref(), wanted, "{ip}");
        }
    }
}

#[test]
fn it_may_stand_beside_a_list_but_not_over_it() {
    let folder = Folder::new();
    let database = folder.file("x.mmdb", sample().bytes());
    let beside = folder.file("beside.csv", "9.9.9.0,9.9.9.255,FR\n");
    let imported = read(&[database.clone(), beside], FileFormat::Auto).unwrap();
    assert_eq!((imported.v4, imported.v6), (6, 1));
    let over = folder.file("over.csv", "1.0.0.9,1.0.0.9,FR\n");
    let error = read(&[database, over], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("over.csv:1") && error.contains("x.mmdb (1.0.0.0 to 1.0.0.255, AU)"), "{error}");
}

#[test]
fn a_damaged_database_is_refused_and_never_trusted() {
    let folder = Folder::new();
    let whole = sample().bytes();
    for len in (0..whole.len()).step_by(37) {
        let cut = folder.file("cut.mmdb", &whole[..len]);
        let error = read(&[cut], FileFormat::Mmdb).unwrap_err().to_string();
        assert!(error.contains("cut.mmdb"), "{error}");
    }
    let cut = folder.file("cut.mmdb", &whole[..whole.len() / 2]);
    let error = read(&[cut], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("not a whole MaxMind database"), "{error}");
    // Whatever it contains, it is read or refused, without a panic.
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let mut ranges = RangeCollector::default();
        let file = ranges.begin(Path::new("spoilt.mmdb"));
        let _ = super::super::mmdb::read(bytes, file, &mut ranges);
    }
}

/// Both branches of each node point to the next node: 2^100 ranges in a few hundred bytes.
#[test]
fn a_search_tree_that_nobody_can_walk_is_refused() {
    for end in [Record::Nothing, Record::Data(0)] {
        let mut bomb = MmdbFile::new().with("::/1", &iso("country", "DE"));
        bomb.nodes = (1..=100).map(|next| [Record::Node(next); 2]).collect();
        bomb.nodes.push([end; 2]);
        let mut ranges = RangeCollector::default();
        ranges.room = 10_000;
        let file = ranges.begin(Path::new("bomb.mmdb"));
        let why = super::super::mmdb::read(bomb.bytes(), file, &mut ranges).unwrap_err();
        assert!(why.contains("has no end"), "{why}");
    }
}

#[test]
fn a_database_of_something_else_is_named_so() {
    let folder = Folder::new();
    let asn = Data::Map(vec![("autonomous_system_number", Data::Number(6, 1))]);
    let asn = folder.file("asn.mmdb", MmdbFile::new().with("1.0.0.0/24", &asn).bytes());
    let error = read(&[asn], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("`Test-Country`") && error.contains("names no countries"), "{error}");
    let text = folder.file("text.mmdb", MmdbFile::new().with("1.0.0.0/24", &Data::Text("x")).bytes());
    let error = read(&[text], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("not a database of countries"), "{error}");
    let wrong = folder.file("wrong.mmdb", MmdbFile::new().with("1.0.0.0/24", &iso("country", "DEU")).bytes());
    let error = read(&[wrong], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("wrong.mmdb") && error.contains("`DEU` is no country"), "{error}");
}
