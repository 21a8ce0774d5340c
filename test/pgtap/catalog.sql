-- The shape of the catalog: what the extension creates, that everything is
-- described, and that nothing is lost by a dump.
\set ON_ERROR_STOP true
\set QUIET true
BEGIN;
SELECT no_plan();

-- The extension.
SELECT has_extension('pg_rehome', 'pg_rehome is installed');
SELECT has_extension('postgres_fdw', 'and brought postgres_fdw');
SELECT is(extnamespace::regnamespace::text, 'rehome', 'it lives in schema rehome')
  FROM pg_extension WHERE extname = 'pg_rehome';
SELECT is(extrelocatable, false, 'and stays there') FROM pg_extension WHERE extname = 'pg_rehome';
SELECT is(installed_version, default_version, 'the installed version is the default one')
  FROM pg_available_extensions WHERE name = 'pg_rehome';

-- Schemas, tables, views, functions: these and no others.
SELECT set_eq($$SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'rehome%'$$,
              ARRAY['rehome', 'rehome_change'], 'two schemas');
SELECT tables_are('rehome', ARRAY['migration', 'slice', 'table_map', 'column_map', 'chunk', 'saved_object', 'full_pass',
                                  'event', 'discrepancy', 'quarantine', 'drift',
                                  'acceptance', 'redaction', 'discrepancy_history', 'check_definition', 'check_result',
                                  'query_definition', 'query_result', 'criterion', 'check_suggestion',
                                  'derivation', 'derivation_input', 'derivation_pending']);
SELECT views_are('rehome', ARRAY['status', 'progress', 'state_transition', 'discrepancy_trend',
                                 'check_status', 'query_status', 'derived']);
SELECT tables_are('rehome_change', ARRAY[]::name[]);
SELECT functions_are('rehome', ARRAY[
    'create_migration', 'add_slice', 'add_table', 'add_schema', 'map_column', 'set_owner', 'drop_migration',
    'plan', 'preflight', 'start', 'copy', 'sync', 'pause', 'resume', 'verify', 'verify_tables',
    'cutover', 'rollback', 'complete', 'cancel', 'recover',
    'mapping_document', 'mapping_document_markdown', 'export_migration', 'import_migration', 'definition_hash',
    'lint_mapping', 'suggest_mapping', 'lineage',
    'set_drift_policy', 'repair_drift', 'accept_drift', 'pause_table', 'resume_table',
    'guard', 'capture', 'record_drift', 'database_identity', 'state_transitions',
    'add_rule', 'set_table_rule', 'recopy', 'retry', 'accept_quarantine', 'rules_hash', 'blanked', 'redact', 'unredact',
    'rule_refuse', 'rule_valid', 'rule_range', 'rule_blank_to_null', 'rule_control', 'rule_html', 'rule_entities',
    'rule_json', 'rule_zero_date', 'rule_local_time', 'rule_epoch', 'rule_unsigned', 'rule_number', 'rule_lookup',
    'land_table', 'add_derived', 'drop_derived', 'refresh_derived', 'note_input', 'write_back', 'survivor', 'rule_first',
    'add_identity', 'add_identity_reference',
    'classify', 'resolve', 'accept', 'revoke_acceptance', 'add_check', 'drop_check', 'run_checks', 'report_check',
    'add_query', 'drop_query', 'run_queries', 'set_criterion', 'drop_criterion', 'scorecard', 'suggest_checks', 'adopt_checks', 'structure', 'set_schedule'
]);
SELECT functions_are('rehome_change', ARRAY[]::name[]);

-- What takes steps that commit is a procedure, the rest are functions.
SELECT set_eq($$SELECT proname::text FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace AND prokind = 'p'$$,
              ARRAY['start', 'copy', 'sync', 'verify_tables', 'cutover', 'rollback', 'complete', 'cancel', 'recover'],
              'the procedures');
SELECT set_eq($$SELECT proname::text FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace
                 AND prorettype = 'trigger'::regtype$$,
              ARRAY['guard', 'capture', 'record_drift', 'note_input', 'write_back'], 'the trigger functions');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                   WHERE pronamespace = 'rehome'::regnamespace AND prokind <> 'a' AND l.lanname NOT IN ('c', 'sql')$$,
                'every function is in C, or plain SQL');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace
                   AND prokind <> 'a' AND probin <> '$libdir/pg_rehome'$$, 'and in this library');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace
                   AND provolatile = 'i' AND prokind <> 'a' AND proname NOT LIKE 'rule\_%'$$, 'none claims to be immutable, but what rules are made of');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                   WHERE pronamespace = 'rehome'::regnamespace AND l.lanname = 'sql'
                     AND NOT coalesce(proconfig::text LIKE '%search_path=%', false)$$, 'SQL pins its search_path');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace
                   AND proname LIKE 'rule\_%' AND (provolatile = 'v' OR proparallel <> 's')$$, 'rules can be evaluated anywhere, again and again');
-- The first two arguments have the same names and meaning everywhere.
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace
                   AND proname NOT IN ('import_migration', 'lineage', 'blanked') -- the name is in the definition; the table tells
                   AND pronargs > 0 AND prokind <> 'a' AND proname NOT LIKE 'rule%' AND (proargnames[1] <> 'migration' OR proargtypes[0] <> 'name'::regtype)$$,
                'the first argument is the migration');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace
                   AND 'slice' = ANY (proargnames[1:pronargs])
                   AND proargtypes[array_position(proargnames[1:pronargs], 'slice') - 1] <> 'name'::regtype$$,
                'a slice is given by name');

-- Every table has a primary key; names are unique where they name things.
SELECT has_pk('rehome', c.relname, format('%I has a primary key', c.relname))
  FROM pg_class c WHERE relnamespace = 'rehome'::regnamespace AND relkind = 'r' ORDER BY relname;
SELECT col_is_unique('rehome', 'migration', 'name', 'migrations are named');
SELECT col_is_unique('rehome', 'migration', 'token', 'and have a token of their own');
SELECT col_is_unique('rehome', 'slice', ARRAY['migration_id', 'name'], 'slices are named within a migration');
SELECT is_empty($$SELECT conrelid::regclass, conname FROM pg_constraint
                   WHERE connamespace = 'rehome'::regnamespace AND contype = 'f' AND confdeltype <> 'c'$$,
                'what belongs to a migration goes with it');
-- A foreign key without an index makes deletes slow.
SELECT is_empty($$SELECT conrelid::regclass, conname FROM pg_constraint c
                   WHERE connamespace = 'rehome'::regnamespace AND contype = 'f'
                     AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])$$,
                'foreign keys are indexed');

-- Everything is described.
SELECT isnt(obj_description(n.oid, 'pg_namespace'), NULL, format('schema %s has a comment', nspname))
  FROM pg_namespace n WHERE nspname IN ('rehome', 'rehome_change') ORDER BY nspname;
SELECT isnt(obj_description(c.oid, 'pg_class'), NULL, format('%s has a comment', c.oid::regclass))
  FROM pg_class c WHERE relnamespace = 'rehome'::regnamespace AND relkind IN ('r', 'v') ORDER BY relname;
SELECT isnt(obj_description(p.oid, 'pg_proc'), NULL, format('%s has a comment', p.oid::regprocedure))
  FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace ORDER BY proname;
SELECT isnt(shobj_description(r.oid, 'pg_authid'), NULL, format('role %s has a comment', rolname))
  FROM pg_roles r WHERE rolname LIKE 'rehome\_%' ORDER BY rolname;

-- A dump has all definitions and all history: every table, and every sequence
-- that feeds one.
SELECT set_eq($$SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'pg_rehome'$$,
              $$SELECT oid FROM pg_class WHERE relnamespace = 'rehome'::regnamespace AND relkind IN ('r', 'S')$$,
              'all tables and sequences are dumped');
SELECT set_eq($$SELECT c.relation::regclass::text, c.condition
                  FROM pg_extension, unnest(extconfig, extcondition) AS c(relation, condition)
                 WHERE extname = 'pg_rehome' AND c.condition <> ''$$,
              $$VALUES ('rehome.full_pass', 'WHERE false')$$,
              'with all their rows, but those that mean nothing in another database');

-- The state machine: the column's values are the states of the table.
SELECT bag_hasnt($$SELECT to_state FROM rehome.state_transition$$, $$VALUES ('planned')$$, 'nothing returns to planned');
SELECT is_empty($$SELECT * FROM rehome.state_transition WHERE from_state IN ('completed', 'cancelled')$$,
                'completed and cancelled are final');
SELECT is_empty($$SELECT from_state, call FROM rehome.state_transition t
                   WHERE call NOT IN (SELECT proname FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace)$$,
                'transitions are made by calls that exist');
SELECT is_empty($$SELECT from_state, call FROM rehome.state_transition GROUP BY 1, 2 HAVING count(*) > 1$$,
                'a call leads from a state to one state');

SELECT * FROM finish();
ROLLBACK;
