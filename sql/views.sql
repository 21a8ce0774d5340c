--
-- The public face: tables, views, functions and triggers, with the names and
-- types of their columns and arguments.  A change here is a change of the
-- interface.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
RESET client_min_messages;

SELECT extversion, extrelocatable, n.nspname AS schema
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_rehome';

-- Relations and their columns.
\pset format unaligned
SELECT c.relname AS relation,
       CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE c.relkind::text END AS kind,
       a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attnotnull THEN 'not null' ELSE '' END AS "null",
       coalesce(CASE a.attidentity WHEN 'd' THEN 'identity' END, pg_get_expr(d.adbin, d.adrelid), '') AS "default"
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE n.nspname = 'rehome' AND c.relkind NOT IN ('i', 'S')
 ORDER BY c.relkind, c.relname, a.attnum;

-- Constraints of the tables.
SELECT c.conrelid::regclass AS relation, pg_get_constraintdef(c.oid) AS definition
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
 WHERE n.nspname = 'rehome' AND c.contype <> 'n'
 ORDER BY c.conrelid::regclass::text COLLATE "C", c.contype, pg_get_constraintdef(c.oid) COLLATE "C";

-- Functions and procedures.
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END AS kind,
       p.proname AS name, pg_get_function_arguments(p.oid) AS arguments,
       coalesce(pg_get_function_result(p.oid), '') AS result,
       CASE p.provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END AS volatility,
       p.prosecdef AS definer
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'rehome'
 ORDER BY p.proname, pg_get_function_arguments(p.oid);

-- With nothing defined the views are empty, and reading them costs nothing.
\pset format aligned
SELECT * FROM rehome.status;
SELECT * FROM rehome.progress;
