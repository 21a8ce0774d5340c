--
-- Redaction: what a column has is in no record, whatever is recorded; the rest
-- goes on as if it were.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = notice;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.patient (id int PRIMARY KEY, first text, last text, born text, ward text);
CREATE TABLE new.patient (id int PRIMARY KEY, name text, born date, ward text);
INSERT INTO old.patient SELECT i, 'secret', 'secret ' || i, '1970-01-01', 'w' || i % 3 FROM generate_series(1, 20) AS i;
UPDATE old.patient SET born = 'secret date' WHERE id = 20;
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'not for everybody to see');
SELECT rehome.add_table('m', 'far.patient', 'new.patient',
                        columns => '{"name": "first || '' '' || last", "born": "born::date"}');
SELECT rehome.set_table_rule('m', 'new.patient', on_error => 'quarantine');

-- Everything that is recorded, and where the secret is in it.
CREATE FUNCTION pg_temp.secrets() RETURNS TABLE (relation text, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR relation IN SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname IN ('rehome', 'rehome_change') AND c.relkind = 'r' ORDER BY 1 LOOP
        EXECUTE format('SELECT count(*) FROM %s AS t WHERE t::text LIKE ''%%secret%%''', relation) INTO rows;
        IF rows > 0 THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION pg_temp.behind(sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE new.patient DISABLE TRIGGER ALL;
    EXECUTE sql;
    ALTER TABLE new.patient ENABLE ALWAYS TRIGGER rehome_guard;
    ALTER TABLE new.patient ENABLE ALWAYS TRIGGER rehome_guard_truncate;
END $$;

-- Wrong calls.
SELECT rehome.redact('m', 'new.patient', '{id,age}');
:code
SELECT rehome.redact('m', 'new.patient', '{}');
:code
SELECT rehome.redact('m', 'old.patient', '{ward}');
:code
SELECT rehome.unredact('m', 'new.patient', '{ward}');
:code

-- What is recorded without: all of it.
SET rehome.copy_workers = 0;
CALL rehome.copy('m');
SELECT pg_temp.behind($$UPDATE new.patient SET name = 'another secret', ward = 'w9' WHERE id = 1;
                        DELETE FROM new.patient WHERE id = 2$$);
SELECT missing, extra, differing, quarantined FROM rehome.verify('m');
SELECT * FROM pg_temp.secrets();

-- Redacted: what is on record is blanked.
SET client_min_messages = notice;
SELECT rehome.redact('m', 'new.patient', '{name,born}');
SELECT rehome.redact('m', 'new.patient', '{name}');
SET client_min_messages = warning;
SELECT * FROM pg_temp.secrets();
SELECT kind, key, columns, source_row, target_row FROM rehome.discrepancy ORDER BY key;
SELECT key, source_row, rule, sqlstate, message FROM rehome.quarantine;

-- Nor does the lint quote any, also where a constraint fails on a value.
ALTER TABLE new.patient ADD CONSTRAINT short CHECK (length(name) < 12 OR name::int > 0) NOT VALID;
SELECT DISTINCT severity, "column", lint, detail FROM rehome.lint_mapping('m') ORDER BY 1, 2, 3, 4;
ALTER TABLE new.patient DROP CONSTRAINT short;

-- What is recorded from now on has none either.
INSERT INTO old.patient VALUES (21, 'secret', 'secret', 'secret date', 'w1');
SELECT pg_temp.behind($$UPDATE new.patient SET name = 'a third secret' WHERE id = 3;
                        INSERT INTO new.patient VALUES (99, 'a fourth secret', NULL, 'w0')$$);
CALL rehome.sync('m');
SELECT missing, extra, differing, quarantined FROM rehome.verify('m', mode => 'rows');
SELECT * FROM pg_temp.secrets();
SELECT kind, key, columns, source_row, target_row FROM rehome.discrepancy ORDER BY key;
SELECT key, source_row, message FROM rehome.quarantine ORDER BY key;

-- Acceptances see null in its place, and are told by the rest.
SELECT rehome.accept('m', 'new.patient', 'a ward that was renamed', predicate => 'target.ward = ''w9'' AND source.name IS NULL') > 0 AS accepted;
SELECT key, acceptance IS NOT NULL AS accepted FROM rehome.discrepancy ORDER BY key;

-- Rows are made good all the same: in quarantine by the source, drift by its key.
UPDATE old.patient SET born = '1980-02-03' WHERE id IN (20, 21);
CALL rehome.sync('m');
SELECT count(*) FROM rehome.quarantine;
SELECT rehome.set_drift_policy('m', 'repair', 'new.patient');
UPDATE new.patient SET name = 'a fifth secret' WHERE id = 5;
DELETE FROM new.patient WHERE id = 6;
SELECT kind, key, old_row, new_row FROM rehome.drift WHERE kind <> 'refused' ORDER BY id;
CALL rehome.sync('m');
SELECT name = first || ' ' || last AS same FROM new.patient JOIN old.patient USING (id) WHERE id IN (5, 6);
SELECT * FROM pg_temp.secrets();

-- A column by another name is not told either, nor is anything else then.
BEGIN;
ALTER TABLE new.patient RENAME name TO called;
UPDATE new.patient SET called = 'a sixth secret', ward = 'w8' WHERE id = 8;
SELECT key, old_row, new_row FROM rehome.drift WHERE kind = 'update' ORDER BY id DESC LIMIT 1;
SELECT * FROM pg_temp.secrets();
ROLLBACK;

-- The mapping document says it.
SELECT target_field, note FROM rehome.mapping_document('m') ORDER BY 1;

-- A definition carries it; what cannot be is said.
SELECT rehome.export_migration('m') -> 'redactions' AS redactions;
SELECT rehome.import_migration(jsonb_set(rehome.export_migration('m') || '{"migration": "m2"}', '{redactions}',
                                         '[{"target": "new.patient"}, {"columns": [1]}]'));
:code
SELECT rehome.export_migration('m') AS definition \gset

-- Nor can a redacted column become part of a key.
CREATE TABLE new.ward (ward text PRIMARY KEY, name text UNIQUE NOT NULL, patients bigint);
SELECT rehome.add_derived('m', 'wards', 'new.ward', 'SELECT ward, ward AS name, count(*) AS patients FROM new.patient GROUP BY ward');
SELECT rehome.redact('m', 'new.ward', '{name,patients}');
SELECT rehome.drop_derived('m', 'wards');
SELECT rehome.add_derived('m', 'wards', 'new.ward', 'SELECT ward, ward AS name, count(*) AS patients FROM new.patient GROUP BY ward', key => '{name}');
:code
SELECT rehome.unredact('m', 'new.ward', '{name,patients}');

-- Taken back: from now on.
SELECT rehome.set_drift_policy('m', 'reject', 'new.patient');
SELECT rehome.unredact('m', 'new.patient', '{name,born}');
SELECT pg_temp.behind($$UPDATE new.patient SET name = 'no secret' WHERE id = 7$$);
SELECT missing, extra, differing FROM rehome.verify('m');
SELECT key, target_row FROM rehome.discrepancy WHERE key = '{"id": 7}';

CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');
SELECT count(*) FROM rehome.redaction;
SELECT rehome.import_migration(:'definition') IS NOT NULL AS imported;
SELECT rehome.export_migration('m') = :'definition' AS same;
SELECT target, "column" FROM rehome.redaction ORDER BY 2;
SELECT rehome.drop_migration('m');
DELETE FROM rehome.discrepancy;
DELETE FROM rehome.drift;
DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
