//! Valid and invalid files in the formats that providers use.

mod maxmind;
mod mmdb;

use std::net::IpAddr;
use std::path::PathBuf;

use tidegate_policy::geo::CountryTable;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// Reads one CSV file.
fn csv(content: &str) -> Result<Imported, String> {
    let folder = Folder::new();
    read(&[folder.file("list.csv", content)], FileFormat::Auto).map_err(|error| error.to_string())
}

fn country(imported: &Imported, ip: &str) -> Option<String> {
    let table = CountryTable::from_bytes(imported.table.clone()).unwrap();
    table.find(ip.parse::<IpAddr>().unwrap()).map(|country| country.to_string())
}

#[test]
fn lists_of_all_kinds_are_read() {
    let lists = [
        "# Tor's geoip\n\n16777216,16777471,AU\n16777472,16778239,CN\n2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP\n",
        "1.0.0.0,1.0.0.255,AU\r\n1.0.1.0,1.0.3.255,CN\r\n2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP\r\n",
        "\u{feff}ip_range_start,ip_range_end,country_code\n1.0.0.0,1.0.0.255,AU\n1.0.1.0,1.0.3.255,cn\n\
         42540528726795050063891204319802818560,42540528806023212578155541913346768895,JP",
        r#""0","16777215","-","-"
"16777216","16777471","AU","Australia"
"16777472","16778239","CN","China, People's Republic"
"42540528726795050063891204319802818560","42540528806023212578155541913346768895","JP","Japan""#,
        "::ffff:1.0.1.0,::ffff:1.0.3.255,CN\n2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP\n1.0.0.0,1.0.0.255,AU",
    ];
    for list in lists {
        let imported = csv(list).unwrap();
        assert_eq!((imported.v4, imported.v6, imported.countries), (2, 1, 3), "{list}");
        let all = ["1.0.0.0", "1.0.0.255", "1.0.1.0", "1.0.3.255", "2001:200::1", "1.0.4.0", "0.255.255.255"];
        let found = all.map(|ip| country(&imported, ip));
        let wanted = [Some("AU"), Some("AU"), Some("CN"), Some("CN"), Some("JP"), None, None];
        assert_eq!(found, wanted.map(|code| code.map(str::to_owned)), "{list}");
    }
}

#[test]
fn blocks_are_lines_too() {
    let lists = [
        "1.0.0.0/24,AU\n1.0.1.0/24,CN\n1.0.2.0/23,CN\n2001:200::/32,JP\n1.0.4.1,FR\n",
        "cidr,country\n1.0.0.0/24,AU\n1.0.1.0/24,CN\n::ffff:1.0.2.0/119,CN\n2001:200::/32,JP\n1.0.4.1/32,FR\n",
        "Country_Code,Network\nAU,1.0.0.0/24\nCN,1.0.1.0/24\ncn,1.0.2.0/23\nJP,2001:200::/32\nFR,1.0.4.1\n",
        "network,country,country_code,continent,continent_code,asn,as_name,as_domain\n\
         1.0.0.0/24,Australia,AU,Oceania,OC,AS13335,\"Cloudflare, Inc.\",cloudflare.com\n\
         1.0.1.0/24,China,CN,Asia,AS,,,\n1.0.2.0/23,China,CN,Asia,AS,,,\n2001:200::/32,Japan,JP,Asia,AS,,,\n\
         1.0.4.1,France,FR,Europe,EU,,,\n",
        "start_ip,end_ip,country,country_name,continent,continent_name\n1.0.0.0,1.0.0.255,AU,Australia,OC,Oceania\n\
         1.0.1.0,1.0.3.255,CN,China,AS,Asia\n2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP,Japan,AS,Asia\n\
         1.0.4.1,1.0.4.1,FR,France,EU,Europe\n",
    ];
    for list in lists {
        let imported = csv(list).unwrap();
        assert_eq!((imported.v4, imported.v6, imported.countries), (3, 1, 4), "{list}");
        let all = ["1.0.0.255", "1.0.1.0", "1.0.3.255", "2001:200:ffff::", "1.0.4.0", "1.0.4.1", "1.0.4.2"];
        let found = all.map(|ip| country(&imported, ip));
        let wanted = [Some("AU"), Some("CN"), Some("CN"), Some("JP"), None, Some("FR"), None];
        assert_eq!(found, wanted.map(|code| code.map(str::to_owned)), "{list}");
    }
}

#[test]
fn several_files_are_one_table_and_neighbours_are_joined() {
    let folder = Folder::new();
    let v6 = folder
        .file("geoip6", "2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,DE\n2001:db8:1::,2001:db8:1::9,DE\n");
    let v4 =
        folder.file("geoip", "10.0.1.0,10.0.1.255,FR\n10.0.0.128,10.0.0.255,DE\n10.0.0.0,10.0.0.127,DE\n");
    let imported = read(&[v6, v4], FileFormat::Csv).unwrap();
    assert_eq!((imported.v4, imported.v6, imported.source.as_str()), (2, 1, "geoip6, geoip"));
    assert_eq!(country(&imported, "10.0.0.200").as_deref(), Some("DE"));
    assert_eq!(country(&imported, "2001:db8:1::9").as_deref(), Some("DE"));
    assert_eq!(country(&imported, "2001:db8:1::a"), None);
}

#[test]
fn what_is_of_no_country_is_left_out_and_counted() {
    let imported = csv("1.0.0.0,1.0.0.9,??\n1.0.0.10,1.0.0.19,ZZ\n1.0.0.20,1.0.0.29,\n1.0.0.30,1.0.0.39,QQ\n1.0.1.0,1.0.1.9,A1\n").unwrap();
    let skipped: Vec<_> = imported.skipped.iter().map(|(code, count)| (code.as_str(), *count)).collect();
    assert_eq!(skipped, [("??", 1), ("QQ", 1), ("ZZ", 1), ("none", 1)]);
    assert_eq!((imported.v4, country(&imported, "1.0.1.5").as_deref()), (1, Some("A1")));
    let said = imported.to_string();
    assert!(said.contains("1 IPv4 and 0 IPv6 ranges of 1 countries") && said.contains("QQ: 1"), "{said}");
}

#[test]
fn errors_name_file_and_line() {
    let cases = [
        ("1.0.0.0,1.0.0.9,DE\n\n# x\n1.0.1.300,1.0.1.9,DE\n", "line 4", "`1.0.1.300` is no address"),
        ("1.0.0.0,1.0.0.9,DE\n1.0.2.9,1.0.2.0,DE\n", "line 2", "reversed"),
        ("300,200,DE\n", "line 1", "reversed"),
        ("1.0.0.0,2001:db8::,DE\n", "line 1", "two families"),
        ("1.0.0.0,1.0.0.9,Germany\n", "line 1", "`Germany` is no country"),
        ("1.0.0.0,1.0.0.9,DEU\n", "line 1", "no country"),
        ("1.0.0.0,1.0.0.9\n", "line 1", "start,end,country"),
        ("1.0.0.0/24\n", "line 1", "block,country"),
        ("1.0.0.0/33,DE\n", "line 1", "0 to 32"),
        ("1.0.0.0/24,DE\nx/24,DE\n", "line 2", "`x/24` is not"),
        ("1.0.0.0/24,Germany\n", "line 1", "`Germany` is no country"),
        ("1.0.0.0/24,EU,DE\n", "line 1", "two fields look like a country"),
        ("1.0.0.0/24,DE\n1.0.0.0,1.0.0.9,DE\n", "list.csv:2", "list.csv:1"),
        ("network,autonomous_system_number\n1.0.0.0/24,13335\n", "line 1", "no column has countries"),
        ("network,country_code\n1.0.0.0/24\n", "line 2", "1 fields"),
        ("1.0.0.0,1.0.0.9,\"DE\n", "line 1", "quote"),
        ("1.0.0.0,1.0.0.9,EU,DE\n", "line 1", "two fields look like a country"),
        ("340282366920938463463374607431768211456,1,DE\n", "line 1", "no address"),
        ("-1,5,DE\n", "line 1", "`-1` is no address"),
        (
            "1.0.0.0,1.0.0.20,DE\n1.0.1.0,1.0.1.9,DE\n1.0.0.20,1.0.0.29,FR\n",
            "list.csv:3",
            "list.csv:1 (1.0.0.0 to 1.0.0.20, DE)",
        ),
        ("1.0.0.0,1.0.0.20,DE\n1.0.0.0,1.0.0.20,DE\n", "list.csv:2", "list.csv:1"),
        ("", "list.csv", "no range"),
        ("# nothing\n1.0.0.0,1.0.0.20,??\n", "list.csv", "no range"),
    ];
    for (content, at, why) in cases {
        let error = csv(content).unwrap_err();
        assert!(
            error.contains(at) && error.contains(why) && error.contains("list.csv"),
            "{content}: {error}"
        );
    }
    let folder = Folder::new();
    let (one, other) =
        (folder.file("a", "1.0.0.0,1.0.0.9,DE\n"), folder.file("b", "# b\n1.0.0.9,1.0.0.12,DE\n"));
    let error = read(&[other, one], FileFormat::Auto).unwrap_err().to_string();
    assert!(error.contains("/b:2") && error.contains("/a:1"), "{error}");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = Folder::new();
    let said = |path: PathBuf, format| read(&[path], format).unwrap_err().to_string();
    let packed = said(folder.file("x.csv.gz", b"\x1f\x8b\x08rest"), FileFormat::Auto);
    assert!(packed.contains("gunzip"), "{packed}");
    let rubbish = said(folder.file("x.bin", [0u8, 1, 2, 3].repeat(100)), FileFormat::Csv);
    assert!(rubbish.contains("neither"), "{rubbish}");
    let latin =
        said(folder.file("x.csv", b"1.0.0.0,1.0.0.9,DE\n1.0.1.0,1.0.1.9,CI,C\xf4te\n"), FileFormat::Auto);
    assert!(latin.contains("line 2") && latin.contains("UTF-8"), "{latin}");
    // A file without a known size is bounded as well.
    let endless = load(Path::new("/dev/zero"), 3 << 20).unwrap_err().to_string();
    assert!(endless.contains("/dev/zero: a country database has 3 MiB at most"), "{endless}");
    let missing = said(folder.0.path().join("nothing"), FileFormat::Auto);
    assert!(missing.contains("nothing"), "{missing}");
    let empty = said(Folder::new().0.path().to_owned(), FileFormat::Auto);
    assert!(empty.contains("no file *.csv or *.mmdb"), "{empty}");
}
