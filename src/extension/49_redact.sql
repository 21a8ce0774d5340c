-- Trust, redaction: columns whose values are not to be on record.

CREATE TABLE rehome.redaction (
    migration_id    int NOT NULL REFERENCES rehome.migration ON DELETE CASCADE,
    target          regclass NOT NULL,
    "column"        name NOT NULL,
    PRIMARY KEY (migration_id, target, "column")
);
COMMENT ON TABLE rehome.redaction IS
    'columns whose values are kept out of rehome.discrepancy, rehome.drift and rehome.quarantine';

SELECT pg_catalog.pg_extension_config_dump('rehome.redaction', '');

CREATE FUNCTION rehome.blanked("row" jsonb, columns text[]) RETURNS jsonb LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN $1 IS NULL THEN NULL ELSE coalesce(
        (SELECT jsonb_object_agg(e.key, CASE WHEN e.key = ANY ($2) THEN '"[redacted]"'::jsonb ELSE e.value END)
           FROM jsonb_each($1) AS e), '{}') END
    $$;
COMMENT ON FUNCTION rehome.blanked(jsonb, text[]) IS 'a row without the values of some columns';

CREATE FUNCTION rehome.redact(migration name, target regclass, columns name[])
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_redact';
COMMENT ON FUNCTION rehome.redact(name, regclass, name[]) IS
    'keep the values of columns out of what is recorded, and blank what was';

CREATE FUNCTION rehome.unredact(migration name, target regclass, columns name[])
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_unredact';
COMMENT ON FUNCTION rehome.unredact(name, regclass, name[]) IS 'record them again, from now on';
