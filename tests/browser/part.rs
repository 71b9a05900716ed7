//! A part of a page: what is found in it by the names that a person reads or hears.

use anyhow::{Context, Result, ensure};
use fantoccini::Locator;
use fantoccini::elements::Element;

use crate::browser::Browser;

/// A part of a page, looked up anew each time: live parts are replaced under one's hands.
pub struct Part<'b, 's> {
    pub(crate) browser: &'b Browser<'s>,
    pub(crate) css: String,
}

impl Part<'_, '_> {
    /// Fills the field of this label with a text.
    pub fn fill(&self, label: &str, text: &str) -> Result<()> {
        self.with(&format!("the field {label} takes a text"), |part| {
            let field = self.field(part, label)?;
            self.run(field.clear())?;
            self.run(field.send_keys(text))
        })
    }

    /// Puts a text of several lines into the field of this label, as from the clipboard.
    pub fn paste(&self, label: &str, text: &str) -> Result<()> {
        let script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))";
        self.with(&format!("the field {label} takes a text"), |part| {
            let field = serde_json::to_value(self.field(part, label)?)?;
            self.browser.run_script(script, vec![field, serde_json::json!(text)]).map(drop)
        })
    }

    /// Chooses what is offered in these words.
    pub fn choose(&self, label: &str, words: &str) -> Result<()> {
        self.with(&format!("{words} of {label} is chosen"), |part| {
            let field = self.field(part, label)?;
            self.run(field.select_by_label(words))
        })
    }

    /// Presses the button of this name.
    pub fn press(&self, name: &str) -> Result<()> {
        let path = format!(
            ".//button[normalize-space(.)={0} or @aria-label={0}] | .//summary[normalize-space(.)={0}]",
            quoted(name)
        );
        self.click(&path, &format!("the button {name}"))
    }

    /// Follows the link of this name.
    pub fn follow(&self, name: &str) -> Result<()> {
        self.click(&format!(".//a[normalize-space(.)={}]", quoted(name)), &format!("the link {name}"))
    }

    /// What of it can be seen.
    pub fn text(&self) -> Result<String> {
        let part = self.find_now()?;
        self.run(part.text())
    }

    /// Waits until it shows this text.
    pub fn wait_text(&self, text: &str) -> Result<()> {
        self.browser.wait(&format!("{} shows {text:?}", self.css), || {
            Ok(self.text().ok().filter(|shown| shown.contains(text)).map(drop))
        })
    }

    /// Fails if it does not show this text now.
    pub fn check_text(&self, text: &str) -> Result<()> {
        let shown = self.text()?;
        ensure!(shown.contains(text), "{} does not show {text:?} but:\n{shown}", self.css);
        Ok(())
    }

    fn click(&self, path: &str, what: &str) -> Result<()> {
        self.with(&format!("{what} can be pressed"), |part| {
            let element = self.run(part.find(Locator::XPath(path)))?;
            self.run(element.click())
        })
    }

    /// The field of a label: the one that it names, or has in it.
    fn field(&self, part: &Element, label: &str) -> Result<Element> {
        let path = format!(".//label[normalize-space(.)={}]", quoted(label));
        let label = self.run(part.find(Locator::XPath(&path)))?;
        match self.run(label.attr("for"))? {
            Some(id) => self.run(self.browser.session.client.find(Locator::Id(&id))),
            None => self.run(label.find(Locator::Css("input, select, textarea"))),
        }
    }

    /// Does something, again and again while the page is not so that it can be done.
    fn with(&self, what: &str, act: impl Fn(&Element) -> Result<()>) -> Result<()> {
        let mut last = None;
        let done = self.browser.wait(what, || {
            match self.find_now().and_then(|part| act(&part)) {
                Ok(()) => return Ok(Some(())),
                Err(error) => last = Some(error),
            }
            Ok(None)
        });
        done.with_context(|| last.map(|error| format!("{error:#}")).unwrap_or_default())
    }

    fn find_now(&self) -> Result<Element> {
        self.run(self.browser.session.client.find(Locator::Css(&self.css)))
    }

    fn run<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Ok(self.browser.session.run(answer)?)
    }
}

/// A text in an XPath, which has no escapes.
fn quoted(text: &str) -> String {
    assert!(!text.contains('"'), "a name without quotes is needed: {text}");
    format!("\"{text}\"")
}
