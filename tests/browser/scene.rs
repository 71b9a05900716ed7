//! A stack with a browser before it.

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::http::Method;
use tidegate_stack::{FlagsAtStart, Options, Stack};

use crate::browser::Browser;
use crate::chromium::{Chromium, Settings};
use crate::log;

/// A stack, and what starts browsers.
pub struct Scene {
    /// The stack.
    pub stack: Stack,
    chromium: Chromium,
}

impl Scene {
    /// Starts a stack with a route, all flags on.
    pub fn start(name: &str) -> Result<Self> {
        Self::with(name, |_| {})
    }

    /// Starts a stack with other options.
    pub fn with(name: &str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let mut options = Options::for_test(&format!("browser-{name}"))?;
        options.flags = FlagsAtStart::AllOn;
        change(&mut options);
        let stack = Stack::start(options)?;
        stack.put_route("all", "/", "demo")?;
        let chromium = Chromium::start(&stack.options().dir)?;
        Ok(Self { stack, chromium })
    }

    /// What one person does in a browser of his own; at its end the browser's log is looked at.
    pub fn visit(&self, doing: impl FnOnce(&Browser<'_>) -> Result<()>) -> Result<()> {
        self.visit_with(Settings::default(), doing)
    }

    /// [`Scene::visit`] with another browser.
    pub fn visit_with(
        &self,
        settings: Settings,
        doing: impl FnOnce(&Browser<'_>) -> Result<()>,
    ) -> Result<()> {
        let session = self.chromium.open(settings)?;
        doing(&Browser { session: &session, stack: &self.stack })?;
        log::check(&session, self.stack.people())
    }

    /// [`Scene::visit`], signed in as the operator.
    pub fn visit_signed_in(&self, doing: impl FnOnce(&Browser<'_>) -> Result<()>) -> Result<()> {
        self.visit(|browser| {
            browser.sign_in(self.stack.token())?;
            doing(browser)
        })
    }

    /// Makes a token of a role: its text, and its id.
    pub fn token(&self, name: &str, role: &str) -> Result<(String, String)> {
        let body = json!({ "name": name, "role": role });
        let answer = self.stack.api(Method::POST, "/api/admin/tokens", Some(&body))?;
        anyhow::ensure!(answer.status < 300, "{}", answer.text());
        let made: Value = answer.json()?;
        let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
        Ok((text("token"), text("id")))
    }
}
