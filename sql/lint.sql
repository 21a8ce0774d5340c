--
-- lint_mapping: the rules tried on the source's rows, before anything moves.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
\pset null '-'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE ROLE regress_rehome_gone;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE COLLATION new.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE new.mood AS ENUM ('glad', 'sad');
CREATE TABLE old.parent (pid int PRIMARY KEY, email text, nick text);
CREATE TABLE old.child (cid bigint PRIMARY KEY, pid int, mood text, amount numeric, at timestamp, label text,
                        grade text, score text, leftover text);
CREATE TABLE new.parent (id int PRIMARY KEY, email text, nick text COLLATE new.folded UNIQUE,
                         since date NOT NULL DEFAULT '2020-01-01', must text NOT NULL, may text);
CREATE UNIQUE INDEX parent_email_lower ON new.parent (lower(email));
CREATE TABLE new.child (id int PRIMARY KEY, parent int REFERENCES new.parent, mood new.mood, amount numeric(8, 2),
                        at timestamptz(0), label varchar(5) NOT NULL, grade text CHECK (grade IN ('a', 'b')), score int,
                        label2 text, a_name_that_is_so_long_that_it_has_been_cut_off_at_its_63th_byt int DEFAULT 0);
INSERT INTO old.parent VALUES (1, 'Ann@example.org', 'ann'), (2, 'ann@example.org', 'Ann'), (3, 'bob@example.org', 'bob'),
                              (4, NULL, NULL), (5, NULL, NULL);
INSERT INTO old.child VALUES
    (1, 1, 'glad', 1.25, '2024-01-01 00:00', 'fine', 'a', '1', ''),
    (2, 9, 'sad', 1.255, '2024-01-01 00:00', 'fine', 'b', '2', ''),
    (3, 2, 'angry', 12345678, '2024-01-01 00:00:00.5', 'too long', 'c', 'three', ''),
    (5000000000, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'a schema with everything wrong');
SELECT rehome.add_table('m', 'far.parent', 'new.parent', columns => '{"id": "pid", "must": "email"}');
SELECT rehome.add_table('m', 'far.child', 'new.child',
                        columns => '{"id": "cid", "parent": "pid", "mood": "mood::new.mood", "score": "score::int", "label2": "label"}');
UPDATE rehome.column_map SET owner = 'regress_rehome_gone' WHERE "column" = 'score';
DROP ROLE regress_rehome_gone;

-- Without reading a row.
SELECT severity, object, "column", lint, key, regexp_replace(detail, 'OID \d+', 'OID N') AS detail
  FROM rehome.lint_mapping('m', sample => 0);
-- What the rows say, each by its key and the rule.
SELECT object, "column", lint, key, detail FROM rehome.lint_mapping('m') WHERE severity = 'error';
SELECT DISTINCT lint, hint FROM rehome.lint_mapping('m') WHERE severity = 'error' ORDER BY 1, 2;
-- Nothing was written or locked by it.
SELECT count(*) FROM new.parent;
-- A sample may miss what all rows show; more rows than are wanted are counted.
SELECT count(*) FILTER (WHERE lint = 'orphan') AS orphans FROM rehome.lint_mapping('m', sample => 1);
INSERT INTO old.child SELECT i, 1, 'glad', 0, now(), 'fine', 'a', 'x' || i, '' FROM generate_series(10, 20) AS i;
SET rehome.max_discrepancies = 3;
SELECT "column", key, detail FROM rehome.lint_mapping('m', sample => NULL) WHERE severity = 'error' AND "column" = 'score';
RESET rehome.max_discrepancies;
DELETE FROM old.child WHERE cid BETWEEN 10 AND 20;
-- A filter keeps rows out; parents outside of the migration are looked up here.
SELECT rehome.drop_migration('m');
INSERT INTO new.parent (id, must) VALUES (1, 'here already');
SELECT rehome.create_migration('m', 'loopback', 'children only');
SELECT rehome.add_table('m', 'far.child', 'new.child', filter => 'cid < 3',
                        columns => '{"id": "cid", "parent": "pid", "mood": "mood::new.mood", "score": "score::int"}');
SELECT "column", lint, key, detail FROM rehome.lint_mapping('m') WHERE severity = 'error';
-- Tables that have changed.
ALTER FOREIGN TABLE far.child DROP COLUMN mood;
SELECT severity, "column", lint, detail FROM rehome.lint_mapping('m') WHERE lint = 'does not fit';
SELECT rehome.drop_migration('m');
-- A source in this database is sampled all over, the same each time.
CREATE TABLE new.parent_copy (pid int PRIMARY KEY, email text UNIQUE);
INSERT INTO old.parent SELECT i, 'same' FROM generate_series(100, 5000) AS i;
ANALYZE old.parent;
SELECT rehome.create_migration('m', NULL, 'within the database');
SELECT rehome.add_table('m', 'old.parent', 'new.parent_copy');
SELECT count(*) > 50 AS many, min((key ->> 'pid')::int) > 100 AND max((key ->> 'pid')::int) > 1000 AS not_the_first
  FROM rehome.lint_mapping('m', sample => 100) WHERE lint = 'duplicate';
SELECT rehome.drop_migration('m');

-- A parent in partitions is one parent.  A unique index concerns its key, not
-- what it includes beside it.
CREATE TABLE old.region (rid int PRIMARY KEY);
CREATE TABLE old.place (id int PRIMARY KEY, rid int, code text);
INSERT INTO old.region VALUES (1), (2), (3);
INSERT INTO old.place VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'b'), (4, 9, 'c');
CREATE TABLE new.region (rid int PRIMARY KEY) PARTITION BY LIST (rid);
CREATE TABLE new.region_1 PARTITION OF new.region FOR VALUES IN (1);
CREATE TABLE new.region_rest PARTITION OF new.region DEFAULT;
CREATE TABLE new.place (id int PRIMARY KEY, rid int REFERENCES new.region, code text, extra text, more text);
CREATE UNIQUE INDEX place_code ON new.place (code) INCLUDE (extra);
CREATE UNIQUE INDEX place_code_2 ON new.place (code) INCLUDE (more) WHERE more IS NULL;
CREATE TABLE new.part (id int PRIMARY KEY, rid int REFERENCES new.region) PARTITION BY RANGE (id);
CREATE TABLE new.part_1 PARTITION OF new.part DEFAULT;
SELECT rehome.create_migration('m', NULL, 'parents in partitions');
SELECT rehome.add_table('m', 'old.region', 'new.region');
SELECT rehome.add_table('m', 'old.place', 'new.place');
SELECT rehome.add_table('m', 'old.place', 'new.part_1');
SELECT object, "column", lint, key, detail FROM rehome.lint_mapping('m') WHERE severity IN ('error', 'warning') AND lint <> 'no rule';
-- What is not listed is counted.
SET rehome.max_discrepancies = 1;
SELECT "column", lint, key, detail FROM rehome.lint_mapping('m', NULL) WHERE severity = 'error' AND object = 'new.place';
RESET rehome.max_discrepancies;
SELECT object, action FROM rehome.plan('m') WHERE action ~ 'fkey';
SELECT rehome.drop_migration('m');
SELECT rehome.lint_mapping(NULL);
:code
SELECT rehome.lint_mapping('none');
:code
SELECT rehome.lint_mapping('none', -1);
:code

DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
TRUNCATE rehome.event;
