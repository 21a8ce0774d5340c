-- A row for each column of each target of a migration ($1: its id), with the
-- rule that fills it, or what does so without one.  Ordered as a reader would
-- go through it.
SELECT s.name AS slice,
       t.id AS map,
       t.target::oid AS target,
       t.source::oid AS source,
       f.name AS field,
       f.type,
       f.kind,
       f.transformation,
       f.is_rule,
       f.owner,
       f.validation,
       f.on_error,
       f.inverse,
       nullif(concat_ws('; ', CASE WHEN EXISTS (SELECT FROM rehome.redaction r
                                                 WHERE r.migration_id = $1 AND r.target = t.target AND r."column" = f.name)
                                   THEN 'redacted' END, f.note), '') AS note,
       array_to_string(t.key, ', ') AS key,
       t.filter
  FROM rehome.slice s
  JOIN rehome.table_map t ON t.slice_id = s.id
 CROSS JOIN LATERAL (
           SELECT coalesce(a.attname, c."column") AS name,
                  a.attnum,
                  format_type(a.atttypid, a.atttypmod) AS type,
                  CASE WHEN a.attname IS NULL THEN 'dropped'
                       WHEN c.kind NOT IN ('skip', 'default') THEN c.kind
                       WHEN a.attgenerated <> '' THEN 'generated'
                       WHEN a.attidentity <> '' THEN 'identity'
                       WHEN a.atthasdef THEN 'default'
                       ELSE 'none' END AS kind,
                  CASE WHEN c.expression IS NOT NULL THEN c.expression
                       ELSE pg_get_expr(d.adbin, d.adrelid) END AS transformation,
                  c.expression IS NOT NULL AS is_rule,
                  c.owner,
                  c.validation,
                  coalesce(c.on_error, CASE WHEN c.expression IS NOT NULL THEN t.on_error END) AS on_error,
                  c.inverse_column || ' = ' || c.inverse AS inverse,
                  c.note
             FROM (SELECT attname, attnum, atttypid, atttypmod, attgenerated, attidentity, atthasdef
                     FROM pg_attribute
                    WHERE attrelid = t.target::oid AND attnum > 0 AND NOT attisdropped) a
             FULL JOIN (SELECT * FROM rehome.column_map WHERE table_map_id = t.id) c ON c."column" = a.attname
             LEFT JOIN pg_attrdef d ON d.adrelid = t.target::oid AND d.adnum = a.attnum) f
 WHERE s.migration_id = $1
 ORDER BY s.id, t.id, f.attnum, f.name
