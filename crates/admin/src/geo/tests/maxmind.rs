//! MaxMind's lists (GeoLite2-Country-CSV), made by these tests: blocks with the numbers of places, and
//! places, as files, in a folder, and in a zip archive.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::*;

const BLOCKS: &str = "network,geoname_id,registered_country_geoname_id,represented_country_geoname_id,\
                      is_anonymous_proxy,is_satellite_provider,is_anycast\n";
const PLACES: &str = "geoname_id,locale_code,continent_code,continent_name,country_iso_code,country_name,\
                      is_in_european_union\n";

/// The files of the release, in the order of their names.
fn release() -> [(&'static str, String); 5] {
    let v4 = "1.0.0.0/24,2077456,2077456,,0,0,1\n1.0.1.0/24,,1814991,,0,0,\n1.0.2.0/24,6255148,2921044,,0,0,\n\
              1.0.3.0/24,,,,0,0,\n";
    let places = |language: &str| {
        format!(
            "{PLACES}2077456,{language},OC,Oceania,AU,Australia,0\n1814991,{language},AS,Asia,CN,China,0\n\
             2921044,{language},EU,Europe,DE,Germany,1\n6255148,{language},EU,Europe,,,0\n"
        )
    };
    [
        ("COPYRIGHT.txt", "Database and Contents".to_owned()),
        ("GeoLite2-Country-Blocks-IPv4.csv", format!("{BLOCKS}{v4}")),
        ("GeoLite2-Country-Blocks-IPv6.csv", format!("{BLOCKS}2001:db8::/32,2921044,2921044,,0,0,\n")),
        ("GeoLite2-Country-Locations-de.csv", places("de")),
        ("GeoLite2-Country-Locations-en.csv", places("en")),
    ]
}

fn zip(files: &[(&str, String)], method: CompressionMethod) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut bytes);
    for (name, content) in files {
        let path = format!("GeoLite2-Country-CSV_20261124/{name}");
        let (mut entry, config) = archive.new_file(&path).compression_method(method).start().unwrap();
        let packed: Box<dyn Write> = match method {
            CompressionMethod::DEFLATE => Box::new(DeflateEncoder::new(&mut entry, Compression::default())),
            _ => Box::new(&mut entry),
        };
        let mut writer = config.wrap(packed);
        writer.write_all(content.as_bytes()).unwrap();
        let (packed, descriptor) = writer.finish().unwrap();
        drop(packed);
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    bytes
}

#[test]
fn maxminds_lists_are_read_as_files_from_a_folder_and_from_an_archive() {
    let (folder, beside) = (Folder::new(), Folder::new());
    let files = release().map(|(name, content)| folder.file(name, content));
    let [packed, stored] = [CompressionMethod::DEFLATE, CompressionMethod::STORE]
        .map(|method| beside.file(&format!("{method}.zip"), zip(&release(), method)));
    for sources in [&files[1..], &[folder.0.path().to_owned()], &[packed], &[stored]] {
        let imported = read(sources, FileFormat::Auto).unwrap_or_else(|error| panic!("{sources:?}: {error}"));
        assert_eq!((imported.v4, imported.v6, imported.countries), (3, 1, 3), "{sources:?}");
        assert_eq!(imported.skipped.get("none"), Some(&1));
        for (ip, wanted) in [
            ("1.0.0.9", Some("AU")),
            // Where the users are is not known, or a continent: where the network is registered.
            ("1.0.1.9", Some("CN")),
            ("1.0.2.9", Some("DE")),
            ("1.0.3.9", None),
            ("2001:db8::9", Some("DE")),
        ] {
            assert_eq!(country(&imported, ip).as_deref(), wanted, "{ip} {sources:?}");
        }
    }
}

#[test]
fn blocks_without_their_places_are_refused_with_what_is_missing() {
    let said = |files: &[(&str, String)]| {
        let folder = Folder::new();
        files.iter().for_each(|(name, content)| drop(folder.file(name, content)));
        read(&[folder.0.path().to_owned()], FileFormat::Auto).unwrap_err().to_string()
    };
    let [_, v4, _, de, en] = release();
    let missing = said(std::slice::from_ref(&v4));
    assert!(
        missing.contains("Blocks-IPv4.csv: line 2: ") && missing.contains("...-Locations-en.csv"),
        "{missing}"
    );
    let name = "X-Locations-en.csv";
    for (line, why) in [
        ("x,en,EU,Europe,DE,Germany,1", "`x` is not the number"),
        ("1,en,EU", "3 fields"),
        ("1,en,EU,Europe,DE,Germany,1\n1,de,EU,Europe,FR,France,1", "in `FR`, and in `DE`"),
    ] {
        let error = said(&[v4.clone(), (name, format!("{PLACES}{line}\n"))]);
        assert!(error.contains("X-Locations-en.csv: line ") && error.contains(why), "{error}");
    }
    let nothing = said(&[de, en]);
    assert!(nothing.contains("no range of a country"), "{nothing}");
}

#[test]
fn an_archive_that_is_damaged_or_too_large_is_refused() {
    let folder = Folder::new();
    let whole = zip(&release(), CompressionMethod::DEFLATE);
    let said = |bytes: &[u8]| {
        let path = folder.file("x.zip", bytes);
        read(&[path], FileFormat::Auto).map(|_| ()).map_err(|error| error.to_string())
    };
    for len in (4..whole.len()).step_by(29) {
        let error = said(&whole[..len]).unwrap_err();
        assert!(error.contains("x.zip: not a whole archive"), "{error}");
    }
    // Whatever it contains, it is read or refused, without a panic.
    for at in (0..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = said(&bytes);
    }
    let error = said(&zip(&release()[..1], CompressionMethod::DEFLATE)).unwrap_err();
    assert!(error.contains("no file *.csv or *.mmdb"), "{error}");
    let many: Vec<_> = (0..65).map(|_| ("a.csv", String::new())).collect();
    let error = said(&zip(&many, CompressionMethod::STORE)).unwrap_err();
    assert!(error.contains("over 64 lists"), "{error}");
    // Small as it is, it would fill the memory.
    let bomb = zip(&[("a.csv", "#".repeat(3 << 20))], CompressionMethod::DEFLATE);
    let archive = Archive::open(&bomb).unwrap();
    let member = archive.members().unwrap().remove(0);
    let error = archive.unpack(&member, 1 << 20).unwrap_err();
    assert!(bomb.len() < 10_000 && error.contains("has 1 MiB at most"), "{error}");
}
