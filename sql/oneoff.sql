--
-- A source that is copied once: another schema of this database, or a foreign
-- data wrapper that cannot capture changes.  Copy, verify, complete.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
CREATE SCHEMA old;
CREATE SCHEMA new;

CREATE TABLE old.kind (id int PRIMARY KEY, label text NOT NULL);
CREATE TABLE old.item (id int PRIMARY KEY, gone text, kind int REFERENCES old.kind, "Name" text, price numeric,
                       tags text[], made timestamptz, note text, hidden boolean NOT NULL DEFAULT false);
ALTER TABLE old.item DROP gone;
CREATE VIEW old.summary AS SELECT kind AS id, count(*) AS n, sum(price) AS total FROM old.item GROUP BY kind;
INSERT INTO old.kind VALUES (1, 'fruit'), (2, 'tool');
INSERT INTO old.item
SELECT i, 1 + i % 2, 'Item ' || i, i * 1.50, ARRAY['a', i::text], '2020-01-01 00:00+00'::timestamptz + i * interval '1 day',
       CASE WHEN i % 3 = 0 THEN NULL ELSE E'tab\there, \\ and \n newline' END, i > 18
  FROM generate_series(1, 20) AS i;

CREATE TABLE new.kind (id int PRIMARY KEY, label text NOT NULL);
CREATE TABLE new.item (id bigint PRIMARY KEY, kind int REFERENCES new.kind, name text NOT NULL, cents int,
                       tags text[], made date, note text, serial int GENERATED ALWAYS AS IDENTITY,
                       shout text GENERATED ALWAYS AS (upper(name)) STORED) PARTITION BY RANGE (id);
CREATE TABLE new.item_low PARTITION OF new.item FOR VALUES FROM (0) TO (10);
CREATE TABLE new.item_high PARTITION OF new.item FOR VALUES FROM (10) TO (1000);
CREATE TABLE new.summary (id int PRIMARY KEY, n int, total numeric);

SET client_min_messages = notice;
SELECT rehome.create_migration('m', NULL, 'the schema gets a new shape');
SELECT rehome.add_table('m', 'old.kind', 'new.kind');
SELECT rehome.add_table('m', 'old.item', 'new.item', filter => 'NOT hidden');
SELECT rehome.add_table('m', 'old.summary', 'new.summary');
SELECT seq, object, action FROM rehome.plan('m');
-- Not yet: "Name" goes nowhere, and name has nothing to come from.
SELECT "check", severity, object, detail, hint FROM rehome.preflight('m');
CALL rehome.copy('m');
:code
SELECT rehome.map_column('m', 'new.item', 'name', '"Name"');
SELECT rehome.map_column('m', 'new.item', 'cents', '(price * 100)::int');
SELECT "check", severity, object, detail, hint FROM rehome.preflight('m');
SELECT seq, object, action, sql, risk FROM rehome.plan('m') WHERE object = 'new.item';

-- What needs captured changes is refused.
CALL rehome.start('m');
:code

-- Copied in one transaction: what does not fit leaves nothing.
INSERT INTO old.item VALUES (5000, 1, 'beyond every partition');
CALL rehome.copy('m');
:code
SELECT state FROM rehome.status WHERE migration = 'm';
SELECT count(*) FROM new.item;
DELETE FROM old.item WHERE id = 5000;
-- Nor what is checked later.
ALTER TABLE new.summary ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED;
CALL rehome.copy('m');
:code
ALTER TABLE new.summary DROP CONSTRAINT summary_n_key;
SET client_min_messages = warning;
CALL rehome.copy('m');
SELECT state, authority, tables FROM rehome.status WHERE migration = 'm';
SELECT regexp_replace(message, '[0-9.]+ s$', '... s') AS message FROM rehome.event WHERE migration = 'm' AND kind = 'copied';
SELECT id, kind, name, cents, tags, made, note, serial, shout FROM new.item WHERE id IN (1, 2, 18) ORDER BY id;
SELECT tableoid::regclass, count(*) FROM new.item GROUP BY 1 ORDER BY 1;
TABLE new.summary ORDER BY id;

-- Verification, all modes.
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m', mode => 'count');
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m');
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m', mode => 'rows');
-- It finds every difference, and one time each.
DELETE FROM new.item WHERE id = 3;
INSERT INTO new.item (id, name) VALUES (999, 'a stranger');
UPDATE new.item SET cents = cents + 1, note = 'changed' WHERE id = 4;
UPDATE new.kind SET label = 'FRUIT' WHERE id = 1;
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m', mode => 'count');
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m');
SELECT target, kind, key, (SELECT array_agg(c ORDER BY c) FROM unnest(columns) AS c) AS columns, source_row - 'tags' - 'made' AS source_row, target_row - 'tags' - 'made' AS target_row
  FROM rehome.discrepancy WHERE resolved_at IS NULL ORDER BY target::text, key;
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m', mode => 'rows');
SELECT target, kind, key, resolved_at IS NOT NULL AS resolved
  FROM rehome.discrepancy ORDER BY target::text, key, resolved_at;
SELECT discrepancies FROM rehome.status WHERE migration = 'm';
-- How many are kept can be limited; all are counted.
SET rehome.max_discrepancies = 1;
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m');
SELECT discrepancies FROM rehome.status WHERE migration = 'm';
RESET rehome.max_discrepancies;
-- Repaired, they are resolved.
UPDATE new.kind SET label = 'fruit' WHERE id = 1;
DELETE FROM new.item WHERE id = 999;
UPDATE new.item SET cents = cents - 1, note = (SELECT note FROM old.item WHERE id = 4) WHERE id = 4;
INSERT INTO new.item (id, kind, name, cents, tags, made, note)
SELECT id, kind, "Name", (price * 100)::int, tags, made::date, note FROM old.item WHERE id = 3;
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('m');
SELECT discrepancies FROM rehome.status WHERE migration = 'm';

-- There is nobody to take authority from; complete() takes note of the end.
CALL rehome.sync('m');
:code
CALL rehome.cutover('m');
:code
CALL rehome.rollback('m');
:code
SET client_min_messages = notice;
CALL rehome.copy('m');
CALL rehome.complete('m');
SELECT state, authority FROM rehome.status WHERE migration = 'm';
INSERT INTO new.kind VALUES (3, 'toy');
SELECT rehome.drop_migration('m');

-- Cancelled, the rows stay and nothing else.
CREATE TABLE new.kind2 (id int PRIMARY KEY, label text NOT NULL);
SELECT rehome.create_migration('c', NULL, 'to be cancelled');
SELECT rehome.add_table('c', 'old.kind', 'new.kind2');
SET client_min_messages = warning;
CALL rehome.copy('c');
CALL rehome.cancel('c');
SELECT state, authority FROM rehome.status WHERE migration = 'c';
TABLE new.kind2 ORDER BY id;
SELECT rehome.drop_migration('c');

-- Any foreign data wrapper can be copied from once.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE old.list (id int, label text) SERVER files
    OPTIONS (program 'printf "1,one\n2,two\n3,\n"', format 'csv', null '');
CREATE TABLE new.list (id int PRIMARY KEY, label text);
SELECT rehome.create_migration('f', 'files', 'a file becomes a table');
SELECT rehome.add_table('f', 'old.list', 'new.list');
SELECT rehome.map_column('f', 'new.list', 'label', 'coalesce(label, ''none'')');
CALL rehome.start('f');
:code
CALL rehome.copy('f');
TABLE new.list ORDER BY id;
SELECT target, source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('f');
CALL rehome.complete('f');
SELECT rehome.drop_migration('f');

DROP SCHEMA old, new CASCADE;
DROP EXTENSION file_fdw CASCADE;
TRUNCATE rehome.event, rehome.discrepancy, rehome.discrepancy_history;
