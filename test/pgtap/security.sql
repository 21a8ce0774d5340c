-- Nothing here gives anybody more rights than he has.
\set ON_ERROR_STOP true
\set QUIET true
BEGIN;
SELECT no_plan();

-- Definer functions pin their search_path.  (The functions in C pin it
-- themselves, in the frame every call runs in; the last tests look.)
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p
                   WHERE pronamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace) AND prosecdef
                     AND NOT EXISTS (SELECT FROM unnest(proconfig) c WHERE c LIKE 'search\_path=%')$$,
                'no definer function without a pinned search_path');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c, aclexplode(c.relacl) a
                   WHERE relnamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace) AND a.grantee = 0$$,
                'nothing is granted to PUBLIC on tables');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p
                   WHERE pronamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace)
                     AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))
                     -- what partitions get from their table, they must get whoever makes them
                     AND p.proname NOT IN ('guard', 'capture', 'record_drift', 'write_back')$$,
                'nothing is granted to PUBLIC on other functions, by default neither');
SELECT is_empty($$SELECT n.nspname FROM pg_namespace n
                   WHERE nspname IN ('rehome', 'rehome_change') AND EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0)$$,
                'nothing is granted to PUBLIC on schemas');
SELECT is((SELECT count(DISTINCT o) FROM (
              SELECT relowner FROM pg_class WHERE relnamespace = 'rehome'::regnamespace
              UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace
              UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname IN ('rehome', 'rehome_change')) AS x(o)),
          1::bigint, 'one role owns everything');
-- The catalog holds no credentials: those are in user mappings.
SELECT is_empty($$SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
                   WHERE relnamespace = 'rehome'::regnamespace AND attname ~* 'passw|secret|credential|conninfo'$$,
                'no column for a password');
-- Triggers can only be made by those who own the table and are let by us.
SELECT ok(NOT has_function_privilege('rehome_admin', 'rehome.note_input()', 'EXECUTE'), 'nobody hangs on a table by himself what no partition gets');
SELECT throws_ok('SELECT rehome.guard()', NULL, NULL, 'a trigger function is no function');

-- A session cannot break things by itself.
SELECT is((SELECT context FROM pg_settings WHERE name = 'rehome.debug_point'), 'superuser', 'debug points are for superusers');

CREATE ROLE rehome_test_admin IN ROLE rehome_admin;
CREATE SCHEMA evil AUTHORIZATION rehome_test_admin;
CREATE SCHEMA lair AUTHORIZATION rehome_test_admin;
GRANT USAGE ON SCHEMA public TO rehome_test_admin;
DO $$
BEGIN
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %s TO PUBLIC', pg_my_temp_schema()::regnamespace);
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA %s TO PUBLIC', pg_my_temp_schema()::regnamespace);
    EXECUTE format('GRANT CREATE ON SCHEMA %s TO PUBLIC', pg_my_temp_schema()::regnamespace);
END
$$;

SET LOCAL ROLE rehome_test_admin;
CREATE TABLE lair.source (id int PRIMARY KEY, v text);
CREATE TABLE lair.target (id int PRIMARY KEY, v text);
CREATE TABLE lair.witness (who name);
INSERT INTO lair.source VALUES (1, 'a');
-- Functions and operators that shadow those of the system, in a path that
-- comes first: our own queries must not find them.
CREATE FUNCTION evil.shadow() RETURNS text LANGUAGE plpgsql AS $$
BEGIN INSERT INTO lair.witness VALUES (current_user); RETURN ''; END $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT evil.shadow(); SELECT pg_catalog.clock_timestamp()$$;
CREATE FUNCTION evil.md5(text) RETURNS text LANGUAGE sql AS $$SELECT evil.shadow(); SELECT pg_catalog.md5($1)$$;
CREATE FUNCTION evil.quote_ident(name) RETURNS text LANGUAGE sql AS $$SELECT evil.shadow(); SELECT pg_catalog.quote_ident($1)$$;
CREATE FUNCTION evil.always(name, name) RETURNS boolean LANGUAGE sql AS $$SELECT evil.shadow(); SELECT true$$;
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.always);
SET LOCAL search_path = evil, pg_catalog, public;
SELECT lives_ok($$SELECT rehome.create_migration('tap', NULL, 'a trap')$$, 'defined under a hostile search_path');
SELECT lives_ok($$SELECT rehome.add_table('tap', 'lair.source', 'lair.target')$$, 'a table added under it');
SELECT lives_ok($$SELECT * FROM rehome.status$$, 'status read under it');
SELECT lives_ok($$SELECT rehome.pause('tap'), rehome.resume('tap')$$, 'paused and resumed under it');
SELECT lives_ok($$SELECT * FROM rehome.preflight('tap')$$, 'preflight under it');
SET LOCAL search_path = public;
SELECT is_empty('SELECT * FROM lair.witness', 'no function of the hostile schema was called');

-- An expression is what its owner can do, and no more.
RESET ROLE;
CREATE TABLE public.secret (v text);
INSERT INTO public.secret VALUES ('secret');
REVOKE ALL ON public.secret FROM PUBLIC;
SET LOCAL ROLE rehome_test_admin;
SET LOCAL search_path = public;
CREATE FUNCTION lair.peek() RETURNS text LANGUAGE plpgsql STABLE AS $$BEGIN RETURN (SELECT v FROM public.secret); END$$;
SELECT lives_ok($$SELECT rehome.map_column('tap', 'lair.target', 'v', 'lair.peek()')$$, 'a curious expression is stated');
RESET ROLE;
-- copy() commits, so it is tried with the statement it would run: as the owner.
SELECT is((SELECT owner::text FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id
            WHERE t.target = 'lair.target'::regclass AND "column" = 'v'), 'rehome_test_admin', 'it belongs to the one who stated it');
-- Constant expressions are evaluated when they are planned: as the owner too.
SET LOCAL ROLE rehome_test_admin;
CREATE FUNCTION lair.who() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN current_user; END$$;
CREATE FUNCTION lair.refuse() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
    IF current_user <> 'rehome_test_admin' THEN RAISE EXCEPTION 'planned as %', current_user; END IF; RETURN 'x'; END$$;
RESET ROLE;
SELECT lives_ok($$SELECT rehome.map_column('tap', 'lair.target', 'v', 'lair.refuse()')$$,
                'an expression is planned as the owner, whoever states it');

SELECT * FROM finish();
ROLLBACK;
