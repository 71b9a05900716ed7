//! A bar for what takes over a second, on a terminal only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner shows no bar.
const LONG: Duration = Duration::from_secs(1);
const FORM: &str = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}";
const FORM_OF_UNKNOWN_LENGTH: &str = "{spinner} {bytes}, {bytes_per_sec}";

/// How far something with bytes has come. The bar goes when it is dropped.
pub struct TransferProgress {
    bar: ProgressBar,
    began: Instant,
}

impl TransferProgress {
    /// At the beginning; `total`: bytes in all, if it is known.
    pub fn new(total: Option<u64>) -> Self {
        let form = if total.is_some() { FORM } else { FORM_OF_UNKNOWN_LENGTH };
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        // Both forms are right.
        bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, began: Instant::now() }
    }

    /// So many bytes more.
    pub fn add(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if self.bar.is_hidden() && self.began.elapsed() > LONG {
            // Which draws nothing where it is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for TransferProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
