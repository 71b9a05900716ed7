use std::path::Path;
use std::time::SystemTime;

use tidegate_backend::Authority;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Files for a server called `localhost`, whose certificate began before `age` days and ends after `left`.
fn aged(authority: &Authority, age: u32, left: i32) -> TlsFiles {
    let now = SystemTime::now();
    let end = if left < 0 { now - DAY * left.unsigned_abs() } else { now + DAY * left.unsigned_abs() };
    let files = authority.files_valid("localhost", now - DAY * age..end).unwrap();
    TlsFiles { certificate: files.certificate, key: files.key, client_ca: None }
}

/// The same of one that began 300 days ago.
fn issued(authority: &Authority, left: i32) -> TlsFiles {
    aged(authority, 300, left)
}

fn authority(dir: &Path) -> Authority {
    Authority::new(&dir.join("ca.pem")).unwrap()
}

/// Days left, rounded up: a moment of the last one has passed.
fn days_left(tls: &Tls) -> f64 {
    tls.state().days_left.ceil()
}

#[test]
fn a_pair_that_is_not_one_leaves_the_old_in_place_until_there_is_a_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let files = issued(&authority, 100);
    let tls = Tls::open(files.clone()).unwrap();
    let good = std::fs::read(&files.key).unwrap();
    for (spoilt, content, wanted) in [
        (&files.key, b"".as_slice(), "localhost.key has no private key in PEM"),
        (&files.certificate, b"-----BEGIN", "localhost.crt has no certificate in PEM"),
        (&files.certificate, &good, "localhost.crt has no certificate in PEM"),
    ] {
        let before = std::fs::read(spoilt).unwrap();
        std::fs::write(spoilt, content).unwrap();
        tls.reload();
        let said = tls.state().refused.unwrap();
        assert!(said.contains(wanted), "{said}");
        assert!(format!("{:#}", Tls::open(files.clone()).unwrap_err()).contains(wanted));
        std::fs::write(spoilt, before).unwrap();
    }
    issued(&authority, 50);
    std::fs::write(&files.key, good).unwrap();
    tls.reload();
    let said = tls.state().refused.unwrap();
    assert!(said.contains("localhost.key is not that of the certificate in "), "{said}");
    assert_eq!(days_left(&tls), 100.0, "what connections begin with");
    std::fs::remove_file(&files.key).unwrap();
    tls.reload();
    assert!(tls.state().refused.unwrap().contains("cannot read "));
    issued(&authority, 50);
    tls.reload();
    assert_eq!((tls.state().refused, days_left(&tls)), (None, 50.0));
}

#[test]
fn an_end_is_near_two_weeks_before_or_a_fifth_of_a_short_life() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    for (age, left, soon) in [(300, 15, false), (300, 13, true), (6, 4, false), (6, 1, true), (300, -2, true)]
    {
        let tls = Tls::open(aged(&authority, age, left)).unwrap();
        assert_eq!((days_left(&tls), tls.state().ends_soon), (f64::from(left), soon), "{age} {left}");
    }
}

#[test]
fn authorities_of_clients_are_read_as_the_certificate_is() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let client_ca = dir.path().join("clients.pem");
    let files = TlsFiles { client_ca: Some(client_ca.clone()), ..issued(&authority, 100) };
    let error = format!("{:#}", Tls::open(files.clone()).unwrap_err());
    assert!(error.contains("cannot read ") && error.contains("clients.pem"), "{error}");
    std::fs::write(&client_ca, "nothing").unwrap();
    let error = format!("{:#}", Tls::open(files.clone()).unwrap_err());
    assert!(error.contains("clients.pem has no certificate in PEM"), "{error}");
    std::fs::copy(authority.file(), &client_ca).unwrap();
    let tls = Tls::open(files).unwrap();
    std::fs::write(&client_ca, "nothing").unwrap();
    tls.reload();
    assert!(tls.state().refused.is_some());
}
