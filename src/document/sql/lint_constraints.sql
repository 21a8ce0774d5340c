-- What a table ($1) demands of its rows, as far as it concerns no other columns
-- than those given ($2): kind (u, c, f), name, columns, expressions of a unique
-- index, condition, whether nulls count as equal, parent, its columns.
SELECT 'u' AS kind,
       i.indexrelid::regclass::text AS name,
       used.columns,
       (SELECT array_agg(pg_get_indexdef(i.indexrelid, k, false) ORDER BY k) FROM generate_series(1, i.indnkeyatts) k) AS expressions,
       pg_get_expr(i.indpred, i.indrelid) AS condition,
       i.indnullsnotdistinct AS nulls_equal,
       NULL::oid AS parent,
       NULL::name[] AS parent_columns
  FROM pg_index i
 CROSS JOIN LATERAL (
           SELECT array_agg(DISTINCT a.attname::text) AS columns
             FROM pg_attribute a
            WHERE a.attrelid = i.indrelid
              AND (a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                   -- a column it includes is one it depends on too, once
                   OR (SELECT count(*) FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                          AND d.refobjsubid = a.attnum) > (a.attnum = ANY ((i.indkey::int2[])[i.indnkeyatts:]))::int)) used
 WHERE i.indrelid = $1 AND i.indisunique AND used.columns <@ $2::text[]
UNION ALL
SELECT 'c', c.conname, columns.list, NULL, pg_get_expr(c.conbin, c.conrelid), NULL, NULL, NULL
  FROM pg_constraint c
 CROSS JOIN LATERAL (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS list
                       FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) columns
 WHERE c.conrelid = $1 AND c.contype = 'c' AND columns.list <@ $2::text[]
UNION ALL
SELECT 'f', c.conname, columns.list, NULL, NULL, NULL, c.confrelid, parents.list
  FROM pg_constraint c
 CROSS JOIN LATERAL (SELECT array_agg(a.attname::text ORDER BY k.n) AS list
                       FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, n)
                       JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) columns
 CROSS JOIN LATERAL (SELECT array_agg(a.attname::text ORDER BY k.n) AS list
                       FROM unnest(c.confkey) WITH ORDINALITY AS k(attnum, n)
                       JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum) parents
 WHERE c.conrelid = $1 AND c.contype = 'f' AND columns.list <@ $2::text[]
   -- not again for each partition of the parent
   AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = c.conparentid AND o.conrelid = c.conrelid)
 ORDER BY kind DESC, name
