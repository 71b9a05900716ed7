//! Sessions of visitors, one-time links that begin one, and lists that wait in one to be imported.

mod sessions;
mod upload;
mod uploads;

pub use sessions::{LINK_FOR, LONGEST, NoRandomBytes, NotBegun, SIGN_IN_PATH, SessionId, Sessions, once_key};
pub use upload::{HELD_FOR, MAX_LIST, Taken, Upload, UploadState};
