--
-- lineage: where a row of a target comes from.
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
CREATE ROLE regress_rehome_operator IN ROLE rehome_operator;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.item (code text, part int, label text, hidden boolean NOT NULL DEFAULT false, PRIMARY KEY (code, part));
CREATE TABLE new.item (id text, nr int, label text NOT NULL, note text, PRIMARY KEY (id, nr));
INSERT INTO old.item VALUES ('a''b', 1, 'one', false), ('c', 2, 'two', false), ('d', 3, 'three', true);
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'items');
SELECT rehome.add_table('m', 'far.item', 'new.item', filter => 'NOT hidden',
                        columns => $${"id": "upper(code)", "nr": "part * 10", "label": "label || '/' || code"}$$);
SELECT rehome.map_column('m', 'new.item', 'id', 'upper(code)', inverse => 'lower(id)');
SELECT rehome.map_column('m', 'new.item', 'nr', 'part * 10', inverse => 'nr / 10');
-- Before anything is moved there is no position.
SELECT migration, slice, source, source_key, "column", source_fields, transformation, owner = current_user AS mine, position
  FROM rehome.lineage('new.item', $${"id": "A'B", "nr": 10}$$);
SET rehome.copy_workers = 0;
CALL rehome.copy('m');
SELECT DISTINCT l.source_key, l.position = s.position AS position, l.position_at IS NOT NULL AS at
  FROM new.item i, rehome.lineage('new.item', to_jsonb(i) - 'label' - 'note') l, rehome.status s ORDER BY 1;
-- Not at the source, not any more, or not by the filter.
SELECT DISTINCT source_key FROM rehome.lineage('new.item', '{"id": "D", "nr": 30}');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');

SELECT rehome.lineage('new.item', '{"id": "A", "nr": 10}');
:code
SELECT rehome.create_migration('m', NULL, 'items');
SELECT rehome.add_table('m', 'old.item', 'new.item', columns => '{"id": "code", "nr": "part"}');
SELECT DISTINCT source, source_key FROM rehome.lineage('new.item', '{"id": "c", "nr": 2}');
SELECT rehome.lineage('new.item', '{"id": null, "surplus": 10}');
:code
SELECT rehome.lineage('new.item', '[]');
:code
SELECT rehome.lineage('new.item', NULL);
:code
SELECT rehome.lineage('new.item', '{"id": "c", "nr": "two"}');
:code
GRANT USAGE ON SCHEMA new TO regress_rehome_operator;
SET ROLE regress_rehome_operator;
SELECT rehome.lineage('new.item', '{"id": "c", "nr": 2}');
:code
RESET ROLE;
GRANT SELECT ON new.item TO regress_rehome_operator;
SET ROLE regress_rehome_operator;
SELECT count(*) FROM rehome.lineage('new.item', '{"id": "c", "nr": 2}');
RESET ROLE;
SELECT rehome.drop_migration('m');
DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
DROP ROLE regress_rehome_operator;
TRUNCATE rehome.event;
