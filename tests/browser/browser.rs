//! What a person does with a browser.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{self, Method, Request, Response};
use tidegate_stack::{Stack, wait};

use crate::chromium::Session;
use crate::part::Part;

/// How long a state may take to appear.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The cookie of a session.
const COOKIE: &str = "tidegate_session";

/// A browser before the dashboard of a stack.
pub struct Browser<'s> {
    /// The browser.
    pub session: &'s Session<'s>,
    /// What it looks at.
    pub stack: &'s Stack,
}

impl<'s> Browser<'s> {
    /// Loads a page of the dashboard.
    ///
    /// # Errors
    /// It does not load.
    pub fn open(&self, path: &str) -> Result<()> {
        let url = format!("http://{}{path}", self.stack.people());
        self.session.run(self.session.client.goto(&url)).with_context(|| format!("cannot load {path}"))
    }

    /// Path and query of the page that is shown.
    pub fn path(&self) -> Result<String> {
        let url = self.session.run(self.session.client.current_url())?;
        Ok(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
    }

    /// Signs in with a token, by the page that asks for it.
    ///
    /// # Errors
    /// The page does not lead on.
    pub fn sign_in(&self, token: &str) -> Result<()> {
        self.open("/ui/sign-in")?;
        self.fill("Token", token)?;
        self.press("Sign in")?;
        self.wait_heading("Overview")
    }

    /// All of the page.
    pub fn page(&self) -> Part<'_, 's> {
        self.part("body")
    }

    /// The first part of the page that a selector names.
    pub fn part<'b>(&'b self, css: &str) -> Part<'b, 's> {
        Part { browser: self, css: css.to_owned() }
    }

    /// [`Part::fill`] of the page.
    pub fn fill(&self, label: &str, text: &str) -> Result<()> {
        self.page().fill(label, text)
    }

    /// [`Part::press`] of the page.
    pub fn press(&self, name: &str) -> Result<()> {
        self.page().press(name)
    }

    /// [`Part::follow`] of the page.
    pub fn follow(&self, name: &str) -> Result<()> {
        self.page().follow(name)
    }

    /// [`Part::wait_text`] of the page.
    pub fn wait_text(&self, text: &str) -> Result<()> {
        self.page().wait_text(text)
    }

    /// Waits until the page of this heading is shown.
    pub fn wait_heading(&self, heading: &str) -> Result<()> {
        self.part("h1").wait_text(heading)
    }

    /// How many elements a selector names.
    pub fn count(&self, css: &str) -> Result<u64> {
        let found =
            self.run_script("return document.querySelectorAll(arguments[0]).length", vec![json!(css)])?;
        found.as_u64().context("no number")
    }

    /// What a field holds.
    pub fn value(&self, css: &str) -> Result<String> {
        let value = self.run_script("return document.querySelector(arguments[0]).value", vec![json!(css)])?;
        Ok(value.as_str().context("no value")?.to_owned())
    }

    /// Runs a script in the page; WebDriver's are not bound by the page's policy.
    pub fn run_script(&self, script: &str, arguments: Vec<Value>) -> Result<Value> {
        Ok(self.session.run(self.session.client.execute(script, arguments))?)
    }

    /// Waits until `look` answers something else than `None`.
    pub fn wait<T>(&self, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        wait::until(what, LIMIT, look).with_context(|| self.now())
    }

    /// The page in words, for messages.
    pub fn now(&self) -> String {
        let text = self.part("main").text().unwrap_or_default();
        let end = text.char_indices().nth(2_000).map_or(text.len(), |(at, _)| at);
        format!("the browser shows {}:\n{}", self.path().unwrap_or_default(), &text[..end])
    }

    /// The cookie header of this session.
    pub fn cookie(&self) -> Result<String> {
        let cookie = self.session.run(self.session.client.get_named_cookie(COOKIE))?;
        Ok(format!("{COOKIE}={}", cookie.value()))
    }

    /// Forgets the cookie, as a browser does at its end.
    pub fn forget_cookies(&self) -> Result<()> {
        Ok(self.session.run(self.session.client.delete_all_cookies())?)
    }

    /// What a hidden field of the page's first form with it holds.
    pub fn hidden(&self, form: &str, name: &str) -> Result<String> {
        let script = "return document.querySelector(arguments[0]).elements[arguments[1]].value";
        let value = self.run_script(script, vec![json!(form), json!(name)])?;
        Ok(value.as_str().context("no such field")?.to_owned())
    }

    /// Sends a form by hand, with this session's cookie: what the page would not offer.
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Result<Response> {
        post(self.stack, path, &self.cookie()?, fields)
    }

    /// The size of the window, as a telephone or a desk has it.
    pub fn set_width(&self, width: u32, height: u32, is_phone: bool) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.session.devtools("Emulation.setDeviceMetricsOverride", &metrics).map(drop)
    }

    /// Light or dark, as the reader's settings say.
    pub fn set_scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.session.devtools("Emulation.setEmulatedMedia", &features).map(drop)
    }

    /// Fails where the page is wider than its window.
    pub fn check_width(&self) -> Result<()> {
        let widths = "const root = document.documentElement; return [root.scrollWidth, window.innerWidth]";
        let widths = self.run_script(widths, Vec::new())?;
        let (page, window) = (widths[0].as_f64(), widths[1].as_f64());
        ensure!(page <= window, "{} is {page:?} wide in a window of {window:?}", self.path()?);
        Ok(())
    }
}

/// Sends a form with a cookie.
pub fn post(stack: &Stack, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Result<Response> {
    let mut body = String::new();
    for (name, value) in fields {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        body.push_str(&format!("{name}={encoded}&"));
    }
    let request = Request::new(Method::POST, path)
        .header("cookie", cookie)
        .body("application/x-www-form-urlencoded", body.into_bytes());
    http::send(stack.people(), &request)
}
