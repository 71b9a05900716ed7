//! `tidegate flags`.

use std::time::Duration;

use anyhow::Context;
use form_urlencoded::Serializer;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidegate_policy::flags::Flag;

use super::api_args::{ApiArgs, ChangeArgs};
use super::output::{applied, cell, items, stream_text, table};

const PATH: &str = "/api/admin/optimization/flags";
const MISMATCHES: &str = "/api/admin/optimization/shadow/mismatches";
/// How often `watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Commands for the flags of the rollout.
#[derive(clap::Subcommand, Debug)]
pub enum FlagsCommand {
    /// Print all flags, their hit ratios, and who changed them last.
    Get(ApiArgs),
    /// Set flags; those that are not named stay as they are.
    Set {
        /// NAME=STATE; a state is on, off, shadow, or a share of the clients as 25%.
        #[arg(required = true, value_name = "NAME=STATE", value_parser = setting)]
        settings: Vec<(String, Value)>,
        #[command(flatten)]
        scope: FlagScopeArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Set all flags to off.
    Off(ChangeArgs),
    /// Print requests that database and gateway answered differently in shadow, with both answers.
    Mismatches(MismatchArgs),
    /// Print each change of a flag until the command is ended.
    Watch(ApiArgs),
}

/// Which requests flags that are on, for all clients or a share, are limited to; elsewhere they are off.
#[derive(clap::Args, Debug)]
pub struct FlagScopeArgs {
    /// On this gateway only, by Envoy's node id; may be repeated.
    #[arg(long = "gateway", value_name = "NODE")]
    gateways: Vec<String>,
    /// For this hostname only, as shop.example.com or *.example.com; may be repeated.
    #[arg(long = "hostname", value_name = "HOST")]
    hostnames: Vec<String>,
    /// On this route only, as orders or team-a/orders; may be repeated. Not for enableRouteCache, which looks routes up.
    #[arg(long = "route", value_name = "ROUTE")]
    routes: Vec<String>,
}

impl FlagScopeArgs {
    /// A state with these limits.
    fn of(&self, state: &Value) -> anyhow::Result<Value> {
        let lists = [("gateways", &self.gateways), ("hostnames", &self.hostnames), ("routes", &self.routes)];
        let mut share = match state {
            _ if lists.iter().all(|(_, names)| names.is_empty()) => return Ok(state.clone()),
            Value::Bool(true) => Map::from_iter([("percent".to_owned(), json!(100))]),
            Value::Object(share) => share.clone(),
            _ => anyhow::bail!(
                "--gateway, --hostname and --route limit what is on: write on, or a share as 25%"
            ),
        };
        let named = lists.into_iter().filter(|(_, names)| !names.is_empty());
        share.extend(named.map(|(field, names)| (field.to_owned(), names.clone().into())));
        Ok(Value::Object(share))
    }
}

/// Which requests that were answered differently.
#[derive(clap::Args, Debug)]
pub struct MismatchArgs {
    /// Of this check: ip, geo or route.
    #[arg(long, value_name = "CHECK")]
    check: Option<String>,
    /// true: where the gateway's tables were only behind; false: all others.
    #[arg(long, value_name = "BOOL")]
    lagging: Option<bool>,
    /// Not earlier than this: a time, or a span before now (2h).
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Earlier than this.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// The newest, at most this many requests, 1 to 1,000.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    api: ApiArgs,
}

impl MismatchArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let lagging = self.lagging.map(|lagging| lagging.to_string());
        let given = [
            ("check", &self.check),
            ("lagging", &lagging),
            ("since", &self.since),
            ("until", &self.until),
            ("limit", &Some(self.limit.to_string())),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let query = Serializer::new(String::new()).extend_pairs(given).finish();
        let answer = self.api.get(&format!("{MISMATCHES}?{query}"), "items").await?;
        self.api.output.print(&answer, || {
            let rows = items(&answer).flat_map(|item| {
                let found = item["mismatches"].as_array().into_iter().flatten();
                found.map(|found| {
                    let [time, client, method, host, path] =
                        ["timestamp", "client_ip", "method", "host", "path"].map(|name| cell(&item[name]));
                    let [check, direct, cached, lagging] =
                        ["check", "direct", "cached", "lagging"].map(|name| cell(&found[name]));
                    [time, client, method, host, path, check, direct, cached, lagging]
                })
            });
            let headings =
                ["time", "client", "method", "host", "path", "check", "database", "gateway", "lagging"];
            table(headings, rows)
        })
    }
}

/// A flag and its state, as the API takes it.
fn setting(text: &str) -> Result<(String, Value), String> {
    let form = "write NAME=STATE, where STATE is on, off, shadow, or a share of the clients as 25%";
    let (name, state) = text.split_once('=').ok_or(form)?;
    if !Flag::ALL.iter().any(|flag| flag.name() == name) {
        let names = Flag::ALL.map(Flag::name).join(", ");
        return Err(format!("there is no flag `{name}`: write {names}"));
    }
    let state = match state {
        "on" | "true" => json!(true),
        "off" | "false" => json!(false),
        "shadow" => json!("shadow"),
        share => {
            let percent: Option<u8> = share.strip_suffix('%').and_then(|number| number.parse().ok());
            json!({ "percent": percent.filter(|percent| *percent <= 100).ok_or(form)? })
        }
    };
    Ok((name.to_owned(), state))
}

/// Runs the command.
///
/// # Errors
/// When the service does not answer, or refuses.
pub async fn run(command: &FlagsCommand) -> anyhow::Result<()> {
    match command {
        FlagsCommand::Get(api) => get(api).await,
        FlagsCommand::Set { settings, scope, change } => {
            let limited = settings.iter().map(|(name, state)| Ok((name.clone(), scope.of(state)?)));
            set(limited.collect::<anyhow::Result<_>>()?, change).await
        }
        FlagsCommand::Off(change) => {
            set(Flag::ALL.map(|flag| (flag.name().to_owned(), json!(false))).into_iter().collect(), change)
                .await
        }
        FlagsCommand::Mismatches(args) => args.run().await,
        FlagsCommand::Watch(api) => watch(api).await,
    }
}

async fn get(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = api.get(&format!("{PATH}?status=1"), "status").await?;
    let status = &answer["status"];
    let rows = Flag::ALL.map(|flag| {
        let name = flag.name();
        let checks = status["checks"].as_object().into_iter().flatten();
        let check = checks.map(|(_, check)| check).find(|check| check["flag"] == name);
        let (hits, changed) =
            (check.map_or(&Value::Null, |check| &check["hit_ratio"]), &status["changed"][name]);
        [name.to_owned(), state(&answer[name]), ratio(hits), cell(&changed["at"]), cell(&changed["by"])]
    });
    api.output.print(&answer, || table(["flag", "state", "hit ratio", "changed", "by"], rows))
}

async fn set(flags: Map<String, Value>, change: &ChangeArgs) -> anyhow::Result<()> {
    let answer = change.change(&change.api.client()?, Method::PUT, PATH, Some(&flags.into())).await?;
    change.api.output.print(&answer, || {
        let rows = Flag::ALL.map(|flag| [flag.name().to_owned(), state(&answer[flag.name()])]);
        let warnings = answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let warnings: String = warnings.map(|warning| format!("warning: {warning}\n")).collect();
        format!("{}{}\n{warnings}", table(["flag", "state"], rows), applied(&answer))
    })
}

async fn watch(api: &ApiArgs) -> anyhow::Result<()> {
    let mut before = Value::Null;
    loop {
        let now = api.get(PATH, Flag::ALL[0].name()).await.context("the flags cannot be read any more")?;
        for flag in Flag::ALL.map(Flag::name).into_iter().filter(|flag| now[flag] != before[flag]) {
            let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
            stream_text(&format!("{at} {flag}={}\n", state(&now[flag])))?;
        }
        before = now;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// A flag's state as `set` takes it.
pub(super) fn state(state: &Value) -> String {
    match state {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Object(share) => {
            let mut text = format!("{}%", share.get("percent").map(cell).unwrap_or_default());
            for (field, option) in [("gateways", "gateway"), ("hostnames", "hostname"), ("routes", "route")] {
                for name in share.get(field).and_then(Value::as_array).into_iter().flatten() {
                    text.push_str(&format!(" --{option} {}", cell(name)));
                }
            }
            text
        }
        other => cell(other),
    }
}

fn ratio(ratio: &Value) -> String {
    ratio.as_f64().map_or("-".to_owned(), |ratio| format!("{:.2} %", ratio * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_what_is_printed() {
        for (text, value) in [
            ("on", json!(true)),
            ("off", json!(false)),
            ("shadow", json!("shadow")),
            ("25%", json!({ "percent": 25 })),
        ] {
            let set = setting(&format!("enableRouteCache={text}"));
            assert_eq!(set, Ok(("enableRouteCache".to_owned(), value.clone())));
            assert_eq!(state(&value), text);
        }
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let scope =
            FlagScopeArgs { gateways: names(&["e"]), hostnames: names(&["a.b", "*.c"]), routes: Vec::new() };
        let limited =
            |percent: u8| json!({"percent": percent, "gateways": ["e"], "hostnames": ["a.b", "*.c"]});
        for (given, percent) in [(json!(true), 100), (json!({"percent": 25}), 25)] {
            assert_eq!(scope.of(&given).unwrap(), limited(percent));
        }
        assert_eq!(state(&limited(25)), "25% --gateway e --hostname a.b --hostname *.c");
        assert!(scope.of(&json!("shadow")).unwrap_err().to_string().contains("25%"));
        for wrong in ["enableRouteCache", "enableRouteCache=101%", "enableRouteCache=25", "enableRouteCache="]
        {
            assert!(setting(wrong).unwrap_err().contains("NAME=STATE"), "{wrong}");
        }
        assert!(setting("routeCache=on").unwrap_err().contains("enableRouteCache"));
    }
}
