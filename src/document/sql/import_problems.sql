-- What is wrong with the form of a definition ($1): a row each, with where.
-- Whether what it says can be done here is found out by doing it.
WITH known(path, key, type, required) AS (
    VALUES ('definition', 'format', 'string', true), ('definition', 'version', 'number', true),
           ('definition', 'migration', 'string', true), ('definition', 'server', 'string', false),
           ('definition', 'reason', 'string', true), ('definition', 'home', 'string', false),
           ('definition', 'slices', 'array', true),
           ('definition', 'checks', 'array', false), ('definition', 'queries', 'array', false),
           ('definition', 'criteria', 'array', false), ('definition', 'redactions', 'array', false),
           ('redaction', 'target', 'string', true), ('redaction', 'columns', 'array', true),
           ('check', 'slice', 'string', true), ('check', 'name', 'string', true), ('check', 'layer', 'string', true),
           ('check', 'source_sql', 'string', false), ('check', 'target_sql', 'string', false),
           ('check', 'key', 'array', false), ('check', 'tolerance', 'object', false),
           ('check', 'search_path', 'string', true), ('check', 'valid_for', 'string', false),
           ('check', 'description', 'string', false), ('check', 'every', 'string', false),
           ('query', 'slice', 'string', true), ('query', 'name', 'string', true),
           ('query', 'source_sql', 'string', true), ('query', 'target_sql', 'string', true),
           ('query', 'search_path', 'string', true), ('query', 'factor', 'number', true),
           ('query', 'noise', 'number', true), ('query', 'every', 'string', false),
           ('criterion', 'metric', 'string', true), ('criterion', 'comparator', 'string', true),
           ('criterion', 'threshold', 'number', true), ('criterion', 'blocking', 'boolean', true),
           ('criterion', 'owner', 'string', false), ('criterion', 'max_age', 'string', false),
           ('slice', 'slice', 'string', true), ('slice', 'tables', 'array', true), ('slice', 'derived', 'array', false),
           ('derived', 'name', 'string', true), ('derived', 'target', 'string', true), ('derived', 'key', 'array', true),
           ('derived', 'columns', 'array', false), ('derived', 'query', 'string', true), ('derived', 'search_path', 'string', true),
           ('derived', 'write_back', 'string', false), ('derived', 'note', 'string', false), ('derived', 'affected', 'object', true),
           ('table', 'source', 'string or object', true), ('table', 'target', 'string', true),
           ('table', 'key', 'array', false), ('table', 'filter', 'string', false),
           ('table', 'columns', 'array', true),
           ('source', 'schema', 'string', true), ('source', 'table', 'string', true),
           ('column', 'column', 'string', true), ('column', 'kind', 'string', false),
           ('column', 'expression', 'string', false), ('column', 'inverse', 'string', false),
           ('column', 'inverse_column', 'string', false), ('column', 'owner', 'string', false),
           ('column', 'note', 'string', false), ('column', 'params', 'array or object', false),
           ('column', 'source_column', 'string', false),
           ('column', 'validation', 'string', false), ('column', 'on_error', 'string', false),
           ('table', 'on_error', 'string', false), ('table', 'on_delete', 'string', false),
           ('table', 'drift_policy', 'string', false),
           ('table', 'delete_column', 'string', false), ('table', 'delete_archive', 'string', false)
), choices(path, key, choice) AS (
    VALUES ('table', 'on_error', '{fail,quarantine}'::text[]), ('table', 'on_delete', '{delete,mark,archive,ignore}'),
           ('table', 'drift_policy', '{reject,record,repair}'),
           ('check', 'layer', '{business,integration,application,structure}'),
           ('criterion', 'comparator', '{<,<=,"=",>=,>}'),
           ('column', 'on_error', '{fail,"null",default,quarantine}'),
           ('column', 'kind', '{copy,cast,expression,constant,default,value_map,"null",timestamp,text,number,lookup,steps,skip}')
), slices AS (
    SELECT format('slices[%s]', s.n - 1) AS place, s.value
      FROM jsonb_array_elements(CASE WHEN jsonb_typeof($1::jsonb -> 'slices') = 'array' THEN $1::jsonb -> 'slices' END)
           WITH ORDINALITY AS s(value, n)
), tables AS (
    SELECT format('%s.tables[%s]', s.place, t.n - 1) AS place, t.value
      FROM slices s,
           jsonb_array_elements(CASE WHEN jsonb_typeof(s.value -> 'tables') = 'array' THEN s.value -> 'tables' END)
           WITH ORDINALITY AS t(value, n)
), columns AS (
    SELECT format('%s.columns[%s]', t.place, c.n - 1) AS place, c.value, t.place AS of
      FROM tables t,
           jsonb_array_elements(CASE WHEN jsonb_typeof(t.value -> 'columns') = 'array' THEN t.value -> 'columns' END)
           WITH ORDINALITY AS c(value, n)
), derived AS (
    SELECT format('%s.derived[%s]', s.place, d.n - 1) AS place, d.value
      FROM slices s,
           jsonb_array_elements(CASE WHEN jsonb_typeof(s.value -> 'derived') = 'array' THEN s.value -> 'derived' END)
           WITH ORDINALITY AS d(value, n)
), stated AS (
    SELECT k.path, format('%s[%s]', k.list, e.n - 1) AS place, e.value
      FROM (VALUES ('check', 'checks'), ('query', 'queries'), ('criterion', 'criteria'), ('redaction', 'redactions')) AS k(path, list),
           jsonb_array_elements(CASE WHEN jsonb_typeof($1::jsonb -> k.list) = 'array' THEN $1::jsonb -> k.list END)
           WITH ORDINALITY AS e(value, n)
), objects(path, place, value) AS (
    SELECT 'definition', 'the definition', $1::jsonb
    UNION ALL SELECT 'slice', place, value FROM slices
    UNION ALL SELECT 'table', place, value FROM tables
    UNION ALL SELECT 'source', place || '.source', value -> 'source' FROM tables WHERE jsonb_typeof(value -> 'source') = 'object'
    UNION ALL SELECT 'column', place, value FROM columns
    UNION ALL SELECT 'derived', place, value FROM derived
    UNION ALL SELECT path, place, value FROM stated
), problems(place, problem) AS (
    SELECT place, format('%s is not an object.', place) FROM objects WHERE jsonb_typeof(value) <> 'object'
    UNION ALL
    SELECT o.place, format('%s lacks "%s".', o.place, k.key)
      FROM objects o JOIN known k ON k.path = o.path AND k.required
     WHERE jsonb_typeof(o.value) = 'object' AND coalesce(o.value -> k.key, 'null') = 'null'
    UNION ALL
    SELECT o.place, CASE WHEN k.key IS NULL THEN format('%s has "%s", which is not known.', o.place, e.key)
                         ELSE format('"%s" of %s is a JSON %s, not a %s.', e.key, o.place, jsonb_typeof(e.value), k.type) END
      FROM objects o
     CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(o.value) = 'object' THEN o.value END) e
      LEFT JOIN known k ON k.path = o.path AND k.key = e.key
     WHERE k.key IS NULL
        OR (jsonb_typeof(e.value) <> 'null' AND jsonb_typeof(e.value) <> ALL (string_to_array(k.type, ' or ')))
    UNION ALL
    SELECT o.place, format('"%s" of %s is none of %s.', c.key, o.place, array_to_string(c.choice, ', '))
      FROM objects o JOIN choices c ON c.path = o.path
     WHERE jsonb_typeof(o.value) = 'object' AND o.value ->> c.key <> ALL (c.choice)
    UNION ALL
    SELECT o.place, format('%s has to have "%s" if "on_delete" is "%s", and only then.', o.place, d.key, d.on_delete)
      FROM objects o, (VALUES ('delete_column', 'mark'), ('delete_archive', 'archive')) AS d(key, on_delete)
     WHERE o.path = 'table' AND jsonb_typeof(o.value) = 'object'
       AND (o.value ->> d.key IS NOT NULL) <> (coalesce(o.value ->> 'on_delete', '') = d.on_delete)
    UNION ALL
    SELECT o.place, format('%s has to have "expression", unless its "kind" is "skip" or "default".', o.place)
      FROM objects o
     WHERE o.path = 'column' AND jsonb_typeof(o.value) = 'object'
       AND (o.value ->> 'kind' NOT IN ('skip', 'default')) AND o.value ->> 'expression' IS NULL
    UNION ALL
    SELECT o.place, format('%s has an "expression" though its "kind" is "%s".', o.place, o.value ->> 'kind')
      FROM objects o
     WHERE o.path = 'column' AND jsonb_typeof(o.value) = 'object'
       AND (o.value ->> 'kind' IN ('skip', 'default')) AND o.value ->> 'expression' IS NOT NULL
    UNION ALL
    SELECT o.place, format('"%s" of %s holds something that is not a string.', k.key, o.place)
      FROM objects o JOIN (VALUES ('table', 'key'), ('derived', 'key'), ('derived', 'columns'), ('check', 'key'), ('redaction', 'columns')) AS k(path, key) ON k.path = o.path
     WHERE jsonb_typeof(o.value -> k.key) = 'array'
       AND EXISTS (SELECT FROM jsonb_array_elements(o.value -> k.key) e WHERE jsonb_typeof(e) <> 'string')
    UNION ALL
    SELECT place, format('"affected" of %s holds something that is neither a string nor null.', place)
      FROM derived
     WHERE jsonb_typeof(value -> 'affected') = 'object'
       AND EXISTS (SELECT FROM jsonb_each(value -> 'affected') e WHERE jsonb_typeof(e.value) NOT IN ('string', 'null'))
    UNION ALL
    SELECT min(c.place), format('%s has two rules for column "%s".', c.of, c.value ->> 'column')
      FROM columns c GROUP BY c.of, c.value ->> 'column' HAVING count(*) > 1
    UNION ALL
    SELECT min(place), format('There are two criteria for "%s".', value ->> 'metric')
      FROM stated WHERE path = 'criterion' GROUP BY value ->> 'metric' HAVING count(*) > 1
    UNION ALL
    SELECT min(s.place), format('There are two slices "%s".', s.value ->> 'slice')
      FROM slices s GROUP BY s.value ->> 'slice' HAVING count(*) > 1
    UNION ALL
    SELECT '', format('It is of format "%s", version %s; this is for "pg_rehome", version 1.',
                      $1::jsonb ->> 'format', $1::jsonb ->> 'version')
     WHERE $1::jsonb ->> 'format' <> 'pg_rehome' OR $1::jsonb ->> 'version' <> '1'
)
SELECT regexp_replace(problem, '^the ', 'The ') FROM problems ORDER BY place COLLATE "C", problem COLLATE "C"
