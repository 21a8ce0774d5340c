-- What is derived, a row each column: for the mapping document.
-- $1: the migration's id.
SELECT s.name AS slice,
       d.target::oid,
       a.attname AS field,
       format_type(a.atttypid, a.atttypmod) AS type,
       (SELECT string_agg(i.input::text, ', ' ORDER BY i.input::text) FROM rehome.derivation_input i
         WHERE i.derivation_id = d.id) AS inputs,
       d.query,
       m.owner::text,
       d.write_back,
       d.note,
       d.name,
       d.key,
       d.whole,
       a.attname = ANY (d.key) AS in_key
  FROM rehome.derivation d
  JOIN rehome.migration m ON m.id = d.migration_id
  JOIN rehome.slice s ON s.id = d.slice_id
  JOIN pg_attribute a ON a.attrelid = d.target::oid AND (a.attname = ANY (d.columns) OR (d.whole AND a.attname = ANY (d.key)))
 WHERE d.migration_id = $1
 ORDER BY s.id, d.id, array_position(d.key || d.columns, a.attname)
