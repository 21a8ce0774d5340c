-- A migration as one jsonb: what it takes to define it again elsewhere, and
-- nothing that only this database knows: no ids, tokens, OIDs, states.
-- $1: the migration's id; $2: one slice's name, or null for all.
SELECT jsonb_strip_nulls(jsonb_build_object(
           'format', 'pg_rehome',
           'version', 1,
           'migration', m.name,
           'server', m.server,
           'reason', m.reason,
           'home', m.home))
       || jsonb_build_object('slices', coalesce(
              (SELECT jsonb_agg(jsonb_build_object('slice', s.name, 'tables', coalesce(tables.list, '[]'))
                               || CASE WHEN derived.list IS NULL THEN '{}' ELSE jsonb_build_object('derived', derived.list) END ORDER BY s.id)
                 FROM rehome.slice s
                 LEFT JOIN LATERAL (
                     SELECT jsonb_agg(
                                jsonb_strip_nulls(jsonb_build_object(
                                    'source', CASE WHEN t.imported
                                                   THEN jsonb_build_object('schema', far.schema, 'table', far."table")
                                                   ELSE to_jsonb(format('%I.%I', n.nspname, r.relname)) END,
                                    'target', format('%I.%I', tn.nspname, tr.relname),
                                    'key', to_jsonb(t.key),
                                    'filter', t.filter,
                                    'on_error', nullif(t.on_error, 'fail'),
                                    -- no rule of how rows are made
                                    'drift_policy', CASE WHEN $2 IS NULL THEN nullif(t.drift_policy, 'reject') END,
                                    'on_delete', nullif(t.on_delete, 'delete'),
                                    'delete_column', t.delete_column,
                                    'delete_archive', (SELECT format('%I.%I', an.nspname, ar.relname)
                                                         FROM pg_class ar JOIN pg_namespace an ON an.oid = ar.relnamespace
                                                        WHERE ar.oid = t.delete_archive::oid)))
                                || jsonb_build_object('columns', coalesce(columns.list, '[]'))
                                ORDER BY t.id) AS list
                       FROM rehome.table_map t
                       JOIN pg_class r ON r.oid = t.source::oid
                       JOIN pg_namespace n ON n.oid = r.relnamespace
                       JOIN pg_class tr ON tr.oid = t.target::oid
                       JOIN pg_namespace tn ON tn.oid = tr.relnamespace
                       LEFT JOIN LATERAL (
                           SELECT coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'schema_name'), n.nspname) AS schema,
                                  coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'table_name'), r.relname) AS "table"
                             FROM pg_foreign_table f, pg_options_to_table(f.ftoptions) o
                            WHERE f.ftrelid = r.oid) far ON true
                       LEFT JOIN LATERAL (
                           SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                                      'column', c."column",
                                      'kind', c.kind,
                                      'expression', c.expression,
                                      'inverse', c.inverse,
                                      'inverse_column', c.inverse_column,
                                      'owner', CASE WHEN c.owner <> m.owner THEN c.owner::text END,
                                      'note', c.note,
                                      'source_column', c.source_column,
                                      'validation', c.validation,
                                      'on_error', c.on_error))
                                  || CASE WHEN c.params IS NULL THEN '{}' ELSE jsonb_build_object('params', c.params) END
                                  ORDER BY a.attnum, c."column") AS list
                             FROM rehome.column_map c
                             LEFT JOIN pg_attribute a ON a.attrelid = t.target::oid AND a.attname = c."column"
                            WHERE c.table_map_id = t.id) columns ON true
                      WHERE t.slice_id = s.id) tables ON true
                 LEFT JOIN LATERAL (
                     SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                                'name', d.name,
                                'target', (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                                             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = d.target::oid),
                                'key', to_jsonb(d.key),
                                'columns', CASE WHEN NOT d.whole THEN to_jsonb(d.columns) END,
                                'query', d.query,
                                'search_path', d.search_path,
                                'write_back', d.write_back,
                                'note', d.note))
                                || jsonb_build_object('affected', (
                                    SELECT jsonb_object_agg(format('%I.%I', n.nspname, c.relname), i.affected)
                                      FROM rehome.derivation_input i JOIN pg_class c ON c.oid = i.input::oid
                                      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.derivation_id = d.id))
                                ORDER BY d.id) AS list
                       FROM rehome.derivation d WHERE d.slice_id = s.id) derived ON true
                WHERE s.migration_id = m.id AND ($2 IS NULL OR s.name = $2::name)), '[]'))
       || CASE WHEN $2 IS NOT NULL THEN '{}' ELSE jsonb_strip_nulls(jsonb_build_object(
           'checks', (SELECT jsonb_agg(jsonb_build_object(
                                 'slice', s.name,
                                 'name', c.name,
                                 'layer', c.layer,
                                 'source_sql', c.source_sql,
                                 'target_sql', c.target_sql,
                                 'key', to_jsonb(c.key),
                                 'tolerance', nullif(c.tolerance, '{}'),
                                 'search_path', c.search_path,
                                 'valid_for', c.valid_for::text,
                                 'description', c.description,
                                 'every', c.every::text) ORDER BY c.id)
                        FROM rehome.check_definition c JOIN rehome.slice s ON s.id = c.slice_id
                       WHERE c.migration_id = m.id),
           'queries', (SELECT jsonb_agg(jsonb_build_object(
                                 'slice', s.name,
                                 'name', q.name,
                                 'source_sql', q.source_sql,
                                 'target_sql', q.target_sql,
                                 'search_path', q.search_path,
                                 'factor', q.factor,
                                 'noise', q.noise,
                                 'every', q.every::text) ORDER BY q.id)
                         FROM rehome.query_definition q JOIN rehome.slice s ON s.id = q.slice_id
                        WHERE q.migration_id = m.id),
           'criteria', (SELECT jsonb_agg(jsonb_build_object(
                                  'metric', k.metric,
                                  'comparator', k.comparator,
                                  'threshold', k.threshold,
                                  'blocking', k.blocking,
                                  'owner', k.owner,
                                  'max_age', k.max_age::text) ORDER BY k.id)
                          FROM rehome.criterion k WHERE k.migration_id = m.id),
           'redactions', (SELECT jsonb_agg(jsonb_build_object('target', r.target, 'columns', r.columns) ORDER BY r.target COLLATE "C")
                            FROM (SELECT format('%I.%I', n.nspname, c.relname) AS target,
                                         jsonb_agg(x."column" ORDER BY x."column") AS columns
                                    FROM rehome.redaction x JOIN pg_class c ON c.oid = x.target::oid
                                    JOIN pg_namespace n ON n.oid = c.relnamespace
                                   WHERE x.migration_id = m.id GROUP BY 1) AS r))) END
  FROM rehome.migration m
 WHERE m.id = $1
