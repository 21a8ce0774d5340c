-- Compares two results row by row, whatever their order.  $1, $2: the rows of
-- source and target, each an array of texts.  One row: how many rows only one
-- side has, the larger of both numbers, and some of them.
WITH s AS (
    SELECT r, row_number() OVER (PARTITION BY r) AS n FROM jsonb_array_elements_text($1::jsonb) AS r
), t AS (
    SELECT r, row_number() OVER (PARTITION BY r) AS n FROM jsonb_array_elements_text($2::jsonb) AS r
), one_sided AS (
    SELECT s.r AS source, t.r AS target, row_number() OVER (PARTITION BY s.r IS NULL ORDER BY r, n) AS nth
      FROM s FULL JOIN t USING (r, n)
     WHERE s.r IS NULL OR t.r IS NULL
)
SELECT greatest(count(source), count(target)),
       jsonb_build_object('source', coalesce(jsonb_agg(source ORDER BY nth) FILTER (WHERE source IS NOT NULL AND nth <= 10), '[]'),
                          'target', coalesce(jsonb_agg(target ORDER BY nth) FILTER (WHERE target IS NOT NULL AND nth <= 10), '[]'))
  FROM one_sided
