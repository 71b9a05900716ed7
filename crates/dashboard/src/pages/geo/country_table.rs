//! The country table: what it is, and the form that replaces it by a file.

use maud::{Markup, html};
use serde::Deserialize;

use crate::api::Problem;
use crate::file_form::FileForm;
use crate::form::hidden_fields;
use crate::page::{command, command_of_form, form_problem};
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::{bytes, grouped};
use crate::show::text::foreign;
use crate::show::time;
use crate::visitor::Visitor;

/// Where the form is sent to.
pub const IMPORT: &str = "/ui/geo-countries";
/// What sends a country file.
pub const COUNTRIES: FileForm = FileForm {
    role: Role::Admin,
    max: 64 << 20,
    pasted: "",
    larger: "The command `tidegate geo import FILE` takes up to 128 MiB, and several files.",
};
/// Formats that can be named: as in the API, and in words.
const FORMATS: [(&str, &str); 3] = [("", "as its content tells"), ("mmdb", "mmdb"), ("csv", "CSV")];

/// The country table.
#[derive(Deserialize)]
pub struct CountryTable {
    source: Option<String>,
    imported_at: Option<String>,
    ranges: Ranges,
    bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Ranges {
    v4: u64,
    v6: u64,
}

impl CountryTable {
    /// The table, and the form that replaces it, with what was wrong with it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(&self, visitor: &Visitor, problem: Option<&Problem>) -> Result<Markup, NoRandomBytes> {
        Ok(html! {
            section.card aria-labelledby="table-heading" {
                h2 #table-heading { "The country table" }
                @match &self.source {
                    None => p.empty { "There is none, so no address has a country, unless a header says it. Import a country database, such as GeoLite2, here or by the command below." },
                    Some(source) => {
                        dl.facts {
                            dt { "Source" } dd { (foreign(source)) }
                            dt { "Imported" } dd { (time::optional_moment(self.imported_at.as_deref())) }
                            dt { "Ranges" } dd { (grouped(self.ranges.v4)) " of IPv4, " (grouped(self.ranges.v6)) " of IPv6" }
                            @if let Some(size) = self.bytes { dt { "Size" } dd { (bytes(size)) } }
                        }
                    }
                }
                @if visitor.may(Role::Admin) { (form(visitor, problem)?) } @else { (command("tidegate geo import FILE")) }
            }
        })
    }
}

fn form(visitor: &Visitor, problem: Option<&Problem>) -> Result<Markup, NoRandomBytes> {
    Ok(html! {
        h3 { "Import a file" }
        (form_problem(problem))
        form #countries-form.fields method="post" action=(IMPORT) enctype="multipart/form-data" {
            // First, for what follows is read only if they are right.
            (hidden_fields(visitor)?)
            div {
                label for="countries-format" { "Format" }
                select #countries-format name="format" {
                    @for (format, words) in FORMATS {
                        option value=(format) data-words=[(!format.is_empty()).then(|| format!("--format {format}"))] { (words) }
                    }
                }
            }
            div {
                label for="countries-file" { "Country database" }
                input #countries-file type="file" name="file" required data-word="FILE";
            }
            div.actions { button type="submit" { "Import it" } }
        }
        p.quiet {
            "mmdb of MaxMind, DB-IP or ipinfo, CSV of start,end,country or block,country, or a zip archive of these; up to "
            (bytes(COUNTRIES.max as u64)) " here. It takes the place of the whole table; a file that is not right changes nothing."
        }
        (command_of_form("countries-form", "tidegate geo import", "tidegate geo import FILE"))
    })
}
