-- Tables as they are: OID, columns by number, and files, also of partitions, by
-- OID.  A row each of $1, the names of tables, in that order; null where there
-- is none.  Runs on both sides; in psql: \bind '{public.t}' \g
WITH RECURSIVE named AS (SELECT to_regclass(u.name)::oid AS oid, u.n FROM unnest($1::text[]) WITH ORDINALITY AS u(name, n)),
    -- all of them at once: by table, pg_inherits would be gone through for each
    tree(root, relid) AS (
        SELECT oid, oid FROM named
        UNION
        SELECT tree.root, i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid),
    files AS (SELECT tree.root, jsonb_object_agg(f.oid::bigint, f.relfilenode::bigint) AS files
                FROM tree JOIN pg_class f ON f.oid = tree.relid GROUP BY tree.root)
SELECT CASE WHEN t.oid IS NOT NULL THEN jsonb_build_object('oid', t.oid::bigint, 'files', f.files, 'columns',
           (SELECT coalesce(jsonb_object_agg(a.attnum, jsonb_build_object(
                       'name', a.attname,
                       'type', format_type(a.atttypid, a.atttypmod)
                               || CASE WHEN a.attcollation <> y.typcollation
                                       THEN (SELECT format(' COLLATE %I', l.collname) FROM pg_collation l WHERE l.oid = a.attcollation)
                                       ELSE '' END,
                       'not_null', a.attnotnull,
                       -- PostgreSQL 10 and 11 have no generated columns, and all have a default
                       'default', a.atthasdef OR a.attidentity <> '',
                       -- what values change by, without a trigger that tells
                       'made', a.xmin::text,
                       'expression', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                                       WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND to_jsonb(a) ->> 'attgenerated' <> ''),
                       'labels', (SELECT jsonb_object_agg(e.oid::oid::bigint, e.enumlabel) FROM pg_enum e
                                   WHERE e.enumtypid IN (y.oid, y.typelem, y.typbasetype)))), '{}')
              FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
             WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped)) END
  FROM named AS t LEFT JOIN files AS f ON f.root = t.oid
 ORDER BY t.n
