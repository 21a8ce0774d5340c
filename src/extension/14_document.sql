-- The rules of a migration, to read, to keep and to carry elsewhere.

CREATE FUNCTION rehome.mapping_document(migration name, OUT slice name, OUT target regclass,
                                        OUT target_field name, OUT target_type text, OUT source text,
                                        OUT source_fields name[], OUT kind text, OUT transformation text,
                                        OUT owner text, OUT validation text, OUT on_error text,
                                        OUT inverse text, OUT note text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_mapping_document';
COMMENT ON FUNCTION rehome.mapping_document(name) IS
    'every column of every target, the rule that fills it, and who owns that rule';

CREATE FUNCTION rehome.mapping_document_markdown(migration name)
    RETURNS text LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_mapping_document_markdown';
COMMENT ON FUNCTION rehome.mapping_document_markdown(name) IS 'the mapping document as one Markdown text';

CREATE FUNCTION rehome.export_migration(migration name)
    RETURNS jsonb LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_export_migration';
COMMENT ON FUNCTION rehome.export_migration(name) IS
    'the definition of a migration, to be kept, compared, and imported elsewhere';

CREATE FUNCTION rehome.import_migration(definition jsonb, migration name DEFAULT NULL,
                                        server name DEFAULT NULL, schemas jsonb DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_import_migration';
COMMENT ON FUNCTION rehome.import_migration(jsonb, name, name, jsonb) IS
    'define a migration from what export_migration wrote, under another name, server or schemas if they are given';

CREATE FUNCTION rehome.definition_hash(migration name, slice name DEFAULT 'main')
    RETURNS text LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_definition_hash';
COMMENT ON FUNCTION rehome.definition_hash(name, name) IS
    'hash of a slice''s rules, as in the events of its copies, verifications and cutovers';

CREATE FUNCTION rehome.lint_mapping(migration name, sample bigint DEFAULT 10000, OUT severity text,
                                    OUT object text, OUT "column" name, OUT lint text, OUT key jsonb,
                                    OUT detail text, OUT hint text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_lint_mapping';
COMMENT ON FUNCTION rehome.lint_mapping(name, bigint) IS
    'what is wrong or risky about the rules, tried on a sample of the source''s rows; null reads all';

CREATE FUNCTION rehome.suggest_mapping(migration name, source text, target text, sample bigint DEFAULT 1000,
                                       OUT kind text, OUT source_table regclass, OUT source_column name,
                                       OUT target_table regclass, OUT target_column name, OUT transformation text,
                                       OUT confidence numeric, OUT reason text, OUT sql text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_suggest_mapping';
COMMENT ON FUNCTION rehome.suggest_mapping(name, text, text, bigint) IS
    'which tables and columns may come from which, how sure that is and why, and the SQL that adopts it';

CREATE FUNCTION rehome.lineage(target regclass, key jsonb, OUT migration name, OUT slice name, OUT source text,
                               OUT source_key jsonb, OUT "column" name, OUT source_fields name[],
                               OUT transformation text, OUT owner text, OUT "position" text,
                               OUT position_at timestamptz)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_lineage';
COMMENT ON FUNCTION rehome.lineage(regclass, jsonb) IS
    'which rows of the source a row of a target comes from, by which rules, as of which position';
