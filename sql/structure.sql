--
-- What the catalogs of both sides say, compared: which differences somebody
-- ordered, which nobody did, and the rows that lack their parents.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE ROLE regress_rehome_clerk;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE FUNCTION public.noop() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TABLE old.kind (id serial PRIMARY KEY, label varchar(20) NOT NULL UNIQUE);
CREATE TABLE old.item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind int REFERENCES old.kind ON DELETE CASCADE, other int REFERENCES old.kind,
    "Name" text NOT NULL DEFAULT 'none', price numeric(10,2) CHECK (price >= 0), made timestamptz DEFAULT now(), gone text,
    EXCLUDE USING btree (other WITH =));
CREATE INDEX ON old.item (made);
CREATE INDEX ON old.item (lower("Name")) WHERE price > 1;
CREATE TRIGGER touch BEFORE UPDATE ON old.item FOR EACH ROW EXECUTE FUNCTION public.noop();
ALTER TABLE old.item ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON old.item FOR SELECT USING (price < 100);
GRANT SELECT, UPDATE ON old.item TO regress_rehome_clerk;
COMMENT ON TABLE old.item IS 'what is sold';
COMMENT ON COLUMN old.item.price IS 'in euros';
INSERT INTO old.kind (label) VALUES ('fruit'), ('tool');
INSERT INTO old.item (kind, other, "Name", price) VALUES (1, 1, 'apple', 1), (2, NULL, 'hammer', 20);
ANALYZE old.kind;
ANALYZE old.item;
-- The same, but for names; and once more, with much left out.
CREATE TABLE new.kind (LIKE old.kind INCLUDING ALL);
ALTER TABLE new.kind RENAME CONSTRAINT kind_pkey TO another_name;
CREATE TABLE new.item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind bigint, other int REFERENCES new.kind,
    name text DEFAULT 'nothing', cents int, made timestamptz DEFAULT now(), note text DEFAULT '', UNIQUE (name));
CREATE INDEX ON new.item (made) WHERE made IS NOT NULL;
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'the structure');
SELECT rehome.add_table('m', 'far.kind', 'new.kind');
SELECT rehome.add_table('m', 'far.item', 'new.item');
SELECT rehome.map_column('m', 'new.item', 'name', '"Name"');
SELECT rehome.map_column('m', 'new.item', 'cents', '(price * 100)::int', inverse => 'cents / 100.0');
SELECT rehome.map_column('m', 'new.item', 'note', NULL);
SELECT object, kind, source, target, intended, explanation FROM rehome.structure('m') WHERE kind <> 'statistics';
SET rehome.copy_workers = 0;
CALL rehome.copy('m');
SELECT kind, object FROM rehome.structure('m') WHERE kind = 'statistics';
-- A foreign key that is not valid, and one that is not there: who has no parent.
ALTER TABLE new.item DROP CONSTRAINT item_other_fkey;
ALTER TABLE new.item DISABLE TRIGGER ALL;
UPDATE new.item SET kind = 7 WHERE id = 2;
UPDATE new.item SET other = 9 WHERE id = 1;
ALTER TABLE new.item ENABLE ALWAYS TRIGGER rehome_guard;
ALTER TABLE new.item ENABLE ALWAYS TRIGGER rehome_guard_truncate;
ALTER TABLE new.item ADD CONSTRAINT later FOREIGN KEY (other) REFERENCES new.kind NOT VALID;
SELECT object, kind, source, target, intended FROM rehome.structure('m') WHERE kind IN ('foreign key', 'orphan');
SELECT message FROM rehome.event WHERE kind = 'structure' ORDER BY id DESC LIMIT 1;
SELECT rehome.set_criterion('m', 'structure_unintended', '=', 0);
SELECT metric, value, verdict FROM rehome.scorecard('m') WHERE metric = 'structure_unintended';
SELECT * FROM rehome.structure('none');
:code
SELECT * FROM rehome.structure('m', 'none');
:code

-- What the tables call for; adopted, it holds.
SELECT kind, name, layer, key FROM rehome.suggest_checks('m');
SELECT source_sql, target_sql FROM rehome.check_suggestion WHERE name = 'new.item: first and last';
SELECT rehome.adopt_checks('m', '{"new.kind: unique id", "no", "such"}');
:code
SELECT rehome.adopt_checks('m', '{"new.item: parents by kind", "new.kind: unique label"}');
SELECT count(*) FROM rehome.suggest_checks('m') WHERE adopted;
SELECT "check", status, message FROM rehome.run_checks('m');
SELECT evidence FROM rehome.check_status WHERE "check" = 'new.item: parents by kind';
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Indexes are more than their columns; a parent may be in partitions on one
-- side only; names that the mapping changes are no difference.
CREATE TABLE old.region (rid int PRIMARY KEY);
CREATE TABLE old.shop (sid int PRIMARY KEY, rid int REFERENCES old.region, "Name" text, code varchar(9), a int, b int, x int4range,
    UNIQUE ("Name"), UNIQUE (code), EXCLUDE USING gist (x WITH &&));
CREATE UNIQUE INDEX ON old.shop (a) INCLUDE (b);
CREATE INDEX ON old.shop (b DESC, a) INCLUDE ("Name");
CREATE INDEX ON old.shop (rid) INCLUDE ("Name");
CREATE INDEX ON old.shop (code varchar_pattern_ops);
CREATE TABLE new.region (rid int PRIMARY KEY) PARTITION BY LIST (rid);
CREATE TABLE new.region_1 PARTITION OF new.region FOR VALUES IN (1);
CREATE TABLE new.region_rest PARTITION OF new.region DEFAULT;
CREATE TABLE new.shop (sid int PRIMARY KEY, rid int REFERENCES new.region, name text COLLATE "C", code text, a int, b int, y int4range,
    UNIQUE (name), UNIQUE NULLS NOT DISTINCT (code), EXCLUDE USING gist (y WITH &&));
CREATE UNIQUE INDEX ON new.shop (a, b);
CREATE INDEX ON new.shop (b, a) INCLUDE (name);
CREATE INDEX ON new.shop (rid) INCLUDE (name);
CREATE INDEX ON new.shop (code text_pattern_ops);
IMPORT FOREIGN SCHEMA old LIMIT TO (region, shop) FROM SERVER loopback INTO far;
SELECT rehome.create_migration('n', 'loopback', 'indexes');
SELECT rehome.add_table('n', 'far.region', 'new.region');
SELECT rehome.add_table('n', 'far.shop', 'new.shop', columns => '{"name": "\"Name\"", "y": "x"}');
SELECT object, kind, source, target FROM rehome.structure('n') WHERE kind IN ('foreign key', 'primary key', 'unique', 'exclusion', 'index');
SELECT object, action FROM rehome.plan('n') WHERE object = 'new.shop' AND action ~ 'take off';
-- A key that an index stands on beside what it includes tells rows apart.
SELECT rehome.drop_migration('n');
CREATE TABLE old.box (id int NOT NULL, label text, UNIQUE (id) INCLUDE (label));
CREATE TABLE new.box (id int PRIMARY KEY, label text);
IMPORT FOREIGN SCHEMA old LIMIT TO (box) FROM SERVER loopback INTO far;
SELECT rehome.create_migration('n', 'loopback', 'a key');
SELECT rehome.add_table('n', 'far.box', 'new.box');
SELECT object, detail FROM rehome.preflight('n') WHERE severity IN ('error', 'warning');
SELECT rehome.drop_migration('n');

-- What has ended stands in nobody's way, not even when its tables are gone.
CREATE TABLE old.gone (id int PRIMARY KEY);
CREATE TABLE new.gone (id int PRIMARY KEY);
CREATE TABLE old.done (id serial PRIMARY KEY);
CREATE TABLE new.done (id int PRIMARY KEY);
CREATE TABLE old.late (id int PRIMARY KEY);
IMPORT FOREIGN SCHEMA old LIMIT TO (gone, done, late) FROM SERVER loopback INTO far;
SELECT rehome.create_migration('p', 'loopback', 'in phases');
SELECT rehome.add_slice('p', 'goes');
SELECT rehome.add_slice('p', 'given_up');
SELECT rehome.add_slice('p', 'done');
SELECT rehome.add_table('p', 'far.box', 'new.box', slice => 'goes');
SELECT rehome.add_table('p', 'far.gone', 'new.gone', slice => 'given_up');
SELECT rehome.add_table('p', 'far.done', 'new.done', slice => 'done');
-- An empty slice is not measured, and none of the others waits for it.
-- Nor is a sequence told of that another slice carries.
SELECT severity, object, detail FROM rehome.preflight('p') WHERE severity = 'error' OR object = 'main' OR object = 'old.done_id_seq';
CALL rehome.cancel('p', 'main');
CALL rehome.copy('p', 'done');
SELECT target, ok FROM rehome.verify('p', 'done');
CALL rehome.cutover('p', 'done');
CALL rehome.complete('p', 'done');
CREATE TABLE new.told (id int PRIMARY KEY);
SELECT rehome.add_derived('p', 'told', 'new.told', 'SELECT id FROM new.gone', slice => 'given_up');
CALL rehome.cancel('p', 'given_up');
CALL rehome.copy('p', 'goes');
SELECT target, ok FROM rehome.verify('p', 'goes');
SELECT count(*) FROM rehome.structure('p', 'goes');
-- What is over is not derived, has no policy, and keeps nothing else from it.
SELECT name FROM rehome.refresh_derived('p');
SELECT name FROM rehome.refresh_derived('p', 'told');
:code
SELECT rehome.drop_derived('p', 'told');
SELECT rehome.set_drift_policy('p', 'record');
SELECT target, drift_policy FROM rehome.table_map ORDER BY target::text;
SELECT rehome.set_drift_policy('p', 'reject');
SELECT metric, value FROM rehome.scorecard('p') WHERE metric IN ('correctness', 'structure_unintended', 'pending');
DROP TABLE old.done, new.gone;
SELECT object, detail FROM rehome.preflight('p') WHERE severity = 'error';
SELECT DISTINCT object FROM rehome.plan('p');
SELECT object, lint FROM rehome.lint_mapping('p');
SELECT name FROM rehome.suggest_checks('p');
\set VERBOSITY terse
SET client_min_messages = notice;
SELECT s ->> 'slice' AS slice, t ->> 'target' AS target
  FROM jsonb_array_elements(rehome.export_migration('p') -> 'slices') AS s, jsonb_array_elements(s -> 'tables') AS t;
SET client_min_messages = warning;
SELECT DISTINCT object FROM rehome.structure('p');
-- A slice on its way has to have its tables.
CREATE TABLE new.late (id int PRIMARY KEY);
SELECT rehome.add_slice('p', 'late');
SELECT rehome.add_table('p', 'far.late', 'new.late', slice => 'late');
DROP TABLE new.late;
SELECT rehome.export_migration('p');
:code
\set VERBOSITY default
CALL rehome.cancel('p', 'late');
CALL rehome.cancel('p', 'goes');
-- Of a migration that is over, what has been completed is told.
SELECT metric, value IS NOT NULL AS measured FROM rehome.scorecard('p') WHERE metric IN ('correctness', 'freeze');
SELECT rehome.drop_migration('p');

-- Sums of floating point numbers depend on the order of the rows, which is none of the tables' concern.
CREATE TABLE old.measure (id int PRIMARY KEY, price float8, weight real, fee numeric);
INSERT INTO old.measure VALUES (1, 1e15, 1e6, 1.5), (2, 0.3, 0.3, 2), (3, -1e15, -1e6, 3);
IMPORT FOREIGN SCHEMA old LIMIT TO (measure) FROM SERVER loopback INTO far;
CREATE TABLE new.measure (id int PRIMARY KEY, price float8, weight real, fee float8);
SELECT rehome.create_migration('f', 'loopback', 'floating');
SELECT rehome.add_table('f', 'far.measure', 'new.measure');
SELECT source_sql, target_sql FROM rehome.suggest_checks('f') WHERE name = 'new.measure: totals';
SELECT rehome.adopt_checks('f', '{new.measure: totals}');
CALL rehome.copy('f');
UPDATE old.measure SET id = id WHERE id = 1;
SELECT target, ok FROM rehome.verify('f', mode => 'rows');
SELECT "check", status, message FROM rehome.run_checks('f');
CALL rehome.cancel('f');
SELECT rehome.drop_migration('f');

-- A time is the same with a zone and without.
CREATE TABLE old.clock (id int PRIMARY KEY, at timestamp, day date, said timestamp);
INSERT INTO old.clock VALUES (1, '2024-01-01 12:00', '2024-01-01', '2024-01-01 12:00'), (2, '2024-02-01 12:00:00.5', '2024-02-01', NULL);
IMPORT FOREIGN SCHEMA old LIMIT TO (clock) FROM SERVER loopback INTO far;
CREATE TABLE new.clock (id int PRIMARY KEY, at timestamptz, day timestamp, said timestamp);
SELECT rehome.create_migration('c', 'loopback', 'times');
SELECT rehome.add_table('c', 'far.clock', 'new.clock');
SELECT source_sql, target_sql FROM rehome.suggest_checks('c') WHERE name = 'new.clock: first and last';
SELECT rehome.adopt_checks('c', '{new.clock: first and last}');
CALL rehome.copy('c');
SELECT "check", status, message FROM rehome.run_checks('c');
CALL rehome.cancel('c');
SELECT rehome.drop_migration('c');

-- Two suggestions whose names begin alike are two.
CREATE TABLE old.lengthy (account_identifier_of_the_customer int, identifier_of_the_line int, a int PRIMARY KEY, b int,
    UNIQUE (account_identifier_of_the_customer, identifier_of_the_line, a), UNIQUE (account_identifier_of_the_customer, identifier_of_the_line, b));
IMPORT FOREIGN SCHEMA old LIMIT TO (lengthy) FROM SERVER loopback INTO far;
CREATE TABLE new.lengthy (account_identifier_of_the_customer int, identifier_of_the_line int, a int PRIMARY KEY, b int);
SELECT rehome.create_migration('l', 'loopback', 'names that are long');
SELECT rehome.add_table('l', 'far.lengthy', 'new.lengthy');
SELECT substring(target_sql FROM 'HAVING.*|, [ab], ') AS by FROM rehome.suggest_checks('l') WHERE name ~ 'unique' ORDER BY 1;
SELECT rehome.drop_migration('l');

-- Foreign keys that the source does not enforce: what comes from there is not
-- held against them, so they are named, and looked at before authority moves.
CREATE TABLE old.par (id int PRIMARY KEY);
CREATE TABLE old.ch (id int PRIMARY KEY, pid int, "Up" int REFERENCES old.ch);
INSERT INTO old.par VALUES (1), (2);
INSERT INTO old.ch VALUES (1, 1, 1), (2, 2, 1);
CREATE TABLE new.par (id int PRIMARY KEY);
CREATE TABLE new.ch (id int PRIMARY KEY, pid int REFERENCES new.par, up int CONSTRAINT alike REFERENCES new.ch);
CREATE TABLE new.mine (gid bigint REFERENCES new.par ON DELETE CASCADE, later int CONSTRAINT none REFERENCES new.kind);
IMPORT FOREIGN SCHEMA old LIMIT TO (par, ch) FROM SERVER loopback INTO far;
SELECT rehome.create_migration('r', 'loopback', 'foreign keys');
SELECT rehome.add_table('r', 'far.par', 'new.par');
SELECT rehome.add_table('r', 'far.ch', 'new.ch', columns => '{"id": "id", "pid": "pid", "up": "\"Up\""}');
SELECT severity, object, detail, hint FROM rehome.preflight('r') WHERE "check" = 'target';
CALL rehome.copy('r');
INSERT INTO new.mine VALUES (2, NULL);
INSERT INTO old.ch VALUES (3, 999, 2), (4, 998, 2);
DELETE FROM old.par WHERE id = 2;
CALL rehome.sync('r');
CALL rehome.cutover('r');
:code
DELETE FROM old.ch WHERE pid > 2;
INSERT INTO old.par VALUES (2);
CALL rehome.cutover('r');
SELECT authority FROM rehome.status WHERE migration = 'r';
CALL rehome.rollback('r');
-- Between slices that are cut over by themselves, and where rows are filtered.
CALL rehome.cancel('r');
SELECT rehome.drop_migration('r');
TRUNCATE new.par, new.ch, new.mine;
ALTER TABLE old.ch ADD FOREIGN KEY (pid) REFERENCES old.par;
SELECT rehome.create_migration('r', 'loopback', 'foreign keys');
SELECT rehome.add_slice('r', 'two');
SELECT rehome.add_table('r', 'far.par', 'new.par');
SELECT rehome.add_table('r', 'far.ch', 'new.ch', slice => 'two', columns => '{"id": "id", "pid": "pid", "up": "\"Up\""}', filter => 'id < 100');
SELECT severity, object, detail, hint FROM rehome.preflight('r') WHERE "check" = 'target';
SELECT rehome.drop_migration('r');

-- The source has the key, and all the same it does not see to this one.
CREATE TABLE old.owner (id numeric PRIMARY KEY, a int, b int, UNIQUE (b, a));
CREATE TABLE old.pet (id int PRIMARY KEY, owner numeric REFERENCES old.owner, same numeric REFERENCES old.owner, x int, y int, FOREIGN KEY (x, y) REFERENCES old.owner (a, b));
CREATE TABLE old.toy (id int PRIMARY KEY, pet int REFERENCES old.pet);
INSERT INTO old.owner VALUES (1.0, 1, 1);
INSERT INTO old.pet VALUES (1, 1.0, 1.0, 1, 1), (2, 1.0, 1.0, 1, 1);
INSERT INTO old.toy VALUES (1, 1), (2, 2);
CREATE TABLE new.owner (id text PRIMARY KEY, num numeric UNIQUE, a int, b int, UNIQUE (a, b));
CREATE TABLE new.pet (id int PRIMARY KEY, owner text REFERENCES new.owner, same numeric REFERENCES new.owner (num), x int, y int,
	CONSTRAINT pet_full FOREIGN KEY (x, y) REFERENCES new.owner (a, b) MATCH FULL);
CREATE TABLE new.toy (id int PRIMARY KEY, pet bigint REFERENCES new.pet);
IMPORT FOREIGN SCHEMA old LIMIT TO (owner, pet, toy) FROM SERVER loopback INTO far;
SELECT rehome.create_migration('r', 'loopback', 'foreign keys');
SELECT rehome.add_table('r', 'far.owner', 'new.owner', columns => '{"num": "id"}');
SELECT rehome.add_table('r', 'far.pet', 'new.pet');
SELECT rehome.add_table('r', 'far.toy', 'new.toy');
SELECT count(*) FROM rehome.preflight('r') WHERE "check" = 'target' AND object LIKE 'toy%';
SELECT rehome.set_table_rule('r', 'new.toy', on_delete => 'ignore');
SELECT severity, object, detail FROM rehome.preflight('r') WHERE "check" = 'target';
CALL rehome.copy('r');
INSERT INTO old.pet VALUES (3, 1.00, 1.00, 1, NULL);
DELETE FROM old.toy WHERE id = 2;
DELETE FROM old.pet WHERE id = 2;
CALL rehome.sync('r');
CALL rehome.cutover('r');
CALL rehome.cancel('r');
SELECT rehome.drop_migration('r');
DROP SCHEMA old, far, new CASCADE;
DROP FUNCTION public.noop();
DROP SERVER loopback CASCADE;
DROP ROLE regress_rehome_clerk;
TRUNCATE rehome.event, rehome.discrepancy, rehome.discrepancy_history;
