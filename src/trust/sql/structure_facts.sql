-- What a server's catalog says about tables.  $1, $2: schemas and tables.  A
-- row each fact: what it is about (the table's number, columns, the number and
-- columns of another table of these, or those an index includes), and its value.
-- Names of constraints and indexes are left out: they do not matter.  The same
-- text is sent to the source and run here.  Runs on PostgreSQL 10 and later.
WITH t AS (
    SELECT u.n - 1 AS n, c.oid AS rel, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.reltuples
      FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(schema, name, n)
      JOIN pg_namespace s ON s.nspname = u.schema
      JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = u.name
), a AS (
    SELECT t.n, t.rel, t.relkind, a.attnum, a.attname::text AS name, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity,
           coalesce(to_jsonb(a)->>'attgenerated', '') AS generated, pg_get_expr(d.adbin, d.adrelid) AS def
      FROM t JOIN pg_attribute a ON a.attrelid = t.rel AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), i AS (
    SELECT t.n, i.indisunique, i.indisvalid, pg_get_expr(i.indpred, i.indrelid) AS predicate, m.amname, e.columns, e.included, e.options,
           to_jsonb(i)->>'indnullsnotdistinct' = 'true' AS nulls_equal, coalesce(c.contype, 'i') AS contype, c.condeferrable, c.condeferred,
           (SELECT string_agg(o.oprname, ' ' ORDER BY x.i) FROM unnest(c.conexclop) WITH ORDINALITY AS x(op, i) JOIN pg_operator o ON o.oid = x.op) AS operators
      FROM t JOIN pg_index i ON i.indrelid = t.rel JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
      LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x')
     CROSS JOIN LATERAL (
           SELECT array_agg(e.name ORDER BY e.k) FILTER (WHERE e.k <= e.keys) AS columns,
                  array_agg(e.name ORDER BY e.name COLLATE "C") FILTER (WHERE e.k > e.keys) AS included,
                  string_agg(format('column %s: %s', e.k, e.options), ', ' ORDER BY e.k) FILTER (WHERE e.options <> '') AS options
             FROM (SELECT k.k, keys, coalesce(a.attname::text, pg_get_indexdef(i.indexrelid, k.k, true)) AS name,
                          -- what is not as it is by itself; a type's own collation is, and the family of a type's own operators
                          concat_ws(' ', (SELECT 'collate ' || o.collname FROM pg_collation o
                                           WHERE o.oid = i.indcollation[k.k - 1] AND o.oid <> y.typcollation),
                                    (SELECT f.opfname FROM pg_opclass o JOIN pg_opfamily f ON f.oid = o.opcfamily
                                      WHERE o.oid = i.indclass[k.k - 1]
                                        AND NOT EXISTS (SELECT FROM pg_opclass d WHERE d.opcfamily = o.opcfamily AND d.opcdefault)),
                                    CASE i.indoption[k.k - 1] & 3 WHEN 1 THEN 'desc nulls last' WHEN 2 THEN 'nulls first' WHEN 3 THEN 'desc' END) AS options
                     FROM coalesce((to_jsonb(i)->>'indnkeyatts')::int, i.indnatts) AS keys, generate_series(1, i.indnatts) AS k(k)
                     JOIN pg_attribute ia ON ia.attrelid = i.indexrelid AND ia.attnum = k.k
                     LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.k - 1] AND a.attnum > 0
                     JOIN pg_type y ON y.oid = coalesce(a.atttypid, ia.atttypid)) AS e) AS e
), k AS (
    SELECT t.n, c.oid, c.contype, c.convalidated, c.condeferrable, c.condeferred, c.confdeltype, c.confupdtype, c.confmatchtype,
           c.confrelid, r.n AS ref, pg_get_constraintdef(c.oid) AS def,
           ARRAY(SELECT x.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k(att, i)
                   JOIN pg_attribute x ON x.attrelid = c.conrelid AND x.attnum = k.att ORDER BY k.i) AS columns,
           ARRAY(SELECT x.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k(att, i)
                   JOIN pg_attribute x ON x.attrelid = c.confrelid AND x.attnum = k.att ORDER BY k.i) AS ref_columns
      FROM t JOIN pg_constraint c ON c.conrelid = t.rel LEFT JOIN t AS r ON r.rel = c.confrelid
     -- not again for each partition of the parent
     WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = (to_jsonb(c)->>'conparentid')::oid AND o.conrelid = c.conrelid)
)
SELECT 'column' AS kind, n, ARRAY[name] AS columns, NULL::bigint AS ref, NULL::text[] AS ref_columns, 'there' AS value FROM a
UNION ALL
SELECT 'type', n, ARRAY[name], NULL, NULL, format_type(atttypid, atttypmod) FROM a
UNION ALL
SELECT 'nullability', n, ARRAY[name], NULL, NULL, CASE WHEN attnotnull THEN 'not null' ELSE 'null' END FROM a
UNION ALL
SELECT 'default', n, ARRAY[name], NULL, NULL,
       CASE WHEN generated <> '' THEN 'generated: ' || def
            WHEN attidentity <> '' THEN 'identity'
            WHEN def ~ '^nextval\(' THEN 'sequence' ELSE def END FROM a WHERE def IS NOT NULL OR attidentity <> ''
UNION ALL
SELECT 'sequence', a.n, ARRAY[a.name], NULL, NULL,
       (SELECT coalesce(q.last_value::text, 'not called') FROM pg_class s JOIN pg_namespace m ON m.oid = s.relnamespace
          JOIN pg_sequences q ON q.schemaname = m.nspname AND q.sequencename = s.relname WHERE s.oid = d.objid)
  FROM a JOIN pg_depend d ON d.refobjid = a.rel AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
   AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
   AND EXISTS (SELECT FROM pg_sequence s WHERE s.seqrelid = d.objid)
UNION ALL
SELECT 'comment', n, ARRAY[name], NULL, NULL, col_description(rel, attnum) FROM a WHERE col_description(rel, attnum) IS NOT NULL
UNION ALL
SELECT 'comment', n, NULL, NULL, NULL, obj_description(rel, 'pg_class') FROM t WHERE obj_description(rel, 'pg_class') IS NOT NULL
UNION ALL
SELECT DISTINCT CASE contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'x' THEN 'exclusion' ELSE 'index' END, n, columns, NULL::bigint, included,
       concat_ws(', ', CASE WHEN contype IN ('p', 'u') THEN 'there' ELSE amname END, CASE WHEN contype = 'i' AND indisunique THEN 'unique' END,
                 'with ' || operators, CASE WHEN nulls_equal THEN 'nulls not distinct' END, options, 'where ' || predicate,
                 CASE WHEN condeferrable THEN 'deferrable' END, CASE WHEN condeferred THEN 'deferred' END, CASE WHEN NOT indisvalid THEN 'not valid' END)
  FROM i
UNION ALL
SELECT 'check', n, columns, NULL, NULL, string_agg(def, '; ' ORDER BY def COLLATE "C") FROM k WHERE contype = 'c' GROUP BY n, columns
UNION ALL
SELECT DISTINCT 'foreign key', n, columns, ref, ref_columns,
       concat_ws(', ', CASE WHEN ref IS NULL THEN 'to ' || confrelid::regclass ELSE 'there' END,
                 'on delete ' || confdeltype::text, 'on update ' || confupdtype::text, CASE WHEN confmatchtype <> 's' THEN 'match ' || confmatchtype::text END,
                 CASE WHEN condeferrable THEN 'deferrable' END, CASE WHEN condeferred THEN 'deferred' END,
                 CASE WHEN NOT convalidated THEN 'not valid' END)
  FROM k WHERE contype = 'f'
UNION ALL
SELECT 'trigger', t.n, ARRAY[g.tgname::text], NULL, NULL,
       regexp_replace(regexp_replace(pg_get_triggerdef(g.oid, true), '^CREATE (CONSTRAINT )?TRIGGER \S+ ', '\1'), ' ON (?:\S+) ', ' ')
           || CASE g.tgenabled WHEN 'D' THEN ', disabled' ELSE '' END
  FROM t JOIN pg_trigger g ON g.tgrelid = t.rel AND NOT g.tgisinternal
  JOIN pg_proc f ON f.oid = g.tgfoid JOIN pg_namespace s ON s.oid = f.pronamespace AND s.nspname NOT IN ('rehome', 'rehome_source')
UNION ALL
SELECT 'row security', n, NULL, NULL, NULL, CASE WHEN relforcerowsecurity THEN 'forced' ELSE 'enabled' END FROM t WHERE relrowsecurity
UNION ALL
SELECT 'policy', t.n, ARRAY[p.polname::text], NULL, NULL,
       concat_ws(', ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for ' || p.polcmd::text,
                 'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
  FROM t JOIN pg_policy p ON p.polrelid = t.rel
UNION ALL
SELECT 'owner', n, NULL, NULL, NULL, pg_get_userbyid(relowner) FROM t
UNION ALL
SELECT 'grant', t.n, ARRAY[CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END], NULL, NULL,
       string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
  FROM t, aclexplode(t.relacl) AS g WHERE g.grantee <> t.relowner GROUP BY t.n, g.grantee
UNION ALL
SELECT 'partitioned', n, NULL, NULL, NULL, pg_get_partkeydef(rel) FROM t WHERE relkind = 'p'
UNION ALL
SELECT 'partition', t.n, ARRAY[pg_get_expr(c.relpartbound, c.oid)], NULL, NULL, 'there'
  FROM t JOIN pg_inherits h ON h.inhparent = t.rel JOIN pg_class c ON c.oid = h.inhrelid WHERE t.relkind = 'p'
UNION ALL
SELECT 'statistics', n, NULL, NULL, NULL,
       CASE WHEN reltuples > 0 OR relkind <> 'r' THEN 'there'
            WHEN pg_relation_size(rel) = 0 THEN 'there' ELSE 'missing' END FROM t WHERE relkind = 'r'
