use tidegate_policy::check::{Answered, Check};
use tidegate_policy::decide::Reason;
use tidegate_policy::flags::FlagState;

use super::*;

#[test]
fn a_gauge_that_was_reset_is_set_again_to_what_it_was() {
    let host = tidegate_host_sim::SimHost::alone();
    let metrics = Metrics::new(host.clone());
    metrics.set(Gauge::RecorderBytes, 7);
    metrics.reset(Gauge::RecorderBytes, 0);
    metrics.set(Gauge::RecorderBytes, 7);
    assert_eq!(host.metric_value("tidegate.recorder.bytes"), 7);
}

#[test]
fn the_names_say_the_reasons_codes() {
    for reason in Reason::ALL {
        let (_, name) = COUNTS[Count::denied(reason) as usize];
        assert_eq!(name.rsplit('.').next(), Some(reason.code()));
    }
}

#[test]
fn the_names_say_who_answered_which_check() {
    for check in Check::ALL {
        for by in Answered::ALL {
            let name = Count::answered(check, by).map(|count| COUNTS[count as usize].1.to_owned());
            let expected = format!("tidegate.check.{}.{}", check.name(), by.name());
            assert_eq!(name, (by != Answered::Unneeded).then_some(expected));
        }
        for (count, name) in [
            (Count::question_failed(check), format!("tidegate.direct.{}.failed", check.name())),
            (Count::compared(check), format!("tidegate.shadow.{}.compared", check.name())),
            (Count::mismatched(check), format!("tidegate.shadow.{}.mismatched", check.name())),
        ] {
            assert_eq!(COUNTS[count as usize].1, name);
        }
    }
}

#[test]
fn a_flag_shows_its_share_and_a_shadow_is_none() {
    let host = tidegate_host_sim::SimHost::alone();
    let metrics = Metrics::new(host.clone());
    let flags = Flags::default()
        .with(Flag::RouteCache, FlagState::On)
        .with(Flag::IpBlacklistCache, FlagState::Shadow)
        .with(Flag::AsyncRecording, FlagState::Share(25));
    for flag in Flag::ALL {
        host.set_metric_value(&format!("tidegate.flags.{}.percent", flag.name()), 7);
    }
    metrics.set_flags(&flags);
    let shown = Flag::ALL.map(|flag| host.metric_value(&format!("tidegate.flags.{}.percent", flag.name())));
    assert_eq!(shown, [100, 0, 0, 0, 25]);
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let page = include_str!("../../docs/METRICS.md");
    let mut listed: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("tidegate."))
        .collect();
    let names = COUNTS.iter().map(|(_, name)| *name).chain(GAUGES.iter().map(|(_, name)| *name));
    let queue = format!("{QUEUE_BYTES}.<instance>");
    let tables = Table::ALL.into_iter().filter(|table| *table != Table::Flags).map(entries_name);
    let tables: Vec<String> = tables.collect();
    let tables = tables.iter().map(String::as_str);
    let mut defined: Vec<&str> = names.chain([queue.as_str()]).chain(tables).collect();
    listed.sort_unstable();
    defined.sort_unstable();
    assert_eq!(listed, defined);
}
