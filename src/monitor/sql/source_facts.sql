-- Facts about source tables, one row each.  $1: schemas; $2: tables; $3: their
-- key columns, as text of arrays, in the same order.  Runs on PostgreSQL 10
-- and later; in psql: \bind '{public}' '{t}' '{"{id}"}' \g
WITH t AS (
    SELECT u.n, u.key, s.oid AS nsp, c.oid AS rel
      FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u(schema, name, key, n)
      LEFT JOIN pg_namespace s ON s.nspname = u.schema
      LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = u.name
)
SELECT t.n - 1 AS n,
       t.nsp IS NULL OR has_schema_privilege(t.nsp, 'USAGE') AS may_use,
       c.oid,
       c.relkind,
       c.relpersistence,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       has_table_privilege(c.oid, 'SELECT') AS may_select,
       has_table_privilege(c.oid, 'TRIGGER') AS may_trigger,
       has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
           AND has_table_privilege(c.oid, 'DELETE') AS may_write,
       row_security_active(c.oid) AS row_security,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
       EXISTS (SELECT FROM pg_index i
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                  AND NOT 0 = ANY (i.indkey)
                  AND (SELECT array_agg(a.attname::text) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
                         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                        -- the others are but included
                        WHERE k.n <= coalesce((to_jsonb(i)->>'indnkeyatts')::int, i.indnatts)) <@ (t.key::text[])) AS key_unique,
       EXISTS (SELECT FROM pg_trigger g
                WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgname NOT LIKE 'rehome\_%') AS has_triggers,
       parts.unreadable AS unreadable_parts,
       parts.elsewhere AS foreign_parts,
       (WITH RECURSIVE up(relid) AS (
            SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid
            UNION ALL
            SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relid)
        SELECT up.relid::regclass::text FROM up
         WHERE up.relid IN (SELECT rel FROM t) LIMIT 1) AS mapped_parent,
       coalesce(parts.subscribed, false) OR EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid AND NOT pg_has_role(c.relowner, 'USAGE')) AS subscribed
  FROM t
  LEFT JOIN pg_class c ON c.oid = t.rel
  LEFT JOIN LATERAL (
        WITH RECURSIVE tree(relid) AS (
            SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid
            UNION ALL
            SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid)
        SELECT string_agg(p.oid::regclass::text, ', ')
                   FILTER (WHERE NOT (has_table_privilege(p.oid, 'SELECT') AND has_table_privilege(p.oid, 'TRIGGER'))) AS unreadable,
               string_agg(p.oid::regclass::text, ', ') FILTER (WHERE p.relkind = 'f') AS elsewhere,
               bool_or(NOT pg_has_role(p.relowner, 'USAGE') AND EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = p.oid)) AS subscribed
          FROM tree JOIN pg_class p ON p.oid = tree.relid) AS parts ON c.relkind = 'p'
 ORDER BY t.n
