//! The requests of one key within a window.

/// Parts of a window: a request counts until its part is that many behind the newest.
pub(super) const PARTS: i64 = 20;

/// Counts by part of the window. Parts are numbered from the Unix epoch on.
pub(super) struct KeyCounter {
    newest: i64,
    parts: [Part; PARTS as usize],
}

#[derive(Clone, Copy, Default)]
struct Part {
    bad: u32,
    all: u32,
}

impl KeyCounter {
    /// Without requests; `part`: that of the first.
    pub(super) fn new(part: i64) -> Self {
        Self { newest: part, parts: [Part::default(); PARTS as usize] }
    }

    /// The newest part with a request.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// Counts a request; false: its part is no longer in the window.
    pub(super) fn add(&mut self, part: i64, is_bad: bool) -> bool {
        let ahead = part.saturating_sub(self.newest);
        if ahead <= -PARTS {
            return false;
        }
        if ahead > 0 {
            for gone in 0..ahead.min(PARTS) {
                *self.part(part - gone) = Part::default();
            }
            self.newest = part;
        }
        let of = self.part(part);
        of.all = of.all.saturating_add(1);
        of.bad = of.bad.saturating_add(u32::from(is_bad));
        true
    }

    fn part(&mut self, part: i64) -> &mut Part {
        // From 0 to 19, always.
        &mut self.parts[part.rem_euclid(PARTS) as usize]
    }

    /// The requests of the window that ends with the newest part: those that count, and all.
    pub(super) fn sums(&self) -> (u64, u64) {
        self.parts
            .iter()
            .fold((0, 0), |(bad, all), part| (bad + u64::from(part.bad), all + u64::from(part.all)))
    }
}
