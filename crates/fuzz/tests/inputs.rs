//! Every target takes its samples, its corpus, and changes of both.

use std::path::PathBuf;

use tidegate_fuzz::mutate::mutated;
use tidegate_fuzz::{TARGETS, Target};
use tidegate_host_sim::TestRng;

/// What is in the target's folder of the corpus, in the order of the names, and its samples.
fn known(target: &Target) -> Vec<Vec<u8>> {
    // As it is when the test runs: a checkout may be copied with all that was built in it.
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let folder = package.join("corpus").join(target.name);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    let corpus = files.iter().map(|file| std::fs::read(file).unwrap());
    corpus.chain((target.samples)()).collect()
}

fn take_all(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let known = known(target);
    assert!(!known.is_empty(), "{name} has neither samples nor a corpus");
    for input in &known {
        assert!((target.run)(input), "{name}: nothing is read from b\"{}\"", input.escape_ascii());
    }
    let mut rng = TestRng::new(0x5eed);
    for number in 0..target.tries {
        let input = mutated(&known, &mut rng);
        let escaped = input.escape_ascii().to_string();
        let told = Told { name, number, escaped };
        let _ = (target.run)(&input);
        std::mem::forget(told);
    }
}

/// Tells which input it was when a target panics.
struct Told<'n> {
    name: &'n str,
    number: usize,
    escaped: String,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("input {} of {}: b\"{}\"", self.number, self.name, self.escaped);
    }
}

macro_rules! targets {
    ($($name:ident)+) => { $(#[test] fn $name() { take_all(stringify!($name)); })+ };
}

targets! { ban_lists callbacks configuration country_files documents tables texts wire }

#[test]
fn every_target_is_tested() {
    let tested =
        ["ban_lists", "callbacks", "configuration", "country_files", "documents", "tables", "texts", "wire"];
    assert_eq!(TARGETS.map(|target| target.name), tested);
}
