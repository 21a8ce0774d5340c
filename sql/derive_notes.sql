--
-- Derived data: what makes it stale is noted, whoever did it, and derived.
--
\set SHOW_CONTEXT never
\set VERBOSITY default
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
SET rehome.copy_workers = 0;
CREATE TABLE old.track (id int PRIMARY KEY, name text);
CREATE TABLE old.line (id int PRIMARY KEY, track int, qty int);
CREATE TABLE old.customer (id int PRIMARY KEY, email text, phone text);
CREATE TABLE old.invoice (id int PRIMARY KEY, customer int);
INSERT INTO old.track SELECT i, 'track ' || i FROM generate_series(1, 4) i;
INSERT INTO old.line SELECT i, 1 + i % 3, i FROM generate_series(1, 9) i;
INSERT INTO old.customer VALUES (1, 'a@x', '1'), (2, 'b@x', '2'), (3, 'A@x', '3');
INSERT INTO old.invoice VALUES (1, 1), (2, 2), (3, 3);
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
CREATE TABLE new.track (id int PRIMARY KEY, name text, sold bigint, rank bigint, copies int DEFAULT 0);
CREATE TABLE new.line (LIKE old.line INCLUDING ALL);

-- Columns of a row that is made again are derived again, and what was derived
-- of them in the same table as well, whichever was stated first.
SELECT rehome.create_migration('m', 'loopback', 'tracks');
SELECT rehome.add_table('m', 'far.track', 'new.track');
SELECT rehome.add_table('m', 'far.line', 'new.line');
SELECT rehome.add_derived('m', 'rank', 'new.track', 'SELECT id, rank() OVER (ORDER BY sold DESC NULLS LAST) AS rank FROM new.track',
                          columns => '{rank}');
SELECT rehome.add_derived('m', 'sold', 'new.track', 'SELECT track AS id, sum(qty) AS sold FROM new.line GROUP BY track',
                          affected => '{"new.line": "SELECT t.track"}', columns => '{sold}');
SELECT rehome.add_derived('m', 'copies', 'new.track', 'SELECT track AS id, count(*) AS copies FROM new.line GROUP BY track',
                          affected => '{"new.line": "SELECT t.track"}', columns => '{copies}');
SELECT d.name, i.input, i.affected FROM rehome.derivation_input i JOIN rehome.derivation d ON d.id = i.derivation_id ORDER BY d.id, i.input::text;
CALL rehome.copy('m');
SELECT * FROM new.track ORDER BY id;
SELECT name, by_key, stale_since, pending, error FROM rehome.derived;
-- by a change, by all anew, by TRUNCATE
DELETE FROM old.track WHERE id = 2;
CALL rehome.sync('m');
INSERT INTO old.track VALUES (2, 'again');
CALL rehome.sync('m');
SELECT id, name, sold, copies FROM new.track ORDER BY id;
SELECT rehome.recopy('m', 'new.track');
CALL rehome.sync('m');
SELECT id, name, sold, copies FROM new.track ORDER BY id;
BEGIN;
TRUNCATE old.track;
INSERT INTO old.track SELECT i, 'new ' || i FROM generate_series(1, 4) i;
COMMIT;
CALL rehome.sync('m');
SELECT id, name, sold, copies FROM new.track ORDER BY id;
-- what does not touch them notes nothing
UPDATE old.track SET name = 'named' WHERE id = 1;
CALL rehome.sync('m');
SELECT name, stale_since IS NOT NULL AS stale, pending, error FROM rehome.derived WHERE by_key;
-- as a whole: by request, with what that touches of the others
SELECT name, rows, error FROM rehome.refresh_derived('m', 'rank');
UPDATE old.line SET qty = 100 WHERE id = 2;
CALL rehome.sync('m');
SELECT name, stale_since IS NOT NULL AS stale, pending FROM rehome.derived;
SELECT name, error FROM rehome.refresh_derived('m');
SELECT * FROM new.track ORDER BY id;
SELECT name, stale_since, pending, error FROM rehome.derived;
SELECT bool_and(ok) FROM rehome.verify('m');
UPDATE old.line SET qty = 1 WHERE id = 2;
CALL rehome.cutover('m');
SELECT id, sold, rank FROM new.track ORDER BY id;
CALL rehome.rollback('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Two that are made of each other never settle: that is no state to cut over.
TRUNCATE new.track, new.line;
SELECT rehome.create_migration('m', 'loopback', 'tracks');
SELECT rehome.add_table('m', 'far.track', 'new.track');
SELECT rehome.add_derived('m', 'up', 'new.track', 'SELECT id, coalesce(rank, 0) + 1 AS sold FROM new.track',
                          affected => '{"new.track": "SELECT t.id"}', columns => '{sold}');
SELECT rehome.add_derived('m', 'up again', 'new.track', 'SELECT id, sold + 1 AS rank FROM new.track',
                          affected => '{"new.track": "SELECT t.id"}', columns => '{rank}');
CALL rehome.copy('m');
SELECT name, stale_since IS NOT NULL AS stale FROM rehome.derived;
CALL rehome.cutover('m');
:code
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- An override moves those beside it, too; one that is null matches nothing.
CREATE TABLE new.customer_raw (LIKE old.customer INCLUDING ALL);
CREATE TABLE new.crosswalk (source_key int PRIMARY KEY, canonical_key int NOT NULL);
CREATE TABLE new.customer (id int PRIMARY KEY, email text);
CREATE TABLE new.apart (source_key int PRIMARY KEY, match_value text);
CREATE VIEW new.merged AS SELECT string_agg(source_key || ' is ' || canonical_key, ', ' ORDER BY source_key) FROM new.crosswalk;
SELECT rehome.create_migration('m', 'loopback', 'customers');
SELECT rehome.add_table('m', 'far.customer', 'new.customer_raw');
SELECT rehome.add_identity('m', 'customer', 'new.customer_raw', 'new.crosswalk', 'new.customer', 'lower(email)', overrides => 'new.apart');
CALL rehome.copy('m');
TABLE new.merged;
INSERT INTO new.apart VALUES (2, 'a@x');
CALL rehome.sync('m');
TABLE new.merged;
INSERT INTO new.apart VALUES (1, 'z'), (3, 'y');
CALL rehome.sync('m');
TABLE new.merged;
DELETE FROM new.apart WHERE source_key = 1;
CALL rehome.sync('m');
TABLE new.merged;
INSERT INTO new.apart VALUES (1, NULL);
UPDATE new.apart SET match_value = NULL WHERE source_key = 3;
CALL rehome.sync('m');
TABLE new.merged;
SELECT bool_and(ok) FROM rehome.verify('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Columns are derived by the slice that moves their rows.
TRUNCATE new.customer_raw, new.crosswalk, new.customer, new.apart;
CREATE TABLE new.invoice (LIKE old.invoice INCLUDING ALL, customer_id int);
CREATE VIEW new.referring AS SELECT string_agg(id || ' of ' || customer_id, ', ' ORDER BY id) FROM new.invoice;
SELECT rehome.create_migration('m', 'loopback', 'customers');
SELECT rehome.add_slice('m', 'orders');
SELECT rehome.add_table('m', 'far.customer', 'new.customer_raw');
SELECT rehome.add_derived('m', 'reference', 'new.invoice', 'SELECT id, customer AS customer_id FROM new.invoice', columns => '{customer_id}');
SELECT rehome.add_table('m', 'far.invoice', 'new.invoice', slice => 'orders');
:code
SELECT rehome.drop_derived('m', 'reference');
SELECT rehome.add_table('m', 'far.invoice', 'new.invoice', slice => 'orders');
SELECT rehome.add_derived('m', 'reference', 'new.invoice', 'SELECT id, customer AS customer_id FROM new.invoice', columns => '{customer_id}');
:code
SELECT rehome.add_identity('m', 'customer', 'new.customer_raw', 'new.crosswalk', 'new.customer', 'lower(email)', overrides => 'new.apart');
SELECT rehome.add_identity_reference('m', 'customer', 'new.invoice', 'customer_id', 'customer');
SELECT name, slice FROM rehome.derived;
CALL rehome.copy('m');
TABLE new.referring;
UPDATE old.customer SET email = 'b@x' WHERE id = 3;
CALL rehome.sync('m');
TABLE new.referring;
-- cut over, it is the application's, whatever it refers to
CALL rehome.cutover('m', 'orders');
UPDATE new.invoice SET customer_id = 3;
UPDATE old.customer SET email = 'a@x' WHERE id = 3;
CALL rehome.sync('m', 'main');
TABLE new.merged;
TABLE new.referring;
CALL rehome.rollback('m', 'orders');
CALL rehome.sync('m', 'orders');
TABLE new.referring;
-- and while it is not, it follows what has been cut over
CALL rehome.cutover('m', 'main');
UPDATE new.crosswalk SET canonical_key = 1 WHERE source_key = 2;
CALL rehome.sync('m', 'orders');
TABLE new.referring;
CALL rehome.rollback('m', 'main');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Changes of rows that are another table's as well cannot be noted.
CREATE TABLE new.parted (id int, qty int) PARTITION BY RANGE (id);
CREATE TABLE new.part PARTITION OF new.parted FOR VALUES FROM (0) TO (100);
CREATE TABLE new.mother (id int, qty int);
CREATE TABLE new.child () INHERITS (new.mother);
CREATE TABLE new.total (one int PRIMARY KEY, qty bigint);
SELECT rehome.create_migration('m', 'loopback', 'partitions');
SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT 1 AS one, sum(qty) AS qty FROM new.part');
:code
SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT 1 AS one, sum(qty) AS qty FROM new.mother');
:code
SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT 1 AS one, sum(qty) AS qty FROM new.child');
:code
SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT 1 AS one, sum(qty) AS qty FROM new.parted');
INSERT INTO new.parted VALUES (1, 7);
SELECT name, stale_since IS NOT NULL AS stale FROM rehome.derived;
SELECT rehome.drop_migration('m');

-- A match that fails for a row stops no batch.
TRUNCATE new.customer_raw, new.crosswalk, new.customer, new.apart;
SELECT rehome.create_migration('m', 'loopback', 'customers');
SELECT rehome.add_table('m', 'far.customer', 'new.customer_raw');
SELECT rehome.set_table_rule('m', 'new.customer_raw', on_error => 'quarantine');
SELECT rehome.add_identity('m', 'customer', 'new.customer_raw', 'new.crosswalk', 'new.customer', 'phone::bigint', overrides => 'new.apart');
CALL rehome.copy('m');
UPDATE old.customer SET phone = 'n/a' WHERE id = 2;
CALL rehome.sync('m');
SELECT id, phone FROM new.customer_raw ORDER BY id;
SELECT name, stale_since IS NOT NULL AS stale, pending, error FROM rehome.derived;
-- nor the application's write
INSERT INTO new.apart VALUES (3, '1');
UPDATE old.customer SET phone = '3' WHERE id = 2;
CALL rehome.sync('m');
SELECT name, error FROM rehome.refresh_derived('m');
TABLE new.merged;
SELECT bool_and(ok) FROM rehome.verify('m');
SELECT count(*) FROM rehome.quarantine;
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- What takes an unfinished copy back notes nothing.
TRUNCATE new.line;
CREATE TABLE new.by_track (track int PRIMARY KEY, sold bigint);
CREATE FUNCTION new.asked(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''asked for %'', $1; RETURN $1; END';
CREATE UNIQUE INDEX line_track ON new.line (track);
SELECT rehome.create_migration('m', 'loopback', 'unfinished');
SELECT rehome.add_table('m', 'far.line', 'new.line');
SELECT rehome.add_derived('m', 'by track', 'new.by_track', 'SELECT track, sum(qty) AS sold FROM new.line GROUP BY track',
                          affected => '{"new.line": "SELECT new.asked(t.track)"}');
CALL rehome.copy('m');
:code
SELECT state FROM rehome.slice WHERE name = 'main';
SELECT count(*) FROM new.line;
CALL rehome.cancel('m');
SELECT count(*) FROM new.line;
DROP INDEX IF EXISTS new.line_track;
SELECT rehome.drop_migration('m');

-- A key that can be spelled in more than one way.
CREATE COLLATION new.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE old.song (id int PRIMARY KEY, price numeric, genre text);
INSERT INTO old.song VALUES (1, 1.0, 'rock'), (2, 2, 'pop');
IMPORT FOREIGN SCHEMA old LIMIT TO (song) FROM SERVER loopback INTO far;
CREATE TABLE new.song (LIKE old.song INCLUDING ALL);
CREATE TABLE new.shelf (price numeric, genre text COLLATE new.any_case, songs bigint, PRIMARY KEY (price, genre));
SELECT rehome.create_migration('m', 'loopback', 'shelves');
SELECT rehome.add_table('m', 'far.song', 'new.song');
SELECT rehome.add_derived('m', 'shelf', 'new.shelf',
    'SELECT price, genre COLLATE new.any_case AS genre, count(*) AS songs FROM new.song GROUP BY 1, 2',
    affected => '{"new.song": "SELECT t.price, t.genre"}');
CALL rehome.copy('m');
INSERT INTO old.song VALUES (3, 1.00, 'Rock'), (4, 1.000, 'ROCK');
CALL rehome.sync('m');
SELECT name, error FROM rehome.derived;
SELECT trim_scale(price) AS price, lower(genre) AS genre, songs FROM new.shelf ORDER BY 1, 2;
SELECT bool_and(ok) FROM rehome.verify('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Functions that carry writes back may write to what is derived themselves,
-- and so have those carried back.
TRUNCATE new.line, new.by_track;
CREATE TABLE new.by_qty (qty int PRIMARY KEY, lines bigint);
CREATE FUNCTION new.sold_back(was new.by_track, is_now new.by_track) RETURNS void LANGUAGE plpgsql AS
$$BEGIN
    UPDATE new.by_track SET sold = sold WHERE track = was.track;
    UPDATE new.by_qty SET lines = lines + 1 WHERE qty = 9;
END$$;
CREATE FUNCTION new.qty_back(was new.by_qty, is_now new.by_qty) RETURNS void LANGUAGE plpgsql AS
$$BEGIN
    INSERT INTO new.line SELECT 100 + is_now.lines, 9, 9;
    UPDATE new.by_track SET sold = sold WHERE track = 1;
END$$;
SELECT rehome.create_migration('m', 'loopback', 'there and back');
SELECT rehome.add_table('m', 'far.line', 'new.line');
SELECT rehome.add_derived('m', 'by track', 'new.by_track', 'SELECT track, sum(qty) AS sold FROM new.line GROUP BY track',
                          affected => '{"new.line": "SELECT t.track"}', write_back => 'new.sold_back');
SELECT rehome.add_derived('m', 'by qty', 'new.by_qty', 'SELECT qty, count(*) AS lines FROM new.line GROUP BY qty',
                          affected => '{"new.line": "SELECT t.qty"}', write_back => 'new.qty_back');
CALL rehome.copy('m');
CALL rehome.cutover('m');
UPDATE new.by_track SET sold = 0 WHERE track = 1;
SELECT * FROM new.line WHERE id > 100;
CALL rehome.rollback('m');
CALL rehome.sync('m');
SELECT * FROM old.line WHERE id > 100;
SELECT * FROM new.by_qty WHERE qty = 9;
SELECT bool_and(ok) FROM rehome.verify('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- Any name will do for a column.
CREATE TABLE new.has (id int PRIMARY KEY, has int, rehome_has boolean);
TRUNCATE new.line;
SELECT rehome.create_migration('m', 'loopback', 'names');
SELECT rehome.add_table('m', 'far.line', 'new.line');
SELECT rehome.add_derived('m', 'has', 'new.has', 'SELECT id, qty AS has FROM new.line', affected => '{"new.line": "SELECT t.id"}');
CALL rehome.copy('m');
SELECT target, ok, note FROM rehome.verify('m');
ALTER TABLE new.has DISABLE TRIGGER rehome_guard;
UPDATE new.has SET has = 0 WHERE id = 1;
DELETE FROM new.has WHERE id = 2;
INSERT INTO new.has VALUES (20);
SELECT target, missing, extra, differing, ok FROM rehome.verify('m', target => 'new.has');
SELECT kind, key, columns, source_row, target_row FROM rehome.discrepancy WHERE target = 'new.has'::regclass ORDER BY id;
-- What differs there is not correct.
SELECT bool_and(ok) FROM rehome.verify('m');
SELECT value, detail FROM rehome.scorecard('m') WHERE metric = 'correctness';
DELETE FROM rehome.discrepancy WHERE target = 'new.has'::regclass;
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

-- What is tried again is derived at once.
CREATE TABLE old.visit (id int PRIMARY KEY, code text);
INSERT INTO old.visit VALUES (1, 'de'), (2, 'fr'), (3, 'xx');
IMPORT FOREIGN SCHEMA old LIMIT TO (visit) FROM SERVER loopback INTO far;
CREATE TABLE new.country (code text PRIMARY KEY);
INSERT INTO new.country VALUES ('de'), ('xx');
CREATE TABLE new.visit (LIKE old.visit INCLUDING ALL);
CREATE TABLE new.visits (code text PRIMARY KEY REFERENCES new.country, n bigint);
CREATE FUNCTION new.fits(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
'BEGIN IF $1 = ''xx'' THEN RAISE EXCEPTION ''xx''; END IF; RETURN $1; END';
SELECT rehome.create_migration('m', 'loopback', 'visits');
SELECT rehome.add_table('m', 'far.visit', 'new.visit');
SELECT rehome.map_column('m', 'new.visit', 'code', 'new.fits(code)', inverse => 'code');
SELECT rehome.set_table_rule('m', 'new.visit', on_error => 'quarantine');
SELECT rehome.add_derived('m', 'visits', 'new.visits', 'SELECT code, count(*) AS n FROM new.visit GROUP BY code',
                          affected => '{"new.visit": "SELECT t.code"}');
CALL rehome.copy('m');
TABLE new.visits;
CREATE OR REPLACE FUNCTION new.fits(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
SELECT * FROM rehome.retry('m');
TABLE new.visits;
SELECT stale_since FROM rehome.derived;
-- Of several rows with a key none is chosen.
CREATE TABLE new.latest (code text PRIMARY KEY, id int);
SELECT rehome.add_derived('m', 'latest', 'new.latest', 'SELECT code, id FROM new.visit', affected => '{"new.visit": "SELECT t.code"}');
ALTER TABLE new.country ADD visit int;
SELECT rehome.add_derived('m', 'a visit', 'new.country', 'SELECT code, id AS visit FROM new.visit', columns => '{visit}',
                          affected => '{"new.visit": "SELECT t.code"}');
CALL rehome.sync('m');
INSERT INTO old.visit VALUES (4, 'de');
CALL rehome.sync('m');
SELECT * FROM new.latest ORDER BY 1;
SELECT code, visit FROM new.country ORDER BY 1;
SELECT name, error FROM rehome.derived;
DELETE FROM old.visit WHERE id = 4;
SELECT rehome.drop_derived('m', 'latest');
SELECT rehome.drop_derived('m', 'a visit');
-- A foreign key of what is derived is held against it.
SELECT severity, object, detail FROM rehome.preflight('m') WHERE object LIKE '%visits_code_fkey%';
CALL rehome.cutover('m');
:code
INSERT INTO new.country VALUES ('fr');
CALL rehome.cutover('m');
SELECT authority FROM rehome.status;
CALL rehome.rollback('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
