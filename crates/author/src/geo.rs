//! Reads the document of a geo rule into a [`GeoRule`].
//!
//! ```json
//! {"mode": "deny", "countries": ["KP", "RU"], "global": true, "unknown": "allow", "status": 403, "shadow": false}
//! ```

use serde_json::Value;

use super::names::is_subdomain;
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use tidegate_policy::geo::{Country, GeoAction, GeoMode, GeoRule, UnknownCountry};

const MAX_COUNTRIES: usize = 300;
const FIELDS: &[&str] = &["name", "mode", "countries", "global", "unknown", "status", "shadow"];

/// The assigned codes of ISO 3166-1 alpha-2.
const ASSIGNED: &str = "\
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT \
    BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH \
    ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT \
    HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS \
    LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI \
    NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG \
    SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG \
    UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Codes that are not assigned but used by country tables and trusted headers, so rules
/// can name them: Kosovo; "somewhere in" Europe and Asia-Pacific; anonymous proxies,
/// satellites, other and Tor; and two that were withdrawn (Netherlands Antilles, Serbia
/// and Montenegro).
const IN_USE: &str = "XK EU AP A1 A2 O1 T1 AN CS";

/// Reads the rule of this name. `mode` and `countries` are required; by default `global`
/// is true, `status` 403, `shadow` false, and `unknown` follows from the mode: a client of unknown country
/// is on no list, so a deny-list allows it and an allow-list denies it. Codes may be in
/// either case and repeated; `UK` is `GB`. A `name` in the document must be this one.
///
/// An empty list is refused if it would deny all clients (an allow-list) or none. It is
/// accepted in a deny-list with `"unknown": "deny"`, which denies clients of unknown
/// country.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with `name` itself has the pointer `/name`.
pub fn read_geo_rule(name: &str, document: &Value) -> Result<GeoRule, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if let Some(problem) = name_problem(name) {
        errors.note("/name", "invalid", problem);
    }
    let rule = rule(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(rule)
}

/// The problem of a geo rule's name, if it has one.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    (!is_subdomain(name))
        .then_some("a geo rule's name must be labels of a-z, 0-9 and - with dots between, as in no-embargo")
}

fn rule(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<GeoRule> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the rule is called", name, errors);
    let global = fields.get("global").map_or(Some(true), |node| node.boolean(errors));
    let shadow = fields.get("shadow").map_or(Some(false), |node| node.boolean(errors));
    let action = fields.get("status").map_or(Some(GeoAction::Forbidden), |node| status(&node, errors));
    let mode = fields.require("mode", errors).and_then(|node| allow_or_deny(&node, errors));
    let mode = mode.map(|allow| if allow { GeoMode::Allow } else { GeoMode::Deny });
    let unknown = match fields.get("unknown") {
        Some(node) => allow_or_deny(&node, errors)
            .map(|allow| if allow { UnknownCountry::Allow } else { UnknownCountry::Deny }),
        None => {
            mode.map(|mode| if mode == GeoMode::Allow { UnknownCountry::Deny } else { UnknownCountry::Allow })
        }
    };
    let countries = countries(&fields, mode.zip(unknown), errors);
    Some(GeoRule {
        name: name.to_owned(),
        global: global?,
        mode: mode?,
        countries: countries?,
        unknown: unknown?,
        action: action?,
        shadow: shadow?,
    })
}

fn allow_or_deny(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<bool> {
    node.one_of(&["allow", "deny"], errors).map(|word| word == "allow")
}

fn status(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<GeoAction> {
    if !node.value.is_number() {
        node.wrong_type("403 or 451", errors);
        return None;
    }
    let is_status = |action: &GeoAction| node.value.as_u64() == Some(action.status().into());
    let action = [GeoAction::Forbidden, GeoAction::LegalReasons].into_iter().find(is_status);
    if action.is_none() {
        node.note(errors, "invalid", "must be 403 or 451");
    }
    action
}

/// The list, sorted and each country once; `how`: the rule's mode and its treatment of
/// unknown countries, as far as they could be read.
fn countries(
    fields: &Object<'_>,
    how: Option<(GeoMode, UnknownCountry)>,
    errors: &mut DocumentErrors,
) -> Option<Vec<Country>> {
    let list = fields.require("countries", errors)?;
    let members = list.list(MAX_COUNTRIES, errors);
    if list.value.as_array().is_some_and(Vec::is_empty) {
        let message = match how {
            Some((GeoMode::Allow, _)) => {
                Some("an empty allow-list denies everybody: name the countries that may enter")
            }
            Some((GeoMode::Deny, UnknownCountry::Allow)) => {
                Some("an empty deny-list denies nobody: name countries, or say \"unknown\": \"deny\"")
            }
            Some((GeoMode::Deny, UnknownCountry::Deny)) | None => None,
        };
        message.into_iter().for_each(|message| list.note(errors, "invalid", message));
    }
    let mut countries: Vec<_> = members.iter().filter_map(|node| country(node, errors)).collect();
    countries.sort_unstable();
    countries.dedup();
    Some(countries)
}

/// Whether a rule can name `country`: its code is assigned or otherwise in use.
#[must_use]
pub fn is_listed(country: Country) -> bool {
    let code = country.to_string();
    [ASSIGNED, IN_USE].iter().any(|codes| codes.split(' ').any(|listed| listed == code))
}

fn country(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Country> {
    let code = node.text(0, usize::MAX, errors)?;
    let upper = code.to_ascii_uppercase();
    let country = Country::new(code.as_bytes());
    let listed = country.filter(|country| is_listed(*country));
    if listed.is_none() {
        let message = match upper.as_str() {
            "XX" | "ZZ" | "??" => {
                "stands for an unknown country: that is what the rule's field unknown is for".to_owned()
            }
            "EL" => "no country has the code EL: Greece is GR".to_owned(),
            _ => format!(
                "no country has this code: must be two letters of ISO 3166-1, as in DE, or one of {}",
                IN_USE.replace(' ', ", ")
            ),
        };
        node.note(errors, "invalid", message);
    }
    listed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A valid rule, with one field changed.
    fn with(field: &str, value: Value) -> Value {
        let mut document = json!({"mode": "deny", "countries": ["KP"]});
        document[field] = value;
        document
    }

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_geo_rule("r", document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
    }

    fn codes(rule: &GeoRule) -> Vec<String> {
        rule.countries.iter().map(Country::to_string).collect()
    }

    #[test]
    fn what_is_left_out_follows_from_the_mode() {
        let deny = read_geo_rule("a.b-1", &json!({"mode": "deny", "countries": ["KP"]})).unwrap();
        let wanted = GeoRule {
            name: "a.b-1".to_owned(),
            global: true,
            mode: GeoMode::Deny,
            countries: vec![Country::new(b"KP").unwrap()],
            unknown: UnknownCountry::Allow,
            action: GeoAction::Forbidden,
            shadow: false,
        };
        assert_eq!(deny, wanted);
        let allow = read_geo_rule("r", &with("mode", json!("allow"))).unwrap();
        assert_eq!((allow.mode, allow.unknown), (GeoMode::Allow, UnknownCountry::Deny));
        let given = json!({"name": "r", "mode": "allow", "countries": ["DE"], "global": false, "unknown": "allow", "status": 451, "shadow": true});
        let given = read_geo_rule("r", &given).unwrap();
        assert_eq!(
            (given.global, given.unknown, given.action, given.shadow),
            (false, UnknownCountry::Allow, GeoAction::LegalReasons, true)
        );
        let nulls =
            json!({"mode": "deny", "countries": ["KP"], "global": null, "unknown": null, "status": null});
        assert_eq!(read_geo_rule("a.b-1", &nulls), Ok(wanted));
    }

    #[test]
    fn codes_are_taken_in_either_case_and_once() {
        let rule = read_geo_rule("r", &with("countries", json!(["us", "De", "DE", "UK", "gb", "t1", "xk"])))
            .unwrap();
        assert_eq!(codes(&rule), ["DE", "GB", "T1", "US", "XK"]);
        let all: Vec<_> = ASSIGNED.split(' ').chain(IN_USE.split(' ')).collect();
        assert_eq!(ASSIGNED.split(' ').count(), 249);
        let rule = read_geo_rule("r", &with("countries", json!(all))).unwrap();
        assert_eq!(rule.countries.len(), all.len(), "each code once, and each one read");
    }

    #[test]
    fn codes_that_do_not_exist_are_named_by_their_place() {
        for bad in ["QQ", "AB", "EL", "XX", "zz", "??", "", "D", "DEU", "d\u{e9}", "49", " DE", "D1"] {
            let found = refused(&with("countries", json!(["DE", bad])));
            assert_eq!(found, [("/countries/1".to_owned(), "invalid")], "{bad}");
        }
        assert_eq!(
            refused(&with("countries", json!([5, "DE"]))),
            [("/countries/0".to_owned(), "wrong_type")]
        );
        let unknown = read_geo_rule("r", &with("countries", json!(["ZZ"]))).unwrap_err().remove(0);
        assert!(unknown.message.contains("unknown"), "{}", unknown.message);
    }

    #[test]
    fn an_empty_list_is_taken_only_where_it_means_something() {
        let empty = |mode, unknown: Value| json!({"mode": mode, "countries": [], "unknown": unknown});
        for unknown in [json!(null), json!("allow"), json!("deny")] {
            assert_eq!(refused(&empty("allow", unknown)), [("/countries".to_owned(), "invalid")]);
        }
        assert_eq!(refused(&empty("deny", json!(null))), [("/countries".to_owned(), "invalid")]);
        let rule = read_geo_rule("r", &empty("deny", json!("deny"))).unwrap();
        assert_eq!(rule.denies(None), Some(GeoAction::Forbidden));
        assert_eq!(rule.denies(Country::new(b"DE")), None);
    }

    #[test]
    fn each_bad_field_is_named() {
        let cases = [
            ("mode", json!(null), "/mode", "required"),
            ("mode", json!("block"), "/mode", "invalid"),
            ("mode", json!(true), "/mode", "wrong_type"),
            ("countries", json!(null), "/countries", "required"),
            ("countries", json!("DE"), "/countries", "wrong_type"),
            ("countries", json!(vec!["DE"; 301]), "/countries", "too_many"),
            ("country", json!("DE"), "/country", "unknown_field"),
            ("global", json!("yes"), "/global", "wrong_type"),
            ("unknown", json!("pass"), "/unknown", "invalid"),
            ("status", json!(404), "/status", "invalid"),
            ("status", json!(-403), "/status", "invalid"),
            ("status", json!(403.5), "/status", "invalid"),
            ("status", json!("403"), "/status", "wrong_type"),
            ("shadow", json!("yes"), "/shadow", "wrong_type"),
            ("name", json!("other"), "/name", "invalid"),
        ];
        for (field, value, pointer, code) in cases {
            assert_eq!(
                refused(&with(field, value.clone())),
                [(pointer.to_owned(), code)],
                "{field}: {value}"
            );
        }
        for document in [json!(null), json!([]), json!("DE")] {
            assert_eq!(refused(&document), [(String::new(), "wrong_type")]);
        }
        for name in ["", "A", "a b", "-a", "a..b", &"a".repeat(254)] {
            let found = read_geo_rule(name, &with("mode", json!("deny"))).unwrap_err();
            assert_eq!(
                (found[0].pointer.as_str(), found[0].code, found.len()),
                ("/name", "invalid", 1),
                "{name}"
            );
        }
    }
}
