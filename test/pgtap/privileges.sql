-- Who may do what: the grants as data, tested by looking and by acting as
-- each role.
\set ON_ERROR_STOP true
\set QUIET true
BEGIN;
SELECT no_plan();

-- The roles: groups, each including the one before, without any attribute.
SELECT has_role(r, format('role %s exists', r)) FROM unnest(ARRAY['rehome_reader', 'rehome_operator', 'rehome_admin']) AS r;
SELECT is_empty($$SELECT rolname FROM pg_roles WHERE rolname LIKE 'rehome\_%'
                   AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)$$,
                'no role can log in or has an attribute');
SELECT is_member_of('rehome_reader', 'rehome_operator', 'an operator is a reader');
SELECT is_member_of('rehome_operator', 'rehome_admin', 'an admin is an operator');
SELECT ok(NOT pg_has_role('rehome_reader', 'rehome_operator', 'MEMBER'), 'a reader is no operator');
SELECT ok(NOT pg_has_role('rehome_operator', 'rehome_admin', 'MEMBER'), 'an operator is no admin');

-- The least role that may execute each function; null: none may.
CREATE TEMP TABLE least (function text PRIMARY KEY, role name);
INSERT INTO least VALUES
    ('database_identity', 'rehome_reader'), ('state_transitions', 'rehome_reader'), ('plan', 'rehome_reader'),
    ('mapping_document', 'rehome_reader'), ('mapping_document_markdown', 'rehome_reader'),
    ('export_migration', 'rehome_reader'), ('definition_hash', 'rehome_reader'), ('import_migration', 'rehome_admin'),
    ('lint_mapping', 'rehome_operator'), ('lineage', 'rehome_operator'), ('suggest_mapping', 'rehome_operator'),
    ('preflight', 'rehome_operator'), ('pause', 'rehome_operator'), ('resume', 'rehome_operator'),
    ('verify', 'rehome_operator'), ('verify_tables', 'rehome_operator'), ('start', 'rehome_operator'), ('copy', 'rehome_operator'),
    ('sync', 'rehome_operator'), ('recover', 'rehome_operator'),
    ('create_migration', 'rehome_admin'), ('add_slice', 'rehome_admin'), ('add_table', 'rehome_admin'),
    ('add_schema', 'rehome_admin'), ('map_column', 'rehome_admin'), ('set_owner', 'rehome_admin'), ('drop_migration', 'rehome_admin'),
    ('cutover', 'rehome_admin'), ('rollback', 'rehome_admin'), ('complete', 'rehome_admin'), ('cancel', 'rehome_admin'),
    ('classify', 'rehome_operator'), ('resolve', 'rehome_admin'), ('accept', 'rehome_admin'), ('revoke_acceptance', 'rehome_admin'),
    ('scorecard', 'rehome_reader'), ('run_checks', 'rehome_operator'), ('report_check', 'rehome_operator'), ('run_queries', 'rehome_operator'), ('structure', 'rehome_operator'),
    ('add_check', 'rehome_admin'), ('drop_check', 'rehome_admin'), ('add_query', 'rehome_admin'), ('drop_query', 'rehome_admin'),
    ('set_criterion', 'rehome_admin'), ('drop_criterion', 'rehome_admin'), ('suggest_checks', 'rehome_admin'), ('set_schedule', 'rehome_admin'), ('adopt_checks', 'rehome_admin'),
    ('add_rule', 'rehome_admin'), ('set_table_rule', 'rehome_admin'), ('recopy', 'rehome_admin'), ('rules_hash', 'rehome_reader'), ('blanked', 'rehome_reader'), ('redact', 'rehome_admin'), ('unredact', 'rehome_admin'),
    ('accept_quarantine', 'rehome_admin'), ('retry', 'rehome_operator'),
    ('pause_table', 'rehome_operator'), ('resume_table', 'rehome_operator'),
    ('set_drift_policy', 'rehome_admin'), ('repair_drift', 'rehome_admin'), ('accept_drift', 'rehome_admin'),
    ('add_derived', 'rehome_admin'), ('drop_derived', 'rehome_admin'), ('refresh_derived', 'rehome_operator'), ('land_table', 'rehome_admin'),
    ('add_identity', 'rehome_admin'), ('add_identity_reference', 'rehome_admin'), ('survivor', 'rehome_reader'),
    -- what partitions get from their table must be theirs to run who make them
    ('guard', 'PUBLIC'), ('capture', 'PUBLIC'), ('record_drift', 'PUBLIC'), ('write_back', 'PUBLIC'), ('note_input', NULL);
INSERT INTO least SELECT DISTINCT proname, 'rehome_reader'::name FROM pg_proc
 WHERE pronamespace = 'rehome'::regnamespace AND proname LIKE 'rule\_%';
SELECT set_eq($$SELECT function FROM least$$,
              $$SELECT proname::text FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace$$,
              'a privilege is stated for every function');
SELECT is(has_function_privilege(r.role, p.oid, 'EXECUTE'),
          coalesce(array_position(ARRAY['PUBLIC', 'rehome_reader', 'rehome_operator', 'rehome_admin']::name[], l.role) - 1 <= r.n, false),
          format('%s may%s execute %s', r.role,
                 CASE WHEN array_position(ARRAY['PUBLIC', 'rehome_reader', 'rehome_operator', 'rehome_admin']::name[], l.role) - 1 <= r.n
                      THEN '' ELSE ' not' END, p.oid::regprocedure))
  FROM least l JOIN pg_proc p ON p.proname = l.function AND p.pronamespace = 'rehome'::regnamespace
 CROSS JOIN (VALUES (1, 'rehome_reader'::name), (2, 'rehome_operator'), (3, 'rehome_admin')) AS r(n, role)
 ORDER BY p.proname, r.n;
SELECT is_empty($$SELECT p.oid::regprocedure, a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a
                   WHERE pronamespace = 'rehome'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner$$,
                'no grant can be passed on');

-- Tables and views: readers read, nobody writes.
SELECT ok(has_table_privilege('rehome_reader', c.oid, 'SELECT'), format('readers read %s', c.oid::regclass))
  FROM pg_class c WHERE relnamespace = 'rehome'::regnamespace AND relkind IN ('r', 'v') ORDER BY relname;
SELECT is_empty(format($$SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'rehome'::regnamespace
                          AND relkind IN ('r', 'v')
                          AND has_table_privilege(%L, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')$$, r),
                format('%s writes to no table', r))
  FROM unnest(ARRAY['rehome_reader', 'rehome_operator', 'rehome_admin']) AS r;
SELECT is_empty(format($$SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'rehome'::regnamespace
                          AND CASE WHEN relkind = 'S' THEN has_sequence_privilege(%L, c.oid, 'USAGE, UPDATE') END$$, r),
                format('%s uses no sequence', r))
  FROM unnest(ARRAY['rehome_reader', 'rehome_operator', 'rehome_admin']) AS r;
SELECT ok(NOT has_schema_privilege(r, s, 'CREATE'), format('%s creates nothing in %s', r, s))
  FROM unnest(ARRAY['rehome_reader', 'rehome_operator', 'rehome_admin']) AS r, unnest(ARRAY['rehome', 'rehome_change']) AS s;
SELECT ok(NOT has_schema_privilege(r, 'rehome_change', 'USAGE'), format('%s does not look into rehome_change', r))
  FROM unnest(ARRAY['rehome_reader', 'rehome_operator', 'rehome_admin']) AS r;

-- Nothing for PUBLIC.
CREATE ROLE rehome_test_nobody;
SELECT ok(NOT has_schema_privilege('rehome_test_nobody', s, 'USAGE, CREATE'), format('nothing for PUBLIC in schema %s', s))
  FROM unnest(ARRAY['rehome', 'rehome_change']) AS s;
SELECT set_eq($$SELECT p.proname::text FROM pg_proc p
                 WHERE pronamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace)
                   AND has_function_privilege('rehome_test_nobody', p.oid, 'EXECUTE')$$,
              $$SELECT function FROM least WHERE role = 'PUBLIC'$$,
              'no function but some of triggers is executable by PUBLIC');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
                   WHERE relnamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace) AND relkind IN ('r', 'v', 'm', 'f', 'p')
                     AND has_table_privilege('rehome_test_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')$$,
                'no table is for PUBLIC');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
                   WHERE relnamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace)
                     AND CASE WHEN relkind = 'S' THEN has_sequence_privilege('rehome_test_nobody', c.oid, 'SELECT, USAGE, UPDATE') END$$,
                'no sequence is for PUBLIC');

-- Acting as each role.
CREATE ROLE rehome_test_reader IN ROLE rehome_reader;
CREATE ROLE rehome_test_operator IN ROLE rehome_operator;
CREATE ROLE rehome_test_admin IN ROLE rehome_admin;
GRANT USAGE ON SCHEMA public TO rehome_test_reader, rehome_test_operator, rehome_test_admin, rehome_test_nobody;
DO $$
BEGIN
    -- pgTAP's own tables, which its functions use as whoever calls them
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %s TO PUBLIC', pg_my_temp_schema()::regnamespace);
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA %s TO PUBLIC', pg_my_temp_schema()::regnamespace);
END
$$;

SET LOCAL ROLE rehome_test_nobody;
SELECT throws_ok('SELECT * FROM rehome.status', '42501', NULL, 'nobody reads status');
SELECT throws_ok($$SELECT rehome.plan('m')$$, '42501', NULL, 'nobody plans');
SELECT throws_ok($$CALL rehome.recover()$$, '42501', NULL, 'nobody recovers');
RESET ROLE;

SET LOCAL ROLE rehome_test_reader;
SELECT lives_ok('SELECT * FROM rehome.status', 'a reader reads status');
SELECT lives_ok('SELECT * FROM rehome.progress', 'a reader reads progress');
SELECT lives_ok('SELECT * FROM rehome.state_transition', 'a reader reads state_transition');
SELECT lives_ok('SELECT * FROM rehome.event', 'a reader reads event');
SELECT lives_ok('SELECT * FROM rehome.discrepancy', 'a reader reads discrepancy');
SELECT lives_ok('SELECT * FROM rehome.quarantine', 'a reader reads quarantine');
SELECT lives_ok('SELECT * FROM rehome.drift', 'a reader reads drift');
SELECT throws_ok($$SELECT rehome.plan('m')$$, '42704', NULL, 'a reader may plan, if there is a migration');
SELECT throws_ok($$SELECT rehome.preflight('m')$$, '42501', NULL, 'a reader does not connect to a source');
SELECT throws_ok($$SELECT rehome.pause('m')$$, '42501', NULL, 'a reader pauses nothing');
SELECT throws_ok($$UPDATE rehome.slice SET paused = true$$, '42501', NULL, 'a reader changes no table');
RESET ROLE;

SET LOCAL ROLE rehome_test_operator;
SELECT throws_ok($$SELECT rehome.preflight('m')$$, '42704', NULL, 'an operator may look');
SELECT throws_ok($$CALL rehome.start('m')$$, '42704', NULL, 'an operator may start');
SELECT throws_ok($$SELECT rehome.verify('m')$$, '42704', NULL, 'an operator may verify');
SELECT throws_ok($$SELECT rehome.create_migration('m', NULL, 'reason')$$, '42501', NULL, 'an operator defines nothing');
SELECT throws_ok($$CALL rehome.cutover('m')$$, '42501', NULL, 'an operator does not cut over');
SELECT throws_ok($$CALL rehome.cancel('m')$$, '42501', NULL, 'an operator does not cancel');
SELECT throws_ok($$UPDATE rehome.slice SET state = 'cut_over'$$, '42501', NULL, 'an operator changes no table');
RESET ROLE;

SET LOCAL ROLE rehome_test_admin;
SELECT lives_ok($$SELECT rehome.create_migration('tap', NULL, 'a test')$$, 'an admin defines');
SELECT throws_ok($$CALL rehome.cutover('m')$$, '42704', NULL, 'an admin may cut over');
SELECT throws_ok($$UPDATE rehome.slice SET state = 'cut_over'$$, '42501', NULL, 'an admin changes no table by hand');
SELECT throws_ok($$INSERT INTO rehome.event (kind, message) VALUES ('x', 'x')$$, '42501', NULL, 'nor the log');
SELECT throws_ok($$DELETE FROM rehome.event$$, '42501', NULL, 'nor can he thin it out');
SELECT results_eq($$SELECT owner::text FROM rehome.migration WHERE name = 'tap'$$, ARRAY['rehome_test_admin'],
                  'whoever creates a migration owns it');
RESET ROLE;

-- An admin is not the owner of other admins' migrations.
CREATE ROLE rehome_test_admin2 IN ROLE rehome_admin;
GRANT USAGE ON SCHEMA public TO rehome_test_admin2;
SET LOCAL ROLE rehome_test_admin2;
SELECT throws_ok($$SELECT rehome.add_slice('tap', 'mine')$$, '42501', NULL, 'rules are for their owner to change');
SELECT throws_ok($$SELECT rehome.drop_migration('tap')$$, '42501', NULL, 'and so is dropping them');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
