//! `tidegate flags`.

use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidegate_policy::flags::Flag;

use super::api_args::{ApiArgs, ChangeArgs};
use super::output::{applied, cell, stream_text, table};

const PATH: &str = "/api/admin/optimization/flags";
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
        change: ChangeArgs,
    },
    /// Set all flags to off.
    Off(ChangeArgs),
    /// Print each change of a flag until the command is ended.
    Watch(ApiArgs),
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
        FlagsCommand::Set { settings, change } => set(settings.iter().cloned().collect(), change).await,
        FlagsCommand::Off(change) => {
            set(Flag::ALL.map(|flag| (flag.name().to_owned(), json!(false))).into_iter().collect(), change)
                .await
        }
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
        format!("{}{}\n", table(["flag", "state"], rows), applied(&answer))
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
fn state(state: &Value) -> String {
    match state {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Object(share) => format!("{}%", share.get("percent").map(cell).unwrap_or_default()),
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
        for wrong in ["enableRouteCache", "enableRouteCache=101%", "enableRouteCache=25", "enableRouteCache="]
        {
            assert!(setting(wrong).unwrap_err().contains("NAME=STATE"), "{wrong}");
        }
        assert!(setting("routeCache=on").unwrap_err().contains("enableRouteCache"));
    }
}
