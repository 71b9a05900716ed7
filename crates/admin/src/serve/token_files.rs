//! Tokens in files: created by the operator (a mounted Secret), or here at the first start, if
//! the service has only a volume.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::auth::{self, Role};
use crate::store::{Change, Store, TOKEN_FILES, TokenRow};

/// The author in the audit.
const BY: &str = TOKEN_FILES;
/// Bytes of a token, at least: what a person can remember is too weak.
const MIN_TOKEN: usize = 32;
/// Bytes of a token, at most: it is sent in a header.
const MAX_TOKEN: usize = 1_024;

/// Registers the tokens in `DIR/admin-token` and `DIR/gateway-token`, each with the role in its
/// name; a missing directory is made, and a missing file written with a new token. Repeating it changes nothing. A token that a
/// file held before stays valid until it is revoked.
///
/// # Errors
/// When a file cannot be read, or created if it is missing; when its content is not a valid
/// token, or is a token of the other role. The message names the file.
pub async fn register(dir: &Path, store: &dyn Store) -> anyhow::Result<()> {
    // As that of the database. The gateways' token may be for a group.
    let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.with_context(|| format!("--tokens: the directory {} cannot be made", dir.display()))?;
    let mut tokens = Vec::new();
    for role in [Role::Admin, Role::Gateway] {
        let path = file(dir, role);
        tokens.push((read_or_make(&path, role)?, role, path));
    }
    let known = store.tokens().await?;
    if let [(admin, ..), (gateway, _, path)] = &tokens[..] {
        ensure!(admin != gateway, "{}: this is the admin token as well; each needs its own", path.display());
    }
    // Nothing is stored before both are right.
    let mut new = Vec::new();
    for (token, role, path) in tokens {
        let token = TokenRow {
            hash: auth::hash_token(&token),
            name: name(role),
            role: role.name().to_owned(),
            ..TokenRow::default()
        };
        match known.iter().find(|known| known.hash == token.hash) {
            Some(known) if known.role == token.role => continue,
            Some(known) => bail!(
                "{}: this token has the role `{}` (it is called `{}`): put another one there",
                path.display(),
                known.role,
                known.name
            ),
            None => new.push((token, role, path)),
        }
    }
    for (token, role, path) in new {
        store.commit(Change::AddToken { token, only_new_name: false }, &BY.into()).await?;
        tracing::info!(file = %path.display(), role = role.name(), "a token of a file is good from now on");
    }
    Ok(())
}

/// `admin-token` or `gateway-token`: the file's name, and the token's in the database.
fn name(role: Role) -> String {
    format!("{}-token", role.name())
}

fn file(dir: &Path, role: Role) -> PathBuf {
    dir.join(name(role))
}

/// Permissions of a file that is created here. The gateway's token is for a program of another
/// user, in the same group if need be; the operator's is for its owner.
fn mode(role: Role) -> u32 {
    match role {
        Role::Gateway => 0o640,
        Role::Read | Role::Operate | Role::Admin => 0o600,
    }
}

fn read_or_make(path: &Path, role: Role) -> anyhow::Result<String> {
    if let Some(token) = read(path).context("--tokens")? {
        return Ok(token);
    }
    let made = make(path, role).with_context(|| {
        format!(
            "--tokens: there is no file {0}, and it cannot be made: put a token there, or let {0} be written",
            path.display()
        )
    })?;
    // Another process may have created it first: its content counts.
    if made {
        tracing::info!(file = %path.display(), "made a token");
    }
    read(path).context("--tokens")?.with_context(|| format!("{} is gone again", path.display()))
}

/// The token in a file, without surrounding space; `None`: there is no file.
///
/// # Errors
/// When it cannot be read, or is no token. The message names the file.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut text = String::new();
    file.take(2 * MAX_TOKEN as u64)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let token = text.trim();
    ensure!(
        (MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "{}: a token is {MIN_TOKEN} to {MAX_TOKEN} visible characters of ASCII without space; \
         `openssl rand -hex 32` makes one",
        path.display()
    );
    Ok(Some(token.to_owned()))
}

/// Writes a file with a new token, completely or not at all; `false`: there is a file by now.
fn make(path: &Path, role: Role) -> anyhow::Result<bool> {
    let token = auth::new_token()?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode(role)).open(&new)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        // Unlike a rename this does not replace an existing file.
        std::fs::hard_link(&new, path)
    })();
    let _ = std::fs::remove_file(&new);
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.exists() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::store::sqlite::{Options, SqliteStore};

    /// A store, and the directory for tokens beside it.
    fn new() -> (tempfile::TempDir, SqliteStore, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path().join("t.db"), Options::default()).unwrap();
        let tokens = dir.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        (dir, store, tokens)
    }

    fn content(dir: &Path, role: Role) -> String {
        std::fs::read_to_string(file(dir, role)).unwrap().trim().to_owned()
    }

    async fn refused(dir: &Path, store: &SqliteStore, words: &str) {
        let before = store.tokens().await.unwrap();
        let error = format!("{:#}", register(dir, store).await.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert_eq!(store.tokens().await.unwrap(), before, "{error}");
    }

    #[tokio::test]
    async fn what_is_missing_is_made_once_and_good_from_then_on() {
        let (_keep, store, dir) = new();
        register(&dir, &store).await.unwrap();
        let made = [Role::Admin, Role::Gateway].map(|role| content(&dir, role));
        assert!(made.iter().all(|token| token.starts_with(auth::TOKEN_PREFIX)));
        let mut known: Vec<_> = store.tokens().await.unwrap();
        known.sort_by(|a, b| a.role.cmp(&b.role));
        let roles: Vec<_> = known.iter().map(|row| (row.role.as_str(), row.hash.clone())).collect();
        assert_eq!(roles, [("admin", auth::hash_token(&made[0])), ("gateway", auth::hash_token(&made[1]))]);
        for (role, mode) in [(Role::Admin, 0o600), (Role::Gateway, 0o640)] {
            let found = std::fs::metadata(file(&dir, role)).unwrap().mode() & 0o777;
            // The umask may take more away.
            assert_eq!(found & !mode, 0, "{found:o}");
        }
        register(&dir, &store).await.unwrap();
        assert_eq!([Role::Admin, Role::Gateway].map(|role| content(&dir, role)), made);
        assert_eq!(store.tokens().await.unwrap().len(), 2);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left there");
    }

    #[tokio::test]
    async fn what_is_there_is_taken_and_not_written() {
        let (_keep, store, dir) = new();
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(file(&dir, Role::Gateway), format!(" {token}\r\n")).unwrap();
        register(&dir, &store).await.unwrap();
        let known = store.tokens().await.unwrap();
        assert!(
            known.iter().any(|row| row.hash == auth::hash_token(token) && row.role == "gateway"),
            "{known:?}"
        );
        assert_eq!(std::fs::read(file(&dir, Role::Gateway)).unwrap(), format!(" {token}\r\n").as_bytes());
        // Replaced: the new one is valid, and the old one until it is revoked.
        std::fs::write(file(&dir, Role::Gateway), format!("{token}!")).unwrap();
        register(&dir, &store).await.unwrap();
        assert_eq!(store.tokens().await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn what_cannot_be_a_token_is_refused_with_the_name_of_its_file() {
        let (_keep, store, dir) = new();
        let path = file(&dir, Role::Admin);
        for wrong in
            ["", "\n", "short", &"a".repeat(31), &"a b".repeat(20), &"ä".repeat(40), &"a".repeat(1_025)]
        {
            std::fs::write(&path, wrong).unwrap();
            refused(&dir, &store, "admin-token: a token is 32 to 1024 visible characters").await;
        }
        std::fs::write(&path, b"\xff".repeat(40)).unwrap();
        refused(&dir, &store, "admin-token").await;
        assert!(!file(&dir, Role::Gateway).exists(), "nothing is made beside a file that is wrong");
    }

    #[tokio::test]
    async fn one_token_has_one_role() {
        let (_keep, store, dir) = new();
        let token = "g".repeat(32);
        let row = TokenRow {
            hash: auth::hash_token(&token),
            name: "edge".into(),
            role: "gateway".into(),
            ..TokenRow::default()
        };
        store.commit(Change::AddToken { token: row, only_new_name: true }, &"test".into()).await.unwrap();
        std::fs::write(file(&dir, Role::Admin), &token).unwrap();
        refused(&dir, &store, "admin-token: this token has the role `gateway` (it is called `edge`)").await;
        std::fs::write(file(&dir, Role::Gateway), &token).unwrap();
        refused(&dir, &store, "gateway-token: this is the admin token as well").await;
    }

    #[tokio::test]
    async fn a_missing_directory_is_made_and_what_cannot_be_made_is_named() {
        let (keep, store, dir) = new();
        register(&keep.path().join("run/tokens"), &store).await.unwrap();
        assert!(file(&keep.path().join("run/tokens"), Role::Gateway).exists());
        std::fs::write(keep.path().join("file"), "").unwrap();
        refused(&keep.path().join("file/tokens"), &store, "file/tokens cannot be made").await;
        // Files without permission; root has all permissions.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o500)).unwrap();
        if std::fs::write(dir.join("probe"), "").is_err() {
            refused(&dir, &store, "admin-token, and it cannot be made").await;
        }
    }
}
