//! Changes samples as fuzzers do, but by a seed: the same seed always gives the same inputs.

use tidegate_host_sim::TestRng;

/// Longest input, in bytes.
const MAX_INPUT: usize = 64 << 10;
/// Values that readers get wrong: ends of ranges, and varints without an end.
const ODD: [&[u8]; 8] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    "\u{fffd}".as_bytes(),
];

/// One of `samples` with one to eight changes; without samples, random bytes.
pub fn mutated(samples: &[Vec<u8>], rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = match samples {
        [] => (0..rng.below(300)).map(|_| rng.bits() as u8).collect(),
        samples => samples[rng.below(samples.len())].clone(),
    };
    for _ in 0..=rng.below(8) {
        change(&mut bytes, samples, rng);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

fn change(bytes: &mut Vec<u8>, samples: &[Vec<u8>], rng: &mut TestRng) {
    let at = rng.below(bytes.len() + 1);
    let end = (at + rng.below(17)).min(bytes.len());
    match rng.below(7) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.bits() as u8;
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => drop(bytes.splice(at..end, ODD[rng.below(ODD.len())].iter().copied())),
        5 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        _ => {
            let Some(other) = samples.get(rng.below(samples.len().max(1))) else { return };
            let from = rng.below(other.len() + 1);
            let to = (from + rng.below(65)).min(other.len());
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
    }
}
