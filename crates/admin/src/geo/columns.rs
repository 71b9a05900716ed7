//! Which columns of a list have addresses and countries, by its header if it has one.

use csv::StringRecord;

/// Names of columns with a block of addresses, in lower case.
const NETWORK: &[&str] = &["network", "cidr", "prefix", "ip_prefix", "subnet"];
/// Names of columns with a country's code, the first that is there counts: `country` is the code in
/// some lists and the name in others, which have the code too.
const COUNTRY: &[&str] = &["country_code", "country_iso_code", "iso_code", "country"];
/// MaxMind's number of a place: where the users are, and where the network is registered.
const PLACE: &[&str] = &["geoname_id"];
const REGISTERED: &[&str] = &["registered_country_geoname_id"];

/// The columns of a list.
#[derive(Clone, Copy)]
pub(super) enum Columns {
    /// There is no header: `start,end,country` or `block,country`.
    Unnamed,
    /// The first two are the start and the end of a range.
    Range { country: usize },
    /// Blocks of addresses.
    Block { network: usize, country: usize },
    /// Blocks of addresses, whose countries are those of places.
    BlockOfPlace { network: usize, places: [usize; 2] },
    /// Places and their countries, without addresses.
    Place { number: usize, country: usize },
}

impl Columns {
    /// What a header says; `None` if `fields` are no header, but have an address.
    ///
    /// # Errors
    /// When there is no country.
    pub fn of_header(fields: &StringRecord) -> Result<Option<Self>, String> {
        let is_name =
            |field: &str| !field.contains(':') && field.starts_with(|c: char| c.is_ascii_alphabetic());
        if fields.len() < 2 || !fields.get(0).is_some_and(is_name) {
            return Ok(None);
        }
        let find = |names: &[&str]| {
            let at = |name: &&str| fields.iter().position(|field| field.eq_ignore_ascii_case(name));
            names.iter().find_map(at)
        };
        Ok(Some(match (find(NETWORK), find(COUNTRY), find(PLACE)) {
            (Some(network), Some(country), _) => Self::Block { network, country },
            (Some(network), None, Some(place)) => {
                Self::BlockOfPlace { network, places: [place, find(REGISTERED).unwrap_or(place)] }
            }
            (Some(_), None, None) => return Err("no column has countries: name one country_code".to_owned()),
            (None, Some(country), Some(number)) => Self::Place { number, country },
            (None, country, _) => Self::Range { country: country.unwrap_or(2) },
        }))
    }
}
