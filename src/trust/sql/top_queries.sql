-- The queries that took most of a source's time, from pg_stat_statements where
-- it is installed: those that read, and whose text has all its values.
-- Its schema, quoted, is to be put in.
SELECT s.query, s.calls,
       round(coalesce(to_jsonb(s)->>'total_exec_time', to_jsonb(s)->>'total_time')::numeric) AS ms
  FROM %s.pg_stat_statements AS s
 WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND s.query ~* '^\s*(select|with|table|values)\M'
   AND s.query !~ '\$[0-9]' AND s.query !~* '(pg_catalog|information_schema|rehome|pg_stat|\mpg_[a-z_]+\()'
 ORDER BY ms DESC, s.query
 LIMIT 20
