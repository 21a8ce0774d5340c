-- The table maps of slice $1 whose target rows may be other, once the target had
-- authority, than the maps make them of what was brought to the source; or all
-- of them ($2).  A row comes back as it is if each of its columns does: by one of
-- the pairs of types that are listed here, of which the source's takes each value
-- of the target's as it is, or raises; or by the inverse of a list of values.  An
-- inverse that somebody states may restore a part only, and a filter may leave
-- out what was written.  Blanks beyond the length of a varchar are not looked at.
SELECT t.id
  FROM rehome.table_map t
 WHERE t.slice_id = $1
   AND ($2 OR t.filter IS NOT NULL OR EXISTS (
       SELECT FROM rehome.column_map c
         LEFT JOIN LATERAL (
              -- of a domain what it is made of
              SELECT coalesce(nullif(y.typbasetype, 0), y.oid) AS type, CASE y.typtype WHEN 'd' THEN y.typtypmod ELSE a.atttypmod END AS typmod,
                     y.typtype, y.typcategory
                FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
               WHERE a.attrelid = t.target AND a.attname = c."column" AND NOT a.attisdropped) AS a ON true
         LEFT JOIN LATERAL (
              SELECT coalesce(nullif(y.typbasetype, 0), y.oid) AS type, CASE y.typtype WHEN 'd' THEN y.typtypmod ELSE s.atttypmod END AS typmod,
                     y.typtype, y.typcategory, quote_ident(s.attname) = c.expression AS bare
                FROM pg_attribute s JOIN pg_type y ON y.oid = s.atttypid
               WHERE s.attrelid = t.source AND s.attnum > 0 AND NOT s.attisdropped
                 AND (quote_ident(s.attname) = c.expression OR s.attname = coalesce(c.source_column, c."column"))
               ORDER BY bare DESC LIMIT 1) AS s ON true
        -- of a numeric the lower 11 bits are its scale, which may be negative
        CROSS JOIN LATERAL (SELECT (((s.typmod - 4) & 2047) # 1024) - 1024, (((a.typmod - 4) & 2047) # 1024) - 1024) AS scale(there, here)
        WHERE c.table_map_id = t.id AND c.expression IS NOT NULL
          AND NOT coalesce(CASE
              WHEN c.kind IN ('value_map', 'lookup') THEN c.inverse IS NOT NULL
              WHEN c.kind NOT IN ('copy', 'cast') OR s.bare <> (c.inverse IS NULL) THEN false
              WHEN s.type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN
                  a.type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
                  OR s.bare AND a.type IN ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype)
              WHEN s.type = 'numeric'::regtype AND s.typmod < 0 THEN
                  a.typcategory = 'N' AND a.type <> 'money'::regtype
              WHEN s.type = 'numeric'::regtype THEN
                  a.type = s.type AND a.typmod >= 0 AND scale.here <= scale.there
                  OR a.type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) AND scale.there >= 0
              WHEN s.type = 'float8'::regtype THEN
                  a.type IN ('float8'::regtype, 'float4'::regtype, 'int2'::regtype, 'int4'::regtype)
              WHEN s.type IN ('timestamp'::regtype, 'timestamptz'::regtype) AND s.typmod < 0 THEN
                  a.type IN ('timestamp'::regtype, 'timestamptz'::regtype, 'date'::regtype)
              WHEN s.type = 'json'::regtype THEN a.type IN ('json'::regtype, 'jsonb'::regtype, 'text'::regtype, 'varchar'::regtype)
              WHEN s.typtype = 'e' THEN a.typtype = 'e' OR a.type IN ('text'::regtype, 'varchar'::regtype)
              WHEN s.typcategory = 'S' AND s.type NOT IN ('name'::regtype, 'bpchar'::regtype) THEN true
              ELSE a.type = s.type AND s.typmod IN (-1, a.typmod) END, false)))
