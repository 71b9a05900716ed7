-- What the program of the second schema version left (commit 5486ae5): a ban, a route, a geo rule and a flag set
-- by its API, the events of crates/policy/src/wire/former/bytes.txt posted to it, then `sqlite3 tidegate.db .dump`.
-- The hashes of tokens are made up. Never to be made anew.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ip_monitor (
  ip TEXT PRIMARY KEY NOT NULL CHECK (typeof(ip) = 'text'),
  status TEXT NOT NULL DEFAULT 'banned',
  reason TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  expires_at TEXT
) WITHOUT ROWID;
INSERT INTO ip_monitor VALUES('192.0.2.1','banned',NULL,'2026-11-25 20:19:40.401','2026-11-25 20:19:40.401',NULL);
CREATE TABLE routes (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  document TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO routes VALUES('a','{"metadata":{"name":"a"},"spec":{"rules":[{"backendRefs":[{"name":"demo","port":80}]}]}}','2026-11-25 20:19:40.624','2026-11-25 20:19:40.624');
CREATE TABLE change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tbl TEXT NOT NULL,
  key NOT NULL
);
INSERT INTO change_log VALUES(1,'ip_monitor','192.0.2.1');
INSERT INTO change_log VALUES(2,'routes','a');
INSERT INTO change_log VALUES(3,'geo_rules','g');
INSERT INTO change_log VALUES(4,'flags','enableRouteCache');
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO tokens VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','a','admin','2026-11-25 20:19:39.940');
INSERT INTO tokens VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','g','gateway','2026-11-25 20:19:39.995');
CREATE TABLE meta (
  name TEXT PRIMARY KEY NOT NULL,
  value NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES('seen.upto',3);
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
INSERT INTO sources VALUES(X'00000000000000000000000000000007','n;00000000000000aa',9,3,2,0,1795637982688,1795637982688,NULL);
CREATE TABLE source_marks (
  source BLOB NOT NULL,
  at INTEGER NOT NULL,
  numbered_hi INTEGER NOT NULL,
  PRIMARY KEY (source, at)
) WITHOUT ROWID;
CREATE TABLE ledger (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
INSERT INTO ledger VALUES(X'00000000000000000000000000000007',3,5);
CREATE TABLE dropped (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
INSERT INTO dropped VALUES(X'00000000000000000000000000000007',1,2,'buffer_full');
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
, country TEXT, modes TEXT, answered TEXT, mismatches TEXT, complete INTEGER NOT NULL DEFAULT 1, given_up_at TEXT);
INSERT INTO events VALUES(1,X'00000000000000000000000000000007',3,'2025-11-24 16:00:00.123','n','GET','a.example:80','/p�','r','2001:db8::1','deny','ip_banned','2001:db8::/32',403,1234,567,89,1011,'curl/8',1,42,'DE','ip=cached,geo=direct,route=shadow,parallel=on,async=off','ip=hit,geo=direct,route=fallback','[{"check":"route","direct":"r","cached":"s","direct_seq":9,"cached_seq":8}]',1,NULL);
INSERT INTO events VALUES(2,X'00000000000000000000000000000007',4,'1970-01-01 00:00:00.000','n',NULL,NULL,NULL,NULL,'192.0.2.1','allow',NULL,NULL,200,NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,1,NULL);
INSERT INTO events VALUES(3,X'00000000000000000000000000000007',5,'1970-01-01 00:00:00.000','n',NULL,NULL,NULL,NULL,NULL,'unseen',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,1,NULL);
INSERT INTO events VALUES(4,X'00000000000000000000000000000007',6,'2025-11-24 16:00:00.123','n','GET','a.example:80','/p�','r','2001:db8::1','deny','ip_banned','2001:db8::/32',403,1234,567,89,1011,'curl/8',1,42,'DE','ip=cached,geo=direct,route=shadow,parallel=on,async=off','ip=hit,geo=direct,route=fallback','[{"check":"route","direct":"r","cached":"s","direct_seq":9,"cached_seq":8}]',0,NULL);
CREATE TABLE flags (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  value TEXT NOT NULL DEFAULT 'false',
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO flags VALUES('enableRouteCache','true','2026-11-25 20:19:40.977');
CREATE TABLE geo_rules (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  document TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO geo_rules VALUES('g','{"countries":["DE"],"mode":"deny","status":451}','2026-11-25 20:19:40.792','2026-11-25 20:19:40.792');
CREATE TABLE geo_countries (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  source TEXT NOT NULL DEFAULT '',
  imported_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  data BLOB NOT NULL
);
CREATE TABLE check_counts (
  name TEXT PRIMARY KEY NOT NULL,
  cache INTEGER NOT NULL DEFAULT 0,
  direct INTEGER NOT NULL DEFAULT 0,
  fallback INTEGER NOT NULL DEFAULT 0,
  unavailable INTEGER NOT NULL DEFAULT 0,
  compared INTEGER NOT NULL DEFAULT 0,
  mismatched INTEGER NOT NULL DEFAULT 0,
  lagging INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO check_counts VALUES('geo',0,1,0,0,0,0,0);
INSERT INTO check_counts VALUES('ip',1,0,0,0,0,0,0);
INSERT INTO check_counts VALUES('route',0,0,1,0,0,1,1);
CREATE TABLE seen_addresses (
  place INTEGER PRIMARY KEY,
  ip TEXT NOT NULL,
  count INTEGER NOT NULL,
  over INTEGER NOT NULL,
  last_seen TEXT NOT NULL
);
INSERT INTO seen_addresses VALUES(0,'2001:db8::1',1,0,'2025-11-24 16:00:00.123');
INSERT INTO seen_addresses VALUES(1,'192.0.2.1',1,0,'1970-01-01 00:00:00.000');
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  target TEXT NOT NULL,
  was TEXT,
  became TEXT
);
INSERT INTO audit VALUES(1,'2026-11-25 20:19:40.401','a','ban','192.0.2.1',NULL,'{"expires_at":null,"ip":"192.0.2.1","reason":null,"status":"banned"}');
INSERT INTO audit VALUES(2,'2026-11-25 20:19:40.624','a','route','a',NULL,'{"metadata":{"name":"a"},"spec":{"rules":[{"backendRefs":[{"name":"demo","port":80}]}]}}');
INSERT INTO audit VALUES(3,'2026-11-25 20:19:40.792','a','geo-rule','g',NULL,'{"countries":["DE"],"mode":"deny","status":451}');
INSERT INTO audit VALUES(4,'2026-11-25 20:19:40.977','a','flag','enableRouteCache',NULL,'true');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('change_log',4);
INSERT INTO sqlite_sequence VALUES('audit',4);
CREATE INDEX events_timestamp ON events (timestamp);
CREATE INDEX audit_target ON audit (what, target);
CREATE UNIQUE INDEX events_open ON events (source, number) WHERE complete = 0;
CREATE VIEW traffic_events AS SELECT
  lower(hex(source)) AS source, number, timestamp, node, method, host, path, route,
  client_ip, country, verdict, reason, rule, status,
  duration_us / 1000.0 AS duration_ms, upstream_us / 1000.0 AS upstream_ms,
  bytes_in, bytes_out, user_agent, tunnel, tables_seq, modes, answered, mismatches, complete
FROM events;
CREATE TRIGGER ip_monitor_inserted AFTER INSERT ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END;
CREATE TRIGGER ip_monitor_updated AFTER UPDATE ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) SELECT 'ip_monitor', OLD.ip WHERE OLD.ip IS NOT NEW.ip; INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END;
CREATE TRIGGER ip_monitor_deleted AFTER DELETE ON ip_monitor BEGIN INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', OLD.ip); END;
CREATE TRIGGER routes_inserted AFTER INSERT ON routes BEGIN INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END;
CREATE TRIGGER routes_updated AFTER UPDATE ON routes BEGIN INSERT INTO change_log (tbl, key) SELECT 'routes', OLD.name WHERE OLD.name IS NOT NEW.name; INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END;
CREATE TRIGGER routes_deleted AFTER DELETE ON routes BEGIN INSERT INTO change_log (tbl, key) VALUES ('routes', OLD.name); END;
CREATE TRIGGER flags_inserted AFTER INSERT ON flags BEGIN INSERT INTO change_log (tbl, key) VALUES ('flags', NEW.name); END;
CREATE TRIGGER flags_updated AFTER UPDATE ON flags BEGIN INSERT INTO change_log (tbl, key) SELECT 'flags', OLD.name WHERE OLD.name IS NOT NEW.name; INSERT INTO change_log (tbl, key) VALUES ('flags', NEW.name); END;
CREATE TRIGGER flags_deleted AFTER DELETE ON flags BEGIN INSERT INTO change_log (tbl, key) VALUES ('flags', OLD.name); END;
CREATE TRIGGER geo_rules_inserted AFTER INSERT ON geo_rules BEGIN INSERT INTO change_log (tbl, key) VALUES ('geo_rules', NEW.name); END;
CREATE TRIGGER geo_rules_updated AFTER UPDATE ON geo_rules BEGIN INSERT INTO change_log (tbl, key) SELECT 'geo_rules', OLD.name WHERE OLD.name IS NOT NEW.name; INSERT INTO change_log (tbl, key) VALUES ('geo_rules', NEW.name); END;
CREATE TRIGGER geo_rules_deleted AFTER DELETE ON geo_rules BEGIN INSERT INTO change_log (tbl, key) VALUES ('geo_rules', OLD.name); END;
CREATE TRIGGER geo_countries_inserted AFTER INSERT ON geo_countries BEGIN INSERT INTO change_log (tbl, key) VALUES ('geo_countries', NEW.id); END;
CREATE TRIGGER geo_countries_updated AFTER UPDATE ON geo_countries BEGIN INSERT INTO change_log (tbl, key) SELECT 'geo_countries', OLD.id WHERE OLD.id IS NOT NEW.id; INSERT INTO change_log (tbl, key) VALUES ('geo_countries', NEW.id); END;
CREATE TRIGGER geo_countries_deleted AFTER DELETE ON geo_countries BEGIN INSERT INTO change_log (tbl, key) VALUES ('geo_countries', OLD.id); END;
COMMIT;
PRAGMA user_version = 2;
