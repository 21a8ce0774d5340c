-- What can be told of the rules of a migration ($1: its id) without reading a
-- row: severity, target, column, lint, detail, hint.
WITH map AS (
    SELECT t.*, s.name AS slice, m.name AS migration, m.owner AS owner
      FROM rehome.table_map t
      JOIN rehome.slice s ON s.id = t.slice_id
      JOIN rehome.migration m ON m.id = s.migration_id
     WHERE m.id = $1 AND s.state NOT IN ('completed', 'cancelled')
), field AS (
    SELECT map.*, a.attname, a.attnum, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef, a.attidentity,
           c.kind, c.expression, c."column" AS ruled, a.attname = ANY (map.key) AS in_key
      FROM map
      JOIN pg_attribute a ON a.attrelid = map.target::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      LEFT JOIN rehome.column_map c ON c.table_map_id = map.id AND c."column" = a.attname
), copied AS (
    SELECT f.*, s.atttypid AS from_type, s.atttypmod AS from_mod,
           format_type(s.atttypid, s.atttypmod) AS from_name, format_type(f.atttypid, f.atttypmod) AS to_name
      FROM field f
      JOIN pg_attribute s ON s.attrelid = f.source::oid AND NOT s.attisdropped AND quote_ident(s.attname) = f.expression
     WHERE f.kind IN ('copy', 'cast')
), restored AS (
    SELECT map.id, map.target, map.source, c."column",
           coalesce(c.inverse_column, (SELECT s.attname FROM pg_attribute s
                                        WHERE s.attrelid = map.source::oid AND s.attnum > 0 AND NOT s.attisdropped
                                          AND c.kind = 'copy' AND quote_ident(s.attname) = c.expression)) AS source_column
      FROM map JOIN rehome.column_map c ON c.table_map_id = map.id
)
SELECT severity, target, "column", lint, detail, hint FROM (
    SELECT id, attnum,
           CASE WHEN in_key OR (attnotnull AND NOT atthasdef AND attidentity = '') THEN 'error'
                WHEN atthasdef OR attidentity <> '' THEN 'info' ELSE 'warning' END AS severity,
           target::oid, attname AS "column", 'no rule' AS lint,
           CASE WHEN in_key THEN 'is part of the key, and no rule fills it'
                WHEN attidentity <> '' THEN 'no rule fills it; it gets the next value of its sequence'
                WHEN atthasdef THEN 'no rule fills it; it gets its default'
                WHEN attnotnull THEN 'no rule fills it; it has no default and may not be null'
                ELSE 'no rule fills it; it will be null' END AS detail,
           format('SELECT rehome.map_column(%L, %L, %L, ''<expression>'');', migration, target, attname) AS hint
      FROM field
     WHERE coalesce(kind, 'skip') = 'skip'
    UNION ALL
    SELECT map.id, 0, 'warning', map.target::oid, c."column", 'nobody owns it',
           format('the role that owned the rule, with OID %s, does not exist any more', c.owner::oid),
           'Give it to somebody who answers for it: state the rule again.'
      FROM map JOIN rehome.column_map c ON c.table_map_id = map.id
     WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.owner::oid)
    UNION ALL
    SELECT id, 0, 'warning', target::oid, "column", 'two rules',
           format('%s rules restore the source''s column %s after cutover: of %s', n, source_column, columns),
           'Let one of them restore it; give the others an expression that is no plain copy.'
      FROM (SELECT *, count(*) OVER w AS n, string_agg("column", ', ') OVER w AS columns
              FROM restored WHERE source_column IS NOT NULL
            WINDOW w AS (PARTITION BY id, source_column)) r
     WHERE n > 1
    UNION ALL
    SELECT id, attnum, 'warning', target::oid, attname, 'narrowing',
           format('%s goes into %s: not every value fits', from_name, to_name),
           'Widen the column, or state with an expression what becomes of values that do not fit.'
      FROM copied
     WHERE (array_position('{smallint,integer,bigint,numeric}'::regtype[], from_type::regtype)
            > array_position('{smallint,integer,bigint}'::regtype[], atttypid::regtype))
        OR (from_type IN ('float4'::regtype, 'float8'::regtype) AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
        OR (from_type = 'float8'::regtype AND atttypid = 'float4'::regtype)
        OR (atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 0
            AND (from_type = 'text'::regtype OR (from_type IN ('varchar'::regtype, 'bpchar'::regtype)
                                                 AND (from_mod < 0 OR from_mod > atttypmod))))
        OR (atttypid = 'numeric'::regtype AND atttypmod >= 4
            AND ((from_type = 'numeric'::regtype
                  AND (from_mod < 0 OR ((from_mod - 4) >> 16) - ((from_mod - 4) & 1023) > ((atttypmod - 4) >> 16) - ((atttypmod - 4) & 1023)))
                 OR ((from_type = 'int2'::regtype AND ((atttypmod - 4) >> 16) - ((atttypmod - 4) & 1023) < 5)
                 OR (from_type = 'int4'::regtype AND ((atttypmod - 4) >> 16) - ((atttypmod - 4) & 1023) < 10)
                 OR (from_type = 'int8'::regtype AND ((atttypmod - 4) >> 16) - ((atttypmod - 4) & 1023) < 19)
                 OR from_type IN ('float4'::regtype, 'float8'::regtype))))
    UNION ALL
    SELECT id, attnum, 'warning', target::oid, attname, 'precision',
           format('%s goes into %s: digits, or parts of a second, are rounded away', from_name, to_name),
           'Raise the column''s precision, or round in an expression, so that it is meant.'
      FROM copied
     WHERE (from_type IN ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype)
            AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
        OR (from_type = 'numeric'::regtype AND atttypid IN ('float4'::regtype, 'float8'::regtype))
        OR (from_type = 'float8'::regtype AND atttypid = 'float4'::regtype)
        OR (from_type = 'int8'::regtype AND atttypid IN ('float4'::regtype, 'float8'::regtype))
        OR (from_type = 'int4'::regtype AND atttypid = 'float4'::regtype)
        OR (atttypid = 'numeric'::regtype AND atttypmod >= 4 AND from_type = 'numeric'::regtype
            AND (from_mod < 0 OR ((from_mod - 4) & 1023) > ((atttypmod - 4) & 1023)))
        OR (atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype, 'time'::regtype, 'timetz'::regtype) AND atttypmod BETWEEN 0 AND 5
            AND from_type IN ('timestamp'::regtype, 'timestamptz'::regtype, 'time'::regtype, 'timetz'::regtype)
            AND (from_mod < 0 OR from_mod > atttypmod))
        OR (from_type IN ('timestamp'::regtype, 'timestamptz'::regtype) AND atttypid IN ('date'::regtype, 'time'::regtype))
    UNION ALL
    SELECT id, attnum, 'warning', target::oid, attname, 'time zone',
           format('%s goes into %s: it depends on a time zone, and UTC is taken', from_name, to_name),
           'Say which zone is meant: <column> AT TIME ZONE ''...''.'
      FROM copied
     WHERE (from_type = 'timestamp'::regtype AND atttypid = 'timestamptz'::regtype)
        OR (from_type = 'timestamptz'::regtype AND atttypid IN ('timestamp'::regtype, 'date'::regtype, 'time'::regtype))
    UNION ALL
    SELECT map.id, a.attnum, 'warning', map.target::oid, CASE WHEN a.attnum > 0 THEN a.attname END, 'name cut',
           format('%s "%s" of %s has 63 bytes: it may be what is left of a longer name',
                  CASE WHEN a.attnum > 0 THEN 'column' ELSE 'table' END, a.attname, a.relation),
           'Compare it with what the source, and whoever uses it, call it.'
      FROM map
     CROSS JOIN LATERAL (
               SELECT x.attnum, x.attname, x.attrelid::regclass AS relation FROM pg_attribute x
                WHERE x.attrelid IN (map.target::oid, map.source::oid) AND x.attnum > 0 AND NOT x.attisdropped
               UNION ALL
               SELECT 0, r.relname, r.oid FROM pg_class r WHERE r.oid IN (map.target::oid, map.source::oid)) a
     WHERE octet_length(a.attname) >= 63
) lints
 ORDER BY id, attnum, "column", lint
