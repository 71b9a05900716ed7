//! Places for what takes a thread, a connection or much memory for long: so many at a time, and no more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{ApiResult, Problem, ProblemCode};

/// Clients that follow the events at the same time, at most.
const MAX_FOLLOWERS: usize = 64;
/// Answers that are made while they are sent, at the same time, at most: most take a thread each until their
/// reader has them.
const MAX_DOWNLOADS: usize = 16;
/// Country files that are sent at the same time, at most: each is in memory as a whole.
const MAX_COUNTRY_FILES: usize = 2;

/// The places of one service.
#[derive(Clone, Debug)]
pub struct StreamPlaces {
    followers: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    country_files: Arc<Semaphore>,
}

/// A place, until it is dropped.
pub type Place = OwnedSemaphorePermit;

impl Default for StreamPlaces {
    fn default() -> Self {
        let [followers, downloads, country_files] =
            [MAX_FOLLOWERS, MAX_DOWNLOADS, MAX_COUNTRY_FILES].map(|many| Arc::new(Semaphore::new(many)));
        Self { followers, downloads, country_files }
    }
}

impl StreamPlaces {
    /// For a client that follows the events.
    ///
    /// # Errors
    /// When all are taken.
    pub fn follower(&self) -> ApiResult<Place> {
        take(&self.followers, || format!("{MAX_FOLLOWERS} clients follow the events"))
    }

    /// For an answer that is made while it is sent.
    ///
    /// # Errors
    /// When all are taken.
    pub fn download(&self) -> ApiResult<Place> {
        take(&self.downloads, || format!("{MAX_DOWNLOADS} downloads are under way"))
    }

    /// For a country file that is sent.
    ///
    /// # Errors
    /// When all are taken.
    pub fn country_file(&self) -> ApiResult<Place> {
        take(&self.country_files, || format!("{MAX_COUNTRY_FILES} country files are being sent"))
    }
}

fn take(places: &Arc<Semaphore>, many: impl FnOnce() -> String) -> ApiResult<Place> {
    Arc::clone(places).try_acquire_owned().map_err(|_| {
        let detail = format!("{} already, and no more can: try again", many());
        Problem::new(ProblemCode::TooManyConnections, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_each_comes_back() {
        let places = StreamPlaces::default();
        let held: Vec<Place> = (0..MAX_DOWNLOADS).map(|_| places.download().unwrap()).collect();
        let refused = places.download().unwrap_err();
        assert_eq!(refused.code(), ProblemCode::TooManyConnections);
        assert!(refused.detail().starts_with("16 downloads are under way already"), "{}", refused.detail());
        assert!(places.follower().is_ok() && places.country_file().is_ok());
        drop(held);
        assert!(places.download().is_ok());
    }
}
