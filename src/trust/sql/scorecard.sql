-- Everything that is measured of a migration, with its criterion if there is
-- one.  $1: the migration's id; $2: a slice's id, null for all that are on their
-- way, or if none is for those that were completed; $3: the setting
-- rehome.freeze_timeout in milliseconds.
WITH l AS (
    SELECT s.*, EXISTS (SELECT FROM rehome.table_map t WHERE t.slice_id = s.id) AS tables FROM rehome.slice s WHERE s.migration_id = $1
), s AS (
    SELECT s.id, s.name AS slice, m.name AS migration, m.created_at, s.position_at, s.pending, s.tables, v.at AS verified_at,
           (v.detail->>'rows')::numeric AS verified_rows, (v.detail->>'wrong')::numeric AS wrong_rows
      FROM l AS s
      JOIN rehome.migration m ON m.id = s.migration_id
      LEFT JOIN LATERAL (SELECT e.at, e.detail FROM rehome.event e
                          WHERE e.migration = m.name AND e.slice = s.name AND e.kind = 'verified'
                            AND e.detail->>'mode' <> 'count' AND e.at >= m.created_at
                          ORDER BY e.id DESC LIMIT 1) AS v ON true
     WHERE CASE WHEN $2::int IS NOT NULL THEN s.id = $2::int
                WHEN s.state = 'completed' THEN NOT EXISTS (SELECT FROM l WHERE l.tables AND l.state NOT IN ('completed', 'cancelled'))
                ELSE s.state <> 'cancelled' END
), moved AS (
    SELECT * FROM s WHERE tables
), verified AS (
    -- of all slices that have tables, or it is not measured
    SELECT CASE WHEN bool_and(verified_at IS NOT NULL) THEN min(verified_at) END AS at,
           sum(verified_rows) AS rows, sum(wrong_rows) AS wrong
      FROM moved
), d AS (
    -- the rule may have been revoked while a verification applied it
    SELECT count(*) FILTER (WHERE a.id IS NULL AND d.blocking) AS blocking,
           count(*) FILTER (WHERE a.id IS NULL) AS open,
           count(*) FILTER (WHERE a.id IS NOT NULL) AS accepted,
           count(*) FILTER (WHERE d.class IS NULL) AS unclassified
      FROM rehome.discrepancy d JOIN s ON s.migration = d.migration AND s.slice = d.slice
      LEFT JOIN rehome.acceptance a ON a.id = d.acceptance
     WHERE d.resolved_at IS NULL
), c AS (
    SELECT c.* FROM rehome.check_status c JOIN s ON s.migration = c.migration AND s.slice = c.slice
), q AS (
    SELECT q.* FROM rehome.query_status q JOIN s ON s.migration = q.migration AND s.slice = q.slice
), elsewhere AS (
    SELECT o.metric
      FROM (SELECT migration, slice, 'check.' || "check" AS metric FROM rehome.check_status
            UNION ALL SELECT migration, slice, 'query.' || query FROM rehome.query_status) AS o
     WHERE o.migration = (SELECT name FROM rehome.migration WHERE id = $1)
     GROUP BY o.metric HAVING bool_and(o.slice NOT IN (SELECT slice FROM s))
), measure(n, metric, value, at, detail) AS (
    SELECT 1, 'correctness', trunc(100 * (1 - wrong / greatest(rows, wrong, 1)), 4), at,
           format('%s of %s rows', rows - wrong, rows) FROM verified
    UNION ALL
    SELECT 2, 'discrepancies', d.blocking, v.at, NULL FROM d, verified v
    UNION ALL
    SELECT 3, 'discrepancies_open', d.open, v.at, NULL FROM d, verified v
    UNION ALL
    SELECT 4, 'discrepancies_accepted', d.accepted, v.at, NULL FROM d, verified v
    UNION ALL
    SELECT 5, 'discrepancies_unclassified', d.unclassified, v.at, NULL FROM d, verified v
    UNION ALL
    SELECT 6, 'quarantined', count(*), clock_timestamp(), NULL
      FROM rehome.quarantine q JOIN s ON s.migration = q.migration AND s.slice = q.slice WHERE NOT q.accepted
    UNION ALL
    SELECT 7, 'staleness', round(extract(epoch FROM clock_timestamp() - min(position_at)), 3),
           CASE WHEN bool_and(position_at IS NOT NULL) THEN clock_timestamp() END, 'seconds' FROM moved
    UNION ALL
    SELECT 8, 'pending', sum(pending), max(position_at), 'rows' FROM s
    UNION ALL
    SELECT 8, 'writes_refused', coalesce(sum((d.detail->>'count')::bigint), 0), clock_timestamp(),
           string_agg(format('%s of %s at the %s', d.detail->>'count', d.object, d.side), '; ' ORDER BY d.id)
      FROM rehome.drift d JOIN s ON s.migration = d.migration AND s.slice = d.slice
     WHERE d.kind = 'refused' AND d.resolved_at IS NULL
    UNION ALL
    SELECT 9, 'checks_failing', count(*) FILTER (WHERE status <> 'passed'),
           CASE WHEN count(*) > 0 THEN coalesce(min(at), clock_timestamp()) END,
           string_agg(format('%s: %s%s', "check", status, ', ' || message), '; ' ORDER BY "check") FILTER (WHERE status <> 'passed')
      FROM c
    UNION ALL
    SELECT 10, 'queries_different', count(*) FILTER (WHERE status <> 'equal'),
           CASE WHEN bool_and(status <> 'not run') THEN min(at) END,
           string_agg(format('%s: %s%s', query, status, ', ' || message), '; ' ORDER BY query) FILTER (WHERE status <> 'equal')
      FROM q
    UNION ALL
    -- one that did not come to its end may be the slowest of all
    SELECT 11, 'queries_slower', count(*) FILTER (WHERE slower OR status = 'error'),
           CASE WHEN bool_and(status <> 'not run') THEN min(at) END,
           string_agg(format('%s: %s', query, message), '; ' ORDER BY query) FILTER (WHERE slower OR status = 'error')
      FROM q
    UNION ALL
    SELECT 12, 'query_latency_ratio', round(max(ratio)::numeric, 3),
           CASE WHEN bool_and(ratio IS NOT NULL) THEN min(at) END, (array_agg(query::text ORDER BY ratio DESC) FILTER (WHERE ratio IS NOT NULL))[1]
      FROM q
    UNION ALL
    SELECT 13, 'structure_unintended', sum((e.detail->>'unintended')::int),
           CASE WHEN bool_and(e.at IS NOT NULL) THEN min(e.at) END, NULL
      FROM moved AS s LEFT JOIN LATERAL (SELECT e.at, e.detail FROM rehome.event e
                                 WHERE e.migration = s.migration AND e.slice = s.slice AND e.kind = 'structure' AND e.at >= s.created_at
                                 ORDER BY e.id DESC LIMIT 1) AS e ON true
    UNION ALL
    SELECT 14, 'freeze_limit', round($3::numeric / 1000, 3), clock_timestamp(), 'seconds; rehome.freeze_timeout in this session'
    UNION ALL
    SELECT 15, 'freeze', round(max(extract(epoch FROM (e.detail->>'freeze')::interval)), 3),
           CASE WHEN bool_and(e.at IS NOT NULL) THEN min(e.at) END, 'seconds; of the last cutover or rollback'
      FROM moved AS s LEFT JOIN LATERAL (SELECT e.at, e.detail FROM rehome.event e
                                 WHERE e.migration = s.migration AND e.slice = s.slice AND e.detail ? 'freeze' AND e.at >= s.created_at
                                 ORDER BY e.id DESC LIMIT 1) AS e ON true
    UNION ALL
    SELECT 16, 'check.' || "check", CASE status WHEN 'passed' THEN 1 WHEN 'failed' THEN 0 WHEN 'error' THEN 0 END, at,
           status || coalesce(', ' || message, '') FROM c
    UNION ALL
    SELECT 17, 'query.' || query, round(ratio::numeric, 3), at, status || coalesce(', ' || message, '') FROM q
), judged AS (
    -- a criterion may be older than what it is about
    SELECT coalesce(m.n, 99) AS n, metric, CASE WHEN m.at IS NOT NULL THEN m.value END AS value,
           k.comparator, k.threshold, k.blocking, k.owner, k.max_age, m.at, m.detail
      FROM measure m FULL JOIN (
           SELECT * FROM rehome.criterion k WHERE k.migration_id = $1
              -- a slice has nothing to do with what is checked and queried in others
              AND NOT EXISTS (SELECT FROM elsewhere e WHERE e.metric = k.metric)) AS k USING (metric)
)
SELECT metric, value, comparator, threshold,
       CASE WHEN comparator IS NULL THEN NULL
            WHEN value IS NULL THEN 'unmeasured'
            WHEN at + max_age < clock_timestamp() THEN 'outdated'
            WHEN CASE comparator WHEN '<' THEN value < threshold WHEN '<=' THEN value <= threshold
                                 WHEN '=' THEN value = threshold WHEN '>=' THEN value >= threshold
                                 ELSE value > threshold END THEN 'passed'
            ELSE 'failed' END AS verdict,
       blocking, owner, CASE WHEN value IS NOT NULL THEN at END AS measured_at, detail
  FROM judged
 ORDER BY n, metric
