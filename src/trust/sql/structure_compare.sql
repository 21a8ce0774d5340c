-- Where the facts of two servers differ, and whether somebody ordered it.  $1,
-- $2: facts of source and target, as structure_facts.sql gives them; $3: mapped
-- columns, with the rule of each (copy, expression or skip), and the source
-- column whose values it has as they are; $4: tables, by number: the target's
-- name, whether indexes are still off, the migration's owner; $5: the state of
-- the slice; $6: the role that connects to the source.
WITH m AS (
    SELECT * FROM jsonb_to_recordset($3::jsonb) AS m(n bigint, source text, target text, rule text, expression text, values_of text, restores text)
), tab AS (
    SELECT * FROM jsonb_to_recordset($4::jsonb) AS tab(n bigint, name text, objects_off boolean, owner text)
), s_fact AS (
    SELECT kind, n, coalesce(ref, -1) AS ref,
           CASE WHEN kind IN ('trigger', 'policy', 'grant', 'partition') THEN coalesce(columns::text[], '{}')
                ELSE ARRAY(SELECT coalesce((SELECT m.target FROM m WHERE m.n = f.n AND m.source = c), c)
                             FROM unnest(columns::text[]) WITH ORDINALITY AS x(c, i) ORDER BY i) END AS columns,
           ARRAY(SELECT coalesce((SELECT m.target FROM m WHERE m.n = (CASE kind WHEN 'foreign key' THEN f.ref ELSE f.n END) AND m.source = c), c)
                   FROM unnest(ref_columns::text[]) WITH ORDINALITY AS x(c, i) ORDER BY i) AS ref_columns,
           value
      FROM jsonb_to_recordset($1::jsonb) AS f(kind text, n bigint, columns text, ref bigint, ref_columns text, value text)
), t_fact AS (
    SELECT kind, n, coalesce(ref, -1) AS ref, coalesce(columns::text[], '{}') AS columns, coalesce(ref_columns::text[], '{}') AS ref_columns, value
      FROM jsonb_to_recordset($2::jsonb) AS f(kind text, n bigint, columns text, ref bigint, ref_columns text, value text)
), told AS (
    -- what an index includes is a part of its value, once it has the target's names
    SELECT side, kind, n, ref, columns, CASE kind WHEN 'foreign key' THEN ref_columns ELSE '{}' END AS ref_columns,
           string_agg(value || CASE WHEN kind = 'foreign key' OR ref_columns = '{}' THEN ''
                                    ELSE format(', include (%s)', (SELECT string_agg(c, ', ' ORDER BY c COLLATE "C") FROM unnest(ref_columns) AS c)) END,
                      ' / ' ORDER BY value COLLATE "C", ref_columns) AS value
      FROM (SELECT 's' AS side, * FROM s_fact UNION ALL SELECT 't', * FROM t_fact) AS f
     GROUP BY 1, 2, 3, 4, 5, 6
), s AS (
    SELECT kind, n, ref, columns, ref_columns, value FROM told WHERE side = 's'
), t AS (
    SELECT kind, n, ref, columns, ref_columns, value FROM told WHERE side = 't'
), differing AS (
    SELECT kind, n, columns, ref, ref_columns, s.value AS source, t.value AS target,
           (SELECT m.rule FROM m WHERE m.n = coalesce(s.n, t.n) AND ARRAY[m.target] = columns) AS rule,
           (SELECT m.expression FROM m WHERE m.n = coalesce(s.n, t.n) AND ARRAY[m.target] = columns) AS expression
      FROM s FULL JOIN t USING (kind, n, columns, ref, ref_columns)
     WHERE s.value IS DISTINCT FROM t.value OR (kind = 'foreign key' AND t.value ~ 'not valid')
)
SELECT tab.name || CASE WHEN d.columns = '{}' THEN '' ELSE format('(%s)', array_to_string(d.columns, ', ')) END AS object,
       d.kind, d.source, d.target, x.explanation IS NOT NULL AS intended, x.explanation,
       d.n, d.columns, nullif(d.ref, -1) AS ref, d.ref_columns
  FROM differing d JOIN tab USING (n),
       LATERAL (SELECT CASE
           WHEN d.source = d.target THEN 'the source has it so'
           -- what is about a column that only one side has follows from that
           WHEN d.kind IN ('column', 'type', 'nullability', 'default') AND d.rule = 'expression'
               THEN 'computed by a rule: ' || d.expression
           WHEN d.kind IN ('column', 'type', 'nullability', 'default', 'sequence') AND d.rule = 'skip' AND d.source IS NULL
               THEN 'left to the target by its rule'
           WHEN d.kind = 'column' AND d.target IS NULL
                AND EXISTS (SELECT FROM m WHERE m.n = d.n AND ARRAY[m.restores] = d.columns)
               THEN 'restored by the rule of ' || (SELECT min(m.target) FROM m WHERE m.n = d.n AND ARRAY[m.restores] = d.columns)
           WHEN d.kind = 'sequence' AND d.source IS NOT NULL AND d.target IS NOT NULL
                AND EXISTS (SELECT FROM m WHERE m.n = d.n AND ARRAY[m.target] = d.columns AND m.values_of IS NOT NULL)
               THEN CASE WHEN $5 IN ('cut_over', 'completed') THEN 'authority is with the target' ELSE 'carried over by the cutover' END
           WHEN d.kind = 'grant' AND d.target IS NULL AND d.columns = ARRAY[$6] THEN 'what the connecting role needs'
           WHEN d.kind = 'owner' AND d.target = tab.owner THEN 'the migration''s owner owns its targets'
           WHEN d.kind IN ('index', 'primary key', 'unique', 'exclusion', 'foreign key') AND d.target IS NULL AND tab.objects_off
               THEN 'taken off for the load, comes back'
           WHEN d.kind = 'statistics' AND d.target = 'missing' AND $5 IN ('planned', 'copying') THEN 'analyzed at the end of the copy'
           WHEN d.kind = 'statistics' AND d.target = 'there' THEN 'analyzed at the end of the copy'
           END) AS x(explanation)
 WHERE NOT (d.kind IN ('type', 'nullability', 'default', 'comment', 'sequence')
            AND EXISTS (SELECT FROM differing c WHERE c.kind = 'column' AND c.n = d.n AND c.columns = d.columns AND d.columns <> '{}'))
 ORDER BY d.n, array_position('{column,type,nullability,default,sequence,primary key,unique,exclusion,foreign key,check,index,partitioned,partition,trigger,row security,policy,owner,grant,comment,statistics}'::text[], d.kind), d.columns
