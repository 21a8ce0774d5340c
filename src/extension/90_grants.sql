-- Roles, and what each may do; nothing for PUBLIC but what partitions need.
-- Roles are shared by all databases of the cluster, so they may exist already,
-- and outlive us.

DO $roles$
DECLARE
    role    name;
    does    text;
BEGIN
    FOR role, does IN VALUES ('rehome_reader', 'reads the views'),
                             ('rehome_operator', 'moves and verifies'),
                             ('rehome_admin', 'defines, cuts over, rolls back') LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
            EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', role, 'pg_rehome: ' || does);
        END IF;
    END LOOP;
END
$roles$;
GRANT rehome_reader TO rehome_operator;
GRANT rehome_operator TO rehome_admin;

REVOKE ALL ON SCHEMA rehome, rehome_change FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA rehome FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rehome FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA rehome FROM PUBLIC;

-- Whoever makes a partition of a target must be allowed to run the triggers it
-- gets from there.  They do nothing for a table that is no target of ours.
GRANT EXECUTE ON FUNCTION rehome.guard(), rehome.capture(), rehome.record_drift(), rehome.write_back() TO PUBLIC;

GRANT USAGE ON SCHEMA rehome TO rehome_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA rehome TO rehome_reader;
GRANT EXECUTE ON FUNCTION
    rehome.database_identity(),
    rehome.state_transitions(),
    rehome.plan(name),
    rehome.rules_hash(int),
    rehome.blanked(jsonb, text[]),
    rehome.rule_refuse(text, text),
    rehome.rule_valid(anyelement, boolean, text),
    rehome.rule_range(anyelement, anyelement, anyelement, text),
    rehome.rule_blank_to_null(text),
    rehome.rule_control(text, text),
    rehome.rule_html(text),
    rehome.rule_entities(text),
    rehome.rule_json(text, text),
    rehome.rule_zero_date(text, text),
    rehome.rule_local_time(text, text),
    rehome.rule_epoch(numeric, int),
    rehome.rule_unsigned(numeric, int),
    rehome.rule_number(text, text, text),
    rehome.rule_lookup(text, regclass, name, name),
    rehome.mapping_document(name),
    rehome.mapping_document_markdown(name),
    rehome.export_migration(name),
    rehome.definition_hash(name, name),
    rehome.rule_first(anyelement, anyelement),
    rehome.survivor(anyelement)
    TO rehome_reader;

GRANT EXECUTE ON FUNCTION
    rehome.preflight(name),
    rehome.lint_mapping(name, bigint),
    rehome.lineage(regclass, jsonb),
    rehome.suggest_mapping(name, text, text, bigint),
    rehome.pause(name, name, text),
    rehome.resume(name, name),
    rehome.pause_table(name, regclass, text),
    rehome.resume_table(name, regclass),
    rehome.verify(name, name, text, regclass, float8, int, text, boolean),
    rehome.retry(name, regclass, text),
    rehome.refresh_derived(name, name)
    TO rehome_operator;
GRANT EXECUTE ON PROCEDURE
    rehome.start(name, name),
    rehome.copy(name, name),
    rehome.verify_tables(name, name, text),
    rehome.sync(name, name),
    rehome.recover(name)
    TO rehome_operator;

GRANT EXECUTE ON FUNCTION
    rehome.create_migration(name, name, text, text),
    rehome.add_slice(name, name, text),
    rehome.add_table(name, regclass, regclass, name[], text, name, jsonb),
    rehome.add_schema(name, name, name, name),
    rehome.map_column(name, regclass, name, text, text, name, text),
    rehome.set_drift_policy(name, text, regclass),
    rehome.repair_drift(name, regclass),
    rehome.accept_drift(name, regclass),
    rehome.set_owner(name, regrole),
    rehome.drop_migration(name),
    rehome.add_rule(name, regclass, name, text, jsonb, name, text, text, text, name, text),
    rehome.set_table_rule(name, regclass, text, text, name, regclass),
    rehome.recopy(name, regclass),
    rehome.import_migration(jsonb, name, name, jsonb),
    rehome.accept_quarantine(name, text, regclass, text),
    rehome.land_table(name, regclass, name, name, name[], boolean, name),
    rehome.add_derived(name, name, regclass, text, jsonb, name[], name[], regproc, name, text),
    rehome.drop_derived(name, name),
    rehome.add_identity(name, name, regclass, regclass, regclass, text, jsonb, regclass, regproc, text),
    rehome.add_identity_reference(name, name, regclass, name, name, regproc)
    TO rehome_admin;
GRANT EXECUTE ON PROCEDURE
    rehome.cutover(name, name, boolean),
    rehome.rollback(name, name),
    rehome.complete(name, name, boolean),
    rehome.cancel(name, name, boolean)
    TO rehome_admin;

-- Trust.
GRANT EXECUTE ON FUNCTION
    rehome.scorecard(name, name)
    TO rehome_reader;
GRANT EXECUTE ON FUNCTION
    rehome.run_checks(name, name, name[]),
    rehome.report_check(name, name, boolean, jsonb),
    rehome.run_queries(name, name, name[], int),
    rehome.structure(name, name),
    rehome.classify(name, bigint[], text, text, text, text, text, boolean)
    TO rehome_operator;
GRANT EXECUTE ON FUNCTION
    rehome.resolve(name, bigint[], text, text),
    rehome.accept(name, regclass, text, name[], text),
    rehome.revoke_acceptance(name, int),
    rehome.redact(name, regclass, name[]),
    rehome.unredact(name, regclass, name[]),
    rehome.add_check(name, name, text, text, text, text[], jsonb, name, interval, text),
    rehome.drop_check(name, name),
    rehome.add_query(name, name, text, text, name, float8, float8),
    rehome.drop_query(name, name),
    rehome.set_schedule(name, interval, name[], name[]),
    rehome.suggest_checks(name),
    rehome.adopt_checks(name, name[]),
    rehome.set_criterion(name, text, text, numeric, boolean, text, interval),
    rehome.drop_criterion(name, text)
    TO rehome_admin;
