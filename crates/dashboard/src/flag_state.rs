//! The states of the rollout's flags.

use maud::{Markup, html};
use serde_json::Value;

/// What a share can be limited to: the field of the API, and the option of the command line.
const LIMITS: [(&str, &str); 3] = [("gateways", "gateway"), ("hostnames", "hostname"), ("routes", "route")];

/// The state of a flag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Off.
    Off,
    /// Compared, and not used.
    Shadow,
    /// On for this share of the clients, of requests that are within all that is named: by option, names.
    Percent(u64, Vec<(&'static str, String)>),
    /// On.
    On,
}

impl State {
    /// Values of the form, and their words.
    pub const CHOICES: [(&'static str, &'static str); 4] =
        [("off", "off"), ("shadow", "shadow"), ("percent", "a share of the clients"), ("on", "on")];

    /// The state as the API has it.
    pub fn read(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Bool(true)) => Self::On,
            Some(Value::String(text)) if text == "shadow" => Self::Shadow,
            Some(Value::Object(fields)) => {
                let named = LIMITS.into_iter().flat_map(|(field, option)| {
                    let names = fields.get(field).and_then(Value::as_array).into_iter().flatten();
                    names.filter_map(Value::as_str).map(move |name| (option, name.to_owned()))
                });
                Self::Percent(fields.get("percent").and_then(Value::as_u64).unwrap_or(0), named.collect())
            }
            _ => Self::Off,
        }
    }

    /// Its value in the form.
    pub fn value(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Percent(..) => "percent",
            Self::On => "on",
        }
    }

    /// What the field for percent has.
    pub fn percent(&self) -> u64 {
        if let Self::Percent(percent, _) = self { *percent } else { 10 }
    }

    /// As an argument of `tidegate flags set`.
    pub fn argument(&self) -> String {
        match self {
            Self::Percent(percent, _) => format!("{percent}%{}", self.options()),
            other => other.value().to_owned(),
        }
    }

    /// What it is limited to as options of `tidegate flags set`, each with a blank before it.
    pub fn options(&self) -> String {
        let Self::Percent(_, named) = self else { return String::new() };
        named.iter().map(|(option, name)| format!(" --{option} {name}")).collect()
    }

    /// What it is limited to, in words; empty: nothing.
    pub fn limits(&self) -> String {
        let Self::Percent(_, named) = self else { return String::new() };
        let named: Vec<String> = named.iter().map(|(option, name)| format!("{option} {name}")).collect();
        named.join(", ")
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Percent(percent, named) if named.is_empty() => format!("on for {percent} % of the clients"),
            Self::Percent(percent, _) => format!("on for {percent} % of the clients of {}", self.limits()),
            other => other.value().to_owned(),
        }
    }

    /// As a tag.
    pub fn tag(&self) -> Markup {
        let class = match self {
            Self::Off => "plain",
            Self::Shadow | Self::Percent(..) => "warn",
            Self::On => "good",
        };
        html! { span class={ "tag " (class) } { (self.words()) } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_are_read_as_the_api_writes_them() {
        let states = [json!(false), json!("shadow"), json!({"percent": 25}), json!(true)];
        let read: Vec<String> = states.iter().map(|state| State::read(Some(state)).words()).collect();
        assert_eq!(read, ["off", "shadow", "on for 25 % of the clients", "on"]);
        assert_eq!(State::read(None), State::Off);
        let canary = json!({"percent": 100, "hostnames": ["a.example", "b.example"], "gateways": ["edge-1"]});
        let canary = State::read(Some(&canary));
        let words = "on for 100 % of the clients of gateway edge-1, hostname a.example, hostname b.example";
        assert_eq!(canary.words(), words);
        assert_eq!(canary.argument(), "100% --gateway edge-1 --hostname a.example --hostname b.example");
    }
}
