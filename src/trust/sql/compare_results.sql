-- Compares two results.  $1, $2: the rows of source and target, each an array
-- of objects; $3: the columns that identify a row, null for all that have no
-- tolerance (none where there is a single row); $4: tolerances by column.  A
-- row each difference.
WITH key AS (
    SELECT coalesce($3::text[],
                    CASE WHEN jsonb_array_length($1::jsonb) <= 1 AND jsonb_array_length($2::jsonb) <= 1 THEN '{}'::text[]
                         ELSE ARRAY(SELECT c FROM jsonb_object_keys(coalesce($1::jsonb->0, $2::jsonb->0)) AS c
                                     WHERE NOT $4::jsonb ? c) END) AS columns
), s AS (
    SELECT k, r, row_number() OVER (PARTITION BY k ORDER BY r) AS n
      FROM jsonb_array_elements($1::jsonb) AS r, key,
           LATERAL (SELECT coalesce(jsonb_object_agg(c, r->c), '{}') FROM unnest(key.columns) AS c) AS x(k)
), t AS (
    SELECT k, r, row_number() OVER (PARTITION BY k ORDER BY r) AS n
      FROM jsonb_array_elements($2::jsonb) AS r, key,
           LATERAL (SELECT coalesce(jsonb_object_agg(c, r->c), '{}') FROM unnest(key.columns) AS c) AS x(k)
), pair AS (
    SELECT k, n, s.r AS source, t.r AS target FROM s FULL JOIN t USING (k, n)
)
SELECT CASE WHEN target IS NULL THEN 'missing' WHEN source IS NULL THEN 'extra' ELSE 'differing' END AS kind,
       k AS key, d.columns, source, target
  FROM pair,
       LATERAL (
           SELECT array_agg(c ORDER BY c COLLATE "C") AS columns
             FROM (SELECT coalesce(a.key, b.key) AS c, a.value AS a, b.value AS b, $4::jsonb->coalesce(a.key, b.key) AS tol
                     FROM jsonb_each(source) a FULL JOIN jsonb_each(target) b USING (key)) AS v
            WHERE source IS NOT NULL AND target IS NOT NULL
              AND NOT CASE
                  WHEN a IS NULL OR b IS NULL OR tol IS NULL OR a = b THEN coalesce(a = b, false)
                  WHEN jsonb_typeof(a) = 'number' AND jsonb_typeof(b) = 'number' THEN
                      CASE WHEN jsonb_typeof(tol) = 'number' THEN abs(a::numeric - b::numeric) <= tol::numeric
                           WHEN tol #>> '{}' ~ '^[0-9.]+ *%$' THEN
                               abs(a::numeric - b::numeric)
                                   <= rtrim(tol #>> '{}', ' %')::numeric / 100 * greatest(abs(a::numeric), abs(b::numeric))
                           ELSE false END
                  WHEN a #>> '{}' ~ '^\d{4,}-\d\d-\d\d' AND b #>> '{}' ~ '^\d{4,}-\d\d-\d\d'
                       AND jsonb_typeof(tol) = 'string' AND tol #>> '{}' !~ '%' THEN
                      greatest((a #>> '{}')::timestamptz - (b #>> '{}')::timestamptz,
                               (b #>> '{}')::timestamptz - (a #>> '{}')::timestamptz) <= (tol #>> '{}')::interval
                  ELSE false END) AS d
 WHERE source IS NULL OR target IS NULL OR d.columns IS NOT NULL
 ORDER BY k, n
