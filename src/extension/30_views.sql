-- Watching: cheap, local, safe under \watch.

CREATE FUNCTION rehome.state_transitions(OUT from_state text, OUT call text, OUT to_state text,
                                         OUT from_authority text, OUT to_authority text)
    RETURNS SETOF record LANGUAGE c STABLE
    AS 'MODULE_PATHNAME', 'rehome_state_transitions';

COMMENT ON FUNCTION rehome.state_transitions() IS 'the table behind rehome.state_transition';

CREATE VIEW rehome.state_transition AS
    SELECT * FROM rehome.state_transitions();
COMMENT ON VIEW rehome.state_transition IS 'the states of a slice and what moves it between them';

CREATE VIEW rehome.status AS
    SELECT m.name AS migration,
           s.name AS slice,
           s.state,
           s.authority,
           s.paused OR here.restored AS paused,
           CASE WHEN here.restored
                THEN 'this database is a restored copy of the one the slice ran in'
                ELSE s.reason END AS reason,
           CASE WHEN s.state IN ('syncing', 'cut_over') AND m.source_id IS NOT NULL
                THEN clock_timestamp() - s.position_at END AS staleness,
           s.pending,
           (SELECT count(*) FROM rehome.discrepancy d
             WHERE d.migration = m.name AND d.slice = s.name AND d.resolved_at IS NULL
               AND NOT EXISTS (SELECT FROM rehome.acceptance a WHERE a.id = d.acceptance)) AS discrepancies,
           (SELECT count(*) FROM rehome.quarantine q
             WHERE q.migration = m.name AND q.slice = s.name AND NOT q.accepted) AS quarantined,
           (SELECT l.pid FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'advisory' AND l.classid = 21076 AND l.objid = s.id AND l.objsubid = 3 AND l.granted
               AND l.mode = 'ExclusiveLock'
               AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                  WHERE datname = pg_catalog.current_database())
             LIMIT 1) AS worker,
           s.error,
           s.error_since,
           s.state_since,
           s.position,
           s.rows_applied,
           s.batches,
           (SELECT count(*) FROM rehome.table_map t WHERE t.slice_id = s.id) AS tables,
           s.throttled,
           (SELECT count(*) FROM rehome.table_map t
             WHERE t.slice_id = s.id AND (t.paused OR t.position IS NOT NULL)) AS tables_paused,
           (SELECT count(*) FROM rehome.drift d
             WHERE d.migration = m.name AND d.slice = s.name AND d.resolved_at IS NULL) AS drift
      FROM rehome.slice s
      JOIN rehome.migration m ON m.id = s.migration_id
      -- a standby shows what its primary has on record
     CROSS JOIN LATERAL (SELECT s.database_id <> rehome.database_identity() AND NOT pg_catalog.pg_is_in_recovery() AS restored) AS here
     ORDER BY m.id, s.id;
COMMENT ON VIEW rehome.status IS 'where every slice stands';
COMMENT ON COLUMN rehome.status.staleness IS 'how old the position is: now minus the time it was taken';
COMMENT ON COLUMN rehome.status.throttled IS 'why no piece of work is begun: a setting that spares the source';
COMMENT ON COLUMN rehome.status.tables_paused IS 'tables that are paused by themselves, or have not caught up since';
COMMENT ON COLUMN rehome.status.drift IS 'open rows of rehome.drift';
COMMENT ON COLUMN rehome.status.worker IS 'pid of the slice''s sync worker, null when there is none';

CREATE VIEW rehome.progress AS
    WITH work AS (
        SELECT t.slice_id, t.id, t.source, t.target,
               count(c.id) AS chunks,
               count(c.done_at) AS chunks_done,
               coalesce(sum(c.rows), 0)::bigint AS rows_done,
               coalesce(sum(c.bytes), 0)::bigint AS bytes_done,
               min(s.state_since) AS began,
               max(c.done_at) AS last_done,
               (SELECT count(*) FROM rehome.saved_object o WHERE o.table_map_id = t.id AND o.rebuilt_at IS NULL) AS objects_left
          FROM rehome.table_map t
          JOIN rehome.slice s ON s.id = t.slice_id
          LEFT JOIN rehome.chunk c ON c.table_map_id = t.id
         WHERE s.state = 'copying'
         GROUP BY t.id
    ), running AS (
        SELECT p.relid, min(p.pid) AS pid, sum(p.bytes_processed)::bigint AS bytes,
               sum(p.tuples_processed)::bigint AS tuples
          FROM pg_catalog.pg_stat_progress_copy p
         WHERE p.datname = pg_catalog.current_database()
         GROUP BY p.relid
    )
    SELECT m.name AS migration,
           s.name AS slice,
           w.target,
           r.pid,
           CASE WHEN w.chunks = 0 THEN 'waiting'
                WHEN w.chunks_done < w.chunks THEN CASE WHEN r.pid IS NULL AND w.chunks_done = 0 THEN 'waiting' ELSE 'copying' END
                WHEN w.objects_left > 0 THEN 'building indexes'
                ELSE 'done' END AS phase,
           w.chunks_done,
           w.chunks,
           w.rows_done + coalesce(r.tuples, 0) AS rows_done,
           CASE WHEN w.chunks_done > 0 THEN (w.rows_done::numeric * w.chunks / w.chunks_done)::bigint END AS rows_total,
           w.bytes_done + coalesce(r.bytes, 0) AS bytes_done,
           CASE WHEN w.chunks_done > 0 THEN (w.bytes_done::numeric * w.chunks / w.chunks_done)::bigint END AS bytes_total,
           ((w.bytes_done + coalesce(r.bytes, 0))
             / greatest(extract(epoch FROM clock_timestamp() - w.began), 0.001))::bigint AS bytes_per_second,
           CASE WHEN w.chunks_done > 0 AND w.chunks_done < w.chunks
                THEN (w.last_done - w.began) * ((w.chunks - w.chunks_done)::float8 / w.chunks_done) END AS eta,
           w.objects_left AS indexes_left,
           s.throttled,
           w.began AS since
      FROM work w
      JOIN rehome.slice s ON s.id = w.slice_id
      JOIN rehome.migration m ON m.id = s.migration_id
      LEFT JOIN running r ON r.relid = w.source
    UNION ALL
    SELECT m.name, s.name, t.target, v.pid,
           CASE WHEN v.param16 = 1 THEN 'waiting for the source' ELSE 'verifying' END,
           v.param19, v.param20, v.param17, greatest(v.param18, v.param17),
           NULL, NULL, NULL,
           CASE WHEN v.param17 > 0 AND v.param17 < v.param18
                THEN (clock_timestamp() - v.since) * ((v.param18 - v.param17)::float8 / v.param17) END,
           NULL, NULL, v.since
      FROM (SELECT p.*, '2000-01-01 00:00:00+00'::timestamptz + p.param15 * interval '1 microsecond' AS since
              FROM pg_catalog.pg_stat_get_progress_info('COPY') p
             WHERE p.param15 > 0 AND p.datid = (SELECT oid FROM pg_catalog.pg_database
                                                 WHERE datname = pg_catalog.current_database())) AS v
      JOIN rehome.table_map t ON t.target::oid = v.relid
      JOIN rehome.slice s ON s.id = t.slice_id
      JOIN rehome.migration m ON m.id = s.migration_id
     WHERE s.state IN ('syncing', 'cut_over')
     ORDER BY migration, slice, target;
COMMENT ON VIEW rehome.progress IS
    'copies in progress, a row each table, their totals estimated from the chunks done; and verifications';
