//! What Envoy hands the filter as its configuration.

use tidegate::config::Config;

/// Reads `bytes` as a configuration whose token is in the environment, or not.
pub fn run(bytes: &[u8]) -> bool {
    let without = Config::parse(bytes, |_| None).is_ok();
    Config::parse(bytes, |_| Some("token".to_owned())).is_ok() || without
}
