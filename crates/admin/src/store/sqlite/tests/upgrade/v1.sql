-- What the first schema version made: the tables, the view and the triggers of commit a47b28e^, with rows such as its
-- program wrote, dumped by SQLite. Never to be made anew.
BEGIN TRANSACTION;
CREATE TABLE change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tbl TEXT NOT NULL,
  key NOT NULL
);
INSERT INTO "change_log" VALUES(1,'ip_monitor','1.1.1.1');
INSERT INTO "change_log" VALUES(2,'routes','a');
CREATE TABLE dropped (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  source BLOB NOT NULL,
  number INTEGER NOT NULL,
  timestamp TEXT NOT NULL,
  node TEXT NOT NULL,
  method TEXT,
  host TEXT,
  path TEXT,
  route TEXT,
  client_ip TEXT,
  verdict TEXT NOT NULL,
  reason TEXT,
  rule TEXT,
  status INTEGER,
  duration_us INTEGER,
  upstream_us INTEGER,
  bytes_in INTEGER,
  bytes_out INTEGER,
  user_agent TEXT,
  tunnel INTEGER NOT NULL,
  tables_seq INTEGER NOT NULL
);
INSERT INTO "events" VALUES(1,X'00000000000000000000000000000007',1,'2026-11-23 18:00:01.000','n',NULL,NULL,NULL,NULL,'192.0.2.1','allow',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1);
INSERT INTO "events" VALUES(2,X'00000000000000000000000000000007',2,'2026-11-23 18:00:02.000','n',NULL,NULL,NULL,NULL,'192.0.2.1','allow',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1);
INSERT INTO "events" VALUES(3,X'00000000000000000000000000000007',3,'2026-11-23 18:00:03.000','n',NULL,NULL,NULL,NULL,'192.0.2.1','allow',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1);
CREATE TABLE ip_monitor (
  ip TEXT PRIMARY KEY NOT NULL CHECK (typeof(ip) = 'text'),
  status TEXT NOT NULL DEFAULT 'banned',
  reason TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  expires_at TEXT
) WITHOUT ROWID;
INSERT INTO "ip_monitor" VALUES('1.1.1.1','banned',NULL,'2026-11-23 18:00:00.000','2026-11-23 18:00:00.000',NULL);
CREATE TABLE ledger (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
INSERT INTO "ledger" VALUES(X'00000000000000000000000000000007',1,3);
CREATE TABLE meta (
  name TEXT PRIMARY KEY NOT NULL,
  value NOT NULL
) WITHOUT ROWID;
CREATE TABLE routes (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  document TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO "routes" VALUES('a','{}','2026-11-23 18:00:00.000','2026-11-23 18:00:00.000');
CREATE TABLE source_marks (
  source BLOB NOT NULL,
  at INTEGER NOT NULL,
  numbered_hi INTEGER NOT NULL,
  PRIMARY KEY (source, at)
) WITHOUT ROWID;
CREATE TABLE sources (
  source BLOB PRIMARY KEY NOT NULL,
  gateway TEXT NOT NULL,
  numbered_hi INTEGER NOT NULL DEFAULT 0,
  stored INTEGER NOT NULL DEFAULT 0,
  dropped INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  heard_at INTEGER NOT NULL,
  closed_at INTEGER,
  dead_at INTEGER
) WITHOUT ROWID;
INSERT INTO "sources" VALUES(X'00000000000000000000000000000007','g',3,3,0,0,0,NULL,NULL);
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
CREATE INDEX events_timestamp ON events (timestamp);
CREATE VIEW traffic_events AS SELECT
  lower(hex(source)) AS source, number, timestamp, node, method, host, path, route,
  client_ip, NULL AS country, verdict, reason, rule, status,
  duration_us / 1000.0 AS duration_ms, upstream_us / 1000.0 AS upstream_ms,
  bytes_in, bytes_out, user_agent, tunnel, tables_seq, 1 AS complete
FROM events;
CREATE TRIGGER ip_monitor_inserted AFTER INSERT ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END;
CREATE TRIGGER ip_monitor_updated AFTER UPDATE ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) SELECT 'ip_monitor', OLD.ip WHERE OLD.ip IS NOT NEW.ip; INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END;
CREATE TRIGGER ip_monitor_deleted AFTER DELETE ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', OLD.ip); END;
CREATE TRIGGER routes_inserted AFTER INSERT ON routes BEGIN INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END;
CREATE TRIGGER routes_updated AFTER UPDATE ON routes BEGIN INSERT INTO change_log (tbl, key) SELECT 'routes', OLD.name WHERE OLD.name IS NOT NEW.name; INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END;
CREATE TRIGGER routes_deleted AFTER DELETE ON routes BEGIN INSERT INTO change_log (tbl, key) VALUES ('routes', OLD.name); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',2);
COMMIT;
PRAGMA user_version = 1;
