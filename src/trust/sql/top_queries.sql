-- The queries that took most of a source's time, from pg_stat_statements where
-- it is installed: of those that read, the 20 whose text has all its values;
-- of those that cannot be run as they are, since values are parameters or
-- since the text is not ours to read, the first few.  n is how many there are
-- of a kind.  Its schema, quoted, is to be put in.
WITH known AS (
    SELECT s.query, s.calls,
           round(coalesce(to_jsonb(s)->>'total_exec_time', to_jsonb(s)->>'total_time')::numeric) AS ms,
           CASE WHEN s.query = '<insufficient privilege>' THEN 'hidden'
                WHEN s.query !~* '^\s*(select|with|table|values)\M' THEN NULL
                WHEN s.query ~* '(pg_catalog|information_schema|rehome|pg_stat|\mpg_[a-z_]+\()' THEN NULL
                WHEN s.query ~ '\$[0-9]' THEN 'parameters'
                ELSE 'whole' END AS kind
      FROM %s.pg_stat_statements AS s
     WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY kind ORDER BY ms DESC, query) AS rank, count(*) OVER (PARTITION BY kind) AS n
      FROM known WHERE kind IS NOT NULL
)
SELECT kind, query, calls, ms, n
  FROM ranked
 WHERE rank <= CASE kind WHEN 'whole' THEN 20 ELSE 5 END
 ORDER BY kind, rank
