--
-- The rules of a migration, to read, to keep and to carry elsewhere.
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
CREATE ROLE regress_rehome_clerk;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.person (pid int PRIMARY KEY, fname varchar(40), lname text, cents int, "odd|name" text,
                         born timestamp, unused text, hidden boolean NOT NULL DEFAULT false);
CREATE TABLE old.code (id int PRIMARY KEY, v text);
CREATE TABLE new.people (id bigint PRIMARY KEY, first_name text, whole_name text, euros numeric(12, 2), odd text,
                         born timestamptz, note text DEFAULT 'none', n int GENERATED ALWAYS AS IDENTITY,
                         letter text GENERATED ALWAYS AS (left(first_name, 1)) STORED, gap text);
CREATE TABLE new.code (id int PRIMARY KEY, v text);
-- The foreign table of persons has names of its own.
CREATE FOREIGN TABLE far.person (pid int, given varchar(40) OPTIONS (column_name 'fname'), lname text, cents int,
                                 "odd|name" text, born timestamp, unused text, hidden boolean)
    SERVER loopback OPTIONS (schema_name 'old', table_name 'person');
IMPORT FOREIGN SCHEMA old LIMIT TO (code) FROM SERVER loopback INTO far;

SELECT rehome.create_migration('m', 'loopback', 'a schema that was never right', home => 'db.example.com');
SELECT rehome.add_slice('m', 'codes');
SELECT rehome.add_table('m', 'far.person', 'new.people', filter => 'NOT hidden',
                        columns => '{"id": "pid", "first_name": "given", "odd": "\"odd|name\""}');
SELECT rehome.add_table('m', 'far.code', 'new.code', slice => 'codes');
SELECT rehome.map_column('m', 'new.people', 'whole_name', $$given || ' | ' || upper(lname)$$, note => E'for the\nsearch | index');
SELECT rehome.map_column('m', 'new.people', 'euros', 'round(cents / 100.0, 2)', inverse => '(euros * 100)::int', inverse_column => 'cents');
SELECT rehome.map_column('m', 'new.people', 'born', $$born AT TIME ZONE 'UTC'$$, inverse => $$born AT TIME ZONE 'UTC'$$);

--
-- The document
--
SELECT slice, target, target_field, target_type, source, source_fields, kind FROM rehome.mapping_document('m');
SELECT target_field, transformation, owner = current_user AS mine, validation, on_error, inverse, note
  FROM rehome.mapping_document('m') WHERE target = 'new.people'::regclass;
\pset format unaligned
SELECT replace(rehome.mapping_document_markdown('m'), current_user, 'OWNER') AS markdown;
\pset format aligned
SELECT * FROM rehome.mapping_document('none');
:code
SELECT * FROM rehome.mapping_document(NULL);
:code
SELECT rehome.mapping_document_markdown('none');
:code

--
-- Export and import
--
\pset format unaligned
SELECT jsonb_pretty(rehome.export_migration('m'));
\pset format aligned
SELECT rehome.export_migration('none');
:code
SELECT rehome.definition_hash('m') ~ '^[0-9a-f]{64}$' AS hash,
       rehome.definition_hash('m') <> rehome.definition_hash('m', 'codes') AS of_its_slice;
SELECT rehome.definition_hash('m', 'none');
:code
-- Round trip: what is exported, imported and exported is the same, and so is
-- the hash of its rules.
SELECT rehome.export_migration('m') AS definition, rehome.definition_hash('m') AS hash \gset
SELECT rehome.import_migration(:'definition');
:code
SELECT rehome.import_migration(:'definition', migration => 'm2');
:code
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(:'definition');
SELECT rehome.export_migration('m') = :'definition' AS same, rehome.definition_hash('m') = :'hash' AS same_hash;
-- A rule that differs has another hash; a definition with an owner of a rule.
SELECT rehome.map_column('m', 'new.people', 'gap', 'unused');
SELECT rehome.definition_hash('m') = :'hash' AS same_hash;
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(jsonb_set(:'definition', '{slices,0,tables,0,columns,1,owner}', '"regress_rehome_clerk"'));
SELECT target_field, owner FROM rehome.mapping_document('m') WHERE owner = 'regress_rehome_clerk';
SELECT rehome.export_migration('m') #>> '{slices,0,tables,0,columns,1,owner}' AS owner;
-- Policies and parameters of rules go with them.
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(:'definition');
SELECT rehome.add_rule('m', 'new.people', 'whole_name', 'text', '{"trim": "both"}', source_column => 'lname',
                       validation => $$value <> ''$$, on_error => 'quarantine');
SELECT rehome.add_rule('m', 'new.people', 'note', 'default');
SELECT rehome.set_table_rule('m', 'new.people', on_error => 'quarantine');
SELECT rehome.export_migration('m') AS rich \gset
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(:'rich');
SELECT rehome.export_migration('m') = :'rich' AS same;
SELECT target_field, kind, transformation, validation, on_error FROM rehome.mapping_document('m')
 WHERE target_field IN ('id', 'whole_name', 'note', 'gap');
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(jsonb_set(jsonb_set(:'rich', '{slices,0,tables,0,columns,2,on_error}', '"ignore"'),
    '{slices,0,tables,0,on_delete}', '"keep"'));
:code
SELECT rehome.import_migration(jsonb_set(jsonb_set(jsonb_set(:'rich', '{slices,0,tables,0,delete_column}', '"note"'),
    '{slices,0,tables,0,columns,2,kind}', '"skip"'), '{slices,0,tables,0,columns,8,kind}', '"copy"'));
:code
-- What the tables here do not allow.
SELECT rehome.import_migration(jsonb_set(jsonb_set(jsonb_set(:'rich', '{slices,0,tables,0,delete_column}', '"gone_at"'),
    '{slices,0,tables,0,on_delete}', '"mark"'), '{slices,0,tables,0,columns,0,on_error}', '"null"'));
:code
SELECT rehome.import_migration(:'definition');
-- Checks, queries, criteria, schedules and drift policies go with it, and the
-- rules have the hash they had.
SET search_path = new, public;
SELECT rehome.add_check('m', 'totals', 'business', 'SELECT sum(cents) / 100.0 AS t FROM old.person', 'SELECT sum(euros) AS t FROM people',
                        key => '{t}', tolerance => '{"t": "1%"}', valid_for => NULL, description => 'what is owed');
RESET search_path;
SELECT rehome.add_check('m', 'codes', 'application', NULL, 'SELECT id FROM new.code WHERE v IS NULL', slice => 'codes', valid_for => '3 days 04:00');
SELECT rehome.add_check('m', 'billing', 'integration');
SELECT rehome.add_query('m', 'people', 'SELECT count(*) FROM old.person', 'SELECT count(*) FROM new.people', factor => 1.5, noise => 0.1);
SELECT rehome.set_schedule('m', '1 hour', checks => '{totals}') + rehome.set_schedule('m', '90 seconds', queries => '{people}') AS scheduled;
SELECT rehome.set_criterion('m', 'correctness', '>=', 99.990, max_age => '1 day');
SELECT rehome.set_criterion('m', 'check.codes', '=', 1, blocking => false, owner => 'ann');
SELECT jsonb_set(rehome.export_migration('m'), '{slices,0,tables,0,drift_policy}', '"record"') AS stated \gset
SELECT jsonb_pretty(:'stated'::jsonb - 'slices');
SELECT rehome.drop_migration('m');
SELECT rehome.import_migration(:'stated');
SELECT rehome.export_migration('m') = :'stated' AS same, rehome.definition_hash('m') = :'hash' AS same_hash;
SELECT target, drift_policy FROM rehome.table_map ORDER BY id;
SELECT name, every, due_at <= clock_timestamp() AS due FROM rehome.check_definition UNION ALL
SELECT name, every, due_at <= clock_timestamp() FROM rehome.query_definition ORDER BY 1;
SELECT rehome.drop_migration('m');
-- Null is as good as nothing.
SELECT rehome.import_migration(jsonb_set(:'definition'::jsonb || '{"checks": null, "queries": null, "criteria": null, "redactions": null}', '{slices,0,derived}', 'null'));
SELECT rehome.export_migration('m') = :'definition' AS same;
SELECT rehome.drop_migration('m');
-- Temporary tables come last, whatever the definition says.
SELECT rehome.import_migration(jsonb_set(:'stated', '{checks,0,search_path}', '"pg_temp, new"'));
SELECT search_path FROM rehome.check_definition WHERE name = 'totals';
SELECT rehome.drop_migration('m');
-- Everything that is wrong with them; first with their form.
SELECT rehome.import_migration(:'definition'::jsonb || '{"checks": [{"name": "c", "layer": "gossip", "key": [1], "tolerance": 5, "surprise": 1}], "queries": {},
    "criteria": [{"metric": "pending", "comparator": "~", "threshold": "1", "blocking": true}, {"metric": "pending", "comparator": "<", "threshold": 1, "blocking": 7}]}');
:code
SELECT rehome.import_migration(jsonb_set(:'stated', '{slices,0,tables,0,drift_policy}', '"ignore"'));
:code
SELECT rehome.import_migration(:'definition'::jsonb || '{"checks": [
      {"slice": "nowhere", "name": "lost", "layer": "business", "target_sql": "SELECT 1", "search_path": "public"},
      {"slice": "main", "name": "writes", "layer": "business", "target_sql": "DELETE FROM new.code", "search_path": "public"},
      {"slice": "main", "name": "vague", "layer": "business", "source_sql": "SELECT 1 AS a", "target_sql": "SELECT 1 AS a", "tolerance": {"a": "some"}, "search_path": "public"},
      {"slice": "main", "name": "eager", "layer": "business", "target_sql": "SELECT 1", "search_path": "public", "every": "1 millisecond"},
      {"slice": "main", "name": "reported", "layer": "integration", "search_path": "public", "every": "1 day"},
      {"slice": "main", "name": "old", "layer": "business", "target_sql": "SELECT 1", "search_path": "public", "valid_for": "a while"},
      {"slice": "main", "name": "astray", "layer": "business", "target_sql": "SELECT 1", "search_path": "a b"}],
    "queries": [{"slice": "main", "name": "q", "source_sql": "SELECT 1", "target_sql": "SELECT 1", "search_path": "public", "factor": 0.5, "noise": 0},
      {"slice": "main", "name": "r", "source_sql": "SELECT 1", "target_sql": "SELECT 1", "search_path": "public", "factor": 2, "noise": 0},
      {"slice": "main", "name": "r", "source_sql": "SELECT 1", "target_sql": "SELECT 1", "search_path": "public", "factor": 2, "noise": 0}],
    "criteria": [{"metric": "luck", "comparator": ">", "threshold": 1, "blocking": true}]}');
:code
SELECT rehome.import_migration(:'stated');
-- Another name, other schemas, another server.
ALTER SCHEMA new RENAME TO newer;
ALTER SCHEMA far RENAME TO farther;
SELECT rehome.drop_migration('m');
CREATE SERVER another FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER another;
SELECT rehome.import_migration(:'definition', migration => 'other', schemas => '{"new": "newer"}');
:code
SELECT rehome.import_migration(:'definition', migration => 'other', server => 'another', schemas => '{"new": "newer", "far": "farther"}');
:code
SELECT rehome.import_migration(:'definition', migration => 'other', schemas => '{"new": "newer", "far": "farther"}');
SELECT migration, slice, state, tables FROM rehome.status;
-- Names of checks are looked up in the schema's new name first.
SELECT rehome.drop_migration('other');
SELECT rehome.import_migration(:'stated', migration => 'other', schemas => '{"new": "newer", "far": "farther"}');
SELECT name, search_path FROM rehome.check_definition ORDER BY id;
SELECT rehome.drop_migration('other');
ALTER SCHEMA newer RENAME TO new;
ALTER SCHEMA farther RENAME TO far;

-- Foreign tables that add_schema made are made again.
SELECT rehome.create_migration('s', 'loopback', 'a whole schema');
SELECT rehome.add_slice('s', 'rest');
CREATE TABLE new.person (pid int PRIMARY KEY, fname varchar(40), lname text);
SELECT rehome.add_schema('s', 'old', 'new', slice => 'rest');
SELECT rehome.export_migration('s') AS whole \gset
SELECT t -> 'source' AS source FROM jsonb_array_elements(:'whole'::jsonb #> '{slices,1,tables}') t;
SELECT rehome.drop_migration('s');
SELECT rehome.import_migration(:'whole');
SELECT rehome.export_migration('s') = :'whole' AS same;
SELECT count(*) AS foreign_tables FROM pg_foreign_table f JOIN rehome.table_map t ON t.source::oid = f.ftrelid AND t.imported;
SELECT rehome.drop_migration('s');
SELECT rehome.import_migration(jsonb_set(:'whole', '{slices,1,tables,0,source,table}', '"gone"'));
:code
SELECT rehome.import_migration(:'whole'::jsonb - 'server');
:code
DROP TABLE new.person;

-- What is wrong is told all at once, and nothing is left of it.
SELECT rehome.import_migration(NULL);
:code
SELECT rehome.import_migration('[]');
:code
SELECT rehome.import_migration('{"format": "other", "version": 2, "migration": "x", "reason": 5, "surprise": 1, "slices": [
    {"tables": [{"source": {"schema": "old"}, "target": "new.code", "key": [1], "columns": [
        {"column": "v"}, {"column": "v", "expression": true}, 7]}]}]}', schemas => '[]');
:code
ALTER TABLE new.people DROP COLUMN odd;
DROP FOREIGN TABLE far.code;
SELECT rehome.import_migration(jsonb_set(jsonb_set(jsonb_set(:'definition',
    '{slices,0,tables,0,columns,1,expression}', '"no_such_column"'),
    '{slices,0,tables,0,columns,2,expression}', '"random()::text"'),
    '{slices,0,tables,0,columns,5,owner}', '"regress_nobody"'));
:code
SELECT rehome.import_migration(jsonb_set(:'definition', '{slices,1,tables,0,target}', '"code"') #- '{slices,0,tables,0,columns,0}');
:code
SELECT count(*) AS migrations FROM rehome.migration;

-- What has been done to the tables since does not keep the document from
-- being read, but the definition from being exported.
ALTER TABLE new.people ADD COLUMN odd text;
SELECT rehome.create_migration('m', 'loopback', 'tables that change');
SELECT rehome.add_table('m', 'far.person', 'new.people', columns => '{"id": "pid", "odd": "\"odd|name\""}');
ALTER FOREIGN TABLE far.person DROP COLUMN "odd|name";
ALTER TABLE new.people DROP COLUMN gap, ADD COLUMN later text;
SELECT target_field, source_fields, kind, transformation FROM rehome.mapping_document('m')
 WHERE target_field IN ('id', 'odd', 'gap', 'later');
DROP FOREIGN TABLE far.person;
SELECT target_field, source_fields, kind FROM rehome.mapping_document('m') WHERE target_field = 'id';
SELECT rehome.mapping_document_markdown('m') ~ 'new.people' AS readable;
\set VERBOSITY sqlstate
SELECT rehome.export_migration('m');
\set VERBOSITY default
SELECT rehome.drop_migration('m');

-- The hash of the rules is in the log of what was done by them.
CREATE TABLE new.copied (id int PRIMARY KEY, v text);
INSERT INTO old.code VALUES (1, 'one');
SELECT rehome.create_migration('local', NULL, 'within the database');
SELECT rehome.add_table('local', 'old.code', 'new.copied');
CALL rehome.copy('local');
SELECT ok FROM rehome.verify('local');
SELECT kind, detail ->> 'rules' = rehome.definition_hash('local') AS by_these_rules
  FROM rehome.event WHERE migration = 'local' AND kind IN ('copy', 'copied', 'verified') ORDER BY id;
CALL rehome.complete('local');
SELECT rehome.drop_migration('local');

DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
DROP SERVER another CASCADE;
DROP ROLE regress_rehome_clerk;
TRUNCATE rehome.event;
