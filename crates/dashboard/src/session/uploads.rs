//! Lists that visitors have sent, and that were only checked so far: held in memory until they are imported.

use std::time::Instant;

use bytes::Bytes;

use super::sessions::{SessionId, Sessions, Table};
use super::upload::{HELD_FOR, Taken, Upload, UploadState};

/// Lists at most; beyond it the oldest goes.
const MAX_UPLOADS: usize = 4;

impl Sessions {
    /// Holds a list for a session, in the place of one before.
    pub fn hold(&self, id: SessionId, upload: Upload) {
        let now = Instant::now();
        let mut table = self.table();
        table.drop_old_uploads(now);
        let others: Vec<_> = table
            .sessions
            .iter()
            .filter(|(other, _)| **other != id.0)
            .filter_map(|(other, session)| session.upload.as_ref().map(|(since, _)| (*since, *other)))
            .collect();
        if others.len() >= MAX_UPLOADS
            && let Some((_, oldest)) = others.iter().min()
            && let Some(session) = table.sessions.get_mut(oldest)
        {
            session.upload = None;
        }
        if let Some(session) = table.sessions.get_mut(&id.0) {
            session.upload = Some((now, upload));
        }
    }

    /// The list that is held for a session.
    pub fn held(&self, id: SessionId) -> Option<Upload> {
        let mut table = self.table();
        table.drop_old_uploads(Instant::now());
        table.sessions.get(&id.0)?.upload.as_ref().map(|(_, upload)| upload.clone())
    }

    /// Takes the list with the id `upload` of a session to import it.
    pub fn begin_import(&self, id: SessionId, upload: &str) -> Taken {
        let mut table = self.table();
        table.drop_old_uploads(Instant::now());
        let held = table.sessions.get_mut(&id.0).and_then(|session| session.upload.as_mut());
        let Some((_, held)) = held.filter(|(_, held)| held.id == upload) else { return Taken::Other };
        if !matches!(held.state, UploadState::Checked(..)) {
            return Taken::Already;
        }
        let taken = held.clone();
        held.state = UploadState::Running;
        held.list = Bytes::new();
        Taken::Upload(taken)
    }

    /// Puts `upload` in the place of the list with the id `before`. Returns whether that was still held: a newer one
    /// stays.
    pub fn replace(&self, id: SessionId, before: &str, upload: Upload) -> bool {
        let mut table = self.table();
        let held = table.sessions.get_mut(&id.0).and_then(|session| session.upload.as_mut());
        let Some(held) = held.filter(|(_, held)| held.id == before) else { return false };
        *held = (Instant::now(), upload);
        true
    }

    /// Drops what was held too long.
    pub fn drop_old_uploads(&self) {
        self.table().drop_old_uploads(Instant::now());
    }
}

impl Table {
    fn drop_old_uploads(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if session.upload.as_ref().is_some_and(|(since, _)| now.duration_since(*since) >= HELD_FOR) {
                session.upload = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::TokenHash;

    fn upload(text: &'static str) -> Upload {
        let (list, state) = (Bytes::from_static(text.as_bytes()), UploadState::Checked(Value::Null, None));
        Upload { id: text.to_owned(), list, file: String::new(), query: String::new(), state }
    }

    fn session(sessions: &Sessions) -> SessionId {
        let cookie = sessions.begin(TokenHash([7; 32])).unwrap();
        sessions.find(&cookie, true).unwrap().0
    }

    #[test]
    fn a_list_is_imported_once() {
        let sessions = Sessions::default();
        let (id, other) = (session(&sessions), session(&sessions));
        sessions.hold(id, upload("a"));
        assert!(sessions.held(other).is_none());
        assert!(matches!(sessions.begin_import(other, "a"), Taken::Other));
        let Taken::Upload(taken) = sessions.begin_import(id, "a") else { panic!() };
        assert_eq!(taken.list, "a");
        assert!(matches!(sessions.begin_import(id, "a"), Taken::Already));
        assert!(matches!(sessions.held(id).unwrap().state, UploadState::Running));
        sessions.end(id);
        assert!(sessions.held(id).is_none());
    }

    #[test]
    fn a_newer_list_is_neither_imported_for_an_older_nor_overwritten_by_it() {
        let sessions = Sessions::default();
        let id = session(&sessions);
        sessions.hold(id, upload("old"));
        let Taken::Upload(old) = sessions.begin_import(id, "old") else { panic!() };
        sessions.hold(id, upload("new"));
        assert!(matches!(sessions.begin_import(id, "old"), Taken::Other));
        assert!(!sessions.replace(id, "old", Upload { state: UploadState::Imported(Value::Null), ..old }));
        let held = sessions.held(id).unwrap();
        assert!(held.id == "new" && matches!(held.state, UploadState::Checked(..)));
        assert!(sessions.replace(id, "new", upload("checked again")));
        assert!(matches!(sessions.begin_import(id, "new"), Taken::Other));
    }

    #[test]
    fn few_lists_are_held_and_not_for_long() {
        let sessions = Sessions::default();
        let ids: Vec<_> = (0..=MAX_UPLOADS).map(|_| session(&sessions)).collect();
        for id in &ids {
            sessions.hold(*id, upload("a"));
        }
        let held: Vec<bool> = ids.iter().map(|id| sessions.held(*id).is_some()).collect();
        assert_eq!(held.iter().filter(|held| **held).count(), MAX_UPLOADS);
        assert!(!held[0]);
        sessions.table().drop_old_uploads(Instant::now() + HELD_FOR);
        assert!(ids.iter().all(|id| sessions.held(*id).is_none()));
    }
}
