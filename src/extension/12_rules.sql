-- Rules that carry a real legacy schema: what a column's expression is made
-- of, what becomes of rows that are refused, and of rules that changed.

CREATE FUNCTION rehome.add_rule(migration name, target regclass, "column" name, kind text,
                                params jsonb DEFAULT NULL, source_column name DEFAULT NULL,
                                validation text DEFAULT NULL, on_error text DEFAULT NULL,
                                inverse text DEFAULT NULL, inverse_column name DEFAULT NULL,
                                note text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_add_rule';
COMMENT ON FUNCTION rehome.add_rule(name, regclass, name, text, jsonb, name, text, text, text, name, text) IS
    'state how a target column is produced, by a rule of a kind with parameters';

CREATE FUNCTION rehome.set_table_rule(migration name, target regclass, on_error text DEFAULT NULL,
                                      on_delete text DEFAULT NULL, delete_column name DEFAULT NULL,
                                      delete_archive regclass DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_set_table_rule';
COMMENT ON FUNCTION rehome.set_table_rule(name, regclass, text, text, name, regclass) IS
    'state what becomes of rows that are refused, and of rows that are gone at the source';

CREATE FUNCTION rehome.recopy(migration name, target regclass)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_recopy';
COMMENT ON FUNCTION rehome.recopy(name, regclass) IS
    'have the next batch read a table as a whole, by the rules as they are now';

CREATE FUNCTION rehome.rules_hash(table_map_id int)
    RETURNS text LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT md5(jsonb_build_array(t.filter, to_jsonb(t.key), t.on_error, t.on_delete, t.delete_column, c.rules)::text)
      FROM rehome.table_map t,
           LATERAL (SELECT jsonb_agg(jsonb_build_array(c."column", c.expression, c.on_error) ORDER BY c."column" COLLATE "C") AS rules
                      FROM rehome.column_map c WHERE c.table_map_id = t.id) AS c
     WHERE t.id = $1
$$;
COMMENT ON FUNCTION rehome.rules_hash(int) IS
    'hash of the rules that make a table''s rows; another than table_map.rules_hash: the table is stale';

CREATE FUNCTION rehome.retry(migration name, target regclass DEFAULT NULL, rule text DEFAULT NULL,
                             OUT target regclass, OUT retried bigint, OUT refused bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_retry';
COMMENT ON FUNCTION rehome.retry(name, regclass, text) IS
    'read quarantined rows again at the source, those of a table or rule, and apply what is good now';

CREATE FUNCTION rehome.accept_quarantine(migration name, reason text, target regclass DEFAULT NULL,
                                         rule text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_accept_quarantine';
COMMENT ON FUNCTION rehome.accept_quarantine(name, text, regclass, text) IS
    'decide to go without quarantined rows, those of a table or rule, and say why; returns how many';

-- What rules are made of.

CREATE FUNCTION rehome.rule_refuse(value text, what text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_refuse';
COMMENT ON FUNCTION rehome.rule_refuse(text, text) IS 'raises RH010: no part of a rule takes the value';

CREATE FUNCTION rehome.rule_valid(value anyelement, valid boolean, rule text) RETURNS anyelement
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_valid';
COMMENT ON FUNCTION rehome.rule_valid(anyelement, boolean, text) IS 'the value, unless it is not valid: RH010';

CREATE FUNCTION rehome.rule_range(value anyelement, lo anyelement, hi anyelement, action text) RETURNS anyelement
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_range';
COMMENT ON FUNCTION rehome.rule_range(anyelement, anyelement, anyelement, text) IS
    'the value, if it is within bounds; else RH010, null, or the bound';

CREATE FUNCTION rehome.rule_blank_to_null(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_blank_to_null';
COMMENT ON FUNCTION rehome.rule_blank_to_null(text) IS 'null for blanks, else the text as it is';

CREATE FUNCTION rehome.rule_control(value text, action text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_control';
COMMENT ON FUNCTION rehome.rule_control(text, text) IS 'control characters stripped, made blanks, or refused';

CREATE FUNCTION rehome.rule_html(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_html';
COMMENT ON FUNCTION rehome.rule_html(text) IS 'the text that a reader of the HTML sees';

CREATE FUNCTION rehome.rule_entities(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_entities';
COMMENT ON FUNCTION rehome.rule_entities(text) IS 'character references decoded';

CREATE FUNCTION rehome.rule_json(value text, action text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_json';
COMMENT ON FUNCTION rehome.rule_json(text, text) IS 'JSON that jsonb takes: repaired, or refused';

CREATE FUNCTION rehome.rule_zero_date(value text, instead text) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_zero_date';
COMMENT ON FUNCTION rehome.rule_zero_date(text, text) IS 'another text for a date whose year, month or day is zero';

CREATE FUNCTION rehome.rule_local_time(value text, zone text) RETURNS timestamptz
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_local_time';
COMMENT ON FUNCTION rehome.rule_local_time(text, text) IS 'a time of that zone, or of the one that the text names';

CREATE FUNCTION rehome.rule_epoch(value numeric, per_second int) RETURNS timestamptz
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_epoch';
COMMENT ON FUNCTION rehome.rule_epoch(numeric, int) IS 'the time so many seconds, or parts of a second, after 1970';

CREATE FUNCTION rehome.rule_unsigned(value numeric, bits int) RETURNS numeric
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_unsigned';
COMMENT ON FUNCTION rehome.rule_unsigned(numeric, int) IS 'the unsigned number that was stored as a signed one';

CREATE FUNCTION rehome.rule_number(value text, decimal_point text, grouping_sign text) RETURNS numeric
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_number';
COMMENT ON FUNCTION rehome.rule_number(text, text, text) IS 'a number as people write it, or an amount of money';

CREATE FUNCTION rehome.rule_lookup(value text, crosswalk regclass, from_column name, to_column name) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'rehome_rule_lookup';
COMMENT ON FUNCTION rehome.rule_lookup(text, regclass, name, name) IS 'what a crosswalk has for a value; null: nothing';
