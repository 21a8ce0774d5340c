--
-- What is created on a source, as a role that owns none of it: tables,
-- functions and triggers; that nobody else can touch them; what is captured
-- and what is refused; and that cancel leaves nothing.  Names hold the
-- migration's token and ids, shown as TOKEN and N.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE ROLE regress_rehome_source LOGIN;
CREATE ROLE regress_rehome_app;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback OPTIONS (user 'regress_rehome_source', password_required 'false');
CREATE DOMAIN public.code AS varchar(10) COLLATE "C" CHECK (VALUE <> '');
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.t (code public.code, "No" int, v text, PRIMARY KEY (code, "No"));
CREATE TABLE old.p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE old.p_1 PARTITION OF old.p FOR VALUES FROM (0) TO (10);
CREATE TABLE old.p_2 PARTITION OF old.p FOR VALUES FROM (10) TO (20);
CREATE TABLE new.t (LIKE old.t INCLUDING ALL);
CREATE TABLE new.p (id int PRIMARY KEY, v text);
INSERT INTO old.t VALUES ('a', 1, 'one'), ('b', 2, 'two');
INSERT INTO old.p VALUES (1, 'one'), (11, 'eleven');
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'what is made on the source', home => 'db.example.com');
SELECT rehome.add_table('m', 'far.t', 'new.t');
SELECT rehome.add_table('m', 'far.p', 'new.p');
SET rehome.copy_workers = 0;

CREATE FUNCTION pg_temp.generic(text) RETURNS text LANGUAGE sql AS
$$SELECT regexp_replace(regexp_replace($1, '_[0-9a-f]{8}_[0-9]+', '_TOKEN_N', 'g'), '^rehome_source\.', '')$$;

-- Every missing privilege is named with the GRANT that gives it, and a grant
-- less is told: nothing is attempted before.
SELECT "check", severity, object, detail, hint FROM rehome.preflight('m');
CALL rehome.copy('m');
:code
SELECT format('GRANT CREATE ON DATABASE %I TO regress_rehome_source', current_database()) \gexec
GRANT USAGE ON SCHEMA old TO regress_rehome_source;
GRANT SELECT, TRIGGER ON old.t, old.p, old.p_1, old.p_2 TO regress_rehome_source;
-- Enough to copy; not enough to cut over.
SELECT "check", severity, object, detail, hint FROM rehome.preflight('m');
CALL rehome.copy('m');

-- Tables, of the connecting role.
SELECT pg_temp.generic(c.relname) AS relation, c.relpersistence AS persistence, c.relowner::regrole AS owner,
       string_agg(format('%s %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                         CASE WHEN a.attnotnull THEN ' not null' ELSE '' END), ', ' ORDER BY a.attnum) AS columns
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE relnamespace = 'rehome_source'::regnamespace AND relkind = 'r'
 GROUP BY c.oid ORDER BY 1, 4;
-- Functions: those that triggers call, and mend(), are definer's, with a pinned path;
-- nobody who may not look into the schema can name them.
SELECT pg_temp.generic(proname) AS function, prosecdef AS definer, proconfig AS settings, proowner::regrole AS owner,
       EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee = 0) AS public
  FROM pg_proc WHERE pronamespace = 'rehome_source'::regnamespace ORDER BY 1;
SELECT has_schema_privilege('regress_rehome_app', 'rehome_source', 'USAGE') AS app_may_look;
-- Triggers: per statement on a plain table, per row on a partitioned one, and
-- for TRUNCATE on every partition.
SELECT tgrelid::regclass AS relation, pg_temp.generic(tgname) AS trigger, tgenabled AS enabled,
       CASE WHEN tgtype & 1 > 0 THEN 'row' ELSE 'statement' END AS level,
       CASE WHEN tgtype & 2 > 0 THEN 'before' ELSE 'after' END AS timing,
       concat_ws(' ', CASE WHEN tgtype & 4 > 0 THEN 'insert' END, CASE WHEN tgtype & 8 > 0 THEN 'delete' END,
                 CASE WHEN tgtype & 16 > 0 THEN 'update' END, CASE WHEN tgtype & 32 > 0 THEN 'truncate' END) AS events,
       tgparentid <> 0 AS inherited
  FROM pg_trigger
 WHERE tgrelid IN ('old.t'::regclass, 'old.p'::regclass, 'old.p_1'::regclass, 'old.p_2'::regclass) AND NOT tgisinternal
 ORDER BY 1, 2;

-- Whoever writes needs no right on anything of ours.
GRANT USAGE ON SCHEMA old TO regress_rehome_app;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON old.t, old.p TO regress_rehome_app;
SET ROLE regress_rehome_app;
INSERT INTO old.t VALUES ('c', 3, 'three'), ('d', 4, 'four');
UPDATE old.t SET v = 'TWO' WHERE "No" = 2;
UPDATE old.t SET "No" = 30 WHERE "No" = 3;
DELETE FROM old.t WHERE "No" = 1;
UPDATE old.p SET id = 12 WHERE id = 1;      -- from one partition to the other
DELETE FROM old.p WHERE id = 11;
-- He can neither read the log, nor pass for us.
SELECT * FROM rehome_source.slice;
:code
INSERT INTO rehome_source.applying VALUES (txid_current());
:code
RESET ROLE;
SELECT format('rehome_source.%I', relname) AS log_t FROM pg_class
 WHERE relname LIKE 'change%' AND relnamespace = 'rehome_source'::regnamespace AND relnatts = 4 \gset
SELECT format('rehome_source.%I', relname) AS log_p FROM pg_class
 WHERE relname LIKE 'change%' AND relnamespace = 'rehome_source'::regnamespace AND relnatts = 3 \gset
SELECT op, key1, key2 FROM :log_t ORDER BY xid, key2;
SELECT op, key1 FROM :log_p ORDER BY xid, key1;
CALL rehome.sync('m');
TABLE new.t ORDER BY "No";
TABLE new.p ORDER BY id;
TRUNCATE old.p_2;
SELECT op, key1 FROM :log_p WHERE op = 't';
CALL rehome.sync('m');
TABLE new.p ORDER BY id;

-- The switch needs more; all that is missing is told at once, before anything
-- is locked.
CALL rehome.cutover('m');
:code
SELECT state, authority FROM rehome.status WHERE migration = 'm';
GRANT INSERT, UPDATE, DELETE ON old.t, old.p, old.p_1, old.p_2 TO regress_rehome_source;
CALL rehome.cutover('m');
-- The fence: for the application, and for the role that made it.
SET ROLE regress_rehome_app;
UPDATE old.t SET v = v;
:code
INSERT INTO old.p VALUES (5, 'five');
:code
TRUNCATE old.p;
:code
RESET ROLE;
SET SESSION AUTHORIZATION regress_rehome_source;
UPDATE old.t SET v = v;
:code
RESET SESSION AUTHORIZATION;
-- A row in a partition, by its own name.
INSERT INTO old.p_1 VALUES (5, 'five');
:code
-- What is written at the target comes back through it.
INSERT INTO new.t VALUES ('e', 5, 'five');
DELETE FROM new.t WHERE "No" = 30;
INSERT INTO new.p VALUES (5, 'five');
CALL rehome.sync('m');
TABLE old.t ORDER BY "No";
SELECT tableoid::regclass, * FROM old.p ORDER BY id;
CALL rehome.rollback('m');
SELECT state, authority FROM rehome.status WHERE migration = 'm';
UPDATE old.t SET v = upper(v);

-- Nothing stays.
CALL rehome.cancel('m');
SELECT count(*) FROM pg_namespace WHERE nspname = 'rehome_source';
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('old.t'::regclass, 'old.p'::regclass, 'old.p_1'::regclass, 'old.p_2'::regclass)
   AND NOT tgisinternal;
SELECT rehome.drop_migration('m');

DROP SCHEMA old, far, new CASCADE;
DROP DOMAIN public.code;
DROP SERVER loopback CASCADE;
SELECT format('REVOKE ALL ON DATABASE %I FROM regress_rehome_source', current_database()) \gexec
DROP ROLE regress_rehome_source, regress_rehome_app;
TRUNCATE rehome.event;
