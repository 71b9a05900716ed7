//! Requests of a country.

use serde::Deserialize;

/// Requests of a country.
#[derive(Deserialize)]
pub struct CountryTraffic {
    pub country: String,
    pub requests: u64,
    pub denied: u64,
    pub geo_denied: u64,
    pub last_seen: Option<String>,
}
