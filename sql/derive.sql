--
-- Derived data: tables and columns made from other tables of the target.
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
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.customer (id int PRIMARY KEY, email text, phone text, spent numeric, changed date);
CREATE TABLE old.invoice (id int PRIMARY KEY, customer int NOT NULL, track int NOT NULL, qty int NOT NULL);
INSERT INTO old.customer VALUES (1, 'ann@x.org', NULL, 10, '2020-01-01'), (2, 'Ann@X.org', '22', 5, '2021-01-01'),
                                (3, 'bob@x.org', '33', 7, '2020-01-01'), (4, NULL, '44', 1, '2020-01-01'),
                                (5, NULL, '55', 2, '2020-01-01');
INSERT INTO old.invoice SELECT i, 1 + i % 5, 1 + i % 3, i FROM generate_series(1, 12) i;
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
CREATE TABLE new.customer_raw (LIKE old.customer INCLUDING ALL);
CREATE INDEX ON new.customer_raw (lower(email));
CREATE TABLE new.invoice (LIKE old.invoice INCLUDING ALL, customer_id int);
CREATE TABLE new.best_seller (track int PRIMARY KEY, sold bigint NOT NULL, note text DEFAULT 'by hand');
CREATE TABLE new.crosswalk (source_key int PRIMARY KEY, canonical_key int NOT NULL);
CREATE TABLE new.apart (source_key int PRIMARY KEY, match_value text NOT NULL);
CREATE TABLE new.customer (id int PRIMARY KEY, email text, phone text, spent numeric, changed date, merged int NOT NULL);
SELECT rehome.create_migration('m', 'loopback', 'a shop');
SELECT rehome.add_table('m', 'far.customer', 'new.customer_raw');
SELECT rehome.add_table('m', 'far.invoice', 'new.invoice');

-- What is wrong is listed at once, and nothing is kept.
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, sum(qty) AS amount FROM new.invoice GROUP BY track',
                          affected => '{"new.invoice": "SELECT t.track, t.id", "new.nothing": null}');
:code
SELECT rehome.add_derived('m', 'bad', 'new.invoice', 'SELECT 1 AS id');
:code
SELECT rehome.add_derived('m', 'bad', 'new.invoice', 'SELECT id, customer AS qty FROM new.invoice', columns => '{qty}');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, sold FROM new.best_seller');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, ''many'' AS sold FROM far.invoice; DROP TABLE x');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, sum(qty) AS sold FROM far.invoice GROUP BY track');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, now() AS sold FROM new.invoice');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, id AS sold FROM new.invoice', affected => '[]');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, id AS sold FROM new.invoice', affected => '{"new.invoice": 1}');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, id AS sold FROM new.invoice', write_back => 'pg_catalog.version');
:code
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', NULL);
:code
BEGIN;
ALTER TABLE new.best_seller SET UNLOGGED;
SELECT rehome.add_derived('m', 'bad', 'new.best_seller', 'SELECT track, qty AS sold FROM new.invoice');
ROLLBACK;
:code
SELECT rehome.add_identity('m', 'bad', 'new.customer_raw', 'new.apart', 'new.customer', 'lower(email)');
:code
SELECT rehome.add_identity('m', 'bad', 'new.customer_raw', 'new.crosswalk', 'new.customer', 'lower(email)',
                           '{"merged": "sum", "spent": "most", "email": {"rule": "newest"}, "name": "first"}');
:code
SELECT rehome.add_identity_reference('m', 'bad', 'new.invoice', 'customer_id', 'customer');
:code
SELECT count(*) FROM rehome.derived;

-- A best-seller list, by key; merged customers, and the invoices that refer to them.
SET search_path = new;
SELECT rehome.add_derived('m', 'best sellers', 'best_seller', 'SELECT track, sum(qty) AS sold FROM invoice GROUP BY track;',
                          affected => '{"invoice": "SELECT t.track"}');
SELECT rehome.add_identity('m', 'customer', 'customer_raw', 'crosswalk', 'customer', 'lower(email)',
                           '{"phone": {"rule": "newest", "by": "changed"}, "spent": "sum", "changed": "max",
                             "merged": {"rule": "expression", "expression": "count(*)"}}', overrides => 'apart');
SELECT rehome.add_identity_reference('m', 'customer', 'invoice', 'customer_id', 'customer');
RESET search_path;
SELECT rehome.add_derived('m', 'best sellers', 'new.best_seller', 'SELECT track, id AS sold FROM new.invoice');
:code
SELECT rehome.add_derived('m', 'again', 'new.best_seller', 'SELECT track, id AS sold FROM new.invoice');
:code
SELECT rehome.map_column('m', 'new.invoice', 'customer_id', 'customer');
:code
SELECT rehome.create_migration('n', 'loopback', 'another');
SELECT rehome.add_table('n', 'far.invoice', 'new.customer', key => '{id}', columns => '{"merged": "qty"}');
:code
SELECT rehome.drop_migration('n');
SELECT name, target, columns, inputs, by_key, stale_since IS NOT NULL AS stale, pending, derived_at FROM rehome.derived;
INSERT INTO new.best_seller VALUES (77, 1);
CALL rehome.copy('m');
:code
TRUNCATE new.best_seller;
SET rehome.copy_workers = 0;
CALL rehome.copy('m');
SELECT * FROM new.best_seller ORDER BY 1;
SELECT * FROM new.crosswalk ORDER BY 1;
SELECT * FROM new.customer ORDER BY 1;
SELECT customer, array_agg(DISTINCT customer_id) FROM new.invoice GROUP BY 1 ORDER BY 1;
-- A merged row comes from each that was merged.
SELECT source, source_key, string_agg("column", ', ' ORDER BY "column") AS columns, position IS NOT NULL AS position
  FROM rehome.lineage('new.customer', '{"id": 1}') GROUP BY source, source_key, position ORDER BY source COLLATE "C", source_key;
SELECT DISTINCT source, source_key FROM rehome.lineage('new.best_seller', '{"track": 3}') ORDER BY 1, 2;
SELECT source, "column" FROM rehome.lineage('new.invoice', '{"id": 1}') WHERE "column" LIKE 'customer%' ORDER BY 1, 2;
SELECT rehome.lineage('new.customer', '{"ID": 1}');
:code
SELECT name, stale_since, pending, rows, error FROM rehome.derived;
SELECT target, source_rows, target_rows, missing, extra, differing, ok, note FROM rehome.verify('m') ORDER BY target::text, note;

-- It is part of the definition.
SELECT rehome.export_migration('m') AS definition \gset
SELECT jsonb_pretty((:'definition'::jsonb #> '{slices,0,derived,0}'));
SELECT rehome.import_migration(jsonb_set(:'definition', '{slices,0,derived,0,affected}', '{"new.invoice": 1, "new.x": null}'), 'again');
:code

-- Each batch derives the keys that its changes touch.
UPDATE old.invoice SET track = 9 WHERE id = 12;
DELETE FROM old.invoice WHERE track = 2;
CALL rehome.sync('m');
SELECT * FROM new.best_seller ORDER BY 1;
-- Merged by a change, taken apart by one, gone.
UPDATE old.customer SET email = 'BOB@x.org', phone = '66' WHERE id = 4;
UPDATE old.customer SET email = 'ann.two@x.org' WHERE id = 1;
DELETE FROM old.customer WHERE id = 5;
INSERT INTO old.customer VALUES (6, 'ANN@x.org', '99', 100, '2022-01-01');
CALL rehome.sync('m');
SELECT * FROM new.crosswalk ORDER BY 1;
SELECT * FROM new.customer ORDER BY 1;
SELECT customer, array_agg(DISTINCT customer_id) FROM new.invoice GROUP BY 1 ORDER BY 1;
-- By hand: 6 is somebody else, 1 and 3 are the same.
INSERT INTO new.apart VALUES (6, 'the other Ann'), (1, 'x'), (3, 'x');
CALL rehome.sync('m');
SELECT * FROM new.crosswalk ORDER BY 1;
DELETE FROM new.apart WHERE source_key = 1;
CALL rehome.sync('m');
SELECT * FROM new.crosswalk ORDER BY 1;
SELECT bool_and(ok) FROM rehome.verify('m');

-- Nobody else writes to a derived table.
INSERT INTO new.best_seller VALUES (78, 1);
:code
-- What is changed behind the guard's back is found, and repaired when asked.
ALTER TABLE new.best_seller DISABLE TRIGGER rehome_guard;
UPDATE new.best_seller SET sold = sold + 1 WHERE track = 1;
INSERT INTO new.best_seller VALUES (78, 1);
ALTER TABLE new.best_seller ENABLE ALWAYS TRIGGER rehome_guard;
ALTER TABLE new.invoice DISABLE TRIGGER rehome_guard;
UPDATE new.invoice SET customer_id = 77 WHERE id = 3;
DELETE FROM rehome.derivation_pending;
ALTER TABLE new.invoice ENABLE ALWAYS TRIGGER rehome_guard;
SELECT target, source_rows, target_rows, missing, extra, differing, ok, note FROM rehome.verify('m', target => 'new.best_seller');
SELECT target, differing, ok, note FROM rehome.verify('m', target => 'new.invoice') ORDER BY note;
SELECT target, kind, key, columns, source_row, target_row FROM rehome.discrepancy WHERE resolved_at IS NULL ORDER BY id;
SELECT name, rows, error FROM rehome.refresh_derived('m');
SELECT bool_and(ok) FROM rehome.verify('m');
SELECT count(*) FROM rehome.discrepancy WHERE resolved_at IS NULL;
SELECT rehome.refresh_derived('m', 'nothing');
:code

-- An error stops no batch, but the cutover.
SET client_min_messages = error;
CREATE FUNCTION new.rate(int) RETURNS int STABLE LANGUAGE sql RETURN 100 / $1;
CREATE TABLE new.rated (id int PRIMARY KEY, rate int);
SELECT rehome.add_derived('m', 'rated', 'new.rated', 'SELECT id, new.rate(qty) AS rate FROM new.invoice',
                          affected => '{"new.invoice": "SELECT t.id"}');
CALL rehome.sync('m');
SELECT count(*) FROM new.rated;
UPDATE old.invoice SET qty = 0 WHERE id = 3;
UPDATE old.invoice SET qty = 50 WHERE id = 6;
CALL rehome.sync('m');
SELECT name, stale_since IS NOT NULL AS stale, pending, error FROM rehome.derived WHERE name IN ('rated', 'best sellers');
SELECT id, rate FROM new.rated WHERE id IN (3, 6);
SELECT sold FROM new.best_seller WHERE track = 1;
SELECT ok, source_rows, regexp_replace(note, 'since .*', 'since ...') FROM rehome.verify('m', target => 'new.rated');
CALL rehome.cutover('m');
:code
SELECT name, rows, error FROM rehome.refresh_derived('m', 'rated');
UPDATE old.invoice SET qty = 25 WHERE id = 3;
CALL rehome.sync('m');
SELECT name, rows, error FROM rehome.refresh_derived('m', 'rated');
SELECT id, rate FROM new.rated WHERE id IN (3, 6) ORDER BY 1;
-- As a whole: when asked to.
CREATE TABLE new.total (one int PRIMARY KEY, amount bigint);
SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT 1 AS one, sum(qty) AS amount FROM new.invoice');
CALL rehome.sync('m');
SELECT * FROM new.total;
UPDATE old.invoice SET qty = 26 WHERE id = 3;
CALL rehome.sync('m');
SELECT amount, (SELECT stale_since IS NOT NULL FROM rehome.derived WHERE name = 'total') AS stale,
       amount = (SELECT sum(qty) FROM new.invoice) AS right FROM new.total;
SELECT name, rows FROM rehome.refresh_derived('m', 'total');
SELECT amount = (SELECT sum(qty) FROM new.invoice) AS right FROM new.total;
UPDATE old.invoice SET qty = 27 WHERE id = 3;
-- In a circle.
CREATE TABLE new.a (id int PRIMARY KEY);
CREATE TABLE new.b (id int PRIMARY KEY);
SELECT rehome.add_derived('m', 'a', 'new.a', 'SELECT id FROM new.b');
SELECT rehome.add_derived('m', 'b', 'new.b', 'SELECT id FROM new.a');
:code
SELECT rehome.drop_derived('m', 'a');
SELECT rehome.drop_derived('m', 'a');
:code

-- A table of it is gone.
CREATE TABLE new.apart_from (id int PRIMARY KEY);
CREATE TABLE new.gone (id int PRIMARY KEY);
SELECT rehome.add_derived('m', 'gone', 'new.gone', 'SELECT id FROM new.apart_from');
CALL rehome.sync('m');
DROP TABLE new.apart_from;
CALL rehome.sync('m');
CALL rehome.cutover('m');
:code
DROP TABLE new.gone;
SELECT rehome.drop_derived('m', 'gone');

-- Landed as text: what can be cast is, again and again, without the source.
CREATE TABLE old.dirty (nr int, part text, amount text, at text, PRIMARY KEY (nr, part));
INSERT INTO old.dirty VALUES (1, 'a', '12.50', '2020-02-30'), (2, 'b', 'n/a', '2020-02-28');
CREATE TABLE new.clean (nr int, part text, amount numeric, at date, PRIMARY KEY (nr, part));
IMPORT FOREIGN SCHEMA old LIMIT TO (dirty) FROM SERVER loopback INTO far;
ALTER FOREIGN TABLE far.dirty ALTER at TYPE varchar(10), ALTER amount TYPE varchar(10);
SELECT rehome.create_migration('landing', 'loopback', 'dirty rows');
SELECT rehome.land_table('landing', 'far.dirty', 'nowhere');
:code
SELECT rehome.land_table('landing', 'far.dirty', 'new', 'clean', '{nr,gone}');
:code
SELECT rehome.land_table('landing', 'far.dirty', 'new', 'dirty', '{nr,part}', as_text => true);
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'new.dirty'::regclass AND attnum > 0;
SELECT rehome.add_derived('landing', 'clean', 'new.clean',
    $$SELECT nr, part, CASE WHEN amount ~ '^[0-9.]+$' THEN amount::numeric END AS amount FROM new.dirty$$);
CALL rehome.copy('landing');
SELECT * FROM new.clean ORDER BY nr;
SELECT rehome.drop_derived('landing', 'clean');
SELECT rehome.add_derived('landing', 'clean', 'new.clean', 'SELECT nr, part, NULL AS amount FROM new.dirty');
:code
TRUNCATE new.clean;
SELECT rehome.add_derived('landing', 'clean', 'new.clean',
    $$SELECT nr, part, nullif(amount, 'n/a')::numeric AS amount FROM new.dirty$$, affected => '{"new.dirty": "SELECT t.nr, t.part"}');
SELECT name, rows, error FROM rehome.refresh_derived('landing');
UPDATE old.dirty SET amount = '7' WHERE nr = 2;
DELETE FROM old.dirty WHERE nr = 1;
CALL rehome.sync('landing');
SELECT * FROM new.clean ORDER BY nr;
SELECT bool_and(ok), count(*) FROM rehome.verify('landing');

-- What does not fit its column is an error, as it is for INSERT, and never cut.
CREATE DOMAIN new.code AS varchar(4) CHECK (VALUE <> '');
CREATE TABLE new.label (part text, v varchar(4), c char(4), d new.code, a varchar(4)[], b bit(3), n numeric(6,1), PRIMARY KEY (part));
SELECT rehome.add_derived('landing', 'label', 'new.label',
    $$SELECT min(part) AS part, part || '  ' AS v, part AS c, part AS d, ARRAY[part] AS a, B'101'::bit varying AS b, max(nr) + 0.25 AS n
        FROM new.dirty GROUP BY part$$, affected => '{"new.dirty": "SELECT t.part"}');
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'label');
UPDATE old.dirty SET part = 'longer' WHERE nr = 2;
CALL rehome.sync('landing');
SELECT name, error FROM rehome.derived WHERE name = 'label';
SELECT * FROM new.label ORDER BY part;
SELECT rehome.drop_derived('landing', 'label');
TRUNCATE new.label;
SELECT rehome.add_derived('landing', 'label', 'new.label', $$SELECT part, part AS d FROM new.dirty GROUP BY part$$);
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'label');
SELECT rehome.drop_derived('landing', 'label');
TRUNCATE new.label;
SELECT rehome.add_derived('landing', 'label', 'new.label', $$SELECT part, ARRAY[part] AS a FROM new.dirty GROUP BY part$$);
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'label');
SELECT rehome.drop_derived('landing', 'label');
TRUNCATE new.label;
SELECT rehome.add_derived('landing', 'label', 'new.label', $$SELECT part, B'1011' AS b FROM new.dirty GROUP BY part$$);
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'label');
SELECT rehome.drop_derived('landing', 'label');
TRUNCATE new.label;
CREATE TABLE new.short (part varchar(4) PRIMARY KEY, n int);
SELECT rehome.add_derived('landing', 'short', 'new.short', $$SELECT part, count(*)::int AS n FROM new.dirty GROUP BY part$$,
                          affected => '{"new.dirty": "SELECT t.part"}');
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'short');
UPDATE old.dirty SET part = 'long' WHERE nr = 2;
CALL rehome.sync('landing');
SELECT name, rows, error FROM rehome.refresh_derived('landing', 'short');
SELECT * FROM new.short ORDER BY part;
UPDATE old.dirty SET part = 'longest' WHERE nr = 2;
CALL rehome.sync('landing');
SELECT name, error FROM rehome.derived WHERE name = 'short';
SELECT * FROM new.short ORDER BY part;
CALL rehome.cancel('landing');
SELECT rehome.drop_migration('landing');

-- The cutover derives, and leaves the tables to the application; the rollback takes them back.
CALL rehome.cutover('m');
SELECT amount = (SELECT sum(qty) FROM new.invoice) AS right FROM new.total;
UPDATE new.total SET amount = 0;
INSERT INTO new.invoice VALUES (100, 3, 1, 1000, 2);
SELECT count(*) FROM rehome.derivation_pending;
SELECT rehome.refresh_derived('m');
:code
CALL rehome.rollback('m');
UPDATE new.total SET amount = 0;
:code
CALL rehome.sync('m');
SELECT name, stale_since IS NOT NULL AS stale, error FROM rehome.derived;
SELECT * FROM new.best_seller ORDER BY 1;
SELECT customer, customer_id FROM new.invoice WHERE id = 100;
SELECT name, rows FROM rehome.refresh_derived('m', 'total');
SELECT bool_and(ok) FROM rehome.verify('m');
CALL rehome.cancel('m');
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%';
INSERT INTO new.best_seller VALUES (78, 1);
SELECT rehome.drop_migration('m');
SELECT count(*) FROM rehome.derivation;
-- The definition, elsewhere.
CREATE SCHEMA other;
CREATE TABLE other.customer_raw (LIKE new.customer_raw INCLUDING ALL);
CREATE TABLE other.invoice (LIKE new.invoice INCLUDING ALL);
CREATE TABLE other.best_seller (LIKE new.best_seller INCLUDING ALL);
CREATE TABLE other.crosswalk (LIKE new.crosswalk INCLUDING ALL);
CREATE TABLE other.customer (LIKE new.customer INCLUDING ALL);
-- (best sellers name their input by the path; the others' queries are taken as they are)
SELECT rehome.import_migration(jsonb_set(:'definition', '{slices,0,derived}', (:'definition'::jsonb #> '{slices,0,derived}') - 3 - 2 - 1), 'again',
                               schemas => '{"new": "other"}');
SELECT migration, name, target, inputs, by_key FROM rehome.derived WHERE migration = 'again';
SELECT replace(rehome.export_migration('again')::text, 'other', 'new')::jsonb #> '{slices,0,derived,0}' = :'definition'::jsonb #> '{slices,0,derived,0}' AS same;
SELECT rehome.drop_migration('again');
SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE tgrelid = 'other.invoice'::regclass;

-- Columns whose values rows exchange, and one whose constraint is checked later.
CREATE TABLE old.score (id int PRIMARY KEY, points int NOT NULL);
INSERT INTO old.score VALUES (1, 10), (2, 20), (3, 30);
IMPORT FOREIGN SCHEMA old LIMIT TO (score) FROM SERVER loopback INTO far;
CREATE TABLE new.score (LIKE old.score INCLUDING ALL, place bigint UNIQUE, seat int UNIQUE DEFERRABLE INITIALLY DEFERRED,
                        made int GENERATED ALWAYS AS IDENTITY);
SELECT rehome.create_migration('ranks', 'loopback', 'who is first');
SELECT rehome.add_table('ranks', 'far.score', 'new.score');
SELECT rehome.add_derived('ranks', 'place', 'new.score', 'SELECT id, rank() OVER (ORDER BY points DESC) AS place, points / 10 AS seat FROM new.score',
                          columns => '{place,seat}');
CALL rehome.copy('ranks');
SELECT * FROM new.score ORDER BY id;
UPDATE old.score SET points = 40 - points;
CALL rehome.sync('ranks');
SELECT name, rows FROM rehome.refresh_derived('ranks');
SELECT * FROM new.score ORDER BY id;
UPDATE old.score SET points = 21 WHERE id = 1;
CALL rehome.sync('ranks');
SELECT name, error FROM rehome.refresh_derived('ranks');
SELECT * FROM new.score ORDER BY id;
CALL rehome.cancel('ranks');
SELECT rehome.drop_migration('ranks');

-- More columns than a function takes arguments.
DO $$BEGIN EXECUTE (SELECT format('CREATE TABLE new.broad (id int PRIMARY KEY, %s)', string_agg('c' || i || ' int', ', ')) FROM generate_series(1, 120) i); END$$;
TRUNCATE new.score;
SELECT rehome.create_migration('broad', 'loopback', 'many columns');
SELECT rehome.add_table('broad', 'far.score', 'new.score');
SELECT rehome.add_derived('broad', 'broad', 'new.broad', format('SELECT id, %s FROM new.score', string_agg(format('points + %s AS c%s', i, i), ', ')))
  FROM generate_series(1, 120) i;
CALL rehome.copy('broad');
ALTER TABLE new.broad DISABLE TRIGGER rehome_guard;
UPDATE new.broad SET c77 = 0 WHERE id = 1;
DELETE FROM new.broad WHERE id = 2;
ALTER TABLE new.broad ENABLE ALWAYS TRIGGER rehome_guard;
SELECT source_rows, target_rows, missing, extra, differing, ok FROM rehome.verify('broad', target => 'new.broad');
SELECT key, kind, columns, source_row ->> 'c77' AS there, target_row ->> 'c77' AS here, (SELECT count(*) FROM jsonb_object_keys(source_row)) AS columns_there
  FROM rehome.discrepancy WHERE migration = 'broad' ORDER BY key;
CALL rehome.cancel('broad');
SELECT rehome.drop_migration('broad');
DROP SCHEMA old, far, new, other CASCADE;
DROP SERVER loopback CASCADE;
