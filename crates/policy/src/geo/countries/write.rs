//! Writing a country table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::layout::{CountryHeader, CountryLayout, halves};
use super::search::{CountryRange, CountryTable};
use crate::codec::FormatError;
use crate::geo::country::Country;

/// The first address of a run, and its country, if known.
type Boundary = (u128, Option<Country>);

impl CountryTable {
    /// Writes a table of `ranges`, which are sorted by first address, IPv4 before IPv6,
    /// without overlap; v4-mapped IPv6 addresses are given as IPv4. Ranges that give all
    /// addresses the same countries give the same bytes, however they are cut. A run of a
    /// country takes 5 bytes in IPv4, 9 in IPv6, and so does each gap without a country;
    /// an IPv6 boundary within a /64 takes 12 more. With over 255 countries each of them
    /// takes another byte.
    ///
    /// # Errors
    /// When they are out of order, overlap, or are too many.
    pub fn encode(ranges: impl Iterator<Item = CountryRange>) -> Result<Vec<u8>, FormatError> {
        let mut v4 = Runs::new(u32::MAX.into());
        let mut v6 = Runs::new(u128::MAX);
        for range in ranges {
            match (range.first, range.last) {
                (IpAddr::V4(_), IpAddr::V4(_)) if v6.last.is_some() => {
                    return Err(FormatError::Malformed("an IPv4 range after an IPv6 range"));
                }
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push(first.to_bits().into(), last.to_bits().into(), range.country)?;
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    // A lookup treats such an address as IPv4, and would never find it.
                    if first.to_ipv4_mapped().is_some() && last.to_ipv4_mapped().is_some() {
                        return Err(FormatError::Malformed("a v4-mapped range that is not written as IPv4"));
                    }
                    v6.push(first.to_bits(), last.to_bits(), range.country)?;
                }
                _ => return Err(FormatError::Malformed("a range from one family to the other")),
            }
        }
        lay_out(&v4.finish(), &v6.finish())
    }
}

/// The boundaries of one family as its ranges come in.
struct Runs {
    /// The highest address that there is.
    max: u128,
    boundaries: Vec<Boundary>,
    /// The last range's last address and country.
    last: Option<(u128, Country)>,
}

impl Runs {
    fn new(max: u128) -> Self {
        Self { max, boundaries: Vec::new(), last: None }
    }

    fn push(&mut self, first: u128, last: u128, country: Country) -> Result<(), FormatError> {
        if first > last {
            return Err(FormatError::Malformed("a range that ends before it begins"));
        }
        let goes_on = match self.last {
            Some((before, _)) if before >= first => {
                return Err(FormatError::Malformed("ranges out of order, or overlapping"));
            }
            Some((before, _)) if before.saturating_add(1) < first => {
                self.end_after(before);
                false
            }
            Some((_, same)) => same == country,
            None => false,
        };
        if !goes_on {
            self.boundaries.push((first, Some(country)));
        }
        self.last = Some((last, country));
        Ok(())
    }

    /// The country is unknown from the address after `last` on, if there is one.
    fn end_after(&mut self, last: u128) {
        if let Some(next) = last.checked_add(1).filter(|next| *next <= self.max) {
            self.boundaries.push((next, None));
        }
    }

    fn finish(mut self) -> Vec<Boundary> {
        if let Some((last, _)) = self.last {
            self.end_after(last);
        }
        self.boundaries
    }
}

fn lay_out(v4: &[Boundary], v6: &[Boundary]) -> Result<Vec<u8>, FormatError> {
    let named: BTreeSet<Country> = v4.iter().chain(v6).filter_map(|(_, country)| *country).collect();
    let codes: Vec<Country> = named.into_iter().collect();
    let fine = || v6.iter().zip(0u32..).filter(|((first, _), _)| halves(*first).1 != 0);
    let header = CountryHeader {
        v4: count(v4.len())?,
        v6: count(v6.len())?,
        fine: count(fine().count())?,
        codes: count(codes.len())?,
    };
    let layout = CountryLayout::new(&header)?;
    let mut bytes = Vec::with_capacity(layout.len);
    bytes.extend(header.to_bytes());
    bytes.extend(codes.iter().flat_map(|country| country.code()));
    bytes.extend(v4.iter().flat_map(|(first, _)| (*first as u32).to_le_bytes()));
    put_places(&mut bytes, v4, &codes);
    bytes.extend(v6.iter().flat_map(|(first, _)| halves(*first).0.to_le_bytes()));
    put_places(&mut bytes, v6, &codes);
    bytes.extend(fine().flat_map(|(_, index)| index.to_le_bytes()));
    bytes.extend(fine().flat_map(|((first, _), _)| halves(*first).1.to_le_bytes()));
    Ok(bytes)
}

/// Appends the place of each boundary's code, counted from 1.
fn put_places(bytes: &mut Vec<u8>, boundaries: &[Boundary], codes: &[Country]) {
    let narrow = codes.len() <= usize::from(u8::MAX);
    for (_, country) in boundaries {
        let place = country.map_or(0, |country| codes.partition_point(|code| *code <= country));
        let [low, high] = (place as u16).to_le_bytes();
        bytes.push(low);
        if !narrow {
            bytes.push(high);
        }
    }
}

fn count(len: usize) -> Result<u32, FormatError> {
    u32::try_from(len).map_err(|_| FormatError::Malformed("too many ranges"))
}
