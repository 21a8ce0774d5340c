-- Definitions: create_migration, add_slice, add_table, add_schema,
-- map_column, set_owner, drop_migration; and looking before leaping: plan, preflight.

CREATE FUNCTION rehome.create_migration(migration name, server name, reason text,
                                        home text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_create_migration';
COMMENT ON FUNCTION rehome.create_migration(name, name, text, text) IS
    'define a migration from a foreign server, and why; home is what the source''s fence tells clients';

CREATE FUNCTION rehome.add_slice(migration name, slice name, filter text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_add_slice';
COMMENT ON FUNCTION rehome.add_slice(name, name, text) IS
    'add a set of tables that is moved, cut over and rolled back as one';

CREATE FUNCTION rehome.add_table(migration name, source regclass, target regclass,
                                 key name[] DEFAULT NULL, filter text DEFAULT NULL,
                                 slice name DEFAULT 'main', columns jsonb DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_add_table';
COMMENT ON FUNCTION rehome.add_table(name, regclass, regclass, name[], text, name, jsonb) IS
    'map a foreign table to a target table, columns by name, or by the expressions in columns';

CREATE FUNCTION rehome.add_schema(migration name, source_schema name, target_schema name,
                                  slice name DEFAULT 'main')
    RETURNS int LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_add_schema';
COMMENT ON FUNCTION rehome.add_schema(name, name, name, name) IS
    'map every table of a schema to its namesake; returns how many';

CREATE FUNCTION rehome.map_column(migration name, target regclass, "column" name, expression text,
                                  inverse text DEFAULT NULL, inverse_column name DEFAULT NULL,
                                  note text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_map_column';
COMMENT ON FUNCTION rehome.map_column(name, regclass, name, text, text, name, text) IS
    'state how a target column is computed from the source row; null leaves it out';

CREATE FUNCTION rehome.set_owner(migration name, owner regrole)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_set_owner';
COMMENT ON FUNCTION rehome.set_owner(name, regrole) IS
    'give a migration to another role, which owns its targets';

CREATE FUNCTION rehome.drop_migration(migration name)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_drop_migration';
COMMENT ON FUNCTION rehome.drop_migration(name) IS
    'forget a migration that is planned, completed or cancelled';

CREATE FUNCTION rehome.plan(migration name, OUT seq int, OUT object text, OUT action text,
                            OUT sql text, OUT risk text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_plan';
COMMENT ON FUNCTION rehome.plan(name) IS 'what would be done, done by nobody yet';

CREATE FUNCTION rehome.preflight(migration name, OUT "check" text, OUT severity text, OUT object text,
                                 OUT detail text, OUT hint text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_preflight';
COMMENT ON FUNCTION rehome.preflight(name) IS 'everything that stands in the way';
