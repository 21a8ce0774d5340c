-- What pg_rehome creates on a PostgreSQL source, over a normal connection.
-- Runs on PostgreSQL 10 and later, any number of times, as a role that needs
-- no more than CREATE on the database, and SELECT and TRIGGER on the tables.
--
-- Everything is named by the migration's token, so that several targets can
-- be fed from one source.  The functions are the whole interface: the target
-- calls them with parameters.

-- What is there already must be ours: whoever owns a table can have code run
-- by those who write to it.
DO $ours$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
                WHERE n.nspname = 'rehome_source'
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
                                      AND r.oid = n.nspowner AND r.oid = coalesce(c.relowner, r.oid))) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'schema rehome_source, or a table in it, belongs to another role',
            HINT = 'All migrations from one database connect as one role; or drop the schema if it is nobody''s.';
    END IF;
END
$ours$;

CREATE SCHEMA IF NOT EXISTS rehome_source;
REVOKE ALL ON SCHEMA rehome_source FROM PUBLIC;
COMMENT ON SCHEMA rehome_source IS 'change capture and fences of pg_rehome; removed by rehome.cancel()';

-- Who has authority over a slice, as the source knows it; which database took
-- it, in which of its transactions; and, while the fence is closed, which login
-- it knows for ours, and what it says the new home is.  reverse_position: the
-- snapshot of the target it has reached; reverse_parts: which partitions targets
-- had in that, by map, where they are not those of the cutover.
CREATE TABLE IF NOT EXISTS rehome_source.slice (
    token               text NOT NULL,
    slice               int NOT NULL,
    authority           text NOT NULL DEFAULT 'source',
    holder              text,
    holder_xid          bigint,
    pruned              text,
    reverse_position    text,
    reverse_parts       jsonb NOT NULL DEFAULT '{}',
    role                oid,
    home                text,
    PRIMARY KEY (token, slice)
);

-- Transactions that bring the target's changes back; rows never outlive them.
CREATE TABLE IF NOT EXISTS rehome_source.applying (
    xid     bigint NOT NULL,
    token   text NOT NULL,
    slice   int NOT NULL,
    PRIMARY KEY (xid, token, slice)
);

-- What the capture functions are made of: a table by OID and the columns of
-- its key by number, which a rename does not change; what they were called
-- and their types when the function was written.  role: the login that it knows
-- for ours.  broken: why it notes nothing any more.
CREATE TABLE IF NOT EXISTS rehome_source.captured (
    token       text NOT NULL,
    map         int NOT NULL,
    slice       int NOT NULL,
    relation    oid NOT NULL,
    key         int2[] NOT NULL,
    names       name[] NOT NULL,
    types       text[] NOT NULL,
    per_row     boolean NOT NULL,
    role        oid NOT NULL,
    broken      text,
    PRIMARY KEY (token, map)
);

-- What is asked for each of thousands of tables is in PL/pgSQL, which keeps its
-- plans for the session.

-- Equality operators of the key columns, from the unique index on them or
-- else from the types' default operator classes.
CREATE OR REPLACE FUNCTION rehome_source.key_operators(relation regclass, key name[])
RETURNS text[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $key_operators$
BEGIN
    RETURN (
    SELECT array_agg(coalesce(
        (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
           FROM pg_index i
           JOIN generate_series(0, 31) AS p ON i.indkey[p] = a.attnum
           JOIN pg_opclass c ON c.oid = i.indclass[p]
           JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
                AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
           JOIN pg_operator o ON o.oid = m.amopopr
           JOIN pg_namespace n ON n.oid = o.oprnamespace
           JOIN pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree'
          WHERE i.indrelid = relation AND i.indisunique
          ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1),
        'OPERATOR(pg_catalog.=)') ORDER BY k.ord)
      FROM unnest(key) WITH ORDINALITY AS k(name, ord)
      JOIN pg_attribute a ON a.attrelid = relation AND a.attname = k.name);
END
$key_operators$;

-- The relation itself and all its partitions, at every level.
CREATE OR REPLACE FUNCTION rehome_source.partition_tree(relation regclass)
RETURNS SETOF regclass LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $partition_tree$
BEGIN
    RETURN QUERY
    WITH RECURSIVE tree(relid) AS (
        SELECT relation::oid
        UNION ALL
        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid
         -- one that is being detached is none any more; before 14 none can be
         WHERE NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false)
    )
    SELECT relid::regclass FROM tree;
END
$partition_tree$;

-- Which partitions a table has, as text; null for a table without.
CREATE OR REPLACE FUNCTION rehome_source.partitions(relation regclass)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $partitions$
BEGIN
    RETURN (
    SELECT coalesce(string_agg(p.relid::oid::text, ',' ORDER BY p.relid::oid), 'none')
      FROM pg_class c
      LEFT JOIN rehome_source.partition_tree(relation) AS p(relid) ON p.relid <> c.oid
     WHERE c.oid = relation AND c.relkind = 'p'
     GROUP BY c.oid);
END
$partitions$;

-- The bounds of a table's partitions, of every level, each with its parent; null
-- for a table without.  name and type: the column that it bounds, the first one of
-- several, null where a bound does not say which values its rows have there, or
-- these are not compared alike everywhere.
CREATE OR REPLACE FUNCTION rehome_source.partition_bounds(relation regclass)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $partition_bounds$
BEGIN
    RETURN (
    SELECT jsonb_agg(jsonb_build_object('part', c.oid, 'parent', i.inhparent, 'bound', pg_get_expr(c.relpartbound, c.oid),
                                        'name', a.attname, 'type', a.atttypid, 'typmod', a.atttypmod) ORDER BY c.oid)
      FROM rehome_source.partition_tree(relation) AS p(relid)
      JOIN pg_class c ON c.oid = p.relid AND c.oid <> relation
      JOIN pg_inherits i ON i.inhrelid = c.oid
      JOIN pg_partitioned_table t ON t.partrelid = i.inhparent
      LEFT JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0] AND t.partstrat IN ('r', 'l')
           AND a.atttypid IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'numeric'::regtype,
                              'date'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'uuid'::regtype)
           AND EXISTS (SELECT FROM pg_opclass o
                        WHERE o.oid = t.partclass[0] AND o.opcdefault AND o.opcnamespace = 'pg_catalog'::regnamespace));
END
$partition_bounds$;

-- The pages of a table with its partitions, as they were when it was analyzed, if
-- the planner takes any of these for empty that has pages (it was analyzed while it
-- was loaded, or is a queue); else null.  Waits for no lock.
CREATE OR REPLACE FUNCTION rehome_source.seems_empty(relation regclass)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $seems_empty$
BEGIN
    RETURN (SELECT sum(c.relpages) FROM rehome_source.partition_tree(relation) AS p(relid) JOIN pg_class c ON c.oid = p.relid
             WHERE c.relkind = 'r' HAVING bool_or(c.relpages > 0 AND c.reltuples = 0));
END
$seems_empty$;

-- What has become of tables since a position each (txid_snapshot as text): a
-- character a table map, '-' unchanged, 'u' changed, 'd' changed and some rows
-- may be gone, 't' to be read as a whole.  Where its partitions are others than
-- parts, null of a table that had none: 'a' there are more, and some rows may
-- be gone, 'g' some are gone, and there may be more, 'p' to be read as a whole.
-- A capital letter where rows are to be looked up that the planner expects none of.
-- A statement a table, prepared for the session: one query of all tables
-- together would take a gigabyte, and time in the square of their number, for
-- 2,000 of them; one that is planned each time, ten times as long.  Volatile,
-- since EXECUTE must be; the snapshot is the transaction's all the same.
-- Change tables are full of rows that were pruned, and not yet vacuumed, before
-- those that count: they are never to be scanned.  And where a transaction is
-- open for long, what was captured since it began cannot be vacuumed: its own
-- changes and those after the position are looked for apart.
CREATE OR REPLACE FUNCTION rehome_source.changed(token text, maps int[], seen text[], relations text[], parts text[])
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $changed$
DECLARE
    flags   text := '';
    flag    text;
    at      text;
    xmax    bigint;
    xip     bigint[];
    look    text;
    change  text;
    now     text;
    moved   boolean;
BEGIN
    FOR i IN 1 .. coalesce(array_length(maps, 1), 0) LOOP
        IF at IS DISTINCT FROM seen[i] THEN
            at := seen[i];
            xmax := txid_snapshot_xmax(at::txid_snapshot);
            xip := ARRAY(SELECT txid_snapshot_xip(at::txid_snapshot));
        END IF;
        moved := false;
        IF parts[i] IS NOT NULL THEN
            now := rehome_source.partitions(to_regclass(relations[i]));
            moved := now IS DISTINCT FROM parts[i];
        END IF;
        IF moved AND now IS NULL THEN
            flag := 'p';
        ELSE
            change := format('change_%s_%s', token, maps[i]);
            look := format('EXECUTE %I (%s, %L)', change, xmax, xip);
            BEGIN
                EXECUTE look INTO flag;
            EXCEPTION
                WHEN invalid_sql_statement_name THEN
                    EXECUTE format('PREPARE %1$I (bigint, bigint[]) AS SELECT ''u'' WHERE EXISTS (SELECT FROM rehome_source.%1$I WHERE xid >= $1)'
                                   ' OR EXISTS (SELECT FROM rehome_source.%1$I WHERE xid = ANY ($2))', change);
                    EXECUTE look INTO flag;
            END;
            IF flag IS NOT NULL THEN
                EXECUTE format($gone$
                    SELECT CASE WHEN bool_or(op = 't') THEN 't' WHEN bool_or(op = 'd') THEN 'd' ELSE 'u' END
                      FROM (SELECT op FROM rehome_source.%1$I WHERE xid >= $1 AND op IN ('d', 't')
                            UNION ALL SELECT op FROM rehome_source.%1$I WHERE xid = ANY ($2) AND op IN ('d', 't')) AS c$gone$, change)
                   INTO flag USING xmax, xip;
            END IF;
            IF moved THEN
                flag := CASE WHEN flag = 't' THEN 'p'
                             WHEN array_remove(string_to_array(parts[i], ','), 'none') <@ string_to_array(now, ',') THEN 'a'
                             ELSE 'g' END;
            END IF;
            IF flag IN ('u', 'd', 'a', 'g') AND rehome_source.seems_empty(to_regclass(relations[i])) IS NOT NULL THEN
                flag := upper(flag);
            END IF;
        END IF;
        flags := flags || coalesce(flag, '-');
    END LOOP;
    RETURN flags;
END
$changed$;

-- Which plan is the best does not depend on the position.
DO $generic$
BEGIN
    IF current_setting('server_version_num')::int >= 120000 THEN
        ALTER FUNCTION rehome_source.changed(text, int[], text[], text[], text[]) SET plan_cache_mode = force_generic_plan;
    END IF;
END
$generic$;

-- The partitions that a table has beyond parts, of every level; null when they
-- cannot be asked for their keys by themselves: their rows are not ours to read
-- but through the table, or a key is null.
CREATE OR REPLACE FUNCTION rehome_source.added_partitions(token text, map int, relation regclass, parts text)
RETURNS text[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $added_partitions$
DECLARE
    key     name[];
    part    regclass;
    names   text[] := '{}';
    null_key boolean;
BEGIN
    SELECT c.names INTO STRICT key FROM rehome_source.captured c
     WHERE c.token = added_partitions.token AND c.map = added_partitions.map;
    FOR part IN SELECT c.oid FROM rehome_source.partition_tree(relation) AS c(oid)
                 WHERE c.oid <> relation AND c.oid::oid::text <> ALL (string_to_array(parts, ',')) LOOP
        IF NOT has_table_privilege(part, 'SELECT') OR row_security_active(part) THEN
            RETURN NULL;
        END IF;
        IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = part AND a.attname = ANY (key) AND NOT a.attnotnull) THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s WHERE %s)', part,
                           (SELECT string_agg(format('%I IS NULL', k), ' OR ') FROM unnest(key) AS k)) INTO null_key;
            IF null_key THEN
                RETURN NULL;
            END IF;
        END IF;
        names := names || part::text;
    END LOOP;
    RETURN names;
END
$added_partitions$;

-- Whether the table's files or partitions are others now than in the
-- transaction's snapshot.  The catalogs read here are those of the snapshot;
-- pg_relation_filenode() and pg_partition_tree() look at the current ones.
CREATE OR REPLACE FUNCTION rehome_source.changed_since_snapshot(relation regclass)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $changed_since_snapshot$
DECLARE
    parts   text := rehome_source.partitions(relation);
    now     text;
BEGIN
    IF EXISTS (SELECT FROM rehome_source.partition_tree(relation) AS p(oid)
                 JOIN pg_class c ON c.oid = p.oid
                WHERE c.relkind = 'r' AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode) THEN
        RETURN true;
    END IF;
    IF parts IS NULL OR current_setting('server_version_num')::int < 120000 THEN
        RETURN false;
    END IF;
    EXECUTE $now$SELECT coalesce(string_agg(relid::oid::text, ',' ORDER BY relid::oid), 'none')
                   FROM pg_partition_tree($1) WHERE relid <> $1$now$ INTO now USING relation;
    RETURN now <> parts;
END
$changed_since_snapshot$;

-- Locks tables until the end of the transaction, waiting for none of them with
-- others in hand.  'held'; 'busy' when one had to be waited for, lock_timeout at
-- most, which only is done if wait says so, and none of them is held but that
-- one, perhaps; 'stale' when one is another, or
-- has other files or partitions, than in the transaction's snapshot.
CREATE OR REPLACE FUNCTION rehome_source.hold(relations text[], wait boolean)
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $hold$
DECLARE
    found   regclass[] := ARRAY(SELECT to_regclass(r) FROM unnest(relations) WITH ORDINALITY AS u(r, n) ORDER BY n);
    one     regclass;
BEGIN
    -- what is not there, or not a table, is found out otherwise
    FOR one IN SELECT c.oid FROM pg_class c WHERE c.oid = ANY (found) AND c.relkind IN ('r', 'p') ORDER BY 1 LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE NOWAIT', one);
    END LOOP;
    RETURN CASE WHEN EXISTS (SELECT FROM unnest(relations, found) AS u(name, oid) LEFT JOIN pg_class c ON c.oid = u.oid
                              WHERE to_regclass(u.name) IS DISTINCT FROM u.oid OR (u.oid IS NOT NULL AND c.oid IS NULL)
                                 OR (c.relkind IN ('r', 'p') AND rehome_source.changed_since_snapshot(c.oid)))
                THEN 'stale' ELSE 'held' END;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        BEGIN
            IF wait THEN
                EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', one);
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                NULL;
        END;
        RETURN 'busy';
END
$hold$;

-- TRUNCATE of a partition fires that partition's triggers only: every
-- partition gets the two TRUNCATE triggers.  Called again when partitions
-- have been added.
CREATE OR REPLACE FUNCTION rehome_source.cover_partitions(token text, slice int, map int, relation regclass)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $cover_partitions$
DECLARE
    part    regclass;
    name    text;
    names   text[];
    fn      text;
    timing  text;
BEGIN
    FOR part IN SELECT * FROM rehome_source.partition_tree(relation) LOOP
        names := '{}';
        FOREACH timing IN ARRAY ARRAY['BEFORE', 'AFTER'] LOOP
            IF timing = 'BEFORE' THEN
                name := format('rehome_fence_%s_%s_truncate', token, map);
                fn := format('fence_%s_%s', token, slice);
            ELSE
                name := format('rehome_capture_%s_%s_truncate', token, map);
                fn := format('capture_%s_%s', token, map);
            END IF;
            IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = part AND t.tgname = name) THEN
                EXECUTE format('CREATE TRIGGER %I %s TRUNCATE ON %s FOR EACH STATEMENT EXECUTE PROCEDURE rehome_source.%I()',
                               name, timing, part, fn);
                names := names || name;
            END IF;
        END LOOP;
        IF names <> '{}' THEN
            PERFORM rehome_source.enable_always(part, names);
        END IF;
    END LOOP;
END
$cover_partitions$;

-- What columns given by number are called now, and their types; null for one
-- that is not there any more.
CREATE OR REPLACE FUNCTION rehome_source.columns_now(relation oid, key int2[], OUT names name[], OUT types text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $columns_now$
BEGIN
    SELECT array_agg(a.attname ORDER BY k.ord),
           array_agg(a.atttypid::oid || ' ' || a.atttypmod ORDER BY k.ord)
      INTO names, types
      FROM unnest(key) WITH ORDINALITY AS k(attnum, ord)
      LEFT JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = k.attnum AND NOT a.attisdropped;
END
$columns_now$;

-- Whether a table can be written to without its statement triggers firing: as
-- a part of another one, through its parts, or by logical replication.
CREATE OR REPLACE FUNCTION rehome_source.needs_row_triggers(relation oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $needs_row_triggers$
BEGIN
    RETURN (
    SELECT c.relkind = 'p' OR c.relispartition
           OR EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))
           OR EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid)
      FROM pg_class c WHERE c.oid = relation);
END
$needs_row_triggers$;

-- Everything that has to stay as it is for capture and fence to work: which
-- relations these are, their columns and files, how their defaults are computed, the
-- labels of enums, every trigger of ours with the
-- transaction that last touched it, which of them need triggers per row, and
-- the keys of all tables that are captured, paused ones too.  $3: qualified
-- names of the slice's tables.
CREATE OR REPLACE FUNCTION rehome_source.fingerprint(token text, slice int, relations text[])
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $fingerprint$
    SELECT md5(coalesce((SELECT string_agg(coalesce(to_regclass(r)::oid::text, '-'), ',' ORDER BY n)
                           FROM unnest(relations) WITH ORDINALITY AS u(r, n)), '')
               || coalesce((SELECT string_agg(t.oid || t.tgenabled::text || t.xmin, ',' ORDER BY t.oid)
                              FROM pg_trigger t
                             WHERE t.tgname LIKE 'rehome\_%\_' || token || '\_%'), '')
               || coalesce((SELECT string_agg(r.oid::text, ',' ORDER BY r.oid)
                              FROM (SELECT inhrelid FROM pg_inherits UNION SELECT inhparent FROM pg_inherits) AS r(oid)
                             WHERE r.oid IN (SELECT to_regclass(n) FROM unnest(relations) AS n)), '')
               || coalesce((SELECT string_agg(s.srrelid::text, ',' ORDER BY s.srrelid) FROM pg_subscription_rel s), '')
               || coalesce((SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
                                                        a.attnotnull, a.attisdropped, a.xmin), ',' ORDER BY a.attrelid, a.attnum)
                              FROM pg_attribute a
                             WHERE a.attrelid IN (SELECT to_regclass(r) FROM unnest(relations) AS r) AND a.attnum > 0), '')
               || coalesce((WITH RECURSIVE tree(relid) AS (SELECT to_regclass(r)::oid FROM unnest(relations) AS r
                                 UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid)
                            SELECT string_agg(f.oid || ':' || f.relfilenode, ',' ORDER BY f.oid)
                              FROM pg_class f JOIN tree ON f.oid = tree.relid), '')
               || coalesce((SELECT string_agg(d.oid::text, ',' ORDER BY d.oid) FROM pg_attrdef d
                             WHERE d.adrelid IN (SELECT to_regclass(r) FROM unnest(relations) AS r)), '')
               || coalesce((SELECT string_agg(e.oid || e.enumlabel, ',' ORDER BY e.oid) FROM pg_enum e), '')
               || coalesce((SELECT string_agg(concat_ws(' ', c.map, a.attname, a.atttypid, a.atttypmod, c.broken), ',' ORDER BY c.map, k.ord)
                              FROM rehome_source.captured c CROSS JOIN unnest(c.key) WITH ORDINALITY AS k(attnum, ord)
                              LEFT JOIN pg_attribute a ON a.attrelid = c.relation AND a.attnum = k.attnum AND NOT a.attisdropped
                             WHERE c.token = fingerprint.token AND c.slice = fingerprint.slice), ''))
$fingerprint$;

-- The same for one table: its fingerprint, that of each of the partitions in
-- parts that it still has after it, and what is wrong with it, or null.
CREATE OR REPLACE FUNCTION rehome_source.inspect(token text, map int, relation text, parts text,
                                                 OUT print text, OUT damage text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $inspect$
    WITH mine AS (
        SELECT t.oid, t.xmin, t.tgrelid, t.tgname, t.tgenabled FROM pg_trigger t
         WHERE t.tgrelid IN (SELECT rehome_source.partition_tree(to_regclass(relation)))
           AND (t.tgname LIKE 'rehome\_capture\_' || token || '\_' || map || '\_%'
                OR t.tgname IN (format('rehome_fence_%s_%s', token, map),
                                format('rehome_fence_%s_%s_truncate', token, map)))
    ), captured AS (
        SELECT c.broken, c.per_row FROM rehome_source.captured c WHERE c.token = inspect.token AND c.map = inspect.map
    )
    SELECT (SELECT coalesce(string_agg(p.relid::oid || ':' || coalesce(t.print, ''), ','
                                       ORDER BY p.relid <> to_regclass(relation), p.relid::oid), '-')
              FROM rehome_source.partition_tree(to_regclass(relation)) AS p(relid)
              LEFT JOIN (SELECT m.tgrelid, md5(string_agg(m.oid || m.tgenabled::text || m.xmin, ',' ORDER BY m.oid)) AS print
                           FROM mine m GROUP BY m.tgrelid) AS t ON t.tgrelid = p.relid
             WHERE p.relid = to_regclass(relation) OR p.relid::oid::text = ANY (string_to_array(parts, ','))),
           CASE WHEN to_regclass(relation) IS NULL THEN 'the table does not exist any more'
                WHEN EXISTS (SELECT FROM captured c WHERE c.broken IS NOT NULL) THEN (SELECT c.broken FROM captured c)
                WHEN (SELECT count(*) FROM mine WHERE tgrelid = to_regclass(relation)) < 7 THEN 'triggers of capture or fence are missing: the table was replaced, or they were dropped'
                WHEN EXISTS (SELECT FROM mine WHERE tgenabled NOT IN ('A', 'O')) THEN 'triggers of capture or fence are disabled'
                WHEN EXISTS (SELECT FROM pg_class p JOIN pg_inherits i ON i.inhparent = p.oid
                              WHERE p.oid = to_regclass(relation) AND p.relkind = 'r')
                THEN 'other tables inherit from the table since: its triggers do not see what is written to their rows'
                WHEN EXISTS (SELECT FROM captured c WHERE NOT c.per_row AND rehome_source.needs_row_triggers(to_regclass(relation)))
                THEN 'the table is a part of another one, has parts itself, or is fed by a subscription since: its triggers for each statement do not see all writes'
                WHEN EXISTS (SELECT FROM rehome_source.partition_tree(to_regclass(relation)) AS p(relid)
                               JOIN pg_subscription_rel s ON s.srrelid = p.relid JOIN pg_class c ON c.oid = p.relid
                              WHERE NOT pg_has_role(c.relowner, 'USAGE'))
                THEN 'a subscription writes to the table, which the connecting role does not own: its triggers do not fire for that'
           END
$inspect$;

-- Whether every partition has its triggers.
CREATE OR REPLACE FUNCTION rehome_source.is_covered(token text, slice int, map int, relation regclass)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $is_covered$
    SELECT NOT EXISTS (
        SELECT FROM rehome_source.partition_tree(relation) AS p(oid)
         WHERE 2 > (SELECT count(*) FROM pg_trigger t
                     WHERE t.tgrelid = p.oid
                       AND t.tgname IN (format('rehome_fence_%s_%s_truncate', token, map),
                                        format('rehome_capture_%s_%s_truncate', token, map))))
$is_covered$;

-- Triggers fire in replica role too, where the role may say so.
CREATE OR REPLACE FUNCTION rehome_source.enable_always(relation regclass, names text[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $enable_always$
BEGIN
    IF pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = relation), 'USAGE') THEN
        EXECUTE format('ALTER TABLE %s %s', relation,
                       (SELECT string_agg(format('ENABLE ALWAYS TRIGGER %I', name), ', ') FROM unnest(names) AS name));
    END IF;
END
$enable_always$;

-- Opens or closes the fence.  The state is the body of the function, not a
-- row: a transaction with an old snapshot would read an old row.  What it
-- refuses it counts with a sequence of the table, which the abort that follows
-- does not take back, and tells the log who it was.  It lets pass who closed it,
-- known by the role's OID, which stays when the role is renamed.
CREATE OR REPLACE FUNCTION rehome_source.set_fence(token text, slice int, closed boolean, home text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $set_fence$
DECLARE
    fn      text := format('rehome_source.%I', format('fence_%s_%s', token, slice));
    refuse  text := '';
    rights  text := '';
    tg      record;
BEGIN
    IF closed THEN
        rights := 'SECURITY DEFINER SET search_path = pg_catalog, pg_temp';
        refuse := format($refuse$
    IF quote_ident(session_user)::regrole::oid <> %1$L OR NOT EXISTS (SELECT FROM rehome_source.applying a
        WHERE a.xid = txid_current() AND a.token = %2$L AND a.slice = %3$s) THEN
        PERFORM nextval(to_regclass(format('rehome_source.%%I', 'refused' || substr(replace(TG_NAME, '_truncate', ''), 13))));
        RAISE LOG 'pg_rehome refuses a write to table "%%.%%": role "%%", application "%%", client %%', TG_TABLE_SCHEMA, TG_TABLE_NAME,
            session_user, current_setting('application_name'), coalesce(host(inet_client_addr()), 'local');
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
            MESSAGE = format('table "%%s.%%s" has moved and cannot be written here', TG_TABLE_SCHEMA, TG_TABLE_NAME),
            HINT = %4$L;
    END IF;$refuse$, quote_ident(session_user)::regrole::oid, token, slice, 'Write to its new home: ' || home);
    END IF;
    -- As a literal: the home may say anything, $body$ included.  An open fence,
    -- which every write passes, reads nothing and has no name that a path
    -- could lead elsewhere; to pin one costs more than all the rest of it.
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql %s AS %L', fn, rights, format($fence$
BEGIN%s
    IF TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
        RETURN NULL;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$fence$, refuse));
    -- Whoever makes a partition must be allowed to run the triggers it gets from
    -- its table; to put one on a table of his own he would have to name it, and
    -- the schema is closed to him.
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s() TO PUBLIC', fn);
    IF closed THEN
        -- ENABLE TRIGGER ALL, after a bulk load say, takes ALWAYS away
        FOR tg IN SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_trigger t
                   WHERE t.tgfoid = to_regprocedure(fn || '()') AND t.tgenabled <> 'A' LOOP
            PERFORM rehome_source.enable_always(tg.relation, ARRAY[tg.tgname::text]);
        END LOOP;
    ELSE
        FOR tg IN SELECT c.oid::regclass AS relation FROM rehome_source.captured r
                    JOIN pg_class c ON c.relname = format('outside_%s_%s', r.token, r.map)
                     AND c.relnamespace = 'rehome_source'::regnamespace
                   WHERE r.token = set_fence.token AND r.slice = set_fence.slice LOOP
            EXECUTE format('DELETE FROM %s', tg.relation);
        END LOOP;
    END IF;
    INSERT INTO rehome_source.slice AS s (token, slice, authority, role, home)
    VALUES (set_fence.token, set_fence.slice, CASE WHEN closed THEN 'target' ELSE 'source' END,
            CASE WHEN closed THEN quote_ident(session_user)::regrole END, CASE WHEN closed THEN set_fence.home END)
    ON CONFLICT ON CONSTRAINT slice_pkey
    DO UPDATE SET authority = excluded.authority, role = excluded.role, home = excluded.home;
END
$set_fence$;

-- Gives what was made to whom the schema belongs, when that is not us but a role
-- that we are a member of: with another login, it must not be out of its reach.
CREATE OR REPLACE FUNCTION rehome_source.hand_over(kind text, object text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $hand_over$
DECLARE
    owner   name := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'rehome_source');
BEGIN
    IF owner <> current_user THEN
        EXECUTE format('ALTER %s %s OWNER TO %I', kind, object, owner);
    END IF;
END
$hand_over$;

-- Writes the capture function of a table map as rehome_source.captured says.
-- A broken one lets writes happen and notes nothing.  A row whose key is null
-- cannot be asked for by its key: the table is read as a whole, and says so.
CREATE OR REPLACE FUNCTION rehome_source.write_capture(token text, map int)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $write_capture$
DECLARE
    change      text := format('rehome_source.%I', format('change_%s_%s', token, map));
    fn          text := format('rehome_source.%I', format('capture_%s_%s', token, map));
    c           rehome_source.captured;
    new_key     text;
    old_key     text;
    plain_key   text;
    change_key  text;
    new_lost    text;
    old_lost    text;
    plain_lost  text;
    plain_gone  text;
    body        text;
BEGIN
    SELECT * INTO STRICT c FROM rehome_source.captured AS r
     WHERE r.token = write_capture.token AND r.map = write_capture.map;
    -- The table's owner may give a key column another type at any time, and the
    -- type a cast: what he wrote is not to be run with our rights.  So a value
    -- of such a type is not taken, and the table is to be read as a whole.
    SELECT string_agg(format('key%s', k.ord), ', ' ORDER BY k.ord) FILTER (WHERE k.row = 'NEW'),
           string_agg(k.taken, ', ' ORDER BY k.ord) FILTER (WHERE k.row = 'NEW'),
           string_agg(k.taken, ', ' ORDER BY k.ord) FILTER (WHERE k.row = 'OLD'),
           string_agg(k.taken, ', ' ORDER BY k.ord) FILTER (WHERE k.row = 'rows'),
           string_agg(format('%s IS NULL OR %s', k.value, k.foreign_type), ' OR ' ORDER BY k.ord) FILTER (WHERE k.row = 'NEW'),
           string_agg(k.foreign_type, ' OR ' ORDER BY k.ord) FILTER (WHERE k.row = 'OLD'),
           string_agg(format('%s IS NULL OR %s', k.value, k.foreign_type), ' OR ' ORDER BY k.ord) FILTER (WHERE k.row = 'rows'),
           string_agg(k.foreign_type, ' OR ' ORDER BY k.ord) FILTER (WHERE k.row = 'rows')
      INTO change_key, new_key, old_key, plain_key, new_lost, old_lost, plain_lost, plain_gone
      FROM (SELECT n.ord, r.row, v.value, t.foreign_type,
                   format('CASE WHEN NOT %s THEN %s::%s END', t.foreign_type, v.value, format_type(a.atttypid, -1)) AS taken
              FROM unnest(c.names, c.types) WITH ORDINALITY AS n(name, type, ord)
              JOIN pg_attribute a ON a.attrelid = change::regclass AND a.attname = 'key' || n.ord
             CROSS JOIN (VALUES ('NEW'), ('OLD'), ('rows')) AS r(row)
             CROSS JOIN LATERAL (SELECT format('%s.%I', r.row, n.name) AS value, split_part(n.type, ' ', 1)::int8 AS type) AS v
             CROSS JOIN LATERAL (SELECT format(CASE WHEN v.type < 16384 THEN '(pg_typeof(%s)::oid >= 16384)'
                                                    ELSE '(pg_typeof(%s)::oid <> %s)' END, v.value, v.type) AS foreign_type) AS t) AS k;

    IF c.broken IS NOT NULL THEN
        body := '';
    ELSIF c.per_row THEN
        body := format($body$
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO %1$s (op) VALUES ('t');
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO %1$s (op, %2$s) VALUES (CASE WHEN %5$s THEN 't' ELSE 'i' END, %3$s);
    ELSIF TG_OP = 'DELETE' OR TG_NARGS = 1 THEN
        INSERT INTO %1$s (op, %2$s) VALUES (CASE WHEN %6$s THEN 't' ELSE 'd' END, %4$s);
    ELSE
        INSERT INTO %1$s (op, %2$s) VALUES (CASE WHEN %5$s THEN 't' ELSE 'u' END, %3$s);
    END IF;$body$, change, change_key, new_key, old_key, new_lost, old_lost);
    ELSE
        body := format($body$
    IF TG_OP = 'UPDATE' THEN
        IF TG_NARGS = 1 THEN
            INSERT INTO %1$s (op, %2$s) VALUES (CASE WHEN %6$s THEN 't' ELSE 'd' END, %4$s);
        ELSE
            INSERT INTO %1$s (op, %2$s) SELECT CASE WHEN %5$s THEN 't' ELSE 'u' END, %3$s FROM new_rows AS rows;
        END IF;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO %1$s (op, %2$s) SELECT CASE WHEN %5$s THEN 't' ELSE 'i' END, %3$s FROM new_rows AS rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO %1$s (op, %2$s) SELECT CASE WHEN %7$s THEN 't' ELSE 'd' END, %3$s FROM old_rows AS rows;
    ELSE
        INSERT INTO %1$s (op) VALUES ('t');
    END IF;$body$, change, change_key, plain_key, old_key, plain_lost, old_lost, plain_gone);
    END IF;
    -- As a literal: so may the names of columns.  The setting only spares
    -- others the look into the table: it alone lets nobody pass.
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
                   ' SET search_path = pg_catalog, pg_temp AS %L', fn, format($function$
BEGIN
    IF current_setting('rehome_source.applying', true) = 'on' THEN
        IF quote_ident(session_user)::regrole::oid = %L AND EXISTS (SELECT FROM rehome_source.applying a
            WHERE a.xid = txid_current() AND a.token = %L AND a.slice = %s) THEN
            RETURN NULL;
        END IF;
    END IF;%s
    RETURN NULL;
END
$function$, c.role, token, c.slice, body));
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s() TO PUBLIC', fn);	-- as that on the fence
    PERFORM rehome_source.hand_over('FUNCTION', fn || '()');
END
$write_capture$;

-- Lets the login of this session pass fence and capture in the place of the one
-- they know, where it is another since: a user mapping leads to a second login,
-- say, that is a member of the role to which all this belongs.  Called before
-- rows are brought back.  It has no rights but the caller's, who must be able to
-- write these functions anew; so it opens nothing to anybody.
CREATE OR REPLACE FUNCTION rehome_source.adopt(token text, slice int)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $adopt$
DECLARE
    me      oid := quote_ident(session_user)::regrole;
    home    text;
    map     int;
BEGIN
    SELECT s.home INTO home FROM rehome_source.slice s
     WHERE s.token = adopt.token AND s.slice = adopt.slice AND s.authority = 'target' AND s.role <> me;
    IF FOUND THEN
        PERFORM rehome_source.set_fence(token, slice, true, home);
    END IF;
    FOR map IN UPDATE rehome_source.captured AS r SET role = me
                WHERE r.token = adopt.token AND r.slice = adopt.slice AND r.role <> me RETURNING r.map LOOP
        PERFORM rehome_source.write_capture(token, map);
    END LOOP;
END
$adopt$;

-- Writes anew the capture functions of tables whose key columns have other
-- names now.  A function goes by name, since that is the only way to a column
-- of a transition table that cannot silently lead to another one: until it is
-- written anew the table's writes fail.  So whoever renames a key column
-- calls this in the same transaction: SELECT rehome_source.mend().
--
-- Where the key cannot be noted any more (a column of it was dropped, does not
-- fit the change table, or had a name that leads to another column now, whose
-- values may have been taken for keys) the function is broken: writes happen,
-- and create_capture has to make it anew.  Returns the maps of which that is
-- so.
--
-- ENABLE TRIGGER ALL, after a bulk load say, takes ALWAYS away: triggers get it
-- back.  Locks tables of which that is so, and no others.
CREATE OR REPLACE FUNCTION rehome_source.mend(token text DEFAULT NULL, slice int DEFAULT NULL)
RETURNS TABLE (map int, damage text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $mend$
#variable_conflict use_column
DECLARE
    c       rehome_source.captured;
    called  name[];
    tg      record;
    was     text := current_setting('lock_timeout');
BEGIN
    FOR tg IN SELECT k.oid::regclass AS relation, array_agg(t.tgname::text) AS names
                FROM rehome_source.captured r
                JOIN pg_trigger t ON t.tgenabled = 'O' AND t.tgname ~ '^rehome_(capture|fence)_'
                                 AND split_part(t.tgname::text, '_', 3) = r.token
                                 AND split_part(t.tgname::text, '_', 4) = r.map::text
                JOIN pg_class k ON k.oid = t.tgrelid AND pg_has_role(current_user, k.relowner, 'USAGE')
               WHERE r.token = coalesce(mend.token, r.token) AND r.slice = coalesce(mend.slice, r.slice)
               GROUP BY k.oid ORDER BY k.oid LOOP
        IF was = '0' THEN
            PERFORM set_config('lock_timeout', '1s', true);
        END IF;
        PERFORM rehome_source.enable_always(tg.relation, tg.names);
        PERFORM set_config('lock_timeout', was, true);
    END LOOP;
    FOR c IN SELECT r.* FROM rehome_source.captured r, LATERAL rehome_source.columns_now(r.relation, r.key) AS n
              WHERE r.token = coalesce(mend.token, r.token) AND r.slice = coalesce(mend.slice, r.slice)
                AND EXISTS (SELECT FROM pg_class t WHERE t.oid = r.relation)
                AND (r.broken IS NOT NULL OR n.names IS DISTINCT FROM r.names OR n.types IS DISTINCT FROM r.types)
              ORDER BY r.token, r.map FOR UPDATE OF r LOOP
        IF c.broken IS NULL THEN
            SELECT string_agg(
                       CASE WHEN n.name IS NULL THEN format('key column %I was dropped', k.name)
                            WHEN n.type <> k.type THEN format('key column %I is of another type', n.name)
                            ELSE format('key column %I was renamed to %I, and another column is called %I', k.name, n.name, k.name)
                       END, ', ' ORDER BY k.ord) || ': changes cannot be noted any more'
              INTO c.broken
              FROM unnest(c.key, c.names, c.types) WITH ORDINALITY AS k(attnum, name, type, ord),
                   (SELECT u.* FROM rehome_source.columns_now(c.relation, c.key) AS w,
                           unnest(w.names, w.types) WITH ORDINALITY AS u(name, type, ord)) AS n
             WHERE n.ord = k.ord
               AND (n.name IS NULL OR n.type <> k.type
                    OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.relation AND a.attname = k.name
                                  AND a.attnum > 0 AND a.attnum <> k.attnum));
            SELECT w.names INTO called FROM rehome_source.columns_now(c.relation, c.key) AS w;
            UPDATE rehome_source.captured AS r
               SET broken = c.broken, names = CASE WHEN c.broken IS NULL THEN called ELSE r.names END
             WHERE r.token = c.token AND r.map = c.map;
            PERFORM rehome_source.write_capture(c.token, c.map);
        END IF;
        IF c.broken IS NOT NULL THEN
            map := c.map;
            damage := c.broken;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$mend$;
REVOKE ALL ON FUNCTION rehome_source.mend(text, int) FROM PUBLIC;

-- How many writes the fence has refused, by table map.
-- After a crash a sequence may have skipped up to 32 values.  That there was
-- one is told by epoch: statistics begin anew with it.
CREATE OR REPLACE FUNCTION rehome_source.refused(token text, maps int[])
RETURNS jsonb LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $refused$
    SELECT jsonb_build_object('epoch', pg_stat_get_bgwriter_stat_reset_time(),
                              'counts', coalesce(jsonb_object_agg(m.id, v.n) FILTER (WHERE v.n IS NOT NULL), '{}'))
      FROM unnest(maps) AS m(id),
           LATERAL (SELECT pg_sequence_last_value(to_regclass(
                        format('rehome_source.%I', format('refused_%s_%s', token, m.id)))) AS n) AS v
$refused$;

-- Change table, capture and fence triggers of one table map, and the sequence
-- that counts what the fence refuses.
-- A change row is one of 'i', 'u', 'd' with a key, or 't' without; an update
-- that changes the key is a 'u' of the new and a 'd' of the old one, so that
-- only keys with a 'd' can be without a row.
-- Returns the equality operators of the key, the partitions and their bounds.
-- Takes SHARE ROW EXCLUSIVE on the table, so that when this commits every older
-- writer is finished.
CREATE OR REPLACE FUNCTION rehome_source.create_capture(token text, slice int, map int, relation regclass, key name[],
                                                        patient boolean, OUT operators text[], OUT parts text, OUT bounds jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $create_capture$
DECLARE
    change      text := format('rehome_source.%I', format('change_%s_%s', token, map));
    fn          text := format('rehome_source.%I', format('capture_%s_%s', token, map));
    fence       text := format('rehome_source.%I', format('fence_%s_%s', token, slice));
    relkind     "char";
    per_row     boolean;
    fenced_by_row boolean;
    replace     boolean;
    columns     text;
    moved       text;
    event       text;
    timing      text;
    name        text;
    names       text[] := '{}';
BEGIN
    operators := rehome_source.key_operators(relation, key);
    parts := rehome_source.partitions(relation);
    bounds := rehome_source.partition_bounds(relation);
    IF to_regclass(change) IS NOT NULL THEN
        RETURN;
    END IF;

    -- Statement triggers with transition tables are cheap for bulk writes,
    -- but a write to a partition fires only that partition's, and logical
    -- replication fires none: there, a trigger per row.
    SELECT c.relkind, rehome_source.needs_row_triggers(c.oid) INTO relkind, per_row
      FROM pg_class c WHERE c.oid = relation;

    -- Whether a key has moved is asked for every updated row: by the type's
    -- own operator, or byte for byte where search_path may not lead to that, or
    -- where it takes what is spelled differently for the same (1.0 and 1.00,
    -- 0 and -0, upper and lower case by a collation).
    WITH RECURSIVE key_type AS (
        SELECT k.ord, a.attname, a.atttypid AS typid, a.atttypmod AS typmod, a.attcollation
          FROM unnest(key) WITH ORDINALITY AS k(name, ord)
          JOIN pg_attribute a ON a.attrelid = relation AND a.attname = k.name
        UNION ALL
        SELECT k.ord, k.attname, t.typbasetype, t.typtypmod, k.attcollation
          FROM key_type k JOIN pg_type t ON t.oid = k.typid AND t.typtype = 'd'
    )
    SELECT string_agg(format('key%s %s%s', k.ord, format_type(k.typid, k.typmod),
                             CASE WHEN k.attcollation <> 0
                                  THEN (SELECT format(' COLLATE %I.%I', n.nspname, l.collname)
                                          FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
                                         WHERE l.oid = k.attcollation)
                                  ELSE '' END), ', ' ORDER BY k.ord),
           string_agg(format(CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace
                                   AND t.typname IN ('bool', 'int2', 'int4', 'int8', 'oid', 'uuid', 'date', 'time', 'timestamp',
                                                     'timestamptz', 'bytea', 'text', 'varchar', 'name', 'char')
                                   AND NOT EXISTS (SELECT FROM pg_collation l WHERE l.oid = k.attcollation
                                                      AND to_jsonb(l) ->> 'collisdeterministic' = 'false')
                                  THEN 'OLD.%1$I IS DISTINCT FROM NEW.%1$I'
                                  ELSE 'ROW(OLD.%1$I)::record OPERATOR(pg_catalog.*<>) ROW(NEW.%1$I)::record' END,
                             k.attname), ' OR ' ORDER BY k.ord)
      INTO columns, moved
      FROM key_type k JOIN pg_type t ON t.oid = k.typid AND t.typtype <> 'd';

    -- Writers do not mind this lock, but autovacuum gives way to whoever waits
    -- for it; the one that CREATE TRIGGER takes must not wait that long.
    IF patient AND has_table_privilege(relation, 'UPDATE') THEN
        name := current_setting('lock_timeout');
        PERFORM set_config('lock_timeout', '10s', true);
        EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
        PERFORM set_config('lock_timeout', name, true);
    END IF;

    EXECUTE format('CREATE TABLE %s (xid bigint NOT NULL DEFAULT txid_current(), op "char" NOT NULL, %s)', change, columns);
    -- where all tables are published, rows could not be deleted else
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', change);
    EXECUTE format('CREATE INDEX ON %s (xid)', change);
    EXECUTE format('CREATE INDEX ON %s (xid) WHERE op IN (''d'', ''t'')', change);
    EXECUTE format('CREATE SEQUENCE rehome_source.%I', format('refused_%s_%s', token, map));
    PERFORM rehome_source.hand_over('TABLE', change);
    PERFORM rehome_source.hand_over('SEQUENCE', format('rehome_source.%I', format('refused_%s_%s', token, map)));

    INSERT INTO rehome_source.captured (token, map, slice, relation, key, names, types, per_row, role)
    SELECT create_capture.token, create_capture.map, create_capture.slice, create_capture.relation, k.attnums, n.names, n.types,
           per_row, quote_ident(session_user)::regrole
      FROM (SELECT array_agg(a.attnum ORDER BY u.ord) AS attnums
              FROM unnest(create_capture.key) WITH ORDINALITY AS u(name, ord)
              JOIN pg_attribute a ON a.attrelid = create_capture.relation AND a.attname = u.name) AS k,
           LATERAL rehome_source.columns_now(create_capture.relation, k.attnums) AS n;
    PERFORM rehome_source.write_capture(token, map);

    FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
        name := format('rehome_capture_%s_%s_%s', token, map, event);
        IF per_row THEN
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW EXECUTE PROCEDURE %s()',
                           name, event, relation, fn);
        ELSE
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT EXECUTE PROCEDURE %s()',
                           name, event, relation,
                           CASE event WHEN 'delete' THEN 'OLD TABLE AS old_rows' ELSE 'NEW TABLE AS new_rows' END, fn);
        END IF;
        names := names || name;
    END LOOP;
    name := format('rehome_capture_%s_%s_moved', token, map);
    EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE PROCEDURE %s(%L)',
                   name, relation, moved, fn, 'moved');
    names := names || name;

    -- Row triggers reach every partition; before 13 only as AFTER triggers.
    -- The fence is there already where capture is made anew, and may be one for
    -- each statement where it has to be for each row now.
    timing := CASE WHEN per_row AND relkind = 'p' AND current_setting('server_version_num')::int < 130000
                   THEN 'AFTER' ELSE 'BEFORE' END;
    name := format('rehome_fence_%s_%s', token, map);
    SELECT t.tgtype & 1 = 1 INTO fenced_by_row FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = name;
    IF fenced_by_row IS DISTINCT FROM per_row THEN
        -- who does not own the table cannot drop a trigger, but replace it
        replace := current_setting('server_version_num')::int >= 140000;
        IF fenced_by_row IS NOT NULL AND NOT replace THEN
            EXECUTE format('DROP TRIGGER %I ON %s', name, relation);
        END IF;
        EXECUTE format('CREATE %s TRIGGER %I %s INSERT OR UPDATE OR DELETE ON %s FOR EACH %s EXECUTE PROCEDURE %s()',
                       CASE WHEN replace THEN 'OR REPLACE' ELSE '' END, name, timing, relation,
                       CASE WHEN per_row THEN 'ROW' ELSE 'STATEMENT' END, fence);
    END IF;
    names := names || name;
    PERFORM rehome_source.enable_always(relation, names);
    PERFORM rehome_source.cover_partitions(token, slice, map, relation);
END
$create_capture$;

-- Where rows that come back are staged, made when the first do, and again when
-- the table has other columns since.  They are there for one transaction: not
-- to be logged, and not to be published, where all tables are.
CREATE OR REPLACE FUNCTION rehome_source.create_stage(token text, map int, relation regclass)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $create_stage$
DECLARE
    stage   text := format('rehome_source.%I', format('stage_%s_%s', token, map));
    looks   text[] := (SELECT array_agg(concat_ws(' ', a.atttypid::oid, a.atttypmod, a.attcollation::oid, a.attname) ORDER BY a.attnum)
                         FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
BEGIN
    IF to_regclass(stage) IS NOT NULL AND looks IS DISTINCT FROM
       (SELECT array_agg(concat_ws(' ', a.atttypid::oid, a.atttypmod, a.attcollation::oid, a.attname) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = to_regclass(stage) AND a.attnum > 1 AND NOT a.attisdropped) THEN
        EXECUTE format('DROP TABLE %s', stage);
    END IF;
    IF to_regclass(stage) IS NULL THEN
        EXECUTE format('CREATE UNLOGGED TABLE %s AS SELECT NULL::"char" AS rehome_op, r.* FROM %s r WITH NO DATA', stage, relation);
        PERFORM rehome_source.hand_over('TABLE', stage);
    END IF;
END
$create_stage$;

-- Keys of rows that were written here when they came back, and that the table's
-- filter does not let through: they belong to the target all the same.  Made
-- when the first rows of such a table come back; logged, unlike the stage, since
-- nothing else tells; emptied when the fence opens.
CREATE OR REPLACE FUNCTION rehome_source.create_outside(token text, map int)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $create_outside$
DECLARE
    outside text := format('rehome_source.%I', format('outside_%s_%s', token, map));
BEGIN
    IF to_regclass(outside) IS NULL THEN
        EXECUTE format('CREATE TABLE %s AS SELECT %s FROM rehome_source.%I WITH NO DATA', outside,
                       (SELECT string_agg('key' || i, ', ' ORDER BY i)
                          FROM rehome_source.captured c, generate_series(1, array_length(c.key, 1)) AS i
                         WHERE c.token = create_outside.token AND c.map = create_outside.map),
                       format('change_%s_%s', token, map));
        -- where all tables are published, rows could not be deleted else
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', outside);
        PERFORM rehome_source.hand_over('TABLE', outside);
    END IF;
END
$create_outside$;

-- Locks a table, parents before partitions as writers do, before triggers are
-- dropped: DROP locks in an order of its own, and would deadlock with them.
CREATE OR REPLACE FUNCTION rehome_source.lock_for_drop(relation regclass)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $lock_for_drop$
BEGIN
    IF has_table_privilege(relation, 'UPDATE') THEN
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    END IF;
END
$lock_for_drop$;

-- Takes the capture of one table map away; relation may be null.  Not what
-- create_outside has made: capture may be made anew meanwhile.
-- Dropping a function drops its triggers, for which a role that does not own
-- the table has no other way.
CREATE OR REPLACE FUNCTION rehome_source.drop_capture(token text, map int, relation regclass)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_capture$
BEGIN
    PERFORM rehome_source.lock_for_drop(relation);
    EXECUTE format('DROP FUNCTION IF EXISTS rehome_source.%I() CASCADE', format('capture_%s_%s', token, map));
    EXECUTE format('DROP TABLE IF EXISTS rehome_source.%I', format('change_%s_%s', token, map));
    EXECUTE format('DROP TABLE IF EXISTS rehome_source.%I', format('stage_%s_%s', token, map));
    EXECUTE format('DROP SEQUENCE IF EXISTS rehome_source.%I', format('refused_%s_%s', token, map));
    DELETE FROM rehome_source.captured AS r WHERE r.token = drop_capture.token AND r.map = drop_capture.map;
END
$drop_capture$;

-- The fence's triggers on one table, where the role may drop them: so that
-- the function need not take all tables' triggers, and locks, at once.
CREATE OR REPLACE FUNCTION rehome_source.drop_fence_triggers(token text, map int, relation regclass)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_fence_triggers$
DECLARE
    part    regclass;
BEGIN
    PERFORM rehome_source.lock_for_drop(relation);
    FOR part IN SELECT p FROM rehome_source.partition_tree(relation) AS p JOIN pg_class c ON c.oid = p
                 WHERE pg_has_role(current_user, c.relowner, 'USAGE') LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', format('rehome_fence_%s_%s_truncate', token, map), part);
        IF part = relation THEN
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', format('rehome_fence_%s_%s', token, map), part);
        END IF;
    END LOOP;
END
$drop_fence_triggers$;

CREATE OR REPLACE FUNCTION rehome_source.drop_fence(token text, slice int)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $drop_fence$
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS rehome_source.%I() CASCADE', format('fence_%s_%s', token, slice));
    DELETE FROM rehome_source.slice s WHERE s.token = drop_fence.token AND s.slice = drop_fence.slice;
END
$drop_fence$;
