-- What a source says about its tables that a target should keep.  $1, $2:
-- schemas and tables.  Unique keys, foreign keys between these tables, and
-- columns with few values, as far as they were analyzed.  Columns are named as
-- the source does.  Runs on PostgreSQL 10 and later.
WITH t AS (
    SELECT u.n, u.schema, u.name, c.oid AS rel
      FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(schema, name, n)
      JOIN pg_namespace s ON s.nspname = u.schema
      JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = u.name
)
SELECT 'unique' AS kind, t.n - 1 AS n, i.indexrelid::regclass::text AS name,
       (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(att, n)
          JOIN pg_attribute a ON a.attrelid = t.rel AND a.attnum = k.att
         WHERE k.n <= coalesce((to_jsonb(i)->>'indnkeyatts')::int, i.indnatts)) AS columns,
       NULL::bigint AS parent, NULL::text[] AS parent_columns
  FROM t JOIN pg_index i ON i.indrelid = t.rel
 WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
UNION ALL
SELECT 'foreign', t.n - 1, c.conname,
       (SELECT array_agg(a.attname::text ORDER BY k.i) FROM unnest(c.conkey) WITH ORDINALITY AS k(att, i)
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.att),
       p.n - 1,
       (SELECT array_agg(a.attname::text ORDER BY k.i) FROM unnest(c.confkey) WITH ORDINALITY AS k(att, i)
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.att)
  FROM t JOIN pg_constraint c ON c.conrelid = t.rel AND c.contype = 'f' JOIN t AS p ON p.rel = c.confrelid
 -- not again for each partition of the parent
 WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = (to_jsonb(c)->>'conparentid')::oid AND o.conrelid = c.conrelid)
UNION ALL
SELECT 'few', t.n - 1, s.attname, ARRAY[s.attname::text], NULL, NULL
  FROM t JOIN pg_stats s ON s.schemaname = t.schema AND s.tablename = t.name
 WHERE s.n_distinct BETWEEN 1 AND 30
 ORDER BY 1, 2, 3
